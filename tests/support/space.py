"""A Profiles Sync space on SQLite or PostgreSQL, filled row by row, and runs over it."""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine import make_url

from state import outbox
from state import runs as run_records
from state.db.database import Database
from syncer.delivery.customers import Delivery
from syncer.engage.profiles_sync import ProfilesSync
from syncer.engage.source import (
    ChangedSince,
    Counted,
    Everything,
    PulledCustomer,
    Scope,
    Source,
)
from syncer.sync.comparison import Comparison
from syncer.sync.guard import Guard
from syncer.sync.runs import Runs
from syncer.sync.trait_selection import Selection

T0 = "2026-03-04T10:00:00Z"
HOUR_LATER = "2026-03-04T11:00:00Z"
TWO_LATER = "2026-03-04T12:00:00Z"
KEYS = ["vip", "churn", "total"]
TABLES = ("user_traits", "user_identifiers", "profile_merges")
REST = ("seq", "received_at", "uuid_ts", "timestamp")


class Warehouse:
    """The three tables of a space, filled row by row."""

    def __init__(self, url: str, schema: str = "") -> None:
        self.url, self.schema = url, schema
        self.engine: Engine = create_engine(url)
        self.sqlite = self.engine.dialect.name == "sqlite"
        self.duckdb = self.engine.dialect.name == "duckdb"
        self._prefix = f"{schema}." if schema else ""
        if self.sqlite:
            event.listen(self.engine, "connect", _without_fsync)
        self._seq = itertools.count(1)
        self._waiting: list[tuple[str, dict[str, Any]]] = []

    def create(self, *, time: str = "", value: str = "TEXT", identifiers: str = TABLES[1]) -> None:
        """Make the tables; `time` and `value` are the types of those columns."""
        time = time or ("DATETIME" if self.sqlite else "TIMESTAMPTZ")
        rest = f"seq BIGINT, received_at {time}, uuid_ts {time}, timestamp {time}"
        if self.schema:
            self.run(f"CREATE SCHEMA {self.schema}")
        for table, own in (
            ("user_traits", f"canonical_segment_id TEXT, name TEXT, value {value}"),
            (identifiers, "canonical_segment_id TEXT, type TEXT, value TEXT"),
            ("profile_merges", "canonical_segment_id TEXT, segment_id TEXT"),
        ):
            self.run(f"CREATE TABLE {self._prefix}{table} ({own}, {rest})")

    def run(self, statement: str, **values: Any) -> None:
        self.flush()
        with self.engine.begin() as connection:
            connection.execute(text(statement), values)

    def flush(self) -> None:
        """Write the rows that wait: together, which is faster by far."""
        if not self._waiting:
            return
        with self.engine.begin() as connection:
            waiting, self._waiting = self._waiting, []
            for (table, columns), rows in itertools.groupby(
                waiting, key=lambda entry: (entry[0], tuple(entry[1]))
            ):
                names, marks = ", ".join(columns), ", ".join(f":{name}" for name in columns)
                into, values = f"INSERT INTO {self._prefix}{table} ({names})", [*rows]
                if self.duckdb:  # row by row it is slow
                    marks = ", ".join(f"unnest(:{name})" for name in columns)
                    lists = {name: [row[name] for _, row in values] for name in columns}
                    connection.execute(text(f"{into} SELECT {marks}"), lists)
                else:
                    connection.execute(text(f"{into} VALUES ({marks})"), [row for _, row in values])

    def table(self, name: str) -> str:
        return self._prefix + name

    def trait(self, profile: str, name: str, value: Any, at: Any = T0, **over: Any) -> None:
        self._row("user_traits", at, over, canonical_segment_id=profile, name=name, value=value)

    def id(
        self, profile: str, value: Any, at: Any = T0, type: str = "user_id", **over: Any
    ) -> None:
        row = {"canonical_segment_id": profile, "type": type, "value": value}
        self._row("user_identifiers", at, over, **row)

    def merge(self, old: str, into: str, at: Any = T0, **over: Any) -> None:
        self._row("profile_merges", at, over, canonical_segment_id=into, segment_id=old)

    def member(self, profile: str, user_id: str, value: Any = "true", at: Any = T0) -> None:
        """A profile with one user_id and the audience `vip`."""
        self.id(profile, user_id, at)
        self.trait(profile, "vip", value, at)

    def _row(self, table: str, at: Any, over: dict[str, Any], **own: Any) -> None:
        row = own | {"seq": next(self._seq), "received_at": at, "uuid_ts": at, "timestamp": at}
        self._waiting.append((table, row | over))

    def source(self, **settings: Any) -> ProfilesSync:
        self.flush()
        return ProfilesSync(make_url(self.url), schema=self.schema, **settings)

    def pulled(self, scope: Scope | None = None, **settings: Any) -> list[PulledCustomer]:
        with self.source(**settings).pull(scope or Everything()) as pull:
            customers = list(pull.customers(KEYS))
            rows = sum(
                len(json.loads(customer.keys)) + len(json.loads(customer.profile))
                for customer in customers
            )
            assert pull.count(KEYS) == Counted(len(customers), rows)
        return customers

    def touched(self, since: str, **settings: Any) -> list[str]:
        return [customer.customer_id for customer in self.pulled(ChangedSince(since), **settings)]

    def wanted(self, **settings: Any) -> dict[str, dict[str, Any]]:
        """What a first run would make Amberflo hold: the traits by customer."""
        return {change[0]: change[1] for change in self.changes(**settings)}

    def changes(self, **settings: Any) -> list[tuple[str, dict[str, Any], str | None, str | None]]:
        with closing(Database.open("sqlite://")) as database:
            compared = runs_on(database, self.source(**settings)).diff()
            told = [
                (change.customer_id, change.traits, change.name, change.email)
                for change in compared.changes
            ]
            compared.close()
        return told


def _without_fsync(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA synchronous = OFF")


class Quiet:
    """Progress that nobody looks at."""

    def say(self, text: str) -> None: ...

    def begin(self, stage: str, total: int, done: int = 0) -> None: ...

    def at(self, done: int) -> None: ...

    def end(self) -> None: ...

    def trouble(self, text: str | None) -> None: ...


def runs_on(
    database: Database,
    source: Source,
    progress: Quiet | None = None,
    sent: list[int] | None = None,
) -> Runs:
    """Runs whose delivery marks all that is due as delivered."""

    def deliver(run: int, _progress: Callable[[int], None]) -> Delivery:
        with database.write() as connection:
            due = outbox.claim(connection, 1, 1 << 62, 1 << 30, run)
            if due:
                outbox.acknowledge(connection, due, 1)
            run_records.add_outcomes(connection, run, delivered=len(due))
        if sent is not None:
            sent.append(len(due))
        return Delivery(delivered=len(due))

    progress = progress or Quiet()
    selection = Selection(("vip", "churn"), ("total",), "{}")
    comparison = Comparison(database, source, selection, Guard(), progress)
    return Runs(database, comparison, deliver, progress)
