"""Where a source reads from, filled in terms that every source of Engage's data has.

A new source gets a `Place` here and a name in `PLACES`; test_any_source.py then runs on it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

from syncer.engage.source import Source
from tests.support.postgres import end_others
from tests.support.space import Warehouse

#: Times at which something became true and was loaded, in order.
FIRST, LATER, LAST = "2026-03-04T10:00:00Z", "2026-03-04T11:00:00Z", "2026-03-04T12:00:00Z"


class Place(Protocol):
    """The data that a source reads: profiles with a customer id, traits, and merges."""

    def source(self) -> Source:
        """A source that reads from here."""

    def identify(self, profile: str, customer_id: str | None, at: str = FIRST) -> None:
        """A profile has a customer id; None and blanks are none."""

    def say(self, profile: str, key: str, value: str | None, at: str = FIRST) -> None:
        """A trait of a profile; it takes the place of what was said of it before."""

    def merge(self, old: str, into: str, at: str = FIRST) -> None:
        """A profile goes into another one."""

    def lose(self, profile: str) -> None:
        """Nothing of a profile is left but its identifier."""

    def delete(self, profile: str) -> None:
        """Nothing of a profile is left."""

    def cut(self, pull: Any) -> None:
        """What a pull under way reads from now on breaks off."""


class ProfilesSyncPlace:
    """A space of Profiles Sync."""

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse, self._said = warehouse, set[tuple[str, str]]()
        warehouse.create()
        if warehouse.sqlite:
            warehouse.run("PRAGMA journal_mode = WAL")

    def source(self) -> Source:
        return self._warehouse.source()

    def identify(self, profile: str, customer_id: str | None, at: str = FIRST) -> None:
        self._warehouse.id(profile, customer_id, at)

    def say(self, profile: str, key: str, value: str | None, at: str = FIRST) -> None:
        if (profile, key) in self._said:
            self._forget("user_traits", profile, key)
        self._said.add((profile, key))
        self._warehouse.trait(profile, key, value, at)

    def merge(self, old: str, into: str, at: str = FIRST) -> None:
        self._warehouse.merge(old, into, at)

    def lose(self, profile: str) -> None:
        self._forget("user_traits", profile)

    def delete(self, profile: str) -> None:
        self._forget("user_traits", profile)
        self._forget("user_identifiers", profile)

    def cut(self, pull: Any) -> None:
        if not self._warehouse.sqlite:
            assert end_others(self._warehouse.engine)
            return
        driver = pull._connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        answers = iter([1])  # once: the rollback that follows goes through
        driver.set_progress_handler(lambda: next(answers, 0), 1)

    def _forget(self, table: str, profile: str, key: str | None = None) -> None:
        statement = f"DELETE FROM {self._warehouse.table(table)} WHERE canonical_segment_id = :of"
        if key is None:
            self._warehouse.run(statement, of=profile)
        else:
            self._warehouse.run(f"{statement} AND name = :key", of=profile, key=key)


@contextmanager
def _on_sqlite(request: pytest.FixtureRequest, folder: Path) -> Iterator[Place]:
    warehouse = Warehouse(f"sqlite:///{folder / 'engage.db'}")
    yield ProfilesSyncPlace(warehouse)
    warehouse.engine.dispose()


@contextmanager
def _on_postgresql(request: pytest.FixtureRequest, folder: Path) -> Iterator[Place]:
    warehouse = Warehouse(request.getfixturevalue("empty_postgres"), "my_space")
    yield ProfilesSyncPlace(warehouse)
    warehouse.engine.dispose()


#: The sources, by name: what makes an empty place, given the test and a folder of its own.
PLACES = {"profiles_sync-sqlite": _on_sqlite, "profiles_sync-postgresql": _on_postgresql}
