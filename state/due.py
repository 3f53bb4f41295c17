"""When what waits is to be tried again. Times are epoch milliseconds."""

from __future__ import annotations

from sqlalchemy import ColumnElement

#: Nothing is put off for longer than this: what is due later still was put off by a clock that has
#: been set back since, and must not wait for that time to come again. The shorter, the sooner that
#: is seen.
LONGEST = 600_000


def come_due(due_at: ColumnElement[int | None], now: int) -> tuple[ColumnElement[bool], ...]:
    """The conditions under which something is due by now, each a range of an index: one after the
    other, what waits for its time is not gone through."""
    return due_at <= now, due_at > now + LONGEST
