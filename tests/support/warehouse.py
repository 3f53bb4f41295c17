"""A small Profiles Sync warehouse under full control: each row says who, what, when and when it was
loaded, and goes only when a test says so.

Hours are counted back from now, so what is `ago=1` was loaded an hour ago.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

_TIMES = "seq INTEGER, received_at TEXT, uuid_ts TEXT, timestamp TEXT"
_TABLES = f"""
CREATE TABLE user_traits (canonical_segment_id TEXT, name TEXT, value TEXT, {_TIMES});
CREATE TABLE user_identifiers (canonical_segment_id TEXT, type TEXT, value TEXT, {_TIMES});
CREATE TABLE profile_merges (canonical_segment_id TEXT, segment_id TEXT, {_TIMES});
"""


def text(milliseconds: float) -> str:
    """A time (epoch milliseconds) as the warehouse writes it."""
    at = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


class Warehouse:
    """The tables `user_traits`, `user_identifiers` and `profile_merges` in an SQLite file. A
    customer's profile is `p-<id>` where no other one is named."""

    def __init__(self, path: Path) -> None:
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.executescript(_TABLES)
        self._seq = 0

    def close(self) -> None:
        self.db.close()

    # What Segment loads

    def user(
        self, customer_id: str, *, ago: float = 20.0, profile: str | None = None, **traits: str
    ) -> None:
        """A profile with a user_id, and rows of its traits, all loaded at once."""
        self.identify(customer_id, ago=ago, profile=profile)
        for key, value in traits.items():
            self.say(customer_id, key, value, ago=ago, profile=profile)

    def person(self, customer_id: str, ago: float = 9.0, /, **traits: str) -> None:
        """A profile with a user_id and these traits alone, whatever it had before."""
        self.delete(customer_id)
        self.user(customer_id, ago=ago, **traits)

    def put(self, customer_id: str, at: str, /, **traits: str) -> None:
        """A profile with a user_id and these traits, which became true and were loaded at a time
        (as Segment writes it); what it has besides stays."""
        profile, stamp = f"p-{customer_id}", at.replace("T", " ").removesuffix("Z")
        for table, rows in (
            ("user_identifiers", {"user_id": customer_id}),
            ("user_traits", traits),
        ):
            column = "type" if table == "user_identifiers" else "name"
            for name, value in rows.items():
                self.db.execute(
                    f"DELETE FROM {table} WHERE canonical_segment_id = ? AND {column} = ?",
                    (profile, name),
                )
                self._write(table, (profile, name, value), stamp, stamp)

    def users(self, number: int, *, ago: float = 20.0, **traits: str) -> list[str]:
        """So many customers `u00`, `u01`, … with the same traits."""
        ids = [f"u{place:02}" for place in range(number)]
        for customer_id in ids:
            self.user(customer_id, ago=ago, **traits)
        return ids

    def say(
        self,
        customer_id: str,
        key: str,
        value: str | None,
        *,
        ago: float = 1.0,
        at: float | None = None,
        profile: str | None = None,
    ) -> None:
        """A row of a trait takes the place of the profile's earlier one; `at` is when it became
        true, where that is not when it was loaded. None is an explicit NULL."""
        profile = profile or f"p-{customer_id}"
        self.db.execute(
            "DELETE FROM user_traits WHERE canonical_segment_id = ? AND name = ?", (profile, key)
        )
        self._insert("user_traits", (profile, key, value), ago, at)

    def load(self, customer_id: str, key: str, value: str, *, said: int) -> None:
        """A row of a trait that became true at `said` (epoch milliseconds), and is loaded now."""
        profile = f"p-{customer_id}"
        self.db.execute(
            "DELETE FROM user_traits WHERE canonical_segment_id = ? AND name = ?", (profile, key)
        )
        now = time.time() * 1000
        self._write("user_traits", (profile, key, value), text(now), text(said))

    def identify(self, customer_id: str, *, ago: float = 20.0, profile: str | None = None) -> None:
        profile = profile or f"p-{customer_id}"
        self._insert("user_identifiers", (profile, "user_id", customer_id), ago, None)

    def merge(self, old: str, new: str, *, ago: float = 1.0) -> None:
        """One profile goes into another one; its rows stay until they are lost or moved."""
        self._insert("profile_merges", (new, old), ago, None)

    # What is lost, or moves

    def lose(self, key: str, customer_ids: Iterable[str]) -> None:
        """The rows of a trait are gone, though nothing said so."""
        self.db.executemany(
            "DELETE FROM user_traits WHERE name = ? AND canonical_segment_id IN "
            "(SELECT canonical_segment_id FROM user_identifiers WHERE value = ?)",
            [(key, customer_id) for customer_id in customer_ids],
        )

    def lose_profile(self, profile: str, *tables: str) -> None:
        """The rows of a profile are gone, in all tables or in those named."""
        for table in tables or ("user_traits", "user_identifiers", "profile_merges"):
            self.db.execute(f"DELETE FROM {table} WHERE canonical_segment_id = ?", (profile,))

    def delete(self, customer_id: str) -> None:
        """Segment deletes a user for good: no row is left."""
        self.lose_profile(f"p-{customer_id}")

    def rename(self, key: str, new: str, *, ago: float = 1.0) -> None:
        """An audience is made anew under another key: rows of the new one come, those of the old
        one go."""
        rows = self.db.execute(
            "SELECT canonical_segment_id, value FROM user_traits WHERE name = ?", (key,)
        ).fetchall()
        self.db.execute("DELETE FROM user_traits WHERE name = ?", (key,))
        for profile, value in rows:
            self._insert("user_traits", (profile, new, value), ago, None)

    def reload(self, *, ago: float = 0.1) -> None:
        """The table of traits is written anew: every row counts as loaded now."""
        loaded = text(time.time() * 1000 - ago * 3_600_000)
        self.db.execute("UPDATE user_traits SET uuid_ts = ?", (loaded,))

    def _insert(
        self, table: str, values: tuple[str | None, ...], ago: float, at: float | None
    ) -> None:
        now = time.time() * 1000
        loaded, said = (text(now - hours * 3_600_000) for hours in (ago, ago if at is None else at))
        self._write(table, values, loaded, said)

    def _write(self, table: str, values: tuple[str | None, ...], loaded: str, said: str) -> None:
        self._seq += 1
        marks = ", ".join("?" * (len(values) + 4))
        row = (*values, self._seq, loaded, loaded, said)
        self.db.execute(f"INSERT INTO {table} VALUES ({marks})", row)
