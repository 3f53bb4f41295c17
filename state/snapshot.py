"""The snapshot: what Amberflo should hold of ours for each customer, and the traits that are ours.

Functions take a connection, so that the caller says what is one transaction. Times are epoch
milliseconds. What of the snapshot is still to send is the outbox (outbox.py).
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson
from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Text,
    bindparam,
    func,
    insert,
    select,
    update,
)

from state import lanes, revisits
from state.db.batches import ROWS, batches, execute_many, insert_rows
from state.db.tables import CUSTOMER, TRAIT

#: Customers that a cursor hands over at a time: they may be large.
PAGE = 200


class CustomerRow(NamedTuple):
    """A customer, as the table `customer` has it; see `models.Customer`.

    To write one, the first six fields are enough: they are its desired state.
    """

    customer_id: str
    traits: str
    name: str | None = None
    email: str | None = None
    identify_traits: str | None = None
    event_times: str | None = None
    rev: int = 0
    acked_rev: int = 0
    acked_at: int | None = None
    due_at: int | None = None
    attempts: int = 0
    run: int | None = None
    claimed_by: int | None = None
    given_back: str | None = None
    line: str = lanes.RUN
    compared: int | None = None

    @property
    def put_off(self) -> bool:
        """Whether Amberflo did not take it while it took others, so that it is tried by itself."""
        return self.line == lanes.PUT_OFF

    @property
    def again(self) -> bool:
        """Whether it is sent though nothing changed since Amberflo acknowledged it."""
        return self.acked_rev == self.rev

    @property
    def only_state(self) -> bool:
        """Whether this is its first state, and no attempt to send it is known.

        So what was sent of it, if a process died while it did, is this.
        """
        return self.rev == 1 and not self.acked_rev and not self.attempts


#: The fields of a customer's desired state, less its id.
_STATE = CustomerRow._fields[1:6]
#: The columns of a customer that is new, in the order in which they are written.
_INSERTED = (
    *("customer_id", *_STATE, "compared"),
    *("rev", "acked_rev", "attempts", "due_at", "run", "line"),
)
#: All columns of a customer.
CUSTOMER_COLUMNS = [CUSTOMER.c[name] for name in CustomerRow._fields]

#: What a comparison reads of a customer: customer_id, traits, name, email, event_times, rev,
#: compared. A plain tuple of these and no CustomerRow: a full comparison reads every customer, and
#: each column more costs it time.
Known = tuple[str, str, str | None, str | None, str | None, int, int | None]
_KNOWN = select(
    *(CUSTOMER.c.customer_id, CUSTOMER.c.traits, CUSTOMER.c.name, CUSTOMER.c.email),
    *(CUSTOMER.c.event_times, CUSTOMER.c.rev, CUSTOMER.c.compared),
)

_CUSTOMERS = select(*CUSTOMER_COLUMNS)
#: Made once: a statement with a list in it refers to itself, so the list would stay in memory until
#: garbage is collected.
_NAMED = CUSTOMER.c.customer_id.in_(bindparam("ids", expanding=True))
_FIND, _FIND_KNOWN = _CUSTOMERS.where(_NAMED), _KNOWN.where(_NAMED)


class TraitRow(NamedTuple):
    """A trait that we own at Amberflo.

    `members` are in it, or have it. `name`, `status` and `size` are what Segment's Public API said
    of it last (`describe_traits`). A trait that was given back at `released_at` is ours no more
    (ownership.py).
    """

    key: str
    trait: str
    kind: str
    members: int
    name: str | None = None
    status: str | None = None
    size: int | None = None
    released_at: int | None = None


_TRAITS = select(*(TRAIT.c[name] for name in TraitRow._fields))


# Reading customers


def customers(connection: Connection) -> Generator[Known]:
    """Stream what a comparison reads of all customers, in UTF-8 byte order of the id."""
    statement = _KNOWN.order_by(CUSTOMER.c.customer_id)
    with connection.execute(statement, execution_options={"yield_per": PAGE}) as result:
        for page in result.partitions():
            yield from map(tuple, page)


def known(connection: Connection, customer_ids: Collection[str]) -> list[Known]:
    """Return what a comparison reads of those of the named customers that are there."""
    return [
        tuple(row)
        for ids in batches(customer_ids, ROWS)
        for row in connection.execute(_FIND_KNOWN, {"ids": ids}).all()
    ]


def find(connection: Connection, customer_ids: Collection[str]) -> list[CustomerRow]:
    """Return those of the named customers that are there."""
    return [
        CustomerRow._make(row)
        for ids in batches(customer_ids, ROWS)
        for row in connection.execute(_FIND, {"ids": ids}).all()
    ]


def get(connection: Connection, customer_id: str) -> CustomerRow | None:
    """Return a customer, or None where there is no such one."""
    return next(iter(find(connection, [customer_id])), None)


def with_prefix(
    connection: Connection, prefix: str, *, after: str | None = None, limit: int = 50
) -> list[CustomerRow]:
    """Return customers whose id begins with `prefix`, in UTF-8 byte order of the id.

    The next page is the one after the last id of this one.
    """
    if "\0" in prefix:
        return []  # no id has one, and PostgreSQL does not take it
    statement = _CUSTOMERS
    if after is None or after.encode() < prefix.encode():
        statement = statement.where(CUSTOMER.c.customer_id >= prefix)
    else:
        statement = statement.where(CUSTOMER.c.customer_id > after)
    end = _end_of(prefix)
    if end is not None:
        statement = statement.where(CUSTOMER.c.customer_id < end)
    rows = connection.execute(statement.order_by(CUSTOMER.c.customer_id).limit(limit))
    return [CustomerRow._make(row) for row in rows]


def _end_of(prefix: str) -> str | None:
    """Return the first text behind all that begin with `prefix`; None where there is none."""
    while prefix:
        prefix, last = prefix[:-1], ord(prefix[-1])
        if last < 0x10FFFF:
            # Surrogates are no text: behind U+D7FF comes U+E000.
            return prefix + chr(0xE000 if last == 0xD7FF else last + 1)
    return None


def with_trait(connection: Connection, trait: str, after: str, limit: int) -> list[CustomerRow]:
    """Return the customers that have a trait of Engage with this name at Amberflo.

    They are in UTF-8 byte order of the id, those after the id `after`.
    """
    # Names have no character that JSON escapes.
    has_trait = CUSTOMER.c.traits.contains(f'"{trait}":', autoescape=True)
    return _page(connection, _CUSTOMERS.where(has_trait), after, limit)


def with_identify_trait(
    connection: Connection, trait: str, after: str, limit: int
) -> list[CustomerRow]:
    """Return the customers for whom identify calls named this trait.

    They are in UTF-8 byte order of the id, those after the id `after`.
    """
    name = orjson.dumps(trait).decode()
    has_trait = CUSTOMER.c.identify_traits.contains(f"{name}:[", autoescape=True)
    return _page(connection, _CUSTOMERS.where(has_trait), after, limit)


def page_of(
    connection: Connection, condition: ColumnElement[bool], after: str, limit: int
) -> list[CustomerRow]:
    """Return the customers that meet a condition.

    They are in UTF-8 byte order of the id, those after the id `after`.
    """
    return _page(connection, _CUSTOMERS.where(condition), after, limit)


def _page(
    connection: Connection, statement: Select[Any], after: str, limit: int
) -> list[CustomerRow]:
    rows = connection.execute(
        statement.where(CUSTOMER.c.customer_id > after)
        .order_by(CUSTOMER.c.customer_id)
        .limit(limit)
    )
    return [CustomerRow._make(row) for row in rows]


def size(connection: Connection) -> int:
    """Count the customers."""
    return int(connection.execute(select(func.count()).select_from(CUSTOMER)).scalar_one())


# Writing customers


def insert_customers(
    connection: Connection,
    rows: Sequence[CustomerRow],
    now: int,
    run: int | None = None,
    *,
    waits_in: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Insert the desired states of new customers, due at once.

    The run `run` waits for them to be delivered; `compared` of a row is written, too. `waits_in`
    has the lanes (lanes.py), by customer, of those that no run made due. What no run writes, the
    next one looks at (revisits.py); a run itself knows whether it left something open.
    """
    if run is None:
        revisits.note(connection, (row.customer_id for row in rows))
    insert_rows(
        connection,
        CUSTOMER,
        _INSERTED,
        (
            (*row[:6], row.compared, 1, 0, 0, now, run, waits_in.get(row.customer_id, lanes.RUN))
            for row in rows
        ),
    )


def update_customers(
    connection: Connection,
    rows: Sequence[CustomerRow],
    now: int,
    run: int | None = None,
    *,
    waits_in: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write new desired states of known customers, due at once; as `insert_customers`."""
    if run is None:
        revisits.note(connection, (row.customer_id for row in rows))
    due: dict[str, Any] = {"rev": CUSTOMER.c.rev + 1, "attempts": 0, "due_at": now}
    if run is not None:
        due["run"] = run
    line = lanes.earlier(CUSTOMER.c.line, CUSTOMER.c.due_at, bindparam("new_line", type_=Text))
    states = [
        {**state, "new_line": waits_in.get(state["which"], lanes.RUN)}
        for state in _state_values(rows)
    ]
    execute_many(connection, _update_state().values(**due, line=line), states)


def touch_customers(connection: Connection, rows: Sequence[CustomerRow]) -> None:
    """Write new desired states of known customers for which nothing has to be sent.

    Only the times of calls differ, which said what was known: the next run need not look at them.
    """
    execute_many(connection, _update_state(), _state_values(rows))


def _update_state() -> Any:
    values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in _STATE}
    return update(CUSTOMER).where(CUSTOMER.c.customer_id == bindparam("which")).values(**values)


def _state_values(rows: Sequence[CustomerRow]) -> list[dict[str, Any]]:
    return [
        {"which": row.customer_id, **{f"new_{name}": getattr(row, name) for name in _STATE}}
        for row in rows
    ]


def mark_compared(connection: Connection, customer_ids: Sequence[str], run: int) -> None:
    """Note that a run which compared everything pulled these customers, where it is the first."""
    for ids in batches(customer_ids, ROWS):
        these = CUSTOMER.c.customer_id.in_(ids)
        connection.execute(
            update(CUSTOMER).where(these, CUSTOMER.c.compared.is_(None)).values(compared=run)
        )


# Traits


def traits(
    connection: Connection,
    *,
    released: bool = False,
    after: str | None = None,
    limit: int | None = None,
) -> list[TraitRow]:
    """Return all traits that are ours, also those that the source lost, or a page of them.

    The page is after the key `after`. With `released` also those that were given back, for
    questions about the past.
    """
    statement = _TRAITS.order_by(TRAIT.c.key).limit(limit)
    if not released:
        statement = statement.where(TRAIT.c.released_at.is_(None))
    if after is not None:
        statement = statement.where(TRAIT.c.key > after)
    return [TraitRow._make(row) for row in connection.execute(statement)]


def trait(connection: Connection, key: str) -> TraitRow | None:
    """Return a trait by its key, also one that was given back."""
    row = connection.execute(_TRAITS.where(TRAIT.c.key == key)).first()
    return None if row is None else TraitRow._make(row)


def owned(connection: Connection) -> frozenset[str]:
    """Return the names at Amberflo that are ours: not those that were given back."""
    names = select(TRAIT.c.trait).where(TRAIT.c.released_at.is_(None))
    return frozenset(connection.execute(names).scalars())


def released(connection: Connection) -> set[str]:
    """Return the keys, and the names at Amberflo, of the traits that were given back."""
    given_back = TRAIT.c.released_at.is_not(None)
    rows = connection.execute(select(TRAIT.c.key, TRAIT.c.trait).where(given_back))
    return {text for row in rows for text in row}


def put_traits(connection: Connection, rows: Iterable[TraitRow]) -> None:
    """Record traits as ours, and add `members` to the members on record.

    A name that another key has goes over to the new key; a name that was given back is ours again.
    """
    on_record = traits(connection, released=True)
    keys, names = {row.key for row in on_record}, {row.trait for row in on_record}
    given_back = {row.trait for row in on_record if row.released_at is not None}
    for row in rows:
        values = {"key": row.key, "trait": row.trait, "kind": row.kind, "released_at": None}
        if row.trait in given_back:
            _keep_for_us(connection, row.trait)
        if row.key not in keys and row.trait not in names:
            connection.execute(insert(TRAIT).values(**values, members=row.members))
        else:
            same = TRAIT.c.key == row.key if row.key in keys else TRAIT.c.trait == row.trait
            members = TRAIT.c.members + row.members
            connection.execute(update(TRAIT).where(same).values(**values, members=members))


def _keep_for_us(connection: Connection, trait: str) -> None:
    """Drop from `given_back` the values of a trait that is ours again and was not sent yet."""
    statement = select(CUSTOMER.c.customer_id, CUSTOMER.c.given_back).where(
        CUSTOMER.c.given_back.contains(f'"{trait}":', autoescape=True)
    )
    rows = []
    for customer_id, text in connection.execute(statement).all():
        others = {name: value for name, value in orjson.loads(text).items() if name != trait}
        rows.append(
            {"which": customer_id, "others": orjson.dumps(others).decode() if others else None}
        )
    execute_many(
        connection,
        update(CUSTOMER)
        .where(CUSTOMER.c.customer_id == bindparam("which"))
        .values(given_back=bindparam("others")),
        rows,
    )


def describe_traits(connection: Connection, rows: Iterable[TraitRow]) -> None:
    """Write down what the Public API says of traits that are ours: name, status and size."""
    for row in rows:
        connection.execute(
            update(TRAIT)
            .where(TRAIT.c.key == row.key)
            .values(name=row.name, status=row.status, size=row.size)
        )
