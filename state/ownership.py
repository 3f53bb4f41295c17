"""Giving a trait back: it is ours no more, and Amberflo has again what it had before us.

That value stands in the history, in the rows of a customer's first contact (their source is
`amberflo`); without such a row nothing was there. A customer's `given_back` has it until the next
write has put it back; acknowledging that write clears it (outbox.acknowledge).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, bindparam, or_, select, update

from state import holds, identify_traits, revisits, snapshot
from state.change_sources import IDENTIFY, MET, RELEASED
from state.db.batches import ROWS
from state.db.tables import CHANGE, CUSTOMER, RUN_TRAIT, TRAIT
from state.history.record import ChangeRow, add_changes
from state.snapshot import CustomerRow, TraitRow


class Released(NamedTuple):
    """The customers that are due because a trait was given back.

    `restored` of them get back what Amberflo had before us.
    """

    customers: int
    restored: int


def release(connection: Connection, trait: TraitRow, now: int) -> Released:
    """Give a trait of ours back, in a transaction that writes alone, while no run is under way.

    Its customers are due afterwards. `now` is in epoch milliseconds.
    """
    _end_holds(connection, trait, now)
    customers = restored = 0
    # Who is not in it any more comes second: what is done by then shows in the history.
    for pages in (_having(connection, trait.trait), _contacted(connection, trait)):
        for rows in pages:
            given = _give_back(connection, trait, rows, now)
            customers += given.customers
            restored += given.restored
    connection.execute(
        update(TRAIT).where(TRAIT.c.key == trait.key).values(released_at=now, members=0)
    )
    return Released(customers, restored)


def _end_holds(connection: Connection, trait: TraitRow, now: int) -> None:
    """End the holds of a trait: there is nothing to decide any more, and no rejection lasts."""
    of_it = [hold for hold in holds.newest(connection) if hold.trait == trait.trait]
    waiting = [hold.id for hold in of_it if hold.decision is None]
    because = "the trait was given back"
    holds.decide(connection, waiting, holds.WITHDRAWN, now, because=because)
    holds.lift(connection, [hold.id for hold in of_it if hold.decision == holds.REJECTED], now)


def _having(connection: Connection, name: str) -> Iterator[Sequence[CustomerRow]]:
    """Yield pages of the customers that have a trait."""
    after = ""
    while rows := snapshot.with_trait(connection, name, after, ROWS):
        yield rows
        after = rows[-1].customer_id


def _contacted(connection: Connection, trait: TraitRow) -> Iterator[Sequence[CustomerRow]]:
    """Yield pages of the customers for whom Amberflo had something under the name of a trait."""
    before_us = select(CHANGE.c.customer_id).where(
        or_(CHANGE.c.key == trait.key, CHANGE.c.key.in_(_earlier_keys(trait))),
        CHANGE.c.trait == trait.trait,
        CHANGE.c.source.in_(MET),
    )
    contacted = CUSTOMER.c.customer_id.in_(before_us)
    after = ""
    while rows := snapshot.page_of(connection, contacted, after, ROWS):
        yield rows
        after = rows[-1].customer_id


def _earlier_keys(trait: TraitRow) -> Any:
    """Select the keys that had the trait's name before: of runs, as only runs look at Amberflo."""
    return select(RUN_TRAIT.c.key).where(RUN_TRAIT.c.trait == trait.trait)


def _give_back(
    connection: Connection, trait: TraitRow, rows: Sequence[CustomerRow], now: int
) -> Released:
    """Take a trait away from customers, and note what Amberflo gets back instead."""
    before_us = _before_us(connection, trait.trait, [row.customer_id for row in rows])
    values: list[dict[str, Any]] = []
    changes: list[ChangeRow] = []
    restored = 0
    for row in rows:
        traits = orjson.loads(row.traits)
        theirs = before_us.get(row.customer_id)
        if trait.trait not in traits and theirs is None:
            continue
        ours = _json(traits.pop(trait.trait, None))
        given_back = orjson.loads(row.given_back or "{}")
        identified = identify_traits.values(row.identify_traits)
        if trait.trait in identified:
            # What identify calls say of a name counts where Engage does not compute it.
            theirs = _json(identified[trait.trait])
        else:
            given_back[trait.trait] = None if theirs is None else orjson.loads(theirs)
        if ours == theirs and trait.trait in identified:
            continue
        restored += theirs is not None
        stamps = orjson.loads(row.event_times or "{}")
        stamps.pop(trait.trait, None)
        values.append(
            {
                "which": row.customer_id,
                "left": orjson.dumps(traits, option=orjson.OPT_SORT_KEYS).decode(),
                "stamped": _object(stamps),
                "gives": _object(given_back),
            }
        )
        changes.append(
            ChangeRow(row.customer_id, trait.key, trait.trait, ours, theirs, now, RELEASED)
        )
    if values:
        connection.execute(
            update(CUSTOMER)
            .where(CUSTOMER.c.customer_id == bindparam("which"))
            .values(
                traits=bindparam("left"),
                event_times=bindparam("stamped"),
                given_back=bindparam("gives"),
                rev=CUSTOMER.c.rev + 1,
                attempts=0,
                due_at=now,
            ),
            values,
        )
        add_changes(connection, changes, None, now)
        revisits.note(connection, [row["which"] for row in values])
    return Released(len(values), restored)


def _before_us(connection: Connection, name: str, customer_ids: Sequence[str]) -> dict[str, str]:
    """Return what Amberflo had (JSON) under a name before it became ours, by customer.

    The first change of a customer since the name became ours (again) says it, if it comes from
    Amberflo. A later one of that kind is of what others wrote over ours.
    """
    rows = connection.execute(
        select(CHANGE.c.customer_id, CHANGE.c.before, CHANGE.c.source)
        .where(
            CHANGE.c.customer_id.in_(customer_ids),
            CHANGE.c.trait == name,
            CHANGE.c.source.is_distinct_from(IDENTIFY),
        )
        .order_by(CHANGE.c.customer_id, CHANGE.c.id)
    )
    first: dict[str, str | None] = {}
    for customer_id, before, source in rows:
        if source == RELEASED:
            first.pop(customer_id, None)
        else:
            first.setdefault(customer_id, before if source in MET else None)
    return {customer_id: before for customer_id, before in first.items() if before is not None}


def _json(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def _object(values: dict[str, Any]) -> str | None:
    return orjson.dumps(values, option=orjson.OPT_SORT_KEYS).decode() if values else None
