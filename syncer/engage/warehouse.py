"""The connection to a warehouse: its engine, one snapshot, and the tables of Profiles Sync."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Engine,
    FromClause,
    LargeBinary,
    TableClause,
    column,
    inspect,
    select,
    table,
    text,
)
from sqlalchemy.engine import URL
from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError

from syncer.engage.columns import Columns
from syncer.engage.rows import conditions
from syncer.engage.warehouses import warehouse_of
from syncer.errors import SourceError

_OTHERS = {"seq", "received_at", "uuid_ts", "timestamp"}
_COMMON = _OTHERS | {"canonical_segment_id"}
_COLUMNS = {
    "user_traits": _COMMON | {"name", "value"},
    "user_identifiers": _COMMON | {"type", "value"},
    "profile_merges": _COMMON | {"segment_id"},
}
TABLES = tuple(_COLUMNS)
#: Segment's set-up page writes one table in the singular.
_OTHER_SPELLING = {"user_identifiers": "user_identifier"}
#: A column of ids, and the ids that count.
Among = tuple[str, Collection[str]]
#: How many schemas a message names.
NAMED = 10


@contextmanager
def snapshot(url: URL, *, writes: bool = False) -> Iterator[Connection]:
    """Open a transaction that sees one state of the warehouse; it is read-only without `writes`."""
    engine = _engine(url, writes)
    try:
        with translated_errors(url), engine.connect() as connection:
            warehouse_of(url).begin(connection)
            if writes:
                warehouse_of(url).allow_writes(connection)
            yield connection
    finally:
        engine.dispose()


@dataclass(frozen=True)
class Space:
    """The three tables of a Profiles Sync space, by Segment's names."""

    schema: str
    url: URL
    columns: Columns
    tables: dict[str, TableClause]
    #: the condition that rows must meet to count, of the tables that have its columns
    living: dict[str, ColumnElement[bool]]
    #: the tables as they are at one moment; None if the warehouse has no such state
    fixed: Mapping[str, FromClause] | None

    @staticmethod
    def of(connection: Connection, schema: str, url: URL, condition: str = "") -> Space:
        """Return the space in a schema.

        `condition` is the SQL of `engage.filter`. Raise `SourceError` if a table or column is
        missing.
        """
        tables = _reflect(connection, schema, url)
        living = conditions(connection, tables, condition)
        warehouse = warehouse_of(url)
        fixed = warehouse.one_state(connection, tables)
        return Space(schema, url, Columns.of(connection, warehouse), tables, living, fixed)

    def rows(
        self,
        name: str,
        part: FromClause | None = None,
        *,
        since: datetime | None = None,
        among: Among | None = None,
        listed: FromClause | None = None,
    ) -> FromClause:
        """Return the rows of a table that count, with readable columns; or those of a part of it.

        Ids and keys are text, and the value of a trait is what `Columns.value` makes of it. `since`
        leaves the rows that were loaded at that time or later, `among` those with one of some
        ids in the named column. `listed` leaves those whose profile is a `segment_id` there, and
        adds its columns.
        """
        rows = (self.fixed or self.tables)[name] if part is None else part
        expressions = [self._readable(name, rows.c[column]) for column in sorted(_COLUMNS[name])]
        statement = select(*expressions)
        if (condition := self.living.get(name)) is not None:
            statement = statement.where(condition)
        if since is not None:
            statement = statement.where(self.columns.since(_column(rows, "uuid_ts"), since))
        if among is not None:
            column, ids = among
            statement = statement.where(self.columns.among(_column(rows, column), ids))
        if listed is not None:
            own = _column(rows, "canonical_segment_id")
            statement = statement.add_columns(*listed.c).select_from(
                listed.join(rows, self.columns.is_same(own, listed.c.segment_id))
            )
        return statement.subquery()

    def _readable(self, name: str, column: Any) -> ColumnElement[Any]:
        if column.name in _OTHERS:
            return cast(ColumnElement[Any], column)
        if (name, column.name) == ("user_traits", "value"):
            return self.columns.value(column).label(column.name)
        if self.columns.dialect != "sqlite" and isinstance(column.type, LargeBinary):
            raise SourceError(
                f"the column {column.name} of {self.tables[name].name} in {shown(self.url)} holds "
                f"bytes ({column.type}), where text is needed; load it as text"
            )
        return self.columns.text(column).label(column.name)


def _column(rows: FromClause, name: str) -> Column[Any]:
    return cast(Column[Any], rows.c[name])


def spaces(connection: Connection) -> list[str]:
    """Return the schemas with the three tables of Profiles Sync that this login may read.

    A database without schemas (SQLite) has one, "".
    """
    by_schema = _tables_by_schema(connection)
    return sorted(schema for schema, names in by_schema.items() if len(names) == len(_COLUMNS))


def _tables_by_schema(connection: Connection) -> dict[str, set[str]]:
    """Return the schemas that have readable tables of Profiles Sync, with Segment's names of these.

    PostgreSQL answers this at once, however many schemas there are; other engines are asked for
    each.
    """
    spellings = {name: name for name in _COLUMNS}
    spellings |= {other: name for name, other in _OTHER_SPELLING.items()}
    by_schema: dict[str, set[str]] = {}
    if connection.dialect.name == "postgresql":
        for schema, spelling in connection.execute(_READABLE, {"names": list(spellings)}):
            by_schema.setdefault(schema, set()).add(spellings[spelling])
        return by_schema
    inspector = inspect(connection)
    named = [] if connection.dialect.name == "sqlite" else inspector.get_schema_names()
    for schema in named or [""]:
        names = {
            name
            for spelling, name in spellings.items()
            if inspector.has_table(spelling, schema=schema or None)
        }
        if names:
            by_schema[schema] = names
    return by_schema


#: Tables and views of these names (also materialized, foreign or partitioned) that may be read.
_READABLE = text(
    """
    SELECT nspname, relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relname = ANY(:names) AND relkind IN ('r', 'v', 'm', 'f', 'p')
    AND has_schema_privilege(pg_namespace.oid, 'USAGE')
    AND has_table_privilege(pg_class.oid, 'SELECT')
    """
)


def _engine(url: URL, writes: bool) -> Engine:
    warehouse = warehouse_of(url)
    try:
        return warehouse.engine(url, writes=writes)
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise SourceError(
            f"the driver of {warehouse.name} is not installed ({error}); "
            f"install it with: pip install 'engage-amberflo-sync[{warehouse.extra}]'"
        ) from None


def _reflect(connection: Connection, schema: str, url: URL) -> dict[str, TableClause]:
    """Return the three tables, or raise one line that says which table or column is missing."""
    inspector = inspect(connection)
    place = f"the schema {schema!r} of {shown(url)}" if schema else shown(url)
    tables: dict[str, TableClause] = {}
    for name, columns in _COLUMNS.items():
        spelling = name
        if not inspector.has_table(name, schema=schema or None):
            spelling = _OTHER_SPELLING.get(name, name)
            if spelling == name or not inspector.has_table(spelling, schema=schema or None):
                raise SourceError(
                    f"the table {name} is missing in {place}; {_where_it_is(connection, name)}"
                )
        # Only the columns: to reflect keys and comments as well is slow on large warehouses.
        reflected = inspector.get_columns(spelling, schema=schema or None)
        present = [column(described["name"], described["type"]) for described in reflected]
        # By what it says, not by which object it is: each pull's statements are compiled once.
        rows = table(spelling, *present, schema=schema or None)
        missing = sorted(columns - set(rows.c.keys()))
        if missing:
            raise SourceError(
                f"the table {spelling} in {place} has no column {', '.join(missing)}; Profiles "
                f"Sync makes it with {', '.join(sorted(columns))}"
            )
        tables[name] = rows
    return tables


def _where_it_is(connection: Connection, name: str) -> str:
    """Return what helps where a table is missing: the schemas that have it, if there are any."""
    by_schema = _tables_by_schema(connection)
    schemas = sorted(schema for schema, names in by_schema.items() if schema and name in names)
    if schemas:
        listed = ", ".join(map(repr, schemas[:NAMED])) + (", …" if schemas[NAMED:] else "")
        return f"this login can read it in {listed}: set engage.profiles_sync.schema"
    return (
        "Profiles Sync makes it when the materialized views are selected in its Selective Sync "
        "settings, and the login must be allowed to read it"
    )


def shown(url: URL) -> str:
    """Return a URL for messages: without the password, and the query, which may hold another."""
    return str(url.set(query={}))


@contextmanager
def translated_errors(url: URL) -> Iterator[None]:
    """Turn errors of the driver into one line without the password."""
    try:
        yield
    except (SQLAlchemyError, UnicodeError) as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        raise SourceError(f"the pull from {shown(url)} broke off: {reason}") from error
