"""The size of audiences by the hour: how many customers entered and left in each.

With it a chart of a long history need not count all of it again. It follows the history: `fold`
adds what was recorded since, and is called now and then. It has nothing of its own; past.py answers
the same without it, only later. Of what a compaction removed it still has the numbers; an erasure
takes out what was the customer's.

Hour h is what was recorded in the hour that ends at h hours, its end included: the sums up to it
are those as of its end. Times are epoch milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, case, func, select, update

from state.db.tables import AUDIENCE_SIZE_HOUR, CHANGE
from state.db.upsert import insert_into
from state.history.listings import ENTERED, EXITED, NEITHER
from state.history.past import NO_PART, Part, Size, recorded_in, sizes_from

HOUR = 3_600_000
#: Changes that are added at a time: others must not wait long for the database.
CHUNK = 20_000
_COLUMNS = {
    ENTERED: AUDIENCE_SIZE_HOUR.c.entered,
    EXITED: AUDIENCE_SIZE_HOUR.c.exited,
    NEITHER: AUDIENCE_SIZE_HOUR.c.other,
}
_HOUR = (CHANGE.c.recorded_at + (HOUR - 1)) // HOUR
#: Rows of the table from the history.
_SUMS = select(
    CHANGE.c.key,
    _HOUR.label("hour"),
    *(
        func.sum(case((CHANGE.c.delta == delta, 1), else_=0)).label(column.name)
        for delta, column in _COLUMNS.items()
    ),
    func.min(CHANGE.c.id).label("lowest"),
    func.max(CHANGE.c.id).label("highest"),
).group_by(CHANGE.c.key, _HOUR)


def fold(connection: Connection, limit: int = CHUNK) -> bool:
    """Add the next changes, in a transaction that writes alone; return if there may be more."""
    mark = _mark(connection)
    following = select(CHANGE.c.id).where(CHANGE.c.id > mark).order_by(CHANGE.c.id).limit(limit)
    ids = following.subquery().c.id
    count, last = connection.execute(select(func.count(ids), func.max(ids))).one()
    if not count:
        return False
    rows = connection.execute(_SUMS.where(CHANGE.c.id > mark, CHANGE.c.id <= last))
    statement = insert_into(AUDIENCE_SIZE_HOUR, connection.dialect.name)
    sums = {column.name: column + statement.excluded[column.name] for column in _COLUMNS.values()}
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["key", "hour"],
            set_={**sums, "highest": statement.excluded.highest},
        ),
        [dict(row) for row in rows.mappings()],
    )
    return int(count) == limit


def take_out(connection: Connection, customer_id: str) -> None:
    """Take out what was added of a customer whose changes are about to be erased."""
    theirs = _SUMS.where(CHANGE.c.customer_id == customer_id, CHANGE.c.id <= _mark(connection))
    for row in connection.execute(theirs).mappings().all():
        names = [column.name for column in _COLUMNS.values()]
        connection.execute(
            update(AUDIENCE_SIZE_HOUR)
            .where(AUDIENCE_SIZE_HOUR.c.key == row["key"], AUDIENCE_SIZE_HOUR.c.hour == row["hour"])
            .values({name: AUDIENCE_SIZE_HOUR.c[name] - row[name] for name in names})
        )


def up_to_date(connection: Connection) -> bool:
    """Return whether everything that is recorded was added."""
    newest = connection.execute(select(func.max(CHANGE.c.id))).scalar()
    return int(newest or 0) <= _mark(connection)


def by_hour(connection: Connection, key: str, moments: Sequence[int], members: int) -> list[Size]:
    """Return the size of an audience as of ascending moments, counted back from `members` now.

    It equals `past.sizes`, where everything is up to date. Each moment is the end of an hour; only
    the first may be within one, and so may the last, when it is now.
    """
    ends = [-(-at // HOUR) for at in moments]
    parts = [NO_PART] * (len(ends) + 1)
    rows = connection.execute(
        select(
            AUDIENCE_SIZE_HOUR.c.hour,
            AUDIENCE_SIZE_HOUR.c.entered - AUDIENCE_SIZE_HOUR.c.exited,
            AUDIENCE_SIZE_HOUR.c.lowest,
            AUDIENCE_SIZE_HOUR.c.highest,
        )
        .where(AUDIENCE_SIZE_HOUR.c.key == key)
        .order_by(AUDIENCE_SIZE_HOUR.c.hour)
    )
    place = 0
    for hour, *row in rows:
        while place < len(ends) and hour > ends[place]:
            place += 1
        part = Part._make(row)
        if place == 0 and hour == ends[0] and len(ends) > 1 and moments[0] < hour * HOUR:
            part = recorded_in(connection, key, (hour - 1) * HOUR, moments[0])
            parts[1] = recorded_in(connection, key, moments[0], hour * HOUR)
        parts[place] = _both(parts[place], part)
    return sizes_from(connection, key, moments, parts, members)


def _both(first: Part, other: Part) -> Part:
    return Part(
        first.delta + other.delta, min(first.oldest, other.oldest), max(first.newest, other.newest)
    )


class Span(NamedTuple):
    """Moments from `since` (included) until `until` (excluded)."""

    since: int | None
    until: int | None


def span_of(
    connection: Connection, key: str, delta: int, rows: int, since: int | None, until: int | None
) -> Span | None:
    """Return the shortest span that has the newest `rows` changes with a delta, or all of them.

    None where there are none. Everything must be up to date.
    """
    column = _COLUMNS[delta]
    hours = [AUDIENCE_SIZE_HOUR.c.key == key, column > 0]
    if since is not None:
        hours.append(AUDIENCE_SIZE_HOUR.c.hour * HOUR >= since)
    if until is not None:
        hours.append((AUDIENCE_SIZE_HOUR.c.hour - 1) * HOUR < until)
    statement = (
        select(AUDIENCE_SIZE_HOUR.c.hour, column)
        .where(*hours)
        .order_by(AUDIENCE_SIZE_HOUR.c.hour.desc())
    )
    first = last = None
    # The newest hour may reach beyond the span: what of it is inside is not known.
    with connection.execute(statement, execution_options={"yield_per": 100}) as result:
        for hour, count in result:
            last = hour if last is None else last
            first = hour
            if until is None or hour * HOUR < until:
                rows -= count
            if rows <= 0:
                break
    if first is None or last is None:
        return None
    start, end = (first - 1) * HOUR + 1, last * HOUR + 1
    return Span(
        start if since is None else max(since, start), end if until is None else min(until, end)
    )


def _mark(connection: Connection) -> int:
    """Return the newest change that was added."""
    return int(
        connection.execute(
            select(func.coalesce(func.max(AUDIENCE_SIZE_HOUR.c.highest), 0))
        ).scalar_one()
    )
