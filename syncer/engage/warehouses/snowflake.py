"""Snowflake: the connector streams, texts are ordered by bytes, AT gives one state.

Names in small letters mean those in capitals, as Segment makes them (docs/warehouses.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    TableClause,
    func,
    literal_column,
)
from sqlalchemy.engine import URL

from syncer.engage.warehouses.warehouse import CONNECT, STATEMENT, Warehouse, as_of, query_tag


class Snowflake(Warehouse):
    """Sessions with their own time zone, tag and timeout; a key pair comes in the URL's query."""

    def connect_args(self, url: URL) -> dict[str, Any]:
        return {
            "application": "engage_amberflo_sync",
            "login_timeout": CONNECT,
            "session_parameters": {
                "QUERY_TAG": query_tag.get(),
                "STATEMENT_TIMEOUT_IN_SECONDS": STATEMENT,
                "TIMEZONE": "UTC",
            },
        }

    def one_state(
        self, connection: Connection, tables: Mapping[str, TableClause]
    ) -> Mapping[str, FromClause] | None:
        now = connection.exec_driver_sql("SELECT CURRENT_TIMESTAMP()").scalar_one()
        clause = f"AT (TIMESTAMP => '{now.isoformat()}'::TIMESTAMP_TZ)"
        return as_of(connection, tables, dict.fromkeys(tables, clause))

    def unread_time(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        return func.try_to_timestamp_tz(column)

    def number(self, digits: ColumnElement[Any]) -> ColumnElement[Any]:
        return func.to_number(digits, literal_column("'XXXXXXXX'"))


SNOWFLAKE = Snowflake("Snowflake", "snowflake", "snowflake")
