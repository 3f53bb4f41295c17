"""BigQuery: texts are ordered by code points, which is by bytes; FOR SYSTEM_TIME gives one state.

It bills the bytes of the columns that a statement names, in the partitions that it reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    FromClause,
    TableClause,
    Text,
    cast,
    func,
    literal_column,
)
from sqlalchemy.engine import URL

from syncer.engage.warehouses.warehouse import PROGRAM, Warehouse, as_of, query_tag


class BigQuery(Warehouse):
    """A service account's file is named by `credentials_path` in the URL, or by the environment."""

    def engine(self, url: URL, *, writes: bool = False) -> Any:
        # Labels have small letters, digits, - and _ only.
        label = query_tag.get().removeprefix(PROGRAM).strip().replace(" ", "_") or "check"
        return super().engine(url.update_query_dict({"labels": f"{PROGRAM}:{label}"}))

    def one_state(
        self, connection: Connection, tables: Mapping[str, TableClause]
    ) -> Mapping[str, FromClause] | None:
        now = connection.exec_driver_sql("SELECT CURRENT_TIMESTAMP()").scalar_one()
        clause = f"FOR SYSTEM_TIME AS OF TIMESTAMP '{now.isoformat()}'"
        return as_of(connection, tables, dict.fromkeys(tables, clause))

    def unread_time(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        return func.SAFE.TIMESTAMP(column)

    def digest(self, text: ColumnElement[Any]) -> ColumnElement[Any]:
        return func.to_hex(func.md5(text))

    def number(self, digits: ColumnElement[Any]) -> ColumnElement[Any]:
        return cast(literal_column("'0x'", Text()).op("||")(digits), BigInteger)


BIGQUERY = BigQuery("BigQuery", "bigquery", "bigquery", "INTERVAL 5 MINUTE")
