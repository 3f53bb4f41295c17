"""Discarding failures: nothing of them is sent any more, be it refused or put off.

What was put off is tried again by itself, so it leaves the outbox, or the queue, before its failure
goes: where a process dies between the two, the failure is still there. What a process sends in this
moment it may fail with again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from sqlalchemy import Row, delete, select, update

from state import failures, lanes, queue
from state.db.batches import batches
from state.db.database import Database
from state.db.tables import CUSTOMER, FAILURE

#: Failures that are read at a time, and that one transaction removes.
CHUNK = 2000

_NAMES = ("id", "kind", "customer_id", "message_id", "via", "attempts")
_SENT = select(*(FAILURE.c[name] for name in _NAMES)).order_by(FAILURE.c.id).limit(CHUNK)


def discard(state: Database, calls: Database, ids: Collection[int] | None, until: int) -> int:
    """Discard the failures up to the number `until`, or the numbered ones; return how many.

    `calls` is the database of the queue.
    """
    removed = 0
    for rows in _pages(state, ids, until):
        sent = [row for row in rows if row.attempts]
        meters = [row for row in sent if row.kind == failures.METER]
        customers = [row.customer_id for row in sent if row.kind == failures.CUSTOMER]
        if meters:
            records = [(row.message_id or "", row.via or "") for row in meters]
            with calls.write() as connection:
                queue.give_up(connection, records)
        with state.write() as connection:
            for part in batches(customers):
                connection.execute(
                    update(CUSTOMER)
                    .where(CUSTOMER.c.customer_id.in_(part), CUSTOMER.c.line == lanes.PUT_OFF)
                    .values(due_at=None, line=lanes.RUN, attempts=0)
                )
            for part in batches([row.id for row in rows]):
                gone = delete(FAILURE).where(FAILURE.c.id.in_(part))
                removed += connection.execute(gone).rowcount
    return removed


def _pages(
    state: Database, ids: Collection[int] | None, until: int
) -> Iterator[Sequence[Row[tuple[int, str, str | None, str | None, str | None, int]]]]:
    """Yield failures, oldest first: the numbered ones, or all up to a number."""
    if ids is not None:
        for part in batches(sorted(ids)):
            with state.read() as connection:
                yield connection.execute(_SENT.where(FAILURE.c.id.in_(part))).all()
        return
    after = 0
    while True:
        span = FAILURE.c.id > after, FAILURE.c.id <= until
        with state.read() as connection:
            rows = connection.execute(_SENT.where(*span)).all()
        if not rows:
            return
        yield rows
        after = rows[-1].id
