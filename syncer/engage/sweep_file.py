"""The file of a sweep: the ids to ask for, what became of each, and a stage of what was read.

A sweep that goes on and one that is finished are two files, so that half a sweep is never taken for
a whole one. What is stored is committed every second or so: a process that dies loses no more.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from syncer.engage import stage
from syncer.json_text import to_json

#: What became of an id: it was read, Segment knows no such profile, it failed while others got
#: through, or Segment refuses it.
READ, UNKNOWN, FAILED, REFUSED = "read", "unknown", "failed", "refused"
#: Ids that are taken out of the file at a time, and that are looked up at a time.
CHUNK = 500

_COUNTS = "SELECT outcome, COUNT(*) FROM ids GROUP BY outcome"

#: What became of an id, why, and the id.
Outcome = tuple[str, str | None, str]


class Batch(NamedTuple):
    """What a sweep read and did not store yet; `seq` is the number of the last row."""

    rows: stage.Rows
    outcomes: list[Outcome]
    seq: int


class SweepFile:
    """A sweep that goes on, in the file at `path`; only its owner may read it.

    `place` says what is swept: a file that says another place is begun anew, and so is one in which
    nothing was settled for `stale` milliseconds, or which is damaged. Raises sqlite3.Error and
    OSError.
    """

    def __init__(self, path: Path, place: str, now: int, stale: int) -> None:
        self.path = path
        self._open()
        if not self._goes_on(place, now, stale):
            self.discard()
            self._open()
            self._begin(place)
        if self._get("began") is None:
            self._set("began", str(now))
        self._tables = stage.Tables(self._connection, int(self._get("seq") or 0), chunk=None)
        self._outcomes: list[Outcome] = []
        self._storing = Lock()

    def _open(self) -> None:
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        os.chmod(self.path, 0o600)
        self._connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)

    def _goes_on(self, place: str, now: int, stale: int) -> bool:
        """Return whether the file has a sweep of this place to go on with, or is a new one."""
        try:
            begun = self._begin(place)
            return begun == place and 0 <= now - int(self._get("touched") or now) < stale
        except sqlite3.OperationalError:
            raise  # of the disk
        except sqlite3.DatabaseError:
            return False

    def _begin(self, place: str) -> str | None:
        """Make the tables if they are missing; return the place that the file is about."""
        connection = self._connection
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        stage.create(connection)
        connection.execute(
            "CREATE TABLE IF NOT EXISTS ids (id TEXT PRIMARY KEY, outcome TEXT, reason TEXT)"
        )
        connection.execute("CREATE TABLE IF NOT EXISTS sweep (name TEXT PRIMARY KEY, value TEXT)")
        connection.execute("INSERT OR IGNORE INTO sweep VALUES ('place', ?)", (place,))
        return self._get("place")

    @property
    def began(self) -> int:
        """When the sweep began, in epoch milliseconds."""
        return int(self._get("began") or 0)

    def add(self, ids: Iterable[str]) -> None:
        """Add ids to ask for; those that are there already stay as they are."""
        connection = self._connection
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT OR IGNORE INTO ids (id) VALUES (?)", ((each,) for each in ids)
        )
        connection.execute("COMMIT")

    def pending(self) -> Iterator[str]:
        """Yield the ids that were not asked for yet, in the order in which they came."""
        last = 0
        while rows := self._connection.execute(
            "SELECT rowid, id FROM ids WHERE outcome IS NULL AND rowid > ? ORDER BY rowid LIMIT ?",
            (last, CHUNK),
        ).fetchall():
            last = rows[-1][0]
            yield from (row[1] for row in rows)

    def put(
        self, customer_id: str, kind: str, traits: Iterable[tuple[str, Any, str | None]], at: str
    ) -> None:
        """Keep the traits (name, value, time) of the profile of an id, which were read at `at`."""
        profile = f"{kind}:{customer_id}"
        self._tables.identify(profile, kind, customer_id, at)
        for name, value, updated_at in traits:
            self._tables.trait(profile, name, value, at, updated_at)
        self.settle(customer_id, READ)

    def settle(self, customer_id: str, outcome: str, reason: str | None = None) -> None:
        """Note what became of an id."""
        self._outcomes.append((outcome, reason, customer_id))

    def take(self) -> Batch:
        """Return what was put since the last time, for `store`."""
        outcomes, self._outcomes = self._outcomes, []
        return Batch(self._tables.take(), outcomes, self._tables.seq)

    def store(self, batch: Batch, now: int) -> None:
        """Store what was taken, in one transaction; any thread may call it."""
        connection = self._connection
        with self._storing:
            connection.execute("BEGIN")
            try:
                self._tables.insert(batch.rows)
                connection.executemany(
                    "UPDATE ids SET outcome = ?, reason = ? WHERE id = ?", batch.outcomes
                )
                self._set("seq", str(batch.seq))
                if batch.outcomes:
                    self._set("touched", str(now))
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # SQLite ends it itself when the disk is full
                    connection.execute("ROLLBACK")
                raise

    def ask_again(self) -> int:
        """Let the ids that failed be asked for once more; return their number."""
        statement = "UPDATE ids SET outcome = NULL WHERE outcome = ?"
        return self._connection.execute(statement, (FAILED,)).rowcount

    def counts(self) -> dict[str | None, int]:
        """Return the number of ids by what became of them; None: they were not asked for yet."""
        return dict(self._connection.execute(_COUNTS).fetchall())

    def reason(self) -> str | None:
        """Return why one of the ids could not be read."""
        statement = "SELECT reason FROM ids WHERE outcome IN (?, ?) LIMIT 1"
        row = self._connection.execute(statement, (FAILED, REFUSED)).fetchone()
        return None if row is None else row[0]

    def finish(self, target: Path, now: int) -> None:
        """Make it the finished sweep at `target`, in the place of an older one."""
        stage.index(self._connection)
        self._set("ended", str(now))
        self._connection.execute("PRAGMA journal_mode = DELETE")  # no files beside it any more
        self._connection.close()
        stage.replace(self.path, target)

    def close(self) -> None:
        """Close it; the next sweep goes on from it."""
        self._connection.close()

    def discard(self) -> None:
        """Close and remove it: the next sweep begins anew."""
        self._connection.close()
        remove(self.path)

    def _get(self, name: str) -> str | None:
        row = self._connection.execute("SELECT value FROM sweep WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def _set(self, name: str, value: str) -> None:
        self._connection.execute("INSERT OR REPLACE INTO sweep VALUES (?, ?)", (name, value))


class FinishedSweep:
    """What a finished sweep says besides its rows; read-only."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False
        )
        try:
            rows = dict(self._connection.execute("SELECT name, value FROM sweep").fetchall())
            #: what was swept
            self.place = str(rows["place"])
            #: when it began and ended, in epoch milliseconds
            self.began, self.ended = int(rows["began"]), int(rows["ended"])
        except BaseException:
            self._connection.close()
            raise

    def unread(self, customer_ids: Collection[str]) -> set[str]:
        """Return those of some ids of which it is not known what Segment has."""
        rows = self._connection.execute(
            "SELECT named.value FROM json_each(?) AS named LEFT JOIN ids ON ids.id = named.value "
            "WHERE outcome IS NULL OR outcome IN (?, ?)",
            (to_json(list(customer_ids)), FAILED, REFUSED),
        )
        return {str(row[0]) for row in rows}

    def counts(self) -> dict[str, int]:
        """Return the number of ids by what became of them."""
        return dict(self._connection.execute(_COUNTS).fetchall())

    def close(self) -> None:
        self._connection.close()


def remove(path: Path) -> None:
    """Remove a sweep, with the files that SQLite keeps beside it."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
