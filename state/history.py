"""Questions to the history: a customer's changes, who entered and left an audience, who was in.

Times are epoch milliseconds; "as of" means as recorded here by then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, func, select

from state.tables import CHANGE, CUSTOMER, TRAIT


def present(connection: Connection, customer_id: str) -> str | None:
    """The traits (JSON) that Amberflo should hold of a customer now; None: not known."""
    found = connection.execute(
        select(CUSTOMER.c.traits).where(CUSTOMER.c.customer_id == customer_id)
    ).scalar()
    return None if found is None else str(found)


def of_customer(connection: Connection, customer_id: str) -> list[Mapping[str, Any]]:
    """Every change of a customer, oldest first."""
    rows = connection.execute(
        select(CHANGE).where(CHANGE.c.customer_id == customer_id).order_by(CHANGE.c.id)
    ).mappings()
    return [dict(row) for row in rows]


def key_of(connection: Connection, key_or_trait: str) -> str | None:
    """The key of a trait, by its key or by its name at Amberflo."""
    for column in (TRAIT.c.key, TRAIT.c.trait):
        found = connection.execute(select(TRAIT.c.key).where(column == key_or_trait)).scalar()
        if found is not None:
            return str(found)
    return None


def of_key(
    connection: Connection, key: str, since: int | None, until: int | None
) -> Iterator[Mapping[str, Any]]:
    """Changes of a key recorded in [since, until), oldest first, streamed."""
    statement = select(CHANGE).where(CHANGE.c.key == key).order_by(CHANGE.c.id)
    if since is not None:
        statement = statement.where(CHANGE.c.recorded_at >= since)
    if until is not None:
        statement = statement.where(CHANGE.c.recorded_at < until)
    with connection.execute(statement, execution_options={"yield_per": 1000}) as result:
        for row in result.mappings():
            yield dict(row)


def members_at(connection: Connection, key: str, at: int) -> list[str]:
    """Who was in an audience as recorded by a moment, in order of the id."""
    last = (
        select(func.max(CHANGE.c.id).label("id"))
        .where(CHANGE.c.key == key, CHANGE.c.recorded_at <= at)
        .group_by(CHANGE.c.customer_id)
        .subquery()
    )
    statement = (
        select(CHANGE.c.customer_id)
        .where(CHANGE.c.id.in_(select(last.c.id)), CHANGE.c.after == "true")
        .order_by(CHANGE.c.customer_id)
    )
    return list(connection.execute(statement).scalars())
