"""What Amberflo refused for good: kept until it is retried, discarded, or sent after all."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select

from state.tables import FAILURE

CUSTOMER, METER = "customer", "meter"


def put(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Record failures; what failed before under the same `ref` is replaced."""
    connection.execute(delete(FAILURE).where(FAILURE.c.ref.in_([row["ref"] for row in rows])))
    connection.execute(insert(FAILURE), list(rows))


def customer_ref(customer_id: str) -> str:
    return f"customer:{customer_id}"


def clear(connection: Connection, refs: Collection[str]) -> None:
    """These got through after all."""
    connection.execute(delete(FAILURE).where(FAILURE.c.ref.in_(list(refs))))


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
