"""The evidence of holds: what the guard kept back, customer by customer, and what decisions made.

Times are epoch milliseconds; values are JSON, None is absent.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select

from state.db.batches import ROWS
from state.db.tables import HELD_CHANGE, HOLD
from state.holds import APPROVED, COLUMNS, DELETED, IN_FORCE, Hold, Kept


def kept(
    connection: Connection, hold: Hold, after: str = "", limit: int | None = None
) -> list[Kept]:
    """Return the changes under a hold in byte order of the id, those after the id `after`.

    These are the evidence of its decision: what is in force now, or was when it was decided.
    """
    columns = [HELD_CHANGE.c[name] for name in Kept._fields]
    rows = connection.execute(
        select(*columns)
        .where(_evidence(hold), HELD_CHANGE.c.customer_id > after)
        .order_by(HELD_CHANGE.c.customer_id)
        .limit(limit)
    )
    return [Kept._make(row) for row in rows]


def each_kept(connection: Connection, hold: Hold, limit: int | None = None) -> Iterator[Kept]:
    """Yield the changes under a hold, as `kept`, a page at a time."""
    after, more = "", ROWS if limit is None else limit
    while more and (page := kept(connection, hold, after, min(more, ROWS))):
        yield from page
        after = page[-1].customer_id
        if limit is not None:
            more -= len(page)


def count_kept(connection: Connection, hold: Hold) -> int:
    """Count the changes under a hold, as `kept`."""
    statement = select(func.count()).select_from(HELD_CHANGE).where(_evidence(hold))
    return int(connection.execute(statement).scalar_one())


def _evidence(hold: Hold) -> ColumnElement[bool]:
    """Return the condition of the changes that a decision on a hold is, or was, about."""
    in_force: ColumnElement[bool] = HELD_CHANGE.c.ended_at.is_(None)
    if hold.decided_at is not None:
        in_force = or_(in_force, HELD_CHANGE.c.ended_at >= hold.decided_at)
    return and_(HELD_CHANGE.c.hold == hold.id, in_force)


def of_customer(
    connection: Connection, customer_id: str, trait: str
) -> list[tuple[Hold, Kept, bool]]:
    """Return the holds that kept back this trait of a customer, or the whole customer.

    The oldest first, each with the change that it kept back and whether that is in force.
    """
    columns = [*COLUMNS, *(HELD_CHANGE.c[name] for name in Kept._fields), IN_FORCE]
    rows = connection.execute(
        select(*columns)
        .join(HELD_CHANGE, HELD_CHANGE.c.hold == HOLD.c.id)
        .where(HOLD.c.trait.in_((trait, DELETED)), HELD_CHANGE.c.customer_id == customer_id)
        .order_by(HOLD.c.id)
    )
    size = len(COLUMNS)
    return [(Hold._make(row[:size]), Kept._make(row[size:-1]), bool(row[-1])) for row in rows]


def let_through(connection: Connection, run: int) -> list[Hold]:
    """Return the holds whose approval a run carried out."""
    theirs = and_(HOLD.c.decided_run == run, HOLD.c.decision == APPROVED)
    rows = connection.execute(select(*COLUMNS).where(theirs).order_by(HOLD.c.id))
    return [Hold._make(row) for row in rows]
