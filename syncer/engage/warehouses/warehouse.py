"""What every warehouse has in common: the defaults of what differs between them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    FromClause,
    TableClause,
    Text,
    create_engine,
    func,
    literal_column,
)
from sqlalchemy import select as sql_select
from sqlalchemy import text as sql_text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine

#: What the warehouse shows of whose queries these are; a run adds its number.
PROGRAM = "engage-amberflo-sync"
query_tag: ContextVar[str] = ContextVar("query_tag", default=PROGRAM)
#: Seconds that a connection, and one statement, may take.
CONNECT, STATEMENT = 30, 3600


@dataclass(frozen=True)
class Warehouse:
    """A kind of warehouse: how to log in, and what its SQL has that others have not.

    `extra` is what pip installs its driver with. `minutes` writes five minutes as an interval,
    `trim` is the function that takes given characters off both ends of a text.
    """

    name: str
    drivername: str
    extra: str = ""
    minutes: str = "INTERVAL '5 minutes'"
    trim: str = "trim"

    def engine(self, url: URL, *, writes: bool = False) -> Engine:
        """Return the engine of a URL; it raises what its driver does where that is missing.

        With `writes` a transaction may be allowed to write.
        """
        return create_engine(
            url.set(drivername=self.drivername), connect_args=self.connect_args(url)
        )

    def connect_args(self, url: URL) -> dict[str, Any]:
        """Return what the driver gets besides the URL."""
        return {}

    def begin(self, connection: Connection) -> None:
        """Begin to read: the time zone, the tag, how long a statement may take."""

    def allow_writes(self, connection: Connection) -> None:
        """Let the transaction that `begin` began write, before it reads."""

    def attempt(self, connection: Connection) -> AbstractContextManager[Any]:
        """Return the context of statements that may be refused.

        By default a refusal leaves the transaction as it is, or there is none.
        """
        return nullcontext()

    def one_state(
        self, connection: Connection, tables: Mapping[str, TableClause]
    ) -> Mapping[str, FromClause] | None:
        """Return the tables as they are at one moment; None if only counting twice would show it.

        By default the transaction sees one state.
        """
        return tables

    def unread_time(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return a text as a time, NULL where it cannot be read."""
        return func.TRY_CAST(column.op("AS")(literal_column("TIMESTAMP")))

    def digest(self, text: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return the MD5 of a text's UTF-8 bytes, as 32 hexadecimal digits in small letters."""
        return func.md5(text)

    def number(self, digits: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return the number that eight hexadecimal digits write."""
        raise NotImplementedError

    @property
    def id_type(self) -> TypeEngine[str]:
        """The type of a column that takes any id."""
        return Text()

    def names(self, names: Collection[str]) -> Any:
        """Return what `IN` takes for many names: they, or a statement that selects them."""
        return list(names)


def as_of(
    connection: Connection, tables: Mapping[str, TableClause], clauses: Mapping[str, str]
) -> dict[str, FromClause] | None:
    """Return the tables read with a clause behind the name of each; None if that is refused.

    The columns are named, as some warehouses bill those that a statement names.
    """
    preparer = connection.dialect.identifier_preparer
    read: dict[str, FromClause] = {}
    for name, table in tables.items():
        columns = ", ".join(map(preparer.format_column, table.c))
        statement = f"SELECT {columns} FROM {preparer.format_table(table)} {clauses[name]}"
        rows = sql_text(statement.replace(":", r"\:")).columns(*table.c).subquery(table.name)
        try:
            connection.execute(sql_select(rows).limit(0)).all()
        except DBAPIError:
            return None
        read[name] = rows
    return read
