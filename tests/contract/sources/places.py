"""Where a source reads from, filled in terms that every source of Engage's data has.

A new source gets a `Place` here and a name in `PLACES`; test_any_source.py then runs on it. What a
source cannot see is its `SIGHT` (syncer/engage/source_settings.py): a test that needs it says so
with `needs`, and does not run on that source.
"""

from __future__ import annotations

import csv
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from syncer.clock import read
from syncer.engage.engage_warehouse import EngageWarehouse
from syncer.engage.files.intake import FileSet, Intake
from syncer.engage.files.source import Files
from syncer.engage.profile_api import ProfileApi
from syncer.engage.profiles_sync import ProfilesSync
from syncer.engage.source import Source
from syncer.engage.source_settings import Sight, SourceContext
from syncer.engage.sources import SOURCES
from syncer.progress import LineProgress
from syncer.sandbox.profile_api import ProfileApiSandbox, running
from tests.support.postgres import end_others
from tests.support.space import Warehouse

#: Times at which something became true and was loaded, in order.
FIRST, LATER, LAST = "2026-03-04T10:00:00Z", "2026-03-04T11:00:00Z", "2026-03-04T12:00:00Z"


class Place(Protocol):
    """The data that a source reads: profiles with a customer id, traits, and merges."""

    #: so many customers are many here: a source that asks for each is slow with more
    many: int

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

    many = 1500

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
        if self._warehouse.sqlite:
            _cut_sqlite(pull)
        else:
            assert end_others(self._warehouse.engine)

    def _forget(self, table: str, profile: str, key: str | None = None) -> None:
        statement = f"DELETE FROM {self._warehouse.table(table)} WHERE canonical_segment_id = :of"
        if key is None:
            self._warehouse.run(statement, of=profile)
        else:
            self._warehouse.run(f"{statement} AND name = :key", of=profile, key=key)


class DuckDBPlace(ProfilesSyncPlace):
    """A space in a DuckDB file, to which nobody can write while it is read: what is said waits."""

    def __init__(self, warehouse: Warehouse) -> None:
        super().__init__(warehouse)
        self._later: list[Callable[[], None]] = []

    def source(self) -> Source:
        if self._later and self._is_closed():
            for write in self._later:
                write()
            self._later = []
            self._warehouse.flush()
        return ProfilesSync(make_url(self._warehouse.url))

    def say(self, profile: str, key: str, value: str | None, at: str = FIRST) -> None:
        self._later.append(partial(super().say, profile, key, value, at))

    def identify(self, profile: str, customer_id: str | None, at: str = FIRST) -> None:
        self._later.append(partial(super().identify, profile, customer_id, at))

    def delete(self, profile: str) -> None:
        self._later.append(partial(super().delete, profile))

    def merge(self, old: str, into: str, at: str = FIRST) -> None:
        self._later.append(partial(super().merge, old, into, at))

    def lose(self, profile: str) -> None:
        self._later.append(partial(super().lose, profile))

    def cut(self, pull: Any) -> None:
        pull._connection.connection.driver_connection._duckdb.close()

    def _is_closed(self) -> bool:
        try:
            self._warehouse.engine.connect().close()
        except OperationalError:
            return False
        return True


class FilesPlace:
    """A list of each key: who has it, with which value. Who is not in it any more has it not.

    What is said at one time is written together, and read then.
    """

    many = 1500
    KEYS = ("vip", "churn", "total", "other", "tier", "name", "email")

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ids: dict[str, str | None] = {}
        self._lists: dict[str, dict[str, str | None]] = {key: {} for key in self.KEYS}
        self._changed, self._at, self._writes = {*self.KEYS}, FIRST, 0

    def source(self) -> Files:
        self._write()
        sets = [FileSet(str(self._folder / key / "*.csv"), "list", key) for key in self.KEYS]
        stage, progress = self._folder / "stage.db", LineProgress(lambda text: None)
        return Files(
            Intake(stage, sets, "user_id", (), 0, progress, lambda: False, clock=self._now),
            "files",
        )

    def identify(self, profile: str, customer_id: str | None, at: str = FIRST) -> None:
        self._go_on(at)
        self._ids[profile] = customer_id
        self._changed |= {key for key, values in self._lists.items() if profile in values}

    def say(self, profile: str, key: str, value: str | None, at: str = FIRST) -> None:
        self._go_on(at)
        self._lists[key][profile] = value
        self._changed.add(key)

    def merge(self, old: str, into: str, at: str = FIRST) -> None:
        raise NotImplementedError

    def lose(self, profile: str) -> None:
        self._go_on(LATER)
        for key, values in self._lists.items():
            if values.pop(profile, self) is not self:
                self._changed.add(key)

    def delete(self, profile: str) -> None:
        self.lose(profile)

    def cut(self, pull: Any) -> None:
        _cut_sqlite(pull._staged)

    def _now(self) -> int:
        """The time, in milliseconds; each write has its own."""
        at = read(self._at)
        assert at is not None
        return at + self._writes

    def _go_on(self, at: str) -> None:
        """Read what was said before that time."""
        if at != self._at:
            self.source().intake.bring_up_to_date()
            self._at = at

    def _write(self) -> None:
        changed, self._changed = self._changed, set()
        self._writes += bool(changed)
        for key in changed:
            path = self._folder / key / "list.csv"
            path.parent.mkdir(exist_ok=True)
            with path.open("w", encoding="utf-8", newline="") as file:
                rows = csv.writer(file)
                rows.writerow(["key", "value", "external_ids"])
                for profile, value in self._lists[key].items():
                    ids = json.dumps({"user_id": [self._ids.get(profile)]}, ensure_ascii=False)
                    rows.writerow([profile, value, ids])
            os.utime(path, ns=(self._now() * 1_000_000, self._now() * 1_000_000))


class EngageWarehousePlace:
    """The wide table `users` of the older Engage destination."""

    many = 1500
    KEYS = ("vip", "churn", "total", "other", "tier", "name", "email")

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse, self._ids = warehouse, dict[str, str]()
        self._waiting: list[tuple[str, dict[str, str | None]]] = []
        time = "DATETIME" if warehouse.sqlite else "TIMESTAMPTZ"
        if warehouse.schema:
            warehouse.run(f"CREATE SCHEMA {warehouse.schema}")
        else:
            warehouse.run("PRAGMA journal_mode = WAL")
        columns = ", ".join(f"{key} TEXT" for key in self.KEYS)
        self._users = warehouse.table("users")
        warehouse.run(
            f"CREATE TABLE {self._users} (id TEXT PRIMARY KEY, received_at {time}, uuid_ts {time}, "
            f"context_ip TEXT, {columns})"
        )

    def source(self) -> Source:
        """A source that reads what waits to be written, too: together that is faster by far."""
        waiting, self._waiting = self._waiting, []
        with self._warehouse.engine.begin() as connection:
            for statement, rows in groupby(waiting, key=itemgetter(0)):
                connection.execute(text(statement), [values for _, values in rows])
        return EngageWarehouse(make_url(self._warehouse.url), self._warehouse.schema)

    def identify(self, profile: str, customer_id: str | None, at: str = FIRST) -> None:
        assert customer_id is not None
        self._ids[profile] = customer_id
        self._write(
            f"INSERT INTO {self._users} (id, received_at, uuid_ts) VALUES (:id, :at, :at)",
            id=customer_id,
            at=at,
        )

    def say(self, profile: str, key: str, value: str | None, at: str = FIRST) -> None:
        self._write(
            f"UPDATE {self._users} SET {key} = :value, received_at = :at, uuid_ts = :at "
            "WHERE id = :id",
            id=self._ids[profile],
            value=value,
            at=at,
        )

    def merge(self, old: str, into: str, at: str = FIRST) -> None:
        raise NotImplementedError

    def lose(self, profile: str) -> None:
        for key in self.KEYS:
            self.say(profile, key, None, LATER)

    def delete(self, profile: str) -> None:
        self._write(f"DELETE FROM {self._users} WHERE id = :id", id=self._ids[profile])

    def _write(self, statement: str, **values: str | None) -> None:
        self._waiting.append((statement, values))

    def cut(self, pull: Any) -> None:
        if self._warehouse.sqlite:
            _cut_sqlite(pull)
        else:
            assert end_others(self._warehouse.engine)


@contextmanager
def _engage_on_sqlite(request: pytest.FixtureRequest, folder: Path) -> Iterator[Place]:
    warehouse = Warehouse(f"sqlite:///{folder / 'engage.db'}")
    yield EngageWarehousePlace(warehouse)
    warehouse.engine.dispose()


@contextmanager
def _engage_on_postgresql(request: pytest.FixtureRequest, folder: Path) -> Iterator[Place]:
    warehouse = Warehouse(request.getfixturevalue("empty_postgres"), "engage_default")
    yield EngageWarehousePlace(warehouse)
    warehouse.engine.dispose()


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


@contextmanager
def _pushed_down(request: pytest.FixtureRequest, folder: Path) -> Iterator[Place]:
    from .push_down import PushDownPlace

    warehouse = Warehouse(request.getfixturevalue("empty_postgres"), "my_space")
    yield PushDownPlace(warehouse)
    warehouse.engine.dispose()


@contextmanager
def _files(request: pytest.FixtureRequest, folder: Path) -> Iterator[Place]:
    yield FilesPlace(folder)


@contextmanager
def _on_duckdb(request: pytest.FixtureRequest, folder: Path) -> Iterator[Place]:
    pytest.importorskip("duckdb")
    yield DuckDBPlace(Warehouse(f"duckdb:///{folder / 'engage.duckdb'}"))


def _cut_sqlite(pull: Any) -> None:
    driver = pull._connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    answers = iter([1])  # once: the rollback that follows goes through
    driver.set_progress_handler(lambda: next(answers, 0), 1)


class ProfileApiPlace:
    """A space behind the Profile API; its ids are those that were identified."""

    many = 150

    def __init__(self, sandbox: ProfileApiSandbox, url: str, folder: Path) -> None:
        self._sandbox, self._url, self._folder = sandbox, url, folder
        self._traits: dict[str, dict[str, tuple[Any, str]]] = {}
        self._ids: dict[str, str] = {}
        self._source: ProfileApi | None = None

    def source(self) -> Source:
        """The same one until something changes: it sweeps once."""
        if self._source is None:
            self._sandbox.profiles = {
                f"user_id:{customer_id.lower()}": self._traits.get(profile, {})
                for customer_id, profile in self._ids.items()
                if profile in self._traits
            }
            self._source = ProfileApi(
                "token",
                "space",
                self._folder,
                self._url,
                rate=self._sandbox.limit,
                context=SourceContext(customer_ids={"test": lambda: list(self._ids)}),
            )
        return self._source

    def identify(self, profile: str, customer_id: str | None, at: str = FIRST) -> None:
        self._source = None
        self._traits.setdefault(profile, {})
        if customer_id is not None:
            self._ids[customer_id] = profile

    def say(self, profile: str, key: str, value: str | None, at: str = FIRST) -> None:
        self._source = None
        self._traits.setdefault(profile, {})[key] = value, at

    def merge(self, old: str, into: str, at: str = FIRST) -> None:
        raise NotImplementedError("Segment resolves merges before it answers")

    def lose(self, profile: str) -> None:
        self._source = None
        self._traits[profile] = {}

    def delete(self, profile: str) -> None:
        self._source = None
        del self._traits[profile]

    def cut(self, pull: Any) -> None:
        _cut_sqlite(pull._tables)


@contextmanager
def _behind_the_profile_api(request: pytest.FixtureRequest, folder: Path) -> Iterator[Place]:
    sandbox = ProfileApiSandbox("token", "space", limit=100_000)
    with running(sandbox) as url:
        yield ProfileApiPlace(sandbox, url, folder)


class Kind(NamedTuple):
    """What makes an empty place, given the test and a folder of its own, and what is seen of it."""

    make: Callable[[pytest.FixtureRequest, Path], AbstractContextManager[Place]]
    source: str

    @property
    def sight(self) -> Sight:
        return SOURCES[self.source].SIGHT


PLACES = {
    "profiles_sync-sqlite": Kind(_on_sqlite, "profiles_sync"),
    "profiles_sync-postgresql": Kind(_on_postgresql, "profiles_sync"),
    "profiles_sync-push_down": Kind(_pushed_down, "profiles_sync"),
    "profiles_sync-duckdb": Kind(_on_duckdb, "profiles_sync"),
    "engage_warehouse-sqlite": Kind(_engage_on_sqlite, "engage_warehouse"),
    "engage_warehouse-postgresql": Kind(_engage_on_postgresql, "engage_warehouse"),
    "profile_api": Kind(_behind_the_profile_api, "profile_api"),
    "files": Kind(_files, "files"),
}

#: Says which fields of `Sight` a source must have for a test.
needs = pytest.mark.needs
