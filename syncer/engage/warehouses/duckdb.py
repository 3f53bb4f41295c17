"""DuckDB: a file, whose views may be over Parquet; rows stream, texts are ordered by bytes.

While it is read nobody can write to it: DuckDB lets one process write to a file, or several read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    FromClause,
    TableClause,
    Text,
    cast,
    create_engine,
    func,
    literal_column,
    select,
)
from sqlalchemy.dialects import registry
from sqlalchemy.engine import URL

from syncer.engage.warehouses.warehouse import Warehouse
from syncer.errors import SourceError
from syncer.json_text import to_json

registry.register("duckdb", "syncer.engage.warehouses.duckdb_dialect", "DuckDBDialect")


class DuckDB(Warehouse):
    """The engine runs in this process; the query of the URL holds settings of DuckDB's own."""

    def engine(self, url: URL, *, writes: bool = False) -> Engine:
        if not Path(str(url.database or "")).is_file():
            raise SourceError(f"the DuckDB file {url.database or ''} does not exist")
        return create_engine(
            url.set(drivername=self.drivername), connect_args={"read_only": not writes}
        )

    def begin(self, connection: Connection) -> None:
        connection.exec_driver_sql("SET TimeZone = 'UTC'")

    def one_state(
        self, connection: Connection, tables: Mapping[str, TableClause]
    ) -> Mapping[str, FromClause] | None:
        # What a view reads, such as files, may change.
        views = set(connection.exec_driver_sql("SELECT view_name FROM duckdb_views()").scalars())
        return None if views & {table.name for table in tables.values()} else tables

    def unread_time(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        return func.TRY_CAST(column.op("AS")(literal_column("TIMESTAMPTZ")))

    def number(self, digits: ColumnElement[Any]) -> ColumnElement[Any]:
        return cast(literal_column("'0x'", Text()).op("||")(digits), BigInteger)

    def names(self, names: Collection[str]) -> Any:
        return select(func.unnest(func.from_json(to_json(list(names)), '["VARCHAR"]')))


DUCKDB = DuckDB("DuckDB", "duckdb", "duckdb")
