"""Databricks: the driver streams, texts are ordered by bytes, VERSION AS OF gives one state.

Each table has versions of its own; the three are read as they are when the pull begins.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    FromClause,
    TableClause,
    cast,
    func,
    literal_column,
    select,
)
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from syncer.engage.warehouses.warehouse import STATEMENT, Warehouse, as_of, query_tag
from syncer.json_text import to_json


class Databricks(Warehouse):
    """A service principal logs in by OAuth: its id and secret are the user and password."""

    def connect_args(self, url: URL) -> dict[str, Any]:
        args: dict[str, Any] = {"user_agent_entry": query_tag.get().replace(" ", "-")}
        if url.username not in (None, "token"):
            args["credentials_provider"] = lambda: _oauth(url)
        return args

    def begin(self, connection: Connection) -> None:
        connection.exec_driver_sql("SET TIME ZONE 'UTC'")
        connection.exec_driver_sql(f"SET STATEMENT_TIMEOUT = {STATEMENT}")

    def one_state(
        self, connection: Connection, tables: Mapping[str, TableClause]
    ) -> Mapping[str, FromClause] | None:
        clauses = {}
        for name, table in tables.items():
            shown = connection.dialect.identifier_preparer.format_table(table)
            try:
                newest = connection.exec_driver_sql(f"DESCRIBE HISTORY {shown} LIMIT 1").first()
            except DBAPIError:  # a view, or a login that may not see it
                return None
            if newest is None:
                return None
            clauses[name] = f"VERSION AS OF {int(newest[0])}"
        return as_of(connection, tables, clauses)

    def unread_time(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        return func.try_to_timestamp(column)

    def number(self, digits: ColumnElement[Any]) -> ColumnElement[Any]:
        return cast(func.conv(digits, literal_column("16"), literal_column("10")), BigInteger)

    def names(self, names: Collection[str]) -> Any:
        # One parameter, of which a statement may have 255.
        return select(func.explode(func.from_json(to_json(list(names)), "ARRAY<STRING>")))


def _oauth(url: URL) -> Any:
    from databricks.sdk.core import Config, oauth_service_principal

    config = Config(
        host=f"https://{url.host}", client_id=url.username, client_secret=str(url.password)
    )
    return oauth_service_principal(config)


DATABRICKS = Databricks(
    "Databricks", "databricks", "databricks", "INTERVAL '5' MINUTE", trim="btrim"
)
