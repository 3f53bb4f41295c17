"""Which rows of a warehouse count: the user's condition, `engage.filter`.

Tools that copy tables mark what was deleted instead of deleting it (`_fivetran_deleted`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from sqlalchemy import ColumnElement, Connection, Table, literal, literal_column, select
from sqlalchemy.exc import SQLAlchemyError

from syncer.errors import SourceError

#: A text, which names nothing, a name in quotes, or a word.
_PART = re.compile(r"""'(?:[^']|'')*'|"(?P<quoted>(?:[^"]|"")+)"|(?P<word>[^\W0-9]\w*)""")


def conditions(
    connection: Connection, tables: Mapping[str, Table], condition: str
) -> dict[str, ColumnElement[bool]]:
    """The condition for those of the tables that have the columns that it names; raises
    SourceError where none has, and where it is none that the warehouse takes."""
    if not condition:
        return {}
    quoted, words = _names(condition)
    columns = {table: {column.name.lower() for column in tables[table].c} for table in tables}
    named = (quoted | words) & set().union(*columns.values())
    having = [table for table in tables if named and named | quoted <= columns[table]]
    if not having:
        raise SourceError(
            f"engage.filter: no table of the warehouse has all columns of {condition!r}; name "
            "columns that are there, such as NOT _fivetran_deleted"
        )
    found: ColumnElement[bool] = literal_column(f"({condition})")
    for table in having:
        _check(connection, tables[table], found)
    return dict.fromkeys(having, found)


def _names(condition: str) -> tuple[set[str], set[str]]:
    """The names in quotes and the words of a condition, in small letters."""
    parts = list(_PART.finditer(condition))
    quoted = {part["quoted"].replace('""', '"').lower() for part in parts if part["quoted"]}
    return quoted, {part["word"].lower() for part in parts if part["word"]}


def _check(connection: Connection, table: Table, condition: ColumnElement[bool]) -> None:
    statement = select(literal(1)).select_from(table).where(condition).limit(1)
    try:
        connection.execute(statement).all()
    except SQLAlchemyError as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        raise SourceError(
            f"engage.filter: the warehouse does not take {condition} on {table.name} ({reason}); "
            "write a condition of SQL, such as NOT _fivetran_deleted"
        ) from error
