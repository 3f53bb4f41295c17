"""Redshift: a cursor of the server streams, one transaction sees one state from its first SELECT.

Texts are ordered by bytes, unless the database was made with another collation.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, String, func, literal_column
from sqlalchemy.engine import URL
from sqlalchemy.types import TypeEngine

from syncer.engage.warehouses.warehouse import CONNECT, STATEMENT, Warehouse, query_tag


class Redshift(Warehouse):
    """The driver of PostgreSQL, as the one of Amazon holds the whole result in memory."""

    def connect_args(self, url: URL) -> dict[str, Any]:
        return {"connect_timeout": CONNECT, "sslmode": url.query.get("sslmode", "require")}

    def begin(self, connection: Connection) -> None:
        connection.exec_driver_sql("SET timezone TO 'UTC'")
        connection.exec_driver_sql(f"SET statement_timeout TO {STATEMENT * 1000}")
        connection.exec_driver_sql(f"SET query_group TO '{query_tag.get()}'")

    def number(self, digits: ColumnElement[Any]) -> ColumnElement[Any]:
        return func.strtol(digits, literal_column("16"))

    @property
    def id_type(self) -> TypeEngine[str]:
        return String(65535)  # TEXT has 256 characters there


REDSHIFT = Redshift("Redshift", "redshift+psycopg2", "redshift", trim="btrim")
