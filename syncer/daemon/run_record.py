"""The record of a run whose process could not write one.

A process that is killed, or may not open the state, leaves no word of what became of its run. Only
the daemon that started it sees how it ended.
"""

from __future__ import annotations

from dataclasses import dataclass

from state import runs
from state.db.database import Database
from state.db.locks import lock
from state.errors import Locked
from syncer.clock import now_ms

#: Seconds that a server may need to see that the process is gone which held the lock.
LOCK_WAIT = 2.0


@dataclass(frozen=True)
class RunRecord:
    """What to record: the run began (epoch ms) when run `after` was the newest one."""

    after: int
    full: bool
    began: int


def next_record(database: Database, *, full: bool) -> RunRecord:
    """Return the record of a run that is about to begin."""
    with database.read() as connection:
        newest = runs.newest(connection, 1)
    return RunRecord(newest[0].id if newest else 0, full, now_ms())


def record_failed(database: Database, record: RunRecord, error: str) -> None:
    """Record that the run failed, unless its process did; that process must have ended."""
    try:
        with lock(database, "run", wait=LOCK_WAIT), database.write() as connection:
            if runs.fail_cut_off(connection, now_ms(), record.after, error):
                return
    except Locked:
        pass  # another run is going on: ours did not come so far
    with database.write() as connection:
        newest = runs.newest(connection, 1)
        ended = newest and newest[0].id > record.after and newest[0].state != runs.RUNNING
        if not ended:
            kind = "reconcile" if record.full else "incremental"
            number = runs.start(connection, kind, record.began, "")
            values = {"state": runs.FAILED, "ended_at": now_ms(), "error": error}
            runs.set_values(connection, number, values)


def took_nothing(database: Database, record: RunRecord) -> bool:
    """Whether the run failed before it took anything from Engage."""
    with database.read() as connection:
        newest = runs.newest(connection, 1)
    if not newest or newest[0].id <= record.after:
        return False
    return newest[0].state == runs.FAILED and newest[0].committed_at is None
