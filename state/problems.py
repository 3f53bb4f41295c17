"""Problems: what keeps a part of the service from its work, while it does.

A part is what works on its own: the delivery of customers, the inbox, the schedule. What ended and
begins again soon is the same problem, so that one that comes and goes is told once. Times are epoch
milliseconds.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection, delete, insert, select, update

from state.db.tables import PROBLEM

#: Milliseconds after its end in which a problem that begins again is the same one.
SAME_WITHIN = 10 * 60 * 1000
#: Milliseconds for which one that is over is still told, so that nobody misses a short one.
TOLD_FOR = 60 * 1000


class ProblemRow(NamedTuple):
    """A problem, as the table `problem` has it; see `tables.Problem`."""

    part: str
    text: str
    since: int
    last_at: int
    times: int
    ended_at: int | None


_SELECT = select(*(PROBLEM.c[name] for name in ProblemRow._fields))


def report(connection: Connection, part: str, text: str, now: int) -> bool:
    """Record that a part has a problem; return whether it is a new one."""
    row = get(connection, part)
    # The clock may have been set back since.
    new = row is None or (row.ended_at is not None and abs(now - row.ended_at) > SAME_WITHIN)
    if row is None or new:
        connection.execute(delete(PROBLEM).where(PROBLEM.c.part == part))
        connection.execute(
            insert(PROBLEM).values(part=part, text=text, since=now, last_at=now, times=1)
        )
        return True
    began = row.ended_at is not None
    connection.execute(
        update(PROBLEM)
        .where(PROBLEM.c.part == part)
        .values(text=text, last_at=now, times=row.times + began, ended_at=None)
    )
    return False


def over(connection: Connection, part: str, now: int) -> None:
    """Record that a part works again."""
    connection.execute(
        update(PROBLEM)
        .where(PROBLEM.c.part == part, PROBLEM.c.ended_at.is_(None))
        .values(ended_at=now)
    )


def active(connection: Connection) -> list[ProblemRow]:
    """Return the problems that last, oldest first."""
    rows = connection.execute(
        _SELECT.where(PROBLEM.c.ended_at.is_(None)).order_by(PROBLEM.c.since, PROBLEM.c.part)
    )
    return [ProblemRow._make(row) for row in rows]


def recent(connection: Connection, now: int) -> list[ProblemRow]:
    """Return the problems that last, that ended just now, or that came and went and may be back."""
    rows = connection.execute(
        _SELECT.where(
            PROBLEM.c.ended_at.is_(None)
            | PROBLEM.c.ended_at.between(now - TOLD_FOR, now + TOLD_FOR)
            | (
                (PROBLEM.c.times > 1)
                & PROBLEM.c.ended_at.between(now - SAME_WITHIN, now + SAME_WITHIN)
            )
        ).order_by(PROBLEM.c.since, PROBLEM.c.part)
    )
    return [ProblemRow._make(row) for row in rows]


def get(connection: Connection, part: str) -> ProblemRow | None:
    """Return the last problem of a part, be it over; None if it had none."""
    row = connection.execute(_SELECT.where(PROBLEM.c.part == part)).one_or_none()
    return None if row is None else ProblemRow._make(row)
