"""Engage as it computes, and its Profiles Sync tables as they are loaded some time later."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

AUDIENCES = ("vip", "big_spender", "churn_risk")
COMPUTED = "total_revenue_90d"
TRAITS = (*AUDIENCES, COMPUTED)

#: True for a member, a number for a computed trait, None for no member and for no value.
Value = bool | int | None
#: A customer and one of its traits.
Pair = tuple[str, str]


class Step(NamedTuple):
    """What Engage computed at a minute: `born` (a customer), `says` (a text of a trait of the
    profile of a customer) or `merges` (the profile of a customer goes into that of another)."""

    minute: int
    what: str
    customer: str
    key: str = ""
    text: str = ""


class Row(NamedTuple):
    """A trait's text, since when Engage says it, and when it was loaded (minutes)."""

    text: str
    said: int
    loaded: int


def value_of(text: str | None) -> Value:
    """Return what a text of Engage says."""
    if text is None or text == "false":
        return None
    return True if text == "true" else int(text)


class View:
    """What profiles there are, with their customers and rows, after some steps."""

    def __init__(self) -> None:
        self.profile: dict[str, str] = {}
        self.customers: dict[str, list[str]] = {}
        self.rows: dict[str, dict[str, Row]] = {}
        #: since when a customer is of a profile that another one went into
        self.joined: dict[str, int] = {}
        self.merged: list[tuple[str, str, int, int]] = []

    def apply(self, step: Step, loaded: int) -> set[str]:
        """Take a step; return the profiles that it touches."""
        if step.what == "born":
            name = f"p-{step.customer}"
            self.profile[step.customer] = name
            self.customers[name], self.rows[name] = [step.customer], {}
            return {name}
        mine = self.profile[step.customer]
        if step.what == "says":
            self.rows[mine][step.key] = Row(step.text, step.minute, loaded)
            return {mine}
        into = self.profile[step.key]
        for key, row in self.rows.pop(mine).items():
            kept = self.rows[into].get(key)
            if kept is None or row.said > kept.said:
                self.rows[into][key] = row._replace(loaded=loaded)
        for customer in self.customers[mine]:
            self.profile[customer] = into
        self.customers[into] += self.customers.pop(mine)
        self.joined |= dict.fromkeys(self.customers[into], loaded)
        self.merged.append((into, mine, step.minute, loaded))
        return {into, mine}

    def value(self, pair: Pair) -> Value:
        """Return what is said of a customer's trait."""
        row = self.row(pair)
        return None if row is None else value_of(row.text)

    def row(self, pair: Pair) -> Row | None:
        """Return the row of a customer's trait."""
        profile = self.profile.get(pair[0])
        return None if profile is None else self.rows[profile].get(pair[1])


_TIMES = "seq INTEGER, received_at TEXT, uuid_ts TEXT, timestamp TEXT"
_TABLES = f"""
CREATE TABLE user_traits (canonical_segment_id TEXT, name TEXT, value TEXT, {_TIMES});
CREATE TABLE user_identifiers (canonical_segment_id TEXT, type TEXT, value TEXT, {_TIMES});
CREATE TABLE profile_merges (canonical_segment_id TEXT, segment_id TEXT, {_TIMES});
CREATE INDEX traits_profile ON user_traits (canonical_segment_id);
CREATE INDEX traits_loaded ON user_traits (uuid_ts);
CREATE INDEX identifiers_profile ON user_identifiers (canonical_segment_id);
"""


class Space:
    """A space of Engage: `now` is what it says, `loaded` what its warehouse at `path` has."""

    def __init__(self, path: Path, begin: int) -> None:
        self._path, self._begin = path, begin
        self.now, self.loaded = View(), View()
        self._waiting: list[Step] = []
        self._seq = 0
        with sqlite3.connect(path) as database:
            database.executescript(_TABLES)

    def take(self, step: Step) -> list[Pair]:
        """Let Engage compute a step; return the traits of customers that it may change."""
        touched = self.now.apply(step, step.minute)
        self._waiting.append(step)
        customers = [
            customer_id for name in touched for customer_id in self.now.customers.get(name, ())
        ]
        keys = [step.key] if step.what == "says" else TRAITS
        return [(customer, key) for customer in customers for key in keys]

    def load(self, minute: int, until: int) -> None:
        """Load into the warehouse what was computed until a minute."""
        count = sum(step.minute <= until for step in self._waiting)
        steps, self._waiting = self._waiting[:count], self._waiting[count:]
        touched: set[str] = set()
        for step in steps:
            touched |= self.loaded.apply(step, minute)
        with sqlite3.connect(self._path) as database:
            self._write(database, sorted(touched))

    def identify(self, pair: Pair, value: Value, said: int, message_id: str) -> dict[str, Any]:
        """Return the call in which Engage says a value of a customer's trait, of a minute."""
        customer, key = pair
        kind = "trait" if key == COMPUTED else "audience"
        return {
            "type": "identify",
            "messageId": message_id,
            "userId": customer,
            "timestamp": datetime.fromtimestamp(self._begin + said * 60, UTC).isoformat(),
            "traits": {key: value if kind == "trait" else bool(value)},
            "context": {"personas": {"computation_class": kind, "computation_key": key}},
        }

    def hide(self, hidden: bool) -> None:
        """Take the warehouse away, or bring it back."""
        away = self._path.with_suffix(".away")
        (self._path if hidden else away).rename(away if hidden else self._path)

    def _write(self, database: sqlite3.Connection, profiles: Iterable[str]) -> None:
        for name in profiles:
            for table in ("user_traits", "user_identifiers"):
                database.execute(f"DELETE FROM {table} WHERE canonical_segment_id = ?", (name,))
            for key, row in self.loaded.rows.get(name, {}).items():
                self._insert(database, "user_traits", (name, key, row.text), row.said, row.loaded)
            for customer in self.loaded.customers.get(name, ()):
                self._insert(database, "user_identifiers", (name, "user_id", customer), 0, 0)
        for into, gone, said, loaded in self.loaded.merged:
            self._insert(database, "profile_merges", (into, gone), said, loaded)
        self.loaded.merged.clear()

    def _insert(
        self,
        database: sqlite3.Connection,
        table: str,
        values: tuple[str, ...],
        said: int,
        loaded: int,
    ) -> None:
        self._seq += 1
        row = (*values, self._seq, self._time(said), self._time(loaded), self._time(said))
        database.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)

    def _time(self, minute: int) -> str:
        at = datetime.fromtimestamp(self._begin + minute * 60, UTC)
        return at.strftime("%Y-%m-%d %H:%M:%S.000")
