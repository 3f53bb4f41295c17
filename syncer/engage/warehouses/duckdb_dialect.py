"""DuckDB's dialect for SQLAlchemy: as much of one as a pull needs.

duckdb-engine does not reflect tables with SQLAlchemy 2.1. duckdb-sqlalchemy refuses DuckDB 2, and
holds a whole result in memory when another statement comes.
"""

from __future__ import annotations

from datetime import UTC, datetime
from types import ModuleType
from typing import Any

from sqlalchemy import (
    DATE,
    JSON,
    TIMESTAMP,
    BigInteger,
    Boolean,
    Connection,
    Double,
    LargeBinary,
    NullPool,
    Numeric,
    String,
    text,
)
from sqlalchemy.engine import URL
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.sql.compiler import IdentifierPreparer
from sqlalchemy.types import NullType, TypeEngine


class _Nanoseconds(TIMESTAMP):
    """A time that DuckDB counts in nanoseconds: it compares with none that is later."""

    last = datetime(2262, 4, 11, tzinfo=UTC)


#: Types of columns, without what stands in brackets behind them; others are none of SQLAlchemy's.
_TYPES: dict[str, TypeEngine[Any]] = {
    "VARCHAR": String(),
    "BLOB": LargeBinary(),
    "BOOLEAN": Boolean(),
    "JSON": JSON(),
    "DATE": DATE(),
    "TIMESTAMP": TIMESTAMP(),
    "TIMESTAMP_S": TIMESTAMP(),
    "TIMESTAMP_MS": TIMESTAMP(),
    "TIMESTAMP_NS": _Nanoseconds(),
    "TIMESTAMP WITH TIME ZONE": TIMESTAMP(timezone=True),
    "TINYINT": BigInteger(),
    "SMALLINT": BigInteger(),
    "INTEGER": BigInteger(),
    "BIGINT": BigInteger(),
    "HUGEINT": Numeric(),
    "DECIMAL": Numeric(),
    "FLOAT": Double(),
    "DOUBLE": Double(),
}
_COLUMNS = text(
    """
    SELECT column_name, data_type FROM duckdb_columns()
    WHERE database_name = current_database() AND schema_name = coalesce(:schema, current_schema())
    AND lower(table_name) = lower(:name) ORDER BY column_index
    """
)
_TABLES = text(
    """
    SELECT table_name FROM duckdb_tables()
    WHERE database_name = current_database() AND schema_name = coalesce(:schema, current_schema())
    """
)
_SCHEMAS = text(
    """
    SELECT schema_name FROM duckdb_schemas()
    WHERE database_name = current_database() AND (schema_name = 'main' OR NOT internal)
    ORDER BY schema_name
    """
)


class _Quoting(IdentifierPreparer):
    """Quotes each name: DuckDB takes capitals for small letters all the same."""

    def _requires_quotes(self, value: str) -> bool:
        return True


class DuckDBDialect(DefaultDialect):
    """There is no pool: an open connection keeps others from the file."""

    name = driver = "duckdb"
    default_paramstyle = "qmark"
    preparer = _Quoting
    supports_multivalues_insert = supports_native_boolean = True
    supports_statement_cache = True

    @classmethod
    def import_dbapi(cls) -> ModuleType:
        import duckdb

        return duckdb

    @classmethod
    def get_pool_class(cls, url: URL) -> type[NullPool]:
        return NullPool

    def create_connect_args(self, url: URL) -> tuple[list[Any], dict[str, Any]]:
        return [], {"path": str(url.database or ""), "settings": dict(url.query)}

    def connect(self, *_: Any, **arguments: Any) -> Any:
        from syncer.engage.warehouses.duckdb_connection import DuckDBConnection

        return DuckDBConnection(**arguments)

    def has_table(
        self, connection: Connection, table_name: str, schema: str | None = None, **_: Any
    ) -> bool:
        return bool(self.get_columns(connection, table_name, schema))

    def get_table_names(
        self, connection: Connection, schema: str | None = None, **_: Any
    ) -> list[str]:
        return list(connection.execute(_TABLES, {"schema": schema}).scalars())

    def get_columns(
        self, connection: Connection, table_name: str, schema: str | None = None, **_: Any
    ) -> list[Any]:
        columns = connection.execute(_COLUMNS, {"schema": schema, "name": table_name})
        return [
            {"name": name, "type": _TYPES.get(written.partition("(")[0], NullType())}
            for name, written in columns
        ]

    def get_schema_names(self, connection: Connection, **_: Any) -> list[str]:
        return list(connection.execute(_SCHEMAS).scalars())
