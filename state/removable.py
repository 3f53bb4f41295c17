"""What a write may take away at Amberflo: traits that are ours by name, and not the customer's.

Of a customer that a run has compared with all that Engage has, every name that is ours. Of a
customer of which only calls, or runs of a part, have told, nobody knows yet what Engage says of the
rest: only what was written from here. Nothing of a trait of which something is held or rejected,
but for what was recorded before and is not delivered yet: that is not held.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from sqlalchemy import Connection, select

from state import holds, snapshot
from state.change_sources import IDENTIFY
from state.db.tables import CHANGE

#: Customers that one statement names.
CHUNK = 500


class Row(Protocol):
    """A row of `customer`."""

    @property
    def customer_id(self) -> str: ...
    @property
    def compared(self) -> int | None: ...


def removable(connection: Connection, rows: Iterable[Row]) -> Mapping[str, frozenset[str]]:
    """Return the names that a write may take away, by customer."""
    held = holds.traits_in_force(connection)
    ours = snapshot.owned(connection) - held
    by_customer: dict[str, frozenset[str]] = {}
    others: list[str] = []
    for row in rows:
        by_customer[row.customer_id] = ours
        if row.compared is None:
            others.append(row.customer_id)
    for ids in _chunks(others):
        written: dict[str, set[str]] = {customer_id: set() for customer_id in ids}
        statement = select(CHANGE.c.customer_id, CHANGE.c.trait).where(
            CHANGE.c.customer_id.in_(ids), CHANGE.c.source.is_distinct_from(IDENTIFY)
        )
        for customer_id, trait in connection.execute(statement.distinct()):
            written[customer_id].add(trait)
        by_customer.update((customer_id, ours & names) for customer_id, names in written.items())
    for ids in _chunks(list(by_customer) if held else []):
        for customer_id, trait in _owed(connection, ids, held):
            by_customer[customer_id] |= {trait}
    return by_customer


def _owed(
    connection: Connection, customer_ids: Sequence[str], held: Collection[str]
) -> set[tuple[str, str]]:
    """Return removals of the `held` traits of these customers that are not delivered yet."""
    statement = select(CHANGE.c.customer_id, CHANGE.c.trait).where(
        CHANGE.c.customer_id.in_(customer_ids),
        CHANGE.c.delivered_at.is_(None),
        CHANGE.c.after.is_(None),
        CHANGE.c.trait.in_(held),
        CHANGE.c.source.is_distinct_from(IDENTIFY),
    )
    owed = {(row.customer_id, row.trait) for row in connection.execute(statement)}
    return owed - holds.in_force(connection, customer_ids).keys()


def _chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), CHUNK):
        yield ids[start : start + CHUNK]
