"""Count what a warehouse holds in bounded time: for `check` and `init`, not for a run.

All rows are counted where that takes no longer than `PATIENCE`. Otherwise the numbers are estimated
from pages of the table (PostgreSQL) or rows (SQLite) that are chosen at random, in as much time
again. Other engines have no such limit: they count all rows.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Select,
    TableClause,
    case,
    func,
    literal_column,
    select,
    tablesample,
    text,
)
from sqlalchemy.exc import DBAPIError

from syncer.engage.source import ObservedKey, Survey
from syncer.engage.warehouse import NAMED, Space, shown, spaces, translated_errors
from syncer.engage.warehouses.postgresql import missing_indexes
from syncer.json_text import to_json

#: Seconds that counting all rows may take, and then a sample.
PATIENCE = 15.0
#: The pages of 8 KB, and the rows, of a sample: about a million values, or less.
PAGES, ROWS = 10_000, 200_000
#: PostgreSQL's code of a statement that was ended because of its time.
_CANCELLED = "57014"


class TooLong(Exception):
    """A statement took longer than it may."""


def by_key(traits: FromClause, conditions: Sequence[ColumnElement[bool]]) -> Select[Any]:
    """Select each trait key with the number of its rows, and of those that meet each condition."""

    def count(condition: ColumnElement[bool]) -> ColumnElement[Any]:
        return func.sum(case((condition, 1), else_=0))

    return (
        select(traits.c.name, func.count(), *map(count, conditions))
        .where(traits.c.name.is_not(None))
        .group_by(traits.c.name)
    )


def survey(connection: Connection, space: Space) -> Survey:
    """Return what a space holds; nothing where it cannot be counted in time."""
    place = f"Profiles Sync at {shown(space.url)}"
    advice = (*_other_spaces(connection, space), *_missing_indexes(connection, space))
    for share, rows in _ways(connection, space):
        try:
            with translated_errors(space.url), _within(connection, PATIENCE):
                counted = connection.execute(_counts(space, rows())).all()
        except TooLong:
            continue
        keys, members = [], {}
        for key, *counts in counted:
            numbers = [round(int(number or 0) / share) for number in counts]
            keys.append(ObservedKey(str(key), *numbers[:4]))
            members[str(key)] = numbers[4]
        return Survey(place, tuple(keys), members, share, advice)
    return Survey(place, share=0.0, advice=advice)


def _counts(space: Space, part: FromClause) -> Select[Any]:
    traits, columns = space.rows("user_traits", part), space.columns
    return by_key(traits, (*columns.kinds(traits.c.value), columns.true(traits.c.value)))


def _other_spaces(connection: Connection, space: Space) -> Iterator[str]:
    """Yield a line if the config names no schema and several have the tables."""
    schemas = [] if space.schema else spaces(connection)
    if len(schemas) > 1:
        yield (
            f"engage.profiles_sync.schema is empty: the first on the search path is read, of "
            f"{', '.join(map(repr, schemas[:NAMED]))}; name the one of your space"
        )


def _missing_indexes(connection: Connection, space: Space) -> Iterator[str]:
    if connection.dialect.name == "postgresql":
        yield from missing_indexes(connection, space.tables)


def _ways(connection: Connection, space: Space) -> Iterator[tuple[float, Callable[[], FromClause]]]:
    """Yield the ways to read the rows, each with the share of the rows that it reads."""
    traits = space.tables["user_traits"]
    yield 1.0, lambda: traits
    if connection.dialect.name == "postgresql":
        pages = _pages(connection, traits)
        if pages > PAGES:
            yield PAGES / pages, lambda: tablesample(traits, func.system(100 * PAGES / pages))
    elif connection.dialect.name == "sqlite":
        ids = _row_ids(connection, traits)
        if len(ids) > ROWS:
            chosen = random.sample(ids, ROWS)
            yield ROWS / len(ids), lambda: _rows_of(traits, chosen)


def _pages(connection: Connection, traits: TableClause) -> int:
    """Return the pages of a table of PostgreSQL; 0 of a view, which cannot be sampled."""
    name = connection.dialect.identifier_preparer.format_table(traits)
    size = func.pg_relation_size(text("to_regclass(:name)").bindparams(name=name))
    return int(connection.scalar(select(size)) or 0) // 8192


def _row_ids(connection: Connection, traits: TableClause) -> range:
    """Return the numbers of the rows of a table of SQLite, between the first and the last."""
    row_id: ColumnElement[int] = literal_column("rowid")
    try:
        first, last = connection.execute(
            select(func.min(row_id), func.max(row_id)).select_from(traits)
        ).one()
    except DBAPIError:  # a view, or a table without such numbers
        return range(0)
    return range(int(first or 0), int(last or 0) + 1)


def _rows_of(traits: TableClause, ids: Sequence[int]) -> FromClause:
    chosen = func.json_each(to_json(list(ids))).table_valued("value")
    rows = select(traits).where(literal_column("rowid").in_(select(chosen.c.value)))
    return rows.subquery()


@contextmanager
def _within(connection: Connection, seconds: float) -> Iterator[None]:
    """End a statement in the block that takes longer, and raise `TooLong`."""
    if connection.dialect.name == "postgresql":
        yield from _within_on_postgresql(connection, seconds)
    elif connection.dialect.name == "sqlite":
        yield from _within_on_sqlite(connection, seconds)
    else:
        yield


def _within_on_postgresql(connection: Connection, seconds: float) -> Iterator[None]:
    before = connection.begin_nested()  # what was set goes when it is rolled back
    connection.execute(text(f"SET LOCAL statement_timeout = {int(seconds * 1000)}"))
    try:
        yield
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) == _CANCELLED:
            raise TooLong from error
        raise
    finally:
        before.rollback()


def _within_on_sqlite(connection: Connection, seconds: float) -> Iterator[None]:
    driver: Any = connection.connection.driver_connection
    end = time.monotonic() + seconds
    driver.set_progress_handler(lambda: time.monotonic() > end, 10_000)
    try:
        yield
    except DBAPIError as error:
        if str(error.orig) == "interrupted":
            raise TooLong from error
        raise
    finally:
        driver.set_progress_handler(None, 0)
