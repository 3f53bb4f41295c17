"""All rows of tables from one database to another, of either engine, in bounded memory.

Rows go through one at a time, past SQLAlchemy: PostgreSQL takes and gives them by COPY and by a
cursor of the server, SQLite by one statement. Secondary indexes are made behind the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

from sqlalchemy import Connection, Index, LargeBinary, Table, func, select

from state.db.driver_errors import shown
from state.errors import StateError

#: Rows between two reports of how far it is, and two looks whether to stop.
REPORT = 5000
#: Rows that a server hands over at a time, and those of a table whose rows may have megabytes.
FETCHED, FETCHED_LARGE = 1000, 20

Row = Sequence[Any]


def fill(
    source: Connection,
    target: Connection,
    tables: Iterable[Table],
    report: Callable[[int], None] = lambda rows: None,
) -> None:
    """Copy tables into those of the target, which are empty, in the caller's transactions.

    The numbers that either gives out next are the same afterwards. `report` gets the rows since the
    last time; what it raises ends the copy.
    """
    for table in tables:
        indexes = sorted(table.indexes, key=lambda index: str(index.name))
        for index in indexes:
            _execute(target, index, Index.drop)
        columns = ", ".join(f'"{column.name}"' for column in table.columns)
        with (
            _translated(source, target, table),
            closing(read(source, table, columns)) as rows,
            closing(_reported(rows, report)) as reported,
        ):
            _write(target, table, columns, reported)
        for index in indexes:
            _execute(target, index, Index.create)
        if (number := position(source, table)) is not None:
            _set_position(target, table, number)


def count(connection: Connection, tables: Iterable[Table]) -> dict[str, int]:
    """Count the rows of tables, by their names."""
    return {
        str(table.name): int(
            connection.execute(select(func.count()).select_from(table)).scalar_one()
        )
        for table in tables
    }


def position(connection: Connection, table: Table) -> int | None:
    """Return the last number that a table gave to a row of its own accord (0: none yet).

    Rows that are gone count: a seal, for instance, speaks of them. None where it gives none.
    """
    column = table.autoincrement_column
    if column is None:
        return None
    if connection.dialect.name == "sqlite":
        statement = "SELECT seq FROM sqlite_sequence WHERE name = ?"
        return int(connection.exec_driver_sql(statement, (table.name,)).scalar() or 0)
    sequence = _sequence(connection, table)
    last, used = connection.exec_driver_sql(f"SELECT last_value, is_called FROM {sequence}").one()
    return int(last) if used else int(last) - 1


def _set_position(connection: Connection, table: Table, number: int) -> None:
    if connection.dialect.name == "sqlite":
        values = (table.name, number)
        connection.exec_driver_sql("DELETE FROM sqlite_sequence WHERE name = ?", values[:1])
        connection.exec_driver_sql("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", values)
    elif number:
        sequence = _sequence(connection, table)
        connection.exec_driver_sql(f"SELECT setval('{sequence}', {number})")


def _sequence(connection: Connection, table: Table) -> str:
    assert table.autoincrement_column is not None
    names = (f'"{table.name}"', table.autoincrement_column.name)
    return str(
        connection.exec_driver_sql("SELECT pg_get_serial_sequence(%s, %s)", names).scalar_one()
    )


def read(connection: Connection, table: Table, columns: str) -> Generator[Row, None, None]:
    """Read columns of all rows; it is to be closed."""
    statement = f'SELECT {columns} FROM "{table.name}"'
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "sqlite":
        yield from driver.execute(statement)
        return
    large = any(isinstance(column.type, LargeBinary) for column in table.columns)
    with driver.cursor(name="syncer_copy") as cursor:
        cursor.itersize = FETCHED_LARGE if large else FETCHED
        cursor.execute(statement)
        yield from cursor


def _write(connection: Connection, table: Table, columns: str, rows: Iterator[Row]) -> None:
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "sqlite":
        values = ", ".join("?" for _ in table.columns)
        driver.executemany(f'INSERT INTO "{table.name}" ({columns}) VALUES ({values})', rows)
        return
    with (
        driver.cursor() as cursor,
        cursor.copy(f'COPY "{table.name}" ({columns}) FROM STDIN') as copy,
    ):
        for row in rows:
            copy.write_row(row)


def _reported(rows: Iterable[Row], report: Callable[[int], None]) -> Generator[Row, None, None]:
    number = 0
    for number, row in enumerate(rows, start=1):
        if number % REPORT == 0:
            report(REPORT)
        yield row
    report(number % REPORT)


def _execute(connection: Connection, index: Index, do: Callable[..., None]) -> None:
    do(index, connection)


@contextmanager
def _translated(source: Connection, target: Connection, table: Table) -> Iterator[None]:
    errors = (source.dialect.loaded_dbapi.Error, target.dialect.loaded_dbapi.Error)
    try:
        yield
    except errors as error:
        reason = " ".join(str(error).split())
        where = shown(target.engine.url)
        raise StateError(f"the table {table.name} cannot be copied to {where}: {reason}") from error
