"""PostgreSQL: a server cursor streams, and one transaction sees one state."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    TableClause,
    Text,
    cast,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import BIT
from sqlalchemy.engine import URL
from sqlalchemy.types import TypeEngine

from syncer.engage.warehouses.warehouse import CONNECT, Warehouse, query_tag

#: The indexes that an incremental pull needs, each on a column of a table.
INDEXES = (
    ("user_traits", "uuid_ts"),
    ("user_traits", "canonical_segment_id"),
    ("user_identifiers", "uuid_ts"),
    ("user_identifiers", "canonical_segment_id"),
    ("user_identifiers", "value"),
    ("profile_merges", "uuid_ts"),
    ("profile_merges", "segment_id"),
    ("profile_merges", "canonical_segment_id"),
)
#: A table of fewer pages of 8 KB is read as fast without an index.
SMALL = 1000

#: The columns of a table that are the first of a usable index on plain columns, of its own tables
#: where it is partitioned.
_INDEXED = text(
    """
    SELECT attname FROM pg_index
    JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
    WHERE indrelid = to_regclass(:name) AND indisvalid AND indpred IS NULL
    """
)
#: Views have no indexes of their own.
_PAGES = text(
    """
    SELECT sum(pg_relation_size(part)) / 8192 FROM (
        SELECT relid AS part FROM pg_partition_tree(to_regclass(:name))
        UNION
        SELECT oid FROM pg_class WHERE oid = to_regclass(:name) AND relkind IN ('r', 'm')
    ) AS parts
    """
)


class PostgreSQL(Warehouse):
    """A server that stores texts without an encoding would return them as bytes."""

    def connect_args(self, url: URL) -> dict[str, Any]:
        return {"connect_timeout": CONNECT, "client_encoding": "utf8"}

    def begin(self, connection: Connection) -> None:
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        connection.exec_driver_sql("SET LOCAL TIME ZONE 'UTC'")
        # A cursor is read to its end, and sorts all rows.
        connection.exec_driver_sql("SET LOCAL cursor_tuple_fraction = 1.0")
        connection.exec_driver_sql("SET LOCAL work_mem = '64MB'")
        # How few rows a profile has is not known, so that it would sort all of them to join them.
        connection.exec_driver_sql("SET LOCAL enable_mergejoin = off")
        connection.exec_driver_sql(f"SET LOCAL application_name = '{query_tag.get()}'")

    def allow_writes(self, connection: Connection) -> None:
        connection.exec_driver_sql("SET TRANSACTION READ WRITE")

    def attempt(self, connection: Connection) -> AbstractContextManager[Any]:
        return connection.begin_nested()

    def number(self, digits: ColumnElement[Any]) -> ColumnElement[Any]:
        bits = cast(literal_column("'x'", Text()).op("||")(digits), BIT(32))
        return cast(bits, BigInteger)

    @property
    def id_type(self) -> TypeEngine[str]:
        return Text(collation="C")


POSTGRESQL = PostgreSQL("PostgreSQL", "postgresql+psycopg", "postgres")


def missing_indexes(connection: Connection, tables: Mapping[str, TableClause]) -> Iterator[str]:
    """Yield a line if an index is missing that makes incremental pulls cost what changed."""
    statements = []
    for name, table in tables.items():
        wanted = [column for of, column in INDEXES if of == name]
        shown = connection.dialect.identifier_preparer.format_table(table)
        statements += [
            f"CREATE INDEX CONCURRENTLY ON {shown} ({column});"
            for column in _without(connection, shown, wanted)
        ]
    if statements:
        yield (
            "incremental runs read whole tables, since indexes are missing; make them with "
            + " ".join(statements)
        )


def _without(connection: Connection, table: str, columns: Collection[str]) -> list[str]:
    """Return those columns of a table that want an index."""
    if int(connection.scalar(_PAGES, {"name": table}) or 0) < SMALL:
        return []
    indexed = set(connection.execute(_INDEXED, {"name": table}).scalars())
    return [column for column in columns if column not in indexed]
