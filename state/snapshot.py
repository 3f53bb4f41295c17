"""The snapshot: what Amberflo should hold of ours for each customer, and what is still to send.

All bulk SQL on `customer`, `trait` and `change` is here. Functions take a connection, so
that the caller says what is one transaction. Times are epoch milliseconds.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    case,
    func,
    insert,
    or_,
    select,
    update,
)

from state import seal
from state.tables import CHANGE, CUSTOMER, TRAIT

#: Rows that one statement takes, and a cursor hands over, at a time.
CHUNK = 1000


class CustomerRow(NamedTuple):
    """What a comparison needs of a customer; see `tables.Customer` for the texts."""

    customer_id: str
    traits: str
    name: str | None
    email: str | None
    stamps: str | None


class CustomerState(NamedTuple):
    """The desired state of a customer; see `tables.Customer` for the texts."""

    customer_id: str
    traits: str
    name: str | None
    email: str | None
    called: str | None
    stamps: str | None


class ChangeRow(NamedTuple):
    """One trait's change for the history; `before` and `after` are JSON, None is absent."""

    customer_id: str
    key: str
    trait: str
    before: str | None
    after: str | None
    observed_at: int | None


class DueRow(NamedTuple):
    """A customer to send."""

    customer_id: str
    traits: str
    name: str | None
    email: str | None
    called: str | None
    rev: int
    attempts: int


class TraitRow(NamedTuple):
    """A trait that we own at Amberflo, and how many are in it (or have it)."""

    key: str
    trait: str
    kind: str
    members: int


# Reading


def customers(connection: Connection) -> Generator[CustomerRow]:
    """All customers in UTF-8 byte order of the id, streamed."""
    statement = _select(CustomerRow).order_by(CUSTOMER.c.customer_id)
    with connection.execute(statement, execution_options={"yield_per": CHUNK}) as result:
        for part in result.partitions():
            yield from map(CustomerRow._make, part)


def find(connection: Connection, customer_ids: Collection[str]) -> list[CustomerRow]:
    """Those of the named customers that are known."""
    rows = connection.execute(
        _select(CustomerRow).where(CUSTOMER.c.customer_id.in_(list(customer_ids)))
    )
    return [CustomerRow._make(row) for row in rows]


def states(connection: Connection, customer_ids: Collection[str]) -> list[CustomerState]:
    """The desired states of those of the named customers that are known."""
    ids = list(customer_ids)
    found: list[CustomerState] = []
    for start in range(0, len(ids), CHUNK):
        rows = connection.execute(
            _select(CustomerState).where(CUSTOMER.c.customer_id.in_(ids[start : start + CHUNK]))
        )
        found += [CustomerState._make(row) for row in rows]
    return found


def last_observed(connection: Connection, customer_id: str, key: str) -> int | None:
    """Segment's time of the newest change of a customer's trait."""
    found = connection.execute(
        select(CHANGE.c.observed_at)
        .where(CHANGE.c.customer_id == customer_id, CHANGE.c.key == key)
        .order_by(CHANGE.c.id.desc())
        .limit(1)
    ).scalar()
    return None if found is None else int(found)


def traits(connection: Connection) -> list[TraitRow]:
    """All traits that are ours or once were."""
    rows = connection.execute(
        select(TRAIT.c.key, TRAIT.c.trait, TRAIT.c.kind, TRAIT.c.members).order_by(TRAIT.c.key)
    )
    return [TraitRow._make(row) for row in rows]


def size(connection: Connection) -> int:
    """How many customers are known."""
    return int(connection.execute(select(func.count()).select_from(CUSTOMER)).scalar_one())


# Writing a run's plan


def put_traits(connection: Connection, rows: Iterable[TraitRow]) -> None:
    """Record traits as ours; `members` is added to what is there. A name that is there under
    another key goes over to the new one."""
    known = traits(connection)
    keys, names = {row.key for row in known}, {row.trait for row in known}
    for row in rows:
        if row.key not in keys and row.trait not in names:
            connection.execute(insert(TRAIT), [row._asdict()])
        else:
            same = TRAIT.c.key == row.key if row.key in keys else TRAIT.c.trait == row.trait
            connection.execute(
                update(TRAIT)
                .where(same)
                .values(**{**row._asdict(), "members": TRAIT.c.members + row.members})
            )


def insert_customers(connection: Connection, rows: Sequence[CustomerState], now: int) -> None:
    """New customers, due at once."""
    _many(
        connection,
        insert(CUSTOMER).values(rev=1, acked_rev=0, attempts=0, due_at=now),
        [row._asdict() for row in rows],
    )


def update_customers(connection: Connection, rows: Sequence[CustomerState], now: int) -> None:
    """New desired states of known customers, due at once."""
    due = {"rev": CUSTOMER.c.rev + 1, "attempts": 0, "due_at": now}
    _many(connection, _update_state().values(**due), _state_values(rows))


def note_customers(connection: Connection, rows: Sequence[CustomerState]) -> None:
    """The same, of customers for which nothing is to be sent."""
    _many(connection, _update_state(), _state_values(rows))


def _update_state() -> Any:
    names = CustomerState._fields[1:]
    values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in names}
    return update(CUSTOMER).where(CUSTOMER.c.customer_id == bindparam("which")).values(**values)


def _state_values(rows: Sequence[CustomerState]) -> list[dict[str, Any]]:
    names = CustomerState._fields[1:]
    return [
        {"which": row.customer_id, **{f"new_{name}": getattr(row, name) for name in names}}
        for row in rows
    ]


def add_changes(
    connection: Connection, rows: Sequence[ChangeRow], run: int | None, now: int
) -> None:
    """History of customers just written: the changes belong to their present `rev`."""
    seal.adding(connection)
    revs: dict[str, int] = {}
    ids = sorted({row.customer_id for row in rows})
    for start in range(0, len(ids), CHUNK):
        found = connection.execute(
            select(CUSTOMER.c.customer_id, CUSTOMER.c.rev).where(
                CUSTOMER.c.customer_id.in_(ids[start : start + CHUNK])
            )
        )
        revs.update({row[0]: row[1] for row in found})
    _many(
        connection,
        insert(CHANGE).values(run=run, recorded_at=now),
        [
            {**row._asdict(), "rev": revs[row.customer_id], "salt": salt}
            for row, salt in zip(rows, seal.salts(len(rows)), strict=True)
        ],
    )


# Delivery


def backlog(connection: Connection, until: int | None = None) -> int:
    """Customers with something to send; with `until` only those due by then, also where their next
    attempt is later."""
    statement = select(func.count()).select_from(CUSTOMER).where(_due(until))
    return int(connection.execute(statement).scalar_one())


def oldest_due(connection: Connection, until: int | None = None) -> int | None:
    """When the customer that waits longest became due or is to be tried next."""
    statement = select(func.min(CUSTOMER.c.due_at)).where(_due(until))
    found = connection.execute(statement).scalar()
    return None if found is None else int(found)


def _due(until: int | None) -> ColumnElement[bool]:
    waiting = CUSTOMER.c.due_at.is_not(None)
    if until is None:
        return waiting
    return and_(waiting, or_(CUSTOMER.c.due_at <= until, CUSTOMER.c.attempts > 0))


def due(connection: Connection, now: int, limit: int, until: int | None = None) -> list[DueRow]:
    """Customers to send by now, those that wait longest first."""
    rows = connection.execute(
        _select(DueRow)
        .where(_due(until), CUSTOMER.c.due_at <= now)
        .order_by(CUSTOMER.c.due_at, CUSTOMER.c.customer_id)
        .limit(limit)
    )
    return [DueRow._make(row) for row in rows]


def hasten(connection: Connection, now: int) -> None:
    """Try what waits for a later attempt now."""
    connection.execute(
        update(CUSTOMER).where(CUSTOMER.c.due_at > now).values(due_at=now, attempts=0)
    )


def send_again(
    connection: Connection,
    now: int,
    *,
    key: str | None = None,
    customer_id: str | None = None,
) -> int:
    """Make known customers due though nothing changed: all, those with a change of `key` in their
    history, or one. Gives how many."""
    statement = update(CUSTOMER).values(due_at=now, attempts=0)
    if key is not None:
        statement = statement.where(
            CUSTOMER.c.customer_id.in_(select(CHANGE.c.customer_id).where(CHANGE.c.key == key))
        )
    if customer_id is not None:
        statement = statement.where(CUSTOMER.c.customer_id == customer_id)
    return connection.execute(statement).rowcount


def acknowledge(connection: Connection, acks: Sequence[tuple[str, int, int]]) -> None:
    """Amberflo has taken (customer_id, rev) at a time: mark the customer and its history.

    A customer that was changed since stays due.
    """
    rows = [{"which": one, "acked": rev, "at": at} for one, rev, at in acks]
    connection.execute(
        update(CUSTOMER)
        .where(CUSTOMER.c.customer_id == bindparam("which"))
        .values(
            acked_rev=bindparam("acked"),
            acked_at=bindparam("at"),
            attempts=0,
            due_at=case((CUSTOMER.c.rev == bindparam("acked"), None), else_=CUSTOMER.c.due_at),
        ),
        rows,
    )
    connection.execute(
        update(CHANGE)
        .where(
            CHANGE.c.customer_id == bindparam("which"),
            CHANGE.c.rev <= bindparam("acked"),
            CHANGE.c.delivered_at.is_(None),
        )
        .values(delivered_at=bindparam("at")),
        rows,
    )


def postpone(connection: Connection, later: Sequence[tuple[str, int, int]]) -> None:
    """Try (customer_id, attempts so far, due_at) again at a later time."""
    connection.execute(
        update(CUSTOMER)
        .where(CUSTOMER.c.customer_id == bindparam("which"))
        .values(attempts=bindparam("tried"), due_at=bindparam("at")),
        [{"which": one, "tried": tried, "at": at} for one, tried, at in later],
    )


def park(connection: Connection, refused: Sequence[tuple[str, int]]) -> None:
    """Take (customer_id, rev) off the list: refused for good, until it changes or is retried."""
    connection.execute(
        update(CUSTOMER)
        .where(CUSTOMER.c.customer_id == bindparam("which"), CUSTOMER.c.rev == bindparam("refused"))
        .values(due_at=None, attempts=0),
        [{"which": one, "refused": rev} for one, rev in refused],
    )


def _select(row: type[CustomerRow | CustomerState | DueRow]) -> Select[Any]:
    """The columns of `customer` that a row class names."""
    return select(*(CUSTOMER.c[name] for name in row._fields))


def _many(connection: Connection, statement: Any, rows: list[dict[str, Any]]) -> None:
    for start in range(0, len(rows), CHUNK):
        connection.execute(statement, rows[start : start + CHUNK])
