"""The history as of a moment: what a customer's traits were, and who was in an audience.

Times are epoch milliseconds. What holds, and all that is assumed:

- the changes of one customer have ids in the order in which they were made;
- `recorded_at` is the clock when a change was written. It mostly grows with the id, but need not:
  a clock can be set back, and writers on several machines have several clocks;
- "as of T" means: by what was recorded here by T (`recorded_at` <= T), of that the newest by id. So
  after a clock was set back, a change stamped too late counts from its stamp on, or until a later
  one of the same customer and trait is in force;
- a customer is a member as of T where the newest of its entries and exits recorded by T is an
  entry;
- the history begins with the first run that was committed, or with a call that was recorded before
  it. Of what a compaction took (retention.py) the last changes are still here, so answers as of a
  moment since then are as they were. A question as of a moment before `known_since` raises
  `NotKept`: that nobody was in then is not known.

Every question is served by an index; a test asks both databases for their plans.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Generator, Sequence
from itertools import accumulate, pairwise
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    bindparam,
    func,
    literal_column,
    select,
)

from state.db.tables import CHANGE, RUN
from state.errors import NotKept
from state.history import retention
from state.history.listings import ENTERED, ENTRIES, KEY_OF_CUSTOMER, Entry
from state.history.paging import streamed

#: No id and no time is larger.
_LAST = 2**63 - 1

#: As the index has it: with a bound value in place of the 0, SQLite would not see that it fits.
_MOVED = CHANGE.c.delta != literal_column("0")
#: The time, where an index on it must not be taken: without statistics SQLite holds a span of time
#: for as selective as a customer.
_RECORDED_AT: Any = CHANGE.c.recorded_at + literal_column("0")


class Size(NamedTuple):
    """Members of an audience as of a moment."""

    at: int
    members: int


class Beginning(NamedTuple):
    """When (epoch milliseconds) the history begins, and with what."""

    at: int
    why: str


#: Customers whose newest entry or exit is an entry. The largest of 4 id + delta has the delta of
#: the newest: one pass over the index in its order, on every engine.
_MEMBERS = (
    select(CHANGE.c.customer_id)
    .where(_MOVED)
    .group_by(CHANGE.c.customer_id)
    .having(func.max(CHANGE.c.id * 4 + CHANGE.c.delta) % 4 == ENTERED)
)


def in_force(
    connection: Connection, customer_id: str, key: str, at: int | None = None
) -> Entry | None:
    """Return the change that says what a customer's trait was as of a moment.

    Its `delivered_at` says since when Amberflo knows it (None: not yet). None: the trait was never
    there.
    """
    _check_known(connection, at)
    statement = (
        ENTRIES.where(CHANGE.c.customer_id == customer_id, key == KEY_OF_CUSTOMER, *_by(at))
        .order_by(CHANGE.c.id.desc())
        .limit(1)
    )
    row = connection.execute(statement).first()
    return None if row is None else Entry._make(row)


def traits_at(connection: Connection, customer_id: str, at: int | None = None) -> dict[str, str]:
    """Return a customer's traits of Engage as of a moment: JSON values by the name at Amberflo.

    Name, email and traits of identify calls are not among them.
    """
    _check_known(connection, at)
    statement = (
        select(CHANGE.c.trait, CHANGE.c.after)
        .where(CHANGE.c.customer_id == customer_id, *_by(at))
        .where(
            CHANGE.c.source.is_distinct_from("identify"), KEY_OF_CUSTOMER.not_in(("name", "email"))
        )
        .order_by(CHANGE.c.id)
    )
    last = dict(streamed(connection, statement, tuple))
    return {trait: after for trait, after in last.items() if after is not None}


def member_at(connection: Connection, customer_id: str, key: str, at: int | None = None) -> bool:
    """Return whether a customer was in an audience as of a moment."""
    _check_known(connection, at)
    statement = _members(key, at).where(CHANGE.c.customer_id == customer_id)
    return connection.execute(statement).first() is not None


def members_at(
    connection: Connection,
    key: str,
    at: int | None = None,
    *,
    after: str | None = None,
    limit: int | None = None,
) -> Generator[str]:
    """Stream the members of an audience as of a moment, in UTF-8 byte order of the id.

    With `after` the page after that customer.
    """
    _check_known(connection, at)
    statement = _members(key, at).order_by(CHANGE.c.customer_id).limit(limit)
    if after is not None:
        statement = statement.where(CHANGE.c.customer_id > after)
    return streamed(connection, statement, itemgetter(0))


def count_at(connection: Connection, key: str, at: int | None = None) -> int:
    """Count the members of an audience as of a moment."""
    _check_known(connection, at)
    members = _members(key, at).subquery()
    return int(connection.execute(select(func.count()).select_from(members)).scalar_one())


def sizes(connection: Connection, key: str, since: int, until: int, steps: int) -> list[Size]:
    """Return the size of an audience as of `steps` moments, evenly from `since` to `until`.

    Both are among them; one step is `until`. Counted as of now; from there back, less the entries
    and plus the exits recorded since, by one pass over the key's part of an index. As of some
    moments that is wrong: where something recorded by then was made after something recorded later
    (a clock was set back), which the ids tell. For these the changes of all customers are read.
    """
    span = until - since
    _check_known(connection, since if steps > 1 else until)
    moments = [since + span * number // (steps - 1) for number in range(steps - 1)] + [until]
    parts = [recorded_in(connection, key, *edges) for edges in pairwise([-_LAST, *moments, _LAST])]
    return sizes_from(connection, key, moments, parts, count_at(connection, key))


class Part(NamedTuple):
    """What was recorded in a span of time: entries less exits, and the lowest and highest id."""

    delta: int
    oldest: int
    newest: int


#: Nothing was recorded.
NO_PART = Part(0, _LAST, 0)


def sizes_from(
    connection: Connection, key: str, moments: Sequence[int], parts: Sequence[Part], count: int
) -> list[Size]:
    """Return sizes as of ascending moments, from the `count` as of now and what was recorded.

    `parts` are what was recorded by the first moment, between each two, and after the last.
    """
    newest_by = list(accumulate((part.newest for part in parts), max))
    oldest_after = NO_PART.oldest
    counts: dict[int, int] = {}
    mixed = []
    for at, newest, later in reversed(list(zip(moments, newest_by, parts[1:], strict=False))):
        count -= later.delta
        oldest_after = min(oldest_after, later.oldest)
        counts[at] = count
        if newest > oldest_after:
            mixed.append(at)
    counts.update(_gone_through(connection, key, mixed[::-1]))
    return [Size(at, counts[at]) for at in moments]


def known_since(connection: Connection) -> Beginning | None:
    """Return when the history begins; None where nothing was ever recorded.

    A question as of a moment before has no answer.
    """
    starts = [
        start for start in (_first_run(connection), _first_change(connection)) if start is not None
    ]
    if not starts:
        return None
    first, compacted = min(starts), retention.begins(connection)
    if compacted is None or compacted <= first.at:
        return first
    return Beginning(compacted, "what a compaction kept")


def _first_run(connection: Connection) -> Beginning | None:
    """Return the beginning by the first run: by its time and not its number.

    A clock that was wrong at first must not hide what follows. (Runs are few.)
    """
    committed = select(RUN.c.committed_at, RUN.c.id).where(RUN.c.committed_at.is_not(None))
    row = connection.execute(committed.order_by(RUN.c.committed_at, RUN.c.id).limit(1)).first()
    return None if row is None else Beginning(int(row[0]), f"run {row[1]}")


def _first_change(connection: Connection) -> Beginning | None:
    """Return the beginning by the first change: a call may come before the first run."""
    changes = select(CHANGE.c.recorded_at, CHANGE.c.run).where(CHANGE.c.id > 0)
    row = connection.execute(changes.order_by(CHANGE.c.id).limit(1)).first()
    if row is None:
        return None
    return Beginning(int(row[0]), "the first call" if row[1] is None else f"run {row[1]}")


def check_known(connection: Connection, at: int) -> int:
    """Return since when the history can tell; raise `NotKept` where it cannot tell of a moment."""
    begins = known_since(connection)
    if begins is None:
        raise NotKept
    if at < begins.at:
        raise NotKept(*begins)
    return begins.at


def _check_known(connection: Connection, at: int | None) -> None:
    if at is not None:
        check_known(connection, at)


_PART = select(
    func.coalesce(func.sum(CHANGE.c.delta), 0),
    func.coalesce(func.min(CHANGE.c.id), _LAST),
    func.coalesce(func.max(CHANGE.c.id), 0),
).where(
    CHANGE.c.key == bindparam("of_key"),
    CHANGE.c.recorded_at > bindparam("after"),
    CHANGE.c.recorded_at <= bindparam("by"),
)


def recorded_in(connection: Connection, key: str, after: int, by: int) -> Part:
    """Return what was recorded in (after, by] of a key."""
    values = {"of_key": key, "after": after, "by": by}
    return Part._make(map(int, connection.execute(_PART, values).one()))


def _gone_through(connection: Connection, key: str, moments: Sequence[int]) -> dict[int, int]:
    """Count members as of ascending moments, from the entries and exits of each customer.

    A change is in force from its own time until the earliest time of those made after it.
    """
    if not moments:
        return {}
    statement = (
        select(CHANGE.c.customer_id, CHANGE.c.recorded_at, CHANGE.c.delta)
        .where(CHANGE.c.key == key, _MOVED)
        .order_by(CHANGE.c.customer_id.desc(), CHANGE.c.id.desc())
    )
    deltas = [0] * (len(moments) + 1)
    customer, end = None, len(moments)
    for customer_id, recorded_at, delta in streamed(connection, statement, tuple):
        if customer_id != customer:
            customer, end = customer_id, len(moments)
        start = bisect_left(moments, recorded_at)
        if start < end:
            if delta == ENTERED:
                deltas[start] += 1
                deltas[end] -= 1
            end = start
    return dict(zip(moments, accumulate(deltas), strict=False))


def _members(key: str, at: int | None) -> Select[Any]:
    return _MEMBERS.where(CHANGE.c.key == key, *_by(at, _RECORDED_AT))


def _by(
    at: int | None, recorded_at: ColumnElement[int] = CHANGE.c.recorded_at
) -> list[ColumnElement[bool]]:
    return [] if at is None else [recorded_at <= at]
