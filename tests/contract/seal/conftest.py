"""A history to seal, on SQLite and on PostgreSQL."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import event

from state.db.database import Database
from state.history import compaction, seal
from tests.contract.seal.helpers import Maker, empty, some
from tests.support.postgres import StateDatabase


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A database for all tests; `database` empties it."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('seal') / 'syncer.db'}"
    else:
        kept: StateDatabase = request.getfixturevalue("state_database")
        kept.clean()
        url = kept.url
    with closing(Database.open(url)) as database:
        if request.param == "sqlite":
            # An fsync for every step of every example takes too long.
            event.listen(
                database.engine,
                "connect",
                lambda connection, _: connection.execute("PRAGMA synchronous = OFF"),
            )
            database.engine.dispose()
        yield database


@pytest.fixture
def database(shared: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    """An empty database, of small seals."""
    monkeypatch.setattr(seal, "SEGMENT", 4)
    monkeypatch.setattr(seal, "CHUNK", 2)
    monkeypatch.setattr(compaction, "CHUNK", 3)
    monkeypatch.setattr(compaction, "PAUSE", 0.0)
    empty(shared)
    return shared


@pytest.fixture
def maker(database: Database) -> Maker:
    return Maker(database)


@pytest.fixture
def sealed(maker: Maker) -> Maker:
    """Runs 1 to 3 with 6 changes each, ids from `first`, seals of 4 and 2 changes."""
    for _ in range(3):
        maker.sync(*some("u1", "u2", "u3", value=maker.run % 2 == 0))
        maker.deliver()
    return maker
