"""What Amberflo refused for good: kept until it is retried, discarded, or sent after all."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Connection, delete, func, insert, select

from state.tables import FAILURE

T = TypeVar("T")

CUSTOMER, METER = "customer", "meter"
#: Rows that one statement takes at a time.
CHUNK = 500


def put(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Record failures; what failed before under the same `ref` is replaced."""
    newest = {row["ref"]: row for row in rows}
    for refs in _chunks(newest):
        connection.execute(delete(FAILURE).where(FAILURE.c.ref.in_(refs)))
        connection.execute(insert(FAILURE), [newest[ref] for ref in refs])


def customer_ref(customer_id: str) -> str:
    return f"customer:{customer_id}"


def clear(connection: Connection, refs: Collection[str]) -> None:
    """These got through after all."""
    for part in _chunks(refs):
        connection.execute(delete(FAILURE).where(FAILURE.c.ref.in_(part)))


def find(connection: Connection, ids: Collection[int] | None = None) -> list[Mapping[str, Any]]:
    """Failures, oldest first: all, or the numbered ones that are there."""
    statement = select(FAILURE).order_by(FAILURE.c.id)
    if ids is None:
        return [dict(row) for row in connection.execute(statement).mappings()]
    return [
        dict(row)
        for part in _chunks(sorted(ids))
        for row in connection.execute(statement.where(FAILURE.c.id.in_(part))).mappings()
    ]


def page(
    connection: Connection,
    *,
    before: int | None = None,
    limit: int,
    customer_id: str | None = None,
) -> list[Mapping[str, Any]]:
    """Failures, newest first: of all or of a customer; the next page is before the last id."""
    statement = select(FAILURE).order_by(FAILURE.c.id.desc()).limit(limit)
    if before is not None:
        statement = statement.where(FAILURE.c.id < before)
    if customer_id is not None:
        statement = statement.where(FAILURE.c.customer_id == customer_id)
    return [dict(row) for row in connection.execute(statement).mappings()]


def newest(connection: Connection) -> int:
    """The number of the newest failure; 0: there is none."""
    statement = select(func.coalesce(func.max(FAILURE.c.id), 0))
    return int(connection.execute(statement).scalar_one())


def only_discarded(row: Mapping[str, Any]) -> bool:
    """Whether a failure is a call that cannot be taken as it is, so that no retry can help."""
    return str(row["ref"]).startswith("call:")


def remove_until(connection: Connection, newest: int) -> int:
    """Remove all up to one; gives how many."""
    return connection.execute(delete(FAILURE).where(FAILURE.c.id <= newest)).rowcount


def remove(connection: Connection, ids: Collection[int]) -> int:
    return sum(
        connection.execute(delete(FAILURE).where(FAILURE.c.id.in_(part))).rowcount
        for part in _chunks(ids)
    )


def count(connection: Connection, refs: Collection[str] | None = None) -> int:
    """How many there are: all, or of those."""
    statement = select(func.count()).select_from(FAILURE)
    if refs is None:
        return int(connection.execute(statement).scalar_one())
    return sum(
        int(connection.execute(statement.where(FAILURE.c.ref.in_(part))).scalar_one())
        for part in _chunks(refs)
    )


def customers_since(connection: Connection, moment: int) -> int:
    """How many customers were refused since a moment (epoch milliseconds)."""
    statement = (
        select(func.count())
        .select_from(FAILURE)
        .where(FAILURE.c.kind == CUSTOMER, FAILURE.c.failed_at >= moment)
    )
    return int(connection.execute(statement).scalar_one())


def _chunks(values: Iterable[T]) -> Iterator[list[T]]:
    """A statement has room for so many values only."""
    rest = iter(values)
    while part := list(islice(rest, CHUNK)):
        yield part
