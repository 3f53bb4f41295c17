"""Statements over many rows, in batches: a statement takes a bounded number of values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Connection, Table, insert
from sqlalchemy.sql import Executable

T = TypeVar("T")

#: Rows that one statement writes.
ROWS = 1000
#: Values that one statement names in a condition.
VALUES = 500


def batches(values: Iterable[T], size: int = VALUES) -> Iterator[list[T]]:
    """Split values into lists of at most `size`."""
    rest = iter(values)
    while batch := list(islice(rest, size)):
        yield batch


def execute_many(
    connection: Connection, statement: Executable, rows: Sequence[dict[str, Any]]
) -> None:
    """Execute a statement once for each row of parameters; do nothing without rows."""
    for batch in batches(rows, ROWS):
        connection.execute(statement, batch)


def insert_rows(
    connection: Connection, table: Table, names: Sequence[str], rows: Iterable[tuple[Any, ...]]
) -> None:
    """Insert rows, whose values are those of the columns with these names.

    The first commit of a state writes millions: on SQLite the driver gets the tuples as they are,
    which takes half the time of parameters by name.
    """
    if connection.dialect.name != "sqlite":
        execute_many(
            connection, insert(table), [dict(zip(names, row, strict=True)) for row in rows]
        )
        return
    preparer = connection.dialect.identifier_preparer
    columns, marks = ", ".join(map(preparer.quote, names)), ", ".join("?" * len(names))
    statement = f"INSERT INTO {preparer.format_table(table)} ({columns}) VALUES ({marks})"
    for batch in batches(rows, ROWS):
        connection.exec_driver_sql(statement, batch)
