"""Questions to the history: a customer's changes, who entered and left an audience, who was in,
what a run changed, what Amberflo has not acknowledged.

Times are epoch milliseconds. What holds, and all that is assumed:

- the changes of one customer have ids in the order in which they were made;
- `recorded_at` is the clock when a change was written. It mostly grows with the id, but need not:
  a clock can be set back, and writers on several machines have several clocks;
- "as of T" means: by what was recorded here by T (`recorded_at` <= T), of that the newest by id. So
  after a clock was set back, a change stamped too late counts from its stamp on, or until a later
  one of the same customer and trait is in force;
- a member as of T is who has an entry as the newest of the entries and exits recorded by T;
- the history begins with the first run that was committed, or with a call that was recorded before
  it. Of what a compaction took (retention.py) the last changes are there, so answers as of a moment
  since then are as they were. A question as of a moment before `known_since` raises `NotKept`: that
  nobody was in then is not known. Lists have what is there.

Listings are streamed, and can be paged: `limit` ends a page, and `after_id` with the id of its last
change gives the next one, in either order (nothing, when no change has that id).

Every question is served by an index (a test asks both databases for their plans).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Generator, Sequence
from itertools import accumulate, pairwise
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    bindparam,
    case,
    func,
    literal_column,
    select,
)

from state.db.tables import CHANGE, CUSTOMER, RUN, TRAIT
from state.errors import NotKept
from state.history import retention
from state.history.paging import Page, listed, streamed

#: `step` of a change: into the audience, out of it, or neither (a value, or false for the first
#: time).
ENTERED, EXITED, NEITHER = 1, -1, 0
MOVED = (ENTERED, EXITED)

#: No id and no time is larger.
_LAST = 2**63 - 1

#: As the index has it: with a bound value in place of the 0, SQLite would not see that it fits.
_MOVED = CHANGE.c.step != literal_column("0")
#: The same values, where an index that begins with the column must not be taken: without statistics
#: SQLite holds a key, or a span of time, for as selective as a customer.
_KEY: Any = CHANGE.c.key.concat(literal_column("''"))
_RECORDED_AT: Any = CHANGE.c.recorded_at + literal_column("0")


class Entry(NamedTuple):
    """One change; see `tables.Change`. `before` and `after` are JSON, None is absent. (`told_by`
    says of every change where it comes from, `source` only of some.)"""

    id: int
    run: int | None
    customer_id: str
    rev: int
    key: str
    trait: str
    before: str | None
    after: str | None
    step: int
    observed_at: int | None
    recorded_at: int
    delivered_at: int | None
    source: str | None
    via: str | None

    @property
    def told_by(self) -> str:
        """`pull` for what a run pulled, `call` for a membership that a call told, or one of
        `tables.SOURCES`."""
        return self.source or ("call" if self.run is None else "pull")


class Undelivered(NamedTuple):
    """A change that Amberflo has not acknowledged. `refused`: it is not tried again by itself (see
    the failures); else it waits for its turn or its next attempt."""

    entry: Entry
    refused: bool


class Moves(NamedTuple):
    """Changes of one trait: entries, exits, and those that are neither."""

    key: str
    trait: str
    entered: int
    exited: int
    other: int


class Size(NamedTuple):
    """Members of an audience as of a moment."""

    at: int
    members: int


class Beginning(NamedTuple):
    """Since when (epoch milliseconds) the history can tell who was in, and what it begins with."""

    at: int
    why: str


class Found(NamedTuple):
    """A customer found by the beginning of the id."""

    customer_id: str
    name: str | None
    email: str | None


class Known(NamedTuple):
    """What a customer is to be at Amberflo (see `tables.Customer`), and how far that got there."""

    customer_id: str
    traits: str
    name: str | None
    email: str | None
    called: str | None
    rev: int
    acked_rev: int
    acked_at: int | None
    due_at: int | None
    attempts: int


_THEIRS = CUSTOMER.c.customer_id == CHANGE.c.customer_id
_UNDELIVERED = (CHANGE.c.delivered_at.is_(None), CHANGE.c.rev > CUSTOMER.c.acked_rev)
_ENTRY = [CHANGE.c[name] for name in Entry._fields]
#: What questions begin with: to put a statement together takes longer than to answer it.
_ENTRIES = select(*_ENTRY)
_WAITING = select(*_ENTRY, CUSTOMER.c.due_at.is_(None)).join(CUSTOMER, _THEIRS).where(*_UNDELIVERED)
#: Customers whose newest entry or exit is an entry. The largest of 4 id + step has the step of the
#: newest: one pass over the index in its order, on every engine.
_MEMBERS = (
    select(CHANGE.c.customer_id)
    .where(_MOVED)
    .group_by(CHANGE.c.customer_id)
    .having(func.max(CHANGE.c.id * 4 + CHANGE.c.step) % 4 == ENTERED)
)


# Names


def present(connection: Connection, customer_id: str) -> str | None:
    """The traits (JSON) that Amberflo should hold of a customer now; None: not known."""
    found = connection.execute(
        select(CUSTOMER.c.traits).where(CUSTOMER.c.customer_id == customer_id)
    ).scalar()
    return None if found is None else str(found)


def customer(connection: Connection, customer_id: str) -> Known | None:
    """A customer as it is now; None: not known."""
    columns = [CUSTOMER.c[name] for name in Known._fields]
    found = connection.execute(select(*columns).where(CUSTOMER.c.customer_id == customer_id))
    row = found.first()
    return None if row is None else Known._make(row)


def key_of(connection: Connection, key_or_trait: str) -> str | None:
    """The key of a trait, by its key or by its name at Amberflo; also a key that was in use once
    and gave its name away to another."""
    for table, column in ((TRAIT, TRAIT.c.key), (TRAIT, TRAIT.c.trait), (CHANGE, CHANGE.c.key)):
        statement = select(table.c.key).where(column == key_or_trait).limit(1)
        found = connection.execute(statement).scalar()
        if found is not None:
            return str(found)
    return None


def find_customers(
    connection: Connection, prefix: str, *, after: str | None = None, limit: int = 50
) -> list[Found]:
    """Known customers whose id begins with `prefix`, in UTF-8 byte order of the id; the next page
    is after the last id of this one."""
    if "\0" in prefix:
        return []  # no id has one, and PostgreSQL does not take it
    statement = select(CUSTOMER.c.customer_id, CUSTOMER.c.name, CUSTOMER.c.email)
    if after is None or after.encode() < prefix.encode():
        statement = statement.where(CUSTOMER.c.customer_id >= prefix)
    else:
        statement = statement.where(CUSTOMER.c.customer_id > after)
    end = _end_of(prefix)
    if end is not None:
        statement = statement.where(CUSTOMER.c.customer_id < end)
    rows = connection.execute(statement.order_by(CUSTOMER.c.customer_id).limit(limit))
    return [Found._make(row) for row in rows]


# Listings


def of_customer(
    connection: Connection,
    customer_id: str,
    *,
    key: str | None = None,
    since: int | None = None,
    until: int | None = None,
    newest_first: bool = False,
    after_id: int | None = None,
    limit: int | None = None,
) -> Generator[Entry]:
    """A customer's changes in the order in which they were made; with `key` those of one trait,
    with `since` and `until` those recorded in [since, until)."""
    chosen = [CHANGE.c.customer_id == customer_id, *_recorded(since, until)]
    if key is not None:
        chosen.append(key == _KEY)
    page = Page(newest_first, after_id, limit)
    return listed(connection, _ENTRIES.where(*chosen), Entry._make, (CHANGE.c.id,), page)


def entry(connection: Connection, change: int) -> Entry | None:
    """A change by its id."""
    found = connection.execute(select(*_ENTRY).where(CHANGE.c.id == change)).first()
    return None if found is None else Entry._make(found)


def first_recorded(connection: Connection, key: str) -> int | None:
    """When the first change of a key was recorded."""
    statement = select(func.min(CHANGE.c.recorded_at)).where(CHANGE.c.key == key)
    found = connection.execute(statement).scalar()
    return None if found is None else int(found)


def of_key(
    connection: Connection,
    key: str,
    since: int | None = None,
    until: int | None = None,
    *,
    steps: Collection[int] | None = None,
    newest_first: bool = False,
    after_id: int | None = None,
    limit: int | None = None,
) -> Generator[Entry]:
    """Changes of a key recorded in [since, until), in the order of `recorded_at`, then of the id;
    with `steps` only these: MOVED gives the entries and exits of an audience."""
    chosen = [CHANGE.c.key == key]
    if steps is not None:
        chosen.append(CHANGE.c.step.in_(steps))
    statement, page = _ENTRIES.where(*chosen), Page(newest_first, after_id, limit)
    order = (CHANGE.c.recorded_at, CHANGE.c.id)
    return listed(connection, statement, Entry._make, order, page, since, until)


def of_run(
    connection: Connection,
    run: int,
    *,
    key: str | None = None,
    steps: Collection[int] | None = None,
    after_id: int | None = None,
    limit: int | None = None,
) -> Generator[Entry]:
    """What a run changed, in the order of the key, then of the id (in which customers of one commit
    stand in the order of theirs); with `key` and `steps` only these."""
    chosen = [CHANGE.c.run == run]
    if key is not None:
        chosen.append(CHANGE.c.key == key)
    if steps is not None:
        chosen.append(CHANGE.c.step.in_(steps))
    statement, page = _ENTRIES.where(*chosen), Page(False, after_id, limit)
    order = (CHANGE.c.key, CHANGE.c.id) if key is None else (CHANGE.c.id,)
    return listed(connection, statement, Entry._make, order, page)


def key_moves(
    connection: Connection, key: str, since: int | None = None, until: int | None = None
) -> Moves:
    """How many changes of a key were recorded in [since, until)."""
    chosen = [CHANGE.c.key == key, *_recorded(since, until)]
    return (_moves(connection, chosen) or [Moves(key, key, 0, 0, 0)])[0]


def run_moves(connection: Connection, run: int) -> list[Moves]:
    """What a run wrote, by key. (The run's own record has what it found: also what was held.)"""
    return _moves(connection, [CHANGE.c.run == run])


def _moves(connection: Connection, chosen: Sequence[ColumnElement[bool]]) -> list[Moves]:
    counts = [
        func.sum(case((CHANGE.c.step == step, 1), else_=0)) for step in (ENTERED, EXITED, NEITHER)
    ]
    statement = select(CHANGE.c.key, *counts).where(*chosen).group_by(CHANGE.c.key)
    rows = connection.execute(statement.order_by(CHANGE.c.key)).all()
    names = {row.key: row.trait for row in connection.execute(select(TRAIT.c.key, TRAIT.c.trait))}
    return [Moves(key, names.get(key, key), *map(int, counts)) for key, *counts in rows]


def undelivered(
    connection: Connection, *, after_id: int | None = None, limit: int | None = None
) -> Generator[Undelivered]:
    """Changes that Amberflo has not acknowledged, in the order of the customer, then of the id.

    Changes that undid each other before anything was sent are not among them: Amberflo has what
    they came to.
    """
    order = (CHANGE.c.customer_id, CHANGE.c.id)
    page = Page(False, after_id, limit)
    return listed(connection, _WAITING, _undelivered, order, page)


def undelivered_count(connection: Connection) -> int:
    """How many there are of these."""
    statement = select(func.count()).select_from(CHANGE).join(CUSTOMER, _THEIRS)
    return int(connection.execute(statement.where(*_UNDELIVERED)).scalar_one())


def _undelivered(row: Any) -> Undelivered:
    return Undelivered(Entry._make(row[:-1]), bool(row[-1]))


# As of a moment (None: now)


def in_force(
    connection: Connection, customer_id: str, key: str, at: int | None = None
) -> Entry | None:
    """The change that says what a customer's trait was as of a moment, and since when Amberflo
    knows it (`delivered_at`, None: not yet); None: the trait was never there."""
    _check_known(connection, at)
    statement = (
        _ENTRIES.where(CHANGE.c.customer_id == customer_id, key == _KEY, *_by(at))
        .order_by(CHANGE.c.id.desc())
        .limit(1)
    )
    found = connection.execute(statement).first()
    return None if found is None else Entry._make(found)


def traits_at(connection: Connection, customer_id: str, at: int | None = None) -> dict[str, str]:
    """A customer's traits of Engage as of a moment: JSON values by the name at Amberflo. Name,
    email and what identify calls said are none."""
    _check_known(connection, at)
    statement = (
        select(CHANGE.c.trait, CHANGE.c.after)
        .where(CHANGE.c.customer_id == customer_id, *_by(at))
        .where(CHANGE.c.source.is_distinct_from("identify"), _KEY.not_in(("name", "email")))
        .order_by(CHANGE.c.id)
    )
    last = dict(streamed(connection, statement, tuple))
    return {trait: after for trait, after in last.items() if after is not None}


def member_at(connection: Connection, customer_id: str, key: str, at: int | None = None) -> bool:
    """Whether a customer was in an audience as of a moment."""
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
    """Who was in an audience as of a moment, in UTF-8 byte order of the id, streamed; the page
    after a customer with `after`."""
    _check_known(connection, at)
    statement = _members(key, at).order_by(CHANGE.c.customer_id).limit(limit)
    if after is not None:
        statement = statement.where(CHANGE.c.customer_id > after)
    return streamed(connection, statement, itemgetter(0))


def count_at(connection: Connection, key: str, at: int | None = None) -> int:
    """How many were in an audience as of a moment."""
    _check_known(connection, at)
    members = _members(key, at).subquery()
    return int(connection.execute(select(func.count()).select_from(members)).scalar_one())


def sizes(connection: Connection, key: str, since: int, until: int, steps: int) -> list[Size]:
    """Members of an audience as of `steps` moments, evenly from `since` to `until` (both among
    them; one step is `until`).

    Counted as of now; from there back, less the entries and plus the exits recorded since, by one
    pass over the key's part of an index. As of some moments that is not right: where something
    recorded by then was made after something recorded later (a clock was set back), which the ids
    tell. For these everybody's changes are gone through.
    """
    span = until - since
    _check_known(connection, since if steps > 1 else until)
    moments = [since + span * number // (steps - 1) for number in range(steps - 1)] + [until]
    parts = [recorded_in(connection, key, *edges) for edges in pairwise([-_LAST, *moments, _LAST])]
    return as_of(connection, key, moments, parts, count_at(connection, key))


class Part(NamedTuple):
    """Entries less exits of a span of time, and the ids of the first and the last that was made."""

    steps: int
    oldest: int
    newest: int


#: Nothing was recorded.
NO_PART = Part(0, _LAST, 0)


def as_of(
    connection: Connection, key: str, moments: Sequence[int], parts: Sequence[Part], count: int
) -> list[Size]:
    """Sizes as of ascending moments, from the `count` as of now and from what was recorded by the
    first moment, between each two, and after the last."""
    newest_by = list(accumulate((part.newest for part in parts), max))
    oldest_after = NO_PART.oldest
    counts: dict[int, int] = {}
    mixed = []
    for at, newest, later in reversed(list(zip(moments, newest_by, parts[1:], strict=False))):
        count -= later.steps
        oldest_after = min(oldest_after, later.oldest)
        counts[at] = count
        if newest > oldest_after:
            mixed.append(at)
    counts.update(_gone_through(connection, key, mixed[::-1]))
    return [Size(at, counts[at]) for at in moments]


def known_since(connection: Connection) -> Beginning | None:
    """When the history begins; None: nothing was ever recorded. What is asked of a moment before
    has no answer."""
    found = [one for one in (_first_run(connection), _first_change(connection)) if one is not None]
    if not found:
        return None
    first, compacted = min(found), retention.begins(connection)
    if compacted is None or compacted <= first.at:
        return first
    return Beginning(compacted, "what a compaction kept")


def _first_run(connection: Connection) -> Beginning | None:
    """By its time and not its number: a clock that was wrong at first must not hide what follows.
    (Runs are few.)"""
    committed = select(RUN.c.committed_at, RUN.c.id).where(RUN.c.committed_at.is_not(None))
    found = connection.execute(committed.order_by(RUN.c.committed_at, RUN.c.id).limit(1)).first()
    return None if found is None else Beginning(int(found[0]), f"run {found[1]}")


def _first_change(connection: Connection) -> Beginning | None:
    """A call may come before the first run."""
    changes = select(CHANGE.c.recorded_at, CHANGE.c.run).where(CHANGE.c.id > 0)
    found = connection.execute(changes.order_by(CHANGE.c.id).limit(1)).first()
    if found is None:
        return None
    return Beginning(int(found[0]), "the first call" if found[1] is None else f"run {found[1]}")


def check_known(connection: Connection, at: int) -> int:
    """Raises `NotKept` where the history cannot tell of a moment; gives since when it can."""
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
    func.coalesce(func.sum(CHANGE.c.step), 0),
    func.coalesce(func.min(CHANGE.c.id), _LAST),
    func.coalesce(func.max(CHANGE.c.id), 0),
).where(
    CHANGE.c.key == bindparam("of_key"),
    CHANGE.c.recorded_at > bindparam("after"),
    CHANGE.c.recorded_at <= bindparam("by"),
)


def recorded_in(connection: Connection, key: str, after: int, by: int) -> Part:
    """What was recorded in (after, by] of a key."""
    values = {"of_key": key, "after": after, "by": by}
    return Part._make(map(int, connection.execute(_PART, values).one()))


def _gone_through(connection: Connection, key: str, moments: Sequence[int]) -> dict[int, int]:
    """Members as of ascending moments, from the entries and exits of one customer after another.

    A change is in force from its own time until the earliest time of those made after it.
    """
    if not moments:
        return {}
    statement = (
        select(CHANGE.c.customer_id, CHANGE.c.recorded_at, CHANGE.c.step)
        .where(CHANGE.c.key == key, _MOVED)
        .order_by(CHANGE.c.customer_id.desc(), CHANGE.c.id.desc())
    )
    deltas = [0] * (len(moments) + 1)
    customer, end = None, len(moments)
    for customer_id, recorded_at, step in streamed(connection, statement, tuple):
        if customer_id != customer:
            customer, end = customer_id, len(moments)
        start = bisect_left(moments, recorded_at)
        if start < end:
            if step == ENTERED:
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


def _recorded(since: int | None, until: int | None) -> list[ColumnElement[bool]]:
    found = [] if since is None else [CHANGE.c.recorded_at >= since]
    return found if until is None else [*found, CHANGE.c.recorded_at < until]


def _end_of(prefix: str) -> str | None:
    """The first text behind all that begin with `prefix`; None: there is none."""
    while prefix:
        prefix, last = prefix[:-1], ord(prefix[-1])
        if last < 0x10FFFF:
            # Surrogates are no text: behind U+D7FF comes U+E000.
            return prefix + chr(0xE000 if last == 0xD7FF else last + 1)
    return None
