"""Calls of Engage that came before any pull knew their trait.

A call makes no trait ours, so these wait until a pull does. Of one trait and customer the newest
waits. Times are epoch milliseconds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, delete, func, select

from state.db.tables import EARLY_CALL, TRAIT
from state.db.upsert import insert_into

#: So many wait at most.
MOST = 100_000


class EarlyCall(NamedTuple):
    """What a call said; see `tables.EarlyCall`."""

    key: str
    customer_id: str
    kind: str
    value: str | None
    at: int
    received_at: int
    via: str


_COLUMNS = [EARLY_CALL.c[name] for name in EarlyCall._fields]
_KNOWN = EARLY_CALL.c.key.in_(select(TRAIT.c.key).where(TRAIT.c.released_at.is_(None)))


def put(connection: Connection, rows: Sequence[EarlyCall]) -> None:
    """Let calls wait, in the order in which they came.

    A call that is not older replaces the one that waits of its trait and customer.
    """
    statement = insert_into(EARLY_CALL, connection.dialect.name)
    names = EarlyCall._fields[2:]
    statement = statement.on_conflict_do_update(
        index_elements=["key", "customer_id"],
        set_={name: statement.excluded[name] for name in names},
        where=EARLY_CALL.c.at <= statement.excluded.at,
    )
    if rows:
        connection.execute(statement, [row._asdict() for row in rows])


def customer_ids(connection: Connection) -> Iterator[str]:
    """Yield the customers that the calls are about, each once."""
    for row in connection.execute(select(EARLY_CALL.c.customer_id).distinct()):
        yield str(row[0])


def count(connection: Connection) -> int:
    """Count the calls that wait."""
    return int(connection.execute(select(func.count()).select_from(EARLY_CALL)).scalar_one())


def get(connection: Connection, key: str, customer_id: str) -> EarlyCall | None:
    """Return the call that waits of a trait and customer; None where none does."""
    theirs = EARLY_CALL.c.key == key, EARLY_CALL.c.customer_id == customer_id
    row = connection.execute(select(*_COLUMNS).where(*theirs)).first()
    return None if row is None else EarlyCall._make(row)


def keys(connection: Connection, via: str) -> list[tuple[str, str, int]]:
    """Return (key, kind, customers) of the calls that wait and came by that key."""
    kind = EARLY_CALL.c.kind
    statement = (
        select(EARLY_CALL.c.key, func.min(kind), func.count())
        .where(EARLY_CALL.c.via == via)
        .group_by(EARLY_CALL.c.key)
        .having(func.min(kind) == func.max(kind))
        .order_by(EARLY_CALL.c.key)
    )
    return [(str(key), str(kind), int(n)) for key, kind, n in connection.execute(statement)]


def any_known(connection: Connection) -> bool:
    """Return whether the trait of a waiting call is known by now."""
    return connection.execute(select(EARLY_CALL.c.key).where(_KNOWN).limit(1)).first() is not None


def any_before(connection: Connection, moment: int) -> bool:
    """Return whether a waiting call came before a moment."""
    old = EARLY_CALL.c.received_at < moment
    return connection.execute(select(EARLY_CALL.c.key).where(old).limit(1)).first() is not None


def take_known(connection: Connection, limit: int) -> list[EarlyCall]:
    """Take out up to `limit` calls whose traits are known by now, in the order they came."""
    statement = select(*_COLUMNS).where(_KNOWN).order_by(EARLY_CALL.c.received_at).limit(limit)
    known = [EarlyCall._make(row) for row in connection.execute(statement)]
    for key in {call.key for call in known}:
        _remove(connection, key, [call.customer_id for call in known if call.key == key])
    return known


def _remove(connection: Connection, key: str, customer_ids: Collection[str]) -> None:
    ids = list(customer_ids)
    for start in range(0, len(ids), 500):
        part = EARLY_CALL.c.customer_id.in_(ids[start : start + 500])
        connection.execute(delete(EARLY_CALL).where(EARLY_CALL.c.key == key, part))


def let_go(connection: Connection, moment: int) -> int:
    """Forget the calls that came before a moment; return how many."""
    return connection.execute(delete(EARLY_CALL).where(EARLY_CALL.c.received_at < moment)).rowcount


def erase(connection: Connection, customer_id: str) -> None:
    """Forget the calls of a customer."""
    connection.execute(delete(EARLY_CALL).where(EARLY_CALL.c.customer_id == customer_id))
