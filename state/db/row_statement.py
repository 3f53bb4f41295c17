"""One statement over many rows of parameters, which come as JSON.

Executed once a row, SQLAlchemy makes the parameters of each anew, and the driver gives the
interpreter up and takes it back for each: beside a busy event loop that is a wait each time, for
both. So the database takes the rows apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from typing import cast as cast_type

import orjson
from sqlalchemy import (
    JSON,
    BindParameter,
    ColumnElement,
    Connection,
    Result,
    Select,
    bindparam,
    cast,
    func,
)
from sqlalchemy.sql.dml import Insert, Update
from sqlalchemy.sql.visitors import replacement_traverse
from sqlalchemy.types import BigInteger, LargeBinary, Text, TypeEngine

from state.db.batches import ROWS, batches

#: The kinds of parameters; BYTES are those of a text in UTF-8, which is given as such.
TEXT, NUMBER, BYTES = Text(), BigInteger(), LargeBinary()

_ROWS = bindparam("given_rows", type_=Text)
_SQLITE = func.json_each(_ROWS).table_valued("value", name="given")
_POSTGRESQL = func.json_array_elements(cast(_ROWS, JSON)).table_valued("value", name="given")


Statement = Insert | Update | Select[Any]


class RowStatement:
    """A statement with named parameters, `kinds`, that is executed for many rows of them.

    It is an UPDATE, a SELECT, or an INSERT of what a SELECT finds.

    Make it once, at the import of a module. A row of the table may match only one row of
    parameters of an UPDATE.
    """

    def __init__(self, statement: Statement, **kinds: TypeEngine[Any]) -> None:
        self._statement, self._kinds = statement, kinds
        self._by_dialect: dict[str, Statement] = {}

    def execute(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Execute an INSERT or UPDATE for rows of named parameters: texts, integers, None."""
        for batch in batches(rows, ROWS):
            self._execute(connection, batch)

    def select(
        self, connection: Connection, rows: Sequence[Mapping[str, Any]]
    ) -> Iterator[tuple[Any, ...]]:
        """Yield what a SELECT finds for rows of named parameters: texts, integers, None."""
        for batch in batches(rows, ROWS):
            yield from map(tuple, self._execute(connection, batch))

    def _execute(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> Result[Any]:
        name = connection.dialect.name
        if (statement := self._by_dialect.get(name)) is None:
            # At its first use: a command that only asks executes few of all that there are.
            column = _of_postgresql if name == "postgresql" else _of_sqlite
            statement = _with_columns(self._statement, self._kinds, column)
            self._by_dialect[name] = statement
        return connection.execute(statement, {"given_rows": orjson.dumps(rows).decode()})


def _with_columns(
    statement: Statement,
    kinds: Mapping[str, TypeEngine[Any]],
    column: Callable[[str, TypeEngine[Any]], ColumnElement[Any]],
) -> Statement:
    """Return the statement with columns of the given rows in the place of its parameters."""
    columns = {name: column(name, kind) for name, kind in kinds.items()}

    def replace(element: Any, **_: Any) -> Any:
        return columns.get(element.key) if isinstance(element, BindParameter) else None

    return cast_type("Statement", replacement_traverse(statement, {}, replace))


def _of_sqlite(name: str, kind: TypeEngine[Any]) -> ColumnElement[Any]:
    value: ColumnElement[Any] = func.json_extract(_SQLITE.c.value, f"$.{name}", type_=kind)
    return cast(value, kind) if kind is BYTES else value


def _of_postgresql(name: str, kind: TypeEngine[Any]) -> ColumnElement[Any]:
    text = _POSTGRESQL.c.value.op("->>")(name)
    return func.convert_to(text, "UTF8", type_=kind) if kind is BYTES else cast(text, kind)
