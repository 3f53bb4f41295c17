"""The claims on customers that are chosen: those that a page of Amberflo shows, and probes.

All others are claimed in their lanes, as long as they wait (outbox.py).

Functions take a connection, so that the caller says what is one transaction. Times are epoch
milliseconds.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import ColumnElement, Connection, func, or_, select

from state import lanes
from state.claim import CUSTOMERS
from state.db.batches import ROWS, batches
from state.db.tables import CUSTOMER
from state.due import come_due
from state.snapshot import CUSTOMER_COLUMNS, CustomerRow

_UNTRIED = CUSTOMER.c.attempts == 0


def claim_named(
    connection: Connection,
    worker: int,
    now: int,
    customer_ids: Collection[str],
    run: int | None,
    sent_before: int,
) -> list[CustomerRow]:
    """Claim those of the named customers that are due at `now` and were never tried.

    With `run` only those that it waits for. None was sent after `sent_before`, so that a list which
    lags shows it as it is.
    """
    which = (
        *(*_waits_for(run), _UNTRIED, CUSTOMERS.free, CUSTOMER.c.line != lanes.PUT_OFF),
        or_(*come_due(CUSTOMER.c.due_at, now)),
        or_(CUSTOMER.c.acked_at.is_(None), CUSTOMER.c.acked_at <= sent_before),
    )
    claimed: list[CustomerRow] = []
    for ids in batches(customer_ids, ROWS):
        named = select(CUSTOMER.c.customer_id).where(CUSTOMER.c.customer_id.in_(ids), *which)
        rows = CUSTOMERS.claim(connection, worker, named, CUSTOMER_COLUMNS)
        claimed += [CustomerRow._make(row) for row in rows]
    return claimed


def claim_acknowledged(
    connection: Connection, worker: int, now: int, limit: int
) -> list[CustomerRow]:
    """Claim customers that Amberflo has as they should be, the last acknowledged first.

    They are sent once more: whether Amberflo takes them says whether it takes any. They are due
    from then on, so that they are left to others where the worker dies.
    """
    newest = (
        select(CUSTOMER.c.customer_id)
        .where(CUSTOMER.c.due_at.is_(None), CUSTOMER.c.acked_rev == CUSTOMER.c.rev)
        .where(CUSTOMERS.free)
        .order_by(CUSTOMER.c.acked_at.desc(), CUSTOMER.c.customer_id)
        .limit(limit)
    )
    rows = CUSTOMERS.claim(connection, worker, newest, CUSTOMER_COLUMNS, due_at=now)
    return [CustomerRow._make(row) for row in rows]


def untried(connection: Connection, since: int, run: int | None = None) -> int:
    """Count the customers that runs made due after `since` and that nobody tried.

    With `run` only those that it waits for.
    """
    of_runs = CUSTOMER.c.line == lanes.RUN
    statement = (
        select(func.count())
        .select_from(CUSTOMER)
        .where(*_waits_for(run), of_runs, CUSTOMER.c.due_at > since, _UNTRIED)
    )
    return int(connection.execute(statement).scalar_one())


def _waits_for(run: int | None) -> list[ColumnElement[bool]]:
    due = CUSTOMER.c.due_at.is_not(None)
    return [due] if run is None else [due, CUSTOMER.c.run == run]
