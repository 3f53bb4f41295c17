"""Exits of customers who are not known yet: when calls of Engage said them.

Such an exit makes no customer and sends nothing. But Segment keeps no order, and an entry that the
exit has overtaken must not count when it comes. So the customer's event times are kept here until
it is known, and then in its own row; for a day at most. Times are epoch milliseconds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlalchemy import Connection, bindparam, delete, func, select

from state.db.batches import ROWS, batches, execute_many
from state.db.tables import EARLY_EXIT
from state.db.upsert import insert_into

#: Exits are kept of so many customers at most, those noted last, and for so many milliseconds.
MOST, KEPT = 100_000, 24 * 3600 * 1000

_ID = EARLY_EXIT.c.customer_id
_NAMED = _ID.in_(bindparam("ids", expanding=True))
_FIND = select(_ID, EARLY_EXIT.c.event_times).where(_NAMED)


def find(connection: Connection, customer_ids: Collection[str]) -> dict[str, str]:
    """Return the event times of those of the named customers of whom there are some."""
    return {
        customer_id: event_times
        for ids in batches(customer_ids, ROWS)
        for customer_id, event_times in connection.execute(_FIND, {"ids": ids}).all()
    }


def count(connection: Connection) -> int:
    """Count the customers of whom exits are kept."""
    return int(connection.execute(select(func.count()).select_from(EARLY_EXIT)).scalar_one())


def put(connection: Connection, event_times: Mapping[str, str], now: int) -> int:
    """Keep the event times of customers, in place of those before.

    Return of how many customers the oldest were let go to make room.
    """
    if not event_times:
        return 0
    statement = insert_into(EARLY_EXIT, connection.dialect.name)
    names = EARLY_EXIT.c.event_times.name, EARLY_EXIT.c.noted_at.name
    statement = statement.on_conflict_do_update(
        index_elements=[_ID], set_={name: statement.excluded[name] for name in names}
    )
    rows = [
        {"customer_id": customer_id, "event_times": times, "noted_at": now}
        for customer_id, times in event_times.items()
    ]
    execute_many(connection, statement, rows)
    excess = count(connection) - MOST
    if excess <= 0:
        return 0
    oldest = select(_ID).order_by(EARLY_EXIT.c.noted_at, _ID).limit(excess)
    return connection.execute(delete(EARLY_EXIT).where(_ID.in_(oldest))).rowcount


def remove(connection: Connection, customer_ids: Collection[str]) -> None:
    """Forget the exits of customers: they are known by now, or to be erased."""
    for ids in batches(customer_ids):
        connection.execute(delete(EARLY_EXIT).where(_ID.in_(ids)))


def any_expired(connection: Connection, now: int) -> bool:
    """Return whether an exit was kept for long enough."""
    old = EARLY_EXIT.c.noted_at < now - KEPT
    return connection.execute(select(_ID).where(old).limit(1)).first() is not None


def drop_expired(connection: Connection, now: int) -> None:
    """Forget the exits that were kept for long enough."""
    connection.execute(delete(EARLY_EXIT).where(EARLY_EXIT.c.noted_at < now - KEPT))
