"""What the contract tests share: an empty place for the state on each database, and short ways to
fill it and to look at it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine

from state.db.database import Database
from tests.support import postgres
from tests.support.hurry import hurry
from tests.support.postgres import StateDatabase


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch.setattr)


@pytest.fixture(scope="session")
def postgres_database(_postgres_server: str) -> Iterator[str]:
    """A database for all of these tests: making one per test would take longer than the tests."""
    with postgres.database(_postgres_server) as url:
        yield url


@pytest.fixture
def empty_postgres(postgres_database: str) -> str:
    """Its URL, with nothing in it."""
    postgres.clear(postgres_database)
    return postgres_database


@pytest.fixture(scope="session")
def state_database(_postgres_server: str) -> Iterator[StateDatabase]:
    """Another, where the tables of the state stay."""
    with postgres.database(_postgres_server) as url, closing(StateDatabase(url)) as database:
        yield database


@pytest.fixture
def state_postgres(state_database: StateDatabase) -> str:
    """Its URL, with an empty state."""
    state_database.clean()
    return state_database.url


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place where nothing is."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'syncer.db'}"
    return str(request.getfixturevalue("empty_postgres"))


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place for the state, without a customer. On PostgreSQL its tables are there."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'syncer.db'}"
    return str(request.getfixturevalue("state_postgres"))


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with closing(Database.open(url)) as database:
        yield database


@pytest.fixture
def calls(url: str) -> Iterator[Database]:
    """The queue beside it."""
    with closing(Database.open(url, "queue")) as calls:
        yield calls


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """The same place past the product."""
    engine = create_engine(url)
    yield engine
    engine.dispose()
