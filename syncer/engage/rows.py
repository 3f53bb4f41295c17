"""Which rows of a warehouse count: the user's condition, `engage.filter`.

Tools that copy tables mark deleted rows instead of deleting them (`_fivetran_deleted`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from sqlalchemy import ColumnElement, Connection, TableClause, literal, literal_column, select
from sqlalchemy.exc import SQLAlchemyError

from syncer.errors import SourceError

#: A text literal, which names nothing, a name in quotes, or a word.
_PART = re.compile(r"""'(?:[^']|'')*'|"(?P<quoted>(?:[^"]|"")+)"|(?P<word>[^\W0-9]\w*)""")


def conditions(
    connection: Connection, tables: Mapping[str, TableClause], condition: str
) -> dict[str, ColumnElement[bool]]:
    """Return the condition for each table that has the columns that it names.

    Raise `SourceError` if no table has them, or if the warehouse does not accept the condition.
    """
    if not condition:
        return {}
    quoted, words = _names(condition)
    columns = {table: {column.name.lower() for column in tables[table].c} for table in tables}
    named = (quoted | words) & set().union(*columns.values())
    concerned = [table for table in tables if named and named | quoted <= columns[table]]
    if not concerned:
        raise SourceError(
            f"engage.filter: no table of the warehouse has all columns of {condition!r}; name "
            "columns that are there, such as NOT _fivetran_deleted"
        )
    clause: ColumnElement[bool] = literal_column(f"({condition})")
    for table in concerned:
        _check(connection, tables[table], clause)
    return dict.fromkeys(concerned, clause)


def _names(condition: str) -> tuple[set[str], set[str]]:
    """Return the names in quotes and the words of a condition, in small letters."""
    parts = list(_PART.finditer(condition))
    quoted = {part["quoted"].replace('""', '"').lower() for part in parts if part["quoted"]}
    return quoted, {part["word"].lower() for part in parts if part["word"]}


def _check(connection: Connection, table: TableClause, condition: ColumnElement[bool]) -> None:
    statement = select(literal(1)).select_from(table).where(condition).limit(1)
    try:
        connection.execute(statement).all()
    except SQLAlchemyError as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        raise SourceError(
            f"engage.filter: the warehouse does not take {condition} on {table.name} ({reason}); "
            "write a condition of SQL, such as NOT _fivetran_deleted"
        ) from error
