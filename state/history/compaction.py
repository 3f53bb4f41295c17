"""A compaction: takes out of the history what is older than it is to be kept (retention.py).

First a seal says what is kept, then the rest is removed in small transactions, so that nobody waits
long; a last seal says that it is done. A compaction that dies is taken up by the next one, and the
chain of seals holds all the while. The caller sees to it that one goes on at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, delete, not_, select, update

from state.db.database import Database
from state.db.tables import CHANGE, SEAL
from state.history.proof import Broken, prove
from state.history.retention import boundary, removable
from state.history.seal import CHANGES, COMPACTED, COMPACTION, Link, Sum, append, leaf, newest, read

#: Changes that one transaction removes.
CHUNK = 2000
#: Between two of them others get at least so many seconds to write.
PAUSE = 0.1


class Compacted(NamedTuple):
    """What a compaction did: changes removed (by this process) and kept.

    The history begins at `begins`. `broken` is why it did not touch anything.
    """

    removed: int
    kept: int
    begins: int | None
    broken: Broken | None = None


def compact(
    database: Database,
    before: int | None,
    now: Callable[[], int],
    stop: Callable[[], bool] = lambda: False,
) -> Compacted:
    """Compact what was recorded before a moment, and finish what was begun. None: only finish.

    Changes that do not prove to be what was sealed are left as they are.
    """
    removed = finish(database, now, stop)
    with database.read() as connection:
        last = newest(connection, COMPACTION, COMPACTED)
        untouched = Compacted(removed, last.changes if last else 0, last.until if last else None)
        limit = boundary(connection, before) if before is not None else None
        if limit is None:
            return untouched
        try:
            proof = prove(connection, rows_to=limit[0], check=lambda: _check(stop))
            if proof.broken:
                return untouched._replace(broken=proof.broken)
            kept = _kept(connection, *limit, check=lambda: _check(stop))
        except _Stopped:
            return untouched
    with database.write(alone=True) as connection:
        kept.until = limit[1]
        append(connection, COMPACTION, kept, 1, limit[0], now())
    removed += finish(database, now, stop)
    return Compacted(removed, kept.changes, limit[1])


def finish(
    database: Database, now: Callable[[], int], stop: Callable[[], bool] = lambda: False
) -> int:
    """Remove what the last compaction left to remove; return how many changes.

    At a stop it ends; the next one goes on.
    """
    with database.read() as connection:
        begun = newest(connection, COMPACTION, COMPACTED)
    if begun is None or begun.kind == COMPACTED:
        return 0
    removed = after = 0
    while not stop():
        with database.read() as connection:
            numbers = _removable(connection, begun, after)
        if not numbers:
            with database.write(alone=True) as connection:
                _end(connection, begun, now())
            break
        started = time.monotonic()
        with database.write() as connection:
            connection.execute(delete(CHANGE).where(CHANGE.c.id.in_(numbers)))
        removed, after = removed + len(numbers), numbers[-1]
        time.sleep(max(PAUSE, time.monotonic() - started))
    return removed


class _Stopped(Exception):
    """Before anything was touched."""


def _check(stop: Callable[[], bool]) -> None:
    if stop():
        raise _Stopped


def _kept(connection: Connection, last_id: int, until: int, check: Callable[[], None]) -> Sum:
    kept = Sum()
    for rows in read(connection, 0, last_id, not_(removable(last_id, until))):
        check()
        kept.add([leaf(row[:-1]) for row in rows])
    return kept


def _removable(connection: Connection, begun: Link, after: int) -> Sequence[int]:
    assert begun.until is not None
    statement = (
        select(CHANGE.c.id)
        .where(CHANGE.c.id > after, removable(begun.last_id, begun.until))
        .order_by(CHANGE.c.id)
        .limit(CHUNK)
    )
    return connection.execute(statement).scalars().all()


def _end(connection: Connection, begun: Link, now: int) -> None:
    """Append the same seal once more, now of all that is left; drop marks of removed changes."""
    append(connection, COMPACTED, begun, 1, begun.last_id, now)
    gone = (SEAL.c.kind == CHANGES) & (SEAL.c.last_id <= begun.last_id)
    connection.execute(update(SEAL).where(gone, SEAL.c.marks.is_not(None)).values(marks=None))
