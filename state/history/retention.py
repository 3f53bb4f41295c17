"""How far back the history goes, and what a compaction leaves of what is older.

A compaction takes whole seals, up to the change `last_id`. Of these changes it keeps, for each
customer and trait, the last one and the last entry or exit (mostly the same), whatever Amberflo had
not acknowledged in time, and what was found at Amberflo (its source is `amberflo`): ownership.py
gives that back. They stay where they are, so every question about a moment at or after
`until`, when the newest of them was recorded, has the answer that it had before: all that was
removed was recorded by then, and what is in force then, or since, is not among it.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, and_, exists, func, or_, select

from state.change_sources import MET
from state.db.tables import CHANGE, SEAL
from state.history.seal import CHANGES, COMPACTED, COMPACTION, newest


def begins(connection: Connection) -> int | None:
    """Return the earliest moment (epoch milliseconds) that the history answers for; None: all."""
    link = newest(connection, COMPACTION, COMPACTED)
    return link.until if link else None


def removable(last_id: int, until: int) -> ColumnElement[bool]:
    """Return the condition for the changes that a compaction up to `last_id` removes.

    What Amberflo acknowledged by `until` does not change any more, so this is the same whenever it
    is asked, also half-way.
    """
    later = CHANGE.alias("later")
    superseded = exists(
        select(later.c.id).where(
            later.c.customer_id == CHANGE.c.customer_id,
            # No plain column, or SQLite would look through all changes of the key instead of the
            # customer's few.
            later.c.key.concat("") == CHANGE.c.key,
            later.c.id > CHANGE.c.id,
            later.c.id <= last_id,
            # An entry or exit by another one: members are counted by these alone.
            or_(CHANGE.c.delta == 0, later.c.delta != 0),
        )
    ).correlate(CHANGE)
    acknowledged = and_(CHANGE.c.delivered_at.is_not(None), CHANGE.c.delivered_at <= until)
    ours = or_(CHANGE.c.source.is_(None), CHANGE.c.source.not_in(MET))
    return and_(CHANGE.c.id <= last_id, acknowledged, ours, superseded)


def boundary(connection: Connection, before: int) -> tuple[int, int] | None:
    """Return (last_id, until) of the longest sealed part that was recorded before a moment.

    None where no compaction can take more than the last one.
    """
    sealed = SEAL.c.kind == CHANGES
    too_new = select(func.min(SEAL.c.number)).where(sealed, SEAL.c.until >= before)
    stop = connection.execute(too_new).scalar()
    old = sealed if stop is None else and_(sealed, SEAL.c.number < stop)
    last_id, until = connection.execute(
        select(func.max(SEAL.c.last_id), func.max(SEAL.c.until)).where(old)
    ).one()
    last = newest(connection, COMPACTION, COMPACTED)
    if until is None or last_id <= (last.last_id if last else 0):
        return None
    return int(last_id), int(until)
