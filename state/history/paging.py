"""A listing of changes, streamed as a whole or page by page.

Its rows are in an order that an index has and that ends in the id.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import ColumnElement, Connection, Select, select

from state.db.tables import CHANGE

T = TypeVar("T")

#: Rows that a cursor hands over at a time.
CHUNK = 1000


class Page(NamedTuple):
    """A part of a listing: up to `limit` rows after the change with the id `after_id`.

    Without `after_id` it begins at the start, without `limit` it has all.
    """

    newest_first: bool = False
    after_id: int | None = None
    limit: int | None = None


def streamed(
    connection: Connection, statement: Select[Any], make: Callable[[Any], T]
) -> Generator[T]:
    """Yield what `make` returns for each row."""
    with connection.execute(statement, execution_options={"yield_per": CHUNK}) as result:
        for rows in result.partitions():
            yield from map(make, rows)


def listed(
    connection: Connection,
    statement: Select[Any],
    make: Callable[[Any], T],
    order: Sequence[ColumnElement[Any]],
    page: Page,
    since: int | None = None,
    until: int | None = None,
) -> Generator[T]:
    """Yield what `make` returns for each row of a page of changes.

    The page is in the order of the columns `order`, of the changes with the first of them in
    [since, until).
    """
    statement = statement.order_by(
        *(column.desc() if page.newest_first else column for column in order)
    )
    rest = page.limit
    for part in _parts(connection, statement, order, page, since, until):
        with connection.execute(part.limit(rest), execution_options={"yield_per": CHUNK}) as result:
            for rows in result.partitions():
                yield from map(make, rows)
                rest = None if rest is None else rest - len(rows)
        if rest == 0:
            return


def _parts(
    connection: Connection,
    statement: Select[Any],
    order: Sequence[ColumnElement[Any]],
    page: Page,
    since: int | None,
    until: int | None,
) -> list[Select[Any]]:
    """Return the page as statements, to be executed one after another.

    What comes after a change begins with its equals in all columns of the order but the last, then
    in all but the last two: a statement each, as SQLite finds the place in an index by a row value
    only where no part of it is the rowid. Nor must a statement have a bound that the place makes
    needless: of two, SQLite may go by the wider.
    """
    begins = [] if since is None else [order[0] >= since]
    ends = [] if until is None else [order[0] < until]
    if page.after_id is None:
        return [statement.where(*begins, *ends)]
    this = select(*order).where(CHANGE.c.id == page.after_id, *begins, *ends)
    place = connection.execute(this).first()
    if place is None:
        return []
    parts = []
    for same in reversed(range(len(order))):
        equal = [
            order_column == place_value
            for order_column, place_value in zip(order[:same], place[:same], strict=True)
        ]
        column, value = order[same], place[same]
        later = column < value if page.newest_first else column > value
        bound = [] if equal else begins if page.newest_first else ends
        parts.append(statement.where(*equal, later, *bound))
    return parts
