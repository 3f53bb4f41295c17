"""The changes of the history: a customer's, a trait's, a run's, and those not acknowledged yet.

What was so as of a moment is in past.py, which also says how changes are ordered. Listings are
streamed, and can be paged: `limit` ends a page, and `after_id` with the id of its last change
begins the next one, in either order (nothing, when no change has that id). Every question is served
by an index; a test asks both databases for their plans. Times are epoch milliseconds.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, case, func, literal_column, select

from state.change_sources import IDENTIFY, RELEASED
from state.db import metadata
from state.db.batches import ROWS, batches
from state.db.tables import CHANGE, CUSTOMER, TRAIT
from state.history.paging import Page, listed

#: `delta` of a change: into the audience, out of it, or neither (a value, or false for the first
#: time).
ENTERED, EXITED, NEITHER = 1, -1, 0
MOVED = (ENTERED, EXITED)

#: The key, where an index that begins with it must not be taken: without statistics SQLite holds a
#: key for as selective as a customer.
KEY_OF_CUSTOMER: Any = CHANGE.c.key.concat(literal_column("''"))


class Entry(NamedTuple):
    """One change; see `models.Change`. `before` and `after` are JSON, None is absent.

    `told_by` says of every change where it comes from, `source` only of some.
    """

    id: int
    run: int | None
    customer_id: str
    rev: int
    key: str
    trait: str
    before: str | None
    after: str | None
    delta: int
    observed_at: int | None
    recorded_at: int
    delivered_at: int | None
    source: str | None
    via: str | None

    @property
    def told_by(self) -> str:
        """`pull` for what a run pulled, `call` for a membership by a call, else the `source`."""
        return self.source or ("call" if self.run is None else "pull")


class Undelivered(NamedTuple):
    """A change that Amberflo has not acknowledged.

    `refused`: it is not tried again by itself (see the failures); else it waits for its turn or its
    next attempt.
    """

    entry: Entry
    refused: bool


class Moves(NamedTuple):
    """Changes of one trait: entries, exits, and those that are neither."""

    key: str
    trait: str
    entered: int
    exited: int
    other: int


_THEIRS = CUSTOMER.c.customer_id == CHANGE.c.customer_id
_UNDELIVERED = (CHANGE.c.delivered_at.is_(None), CHANGE.c.rev > CUSTOMER.c.acked_rev)
_ENTRY = [CHANGE.c[name] for name in Entry._fields]
#: What questions begin with: to put a statement together takes longer than to answer it.
ENTRIES = select(*_ENTRY)
_WAITING = select(*_ENTRY, CUSTOMER.c.due_at.is_(None)).join(CUSTOMER, _THEIRS).where(*_UNDELIVERED)


def key_of(connection: Connection, key_or_trait: str) -> str | None:
    """Return the key of a trait, by its key or by its name at Amberflo.

    A key that was in use once and gave its name to another is found too.
    """
    for table, column in ((TRAIT, TRAIT.c.key), (TRAIT, TRAIT.c.trait), (CHANGE, CHANGE.c.key)):
        statement = select(table.c.key).where(column == key_or_trait).limit(1)
        key = connection.execute(statement).scalar()
        if key is not None:
            return str(key)
    return None


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
    """Stream a customer's changes in the order in which they were made.

    With `key` those of one trait, with `since` and `until` those recorded in [since, until).
    """
    chosen = [CHANGE.c.customer_id == customer_id, *_recorded(since, until)]
    if key is not None:
        chosen.append(key == KEY_OF_CUSTOMER)
    page = Page(newest_first, after_id, limit)
    return listed(connection, ENTRIES.where(*chosen), Entry._make, (CHANGE.c.id,), page)


def entry(connection: Connection, change: int) -> Entry | None:
    """Return a change by its id."""
    row = connection.execute(ENTRIES.where(CHANGE.c.id == change)).first()
    return None if row is None else Entry._make(row)


def first_recorded(connection: Connection, key: str) -> int | None:
    """Return when the first change of a key was recorded."""
    statement = select(func.min(CHANGE.c.recorded_at)).where(CHANGE.c.key == key)
    recorded_at = connection.execute(statement).scalar()
    return None if recorded_at is None else int(recorded_at)


def of_key(
    connection: Connection,
    key: str,
    since: int | None = None,
    until: int | None = None,
    *,
    deltas: Collection[int] | None = None,
    newest_first: bool = False,
    after_id: int | None = None,
    limit: int | None = None,
) -> Generator[Entry]:
    """Stream changes of a key recorded in [since, until), ordered by `recorded_at` and id.

    `deltas` limits them; MOVED means the entries and exits of an audience.
    """
    chosen = [CHANGE.c.key == key]
    if deltas is not None:
        chosen.append(CHANGE.c.delta.in_(deltas))
    statement, page = ENTRIES.where(*chosen), Page(newest_first, after_id, limit)
    order = (CHANGE.c.recorded_at, CHANGE.c.id)
    return listed(connection, statement, Entry._make, order, page, since, until)


def of_run(
    connection: Connection,
    run: int,
    *,
    key: str | None = None,
    deltas: Collection[int] | None = None,
    after_id: int | None = None,
    limit: int | None = None,
) -> Generator[Entry]:
    """Stream the changes of a run, ordered by key and id; `key` and `deltas` limit them.

    The customers of one commit stand in the order of their ids.
    """
    chosen = [CHANGE.c.run == run]
    if key is not None:
        chosen.append(CHANGE.c.key == key)
    if deltas is not None:
        chosen.append(CHANGE.c.delta.in_(deltas))
    statement, page = ENTRIES.where(*chosen), Page(False, after_id, limit)
    order = (CHANGE.c.key, CHANGE.c.id) if key is None else (CHANGE.c.id,)
    return listed(connection, statement, Entry._make, order, page)


def key_moves(
    connection: Connection, key: str, since: int | None = None, until: int | None = None
) -> Moves:
    """Count the changes of a key that were recorded in [since, until)."""
    chosen = [CHANGE.c.key == key, *_recorded(since, until)]
    return (_moves(connection, chosen) or [Moves(key, key, 0, 0, 0)])[0]


def run_moves(connection: Connection, run: int) -> list[Moves]:
    """Count the changes that a run wrote, by key.

    The run's own record counts what it found: also what was held.
    """
    return _moves(connection, [CHANGE.c.run == run])


def _moves(connection: Connection, chosen: Sequence[ColumnElement[bool]]) -> list[Moves]:
    counts = [
        func.sum(case((CHANGE.c.delta == delta, 1), else_=0))
        for delta in (ENTERED, EXITED, NEITHER)
    ]
    statement = select(CHANGE.c.key, *counts).where(*chosen).group_by(CHANGE.c.key)
    rows = connection.execute(statement.order_by(CHANGE.c.key)).all()
    names = {row.key: row.trait for row in connection.execute(select(TRAIT.c.key, TRAIT.c.trait))}
    return [Moves(key, names.get(key, key), *map(int, counts)) for key, *counts in rows]


def undelivered(
    connection: Connection, *, after_id: int | None = None, limit: int | None = None
) -> Generator[Undelivered]:
    """Stream changes that Amberflo has not acknowledged, ordered by customer and id.

    Changes that undid each other before anything was sent are not among them: Amberflo has their
    result.
    """
    order = (CHANGE.c.customer_id, CHANGE.c.id)
    page = Page(False, after_id, limit)
    return listed(connection, _WAITING, _undelivered, order, page)


def maybe_sent(
    connection: Connection, customer_ids: Collection[str]
) -> dict[str, dict[str, list[str]]]:
    """Return the values (JSON) that Amberflo may have from us without our learning of it.

    They are by customer and trait: what the changes that Amberflo has not acknowledged took away,
    and what they put in its place. What a trait had before it was released, and what was meant for
    another account, is not among them, nor what identify calls said.
    """
    elsewhere = int(metadata.get(connection, metadata.LAST_CHANGE_ELSEWHERE) or 0)
    values: dict[str, dict[str, list[str]]] = {}
    columns = (CHANGE.c.customer_id, CHANGE.c.trait, CHANGE.c.source, CHANGE.c.before)
    for ids in batches(customer_ids, ROWS):
        rows = connection.execute(
            select(*columns, CHANGE.c.after)
            .where(
                CHANGE.c.customer_id.in_(ids),
                CHANGE.c.delivered_at.is_(None),
                CHANGE.c.source.is_distinct_from(IDENTIFY),
                CHANGE.c.id > elsewhere,
            )
            .order_by(CHANGE.c.customer_id, CHANGE.c.id)
        )
        for customer_id, trait, source, before, after in rows:
            traits = values.setdefault(customer_id, {})
            if source == RELEASED:
                traits.pop(trait, None)
            else:
                traits.setdefault(trait, []).extend({before, after} - {None})
    return values


def undelivered_count(connection: Connection) -> int:
    """Count these changes."""
    statement = select(func.count()).select_from(CHANGE).join(CUSTOMER, _THEIRS)
    return int(connection.execute(statement.where(*_UNDELIVERED)).scalar_one())


def _undelivered(row: Any) -> Undelivered:
    return Undelivered(Entry._make(row[:-1]), bool(row[-1]))


def _recorded(since: int | None, until: int | None) -> list[ColumnElement[bool]]:
    conditions = [] if since is None else [CHANGE.c.recorded_at >= since]
    return conditions if until is None else [*conditions, CHANGE.c.recorded_at < until]
