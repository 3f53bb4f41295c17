"""What Amberflo refused for good: kept until it is retried, discarded, or sent after all."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select

from state.tables import FAILURE

CUSTOMER = "customer"


def put_customers(connection: Connection, rows: Iterable[Mapping[str, Any]]) -> None:
    """Record refused customers; one failure a customer, the newest."""
    for row in rows:
        connection.execute(
            delete(FAILURE).where(
                FAILURE.c.kind == CUSTOMER, FAILURE.c.customer_id == row["customer_id"]
            )
        )
        connection.execute(insert(FAILURE).values(kind=CUSTOMER, **row))


def clear_customers(connection: Connection, customer_ids: Collection[str]) -> None:
    """These customers were sent after all."""
    connection.execute(
        delete(FAILURE).where(
            FAILURE.c.kind == CUSTOMER, FAILURE.c.customer_id.in_(list(customer_ids))
        )
    )


def find(connection: Connection, ids: Collection[int] | None = None) -> list[Mapping[str, Any]]:
    """Failures, oldest first: all, or the numbered ones that are there."""
    statement = select(FAILURE).order_by(FAILURE.c.id)
    if ids is not None:
        statement = statement.where(FAILURE.c.id.in_(list(ids)))
    return [dict(row) for row in connection.execute(statement).mappings()]


def remove(connection: Connection, ids: Collection[int]) -> int:
    return connection.execute(delete(FAILURE).where(FAILURE.c.id.in_(list(ids)))).rowcount


def count(connection: Connection) -> int:
    return int(connection.execute(select(func.count()).select_from(FAILURE)).scalar_one())
