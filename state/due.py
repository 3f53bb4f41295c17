"""When waiting work is tried again. Times are epoch milliseconds."""

from __future__ import annotations

from sqlalchemy import ColumnElement

#: Nothing is put off for longer than this: what is due later still was put off by a clock that has
#: been set back since, and must not wait for that time to come again. The shorter, the sooner that
#: is seen.
LONGEST = 600_000


def come_due(due_at: ColumnElement[int | None], now: int) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions under which something is due at `now`.

    Each is a range of an index: applied one after the other, they do not go through what waits for
    its time.
    """
    return due_at <= now, due_at > now + LONGEST
