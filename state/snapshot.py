"""The snapshot: what Amberflo should hold of ours for each customer, and what is still to send.

All bulk SQL on `customer`, `trait` and `change` is here. Functions take a connection, so
that the caller says what is one transaction. Times are epoch milliseconds.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson
from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Text,
    and_,
    bindparam,
    case,
    func,
    insert,
    or_,
    select,
    update,
)

from state import identify_traits, lanes
from state.db.tables import CHANGE, CUSTOMER, RELEASED, TRAIT
from state.due import come_due
from state.history import seal

#: Rows that one statement takes at a time, and customers that a cursor hands over: these may be
#: large.
CHUNK, PAGE = 1000, 200


class CustomerRow(NamedTuple):
    """What a comparison needs of a customer; see `tables.Customer` for the texts."""

    customer_id: str
    traits: str
    name: str | None
    email: str | None
    stamps: str | None
    rev: int
    compared: int | None


class CustomerState(NamedTuple):
    """The desired state of a customer; see `tables.Customer` for the texts."""

    customer_id: str
    traits: str
    name: str | None
    email: str | None
    called: str | None
    stamps: str | None


class ChangeRow(NamedTuple):
    """One trait's change for the history; `before` and `after` are JSON, None is absent. `source`
    is as in `tables.SOURCES`; `step` follows from `before` and `after` where it is None; `via` is
    the short name of the key that a call came by."""

    customer_id: str
    key: str
    trait: str
    before: str | None
    after: str | None
    observed_at: int | None
    source: str | None = None
    step: int | None = None
    via: str | None = None


class HolderRow(NamedTuple):
    """A customer that has a trait, and how far Amberflo was told of it."""

    customer_id: str
    traits: str
    rev: int
    acked_rev: int
    acked_at: int | None


class DueRow(NamedTuple):
    """A customer to send."""

    customer_id: str
    traits: str
    name: str | None
    email: str | None
    called: str | None
    rev: int
    attempts: int
    run: int | None
    given_back: str | None = None
    compared: int | None = None
    line: str = lanes.RUN
    acked_rev: int = 0

    @property
    def put_off(self) -> bool:
        """Whether it was put off, and is tried again."""
        return self.line == lanes.PUT_OFF

    @property
    def again(self) -> bool:
        """Whether it is to be sent though nothing changed since Amberflo acknowledged it."""
        return self.acked_rev == self.rev


class HeldRow(NamedTuple):
    """What Amberflo should hold of a customer, and how far it was told: all that a change or a
    delivery moves."""

    customer_id: str
    traits: str
    name: str | None
    email: str | None
    called: str | None
    rev: int
    acked_rev: int
    acked_at: int | None
    due_at: int | None
    given_back: str | None = None
    compared: int | None = None


class TraitRow(NamedTuple):
    """A trait that we own at Amberflo, and how many are in it (or have it); and what Segment's
    Public API said of it last, which `describe_traits` writes. One that was given back at
    `released_at` is ours no more (ownership.py)."""

    key: str
    trait: str
    kind: str
    members: int
    name: str | None = None
    status: str | None = None
    size: int | None = None
    released_at: int | None = None


# Reading


def customers(connection: Connection) -> Generator[CustomerRow]:
    """All customers in UTF-8 byte order of the id, streamed."""
    statement = _select(CustomerRow).order_by(CUSTOMER.c.customer_id)
    with connection.execute(statement, execution_options={"yield_per": PAGE}) as result:
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


def holders(connection: Connection, trait: str, after: str, limit: int) -> list[HolderRow]:
    """The customers that have a trait of this name, in UTF-8 byte order of the id, those after
    `after`."""
    columns = [CUSTOMER.c[name] for name in HolderRow._fields]
    rows = connection.execute(
        select(*columns)
        .where(CUSTOMER.c.customer_id > after)
        .where(CUSTOMER.c.traits.contains(f'"{trait}":', autoescape=True))
        .order_by(CUSTOMER.c.customer_id)
        .limit(limit)
    )
    return [HolderRow._make(row) for row in rows]


def told(connection: Connection, trait: str, after: str, limit: int) -> list[CustomerState]:
    """The customers of which identify calls said something under this name, in UTF-8 byte order of
    the id, those after `after`."""
    name = orjson.dumps(trait).decode()
    rows = connection.execute(
        _select(CustomerState)
        .where(CUSTOMER.c.customer_id > after)
        .where(CUSTOMER.c.called.contains(f"{name}:[", autoescape=True))
        .order_by(CUSTOMER.c.customer_id)
        .limit(limit)
    )
    return [CustomerState._make(row) for row in rows]


def last_pulled(connection: Connection, customer_id: str, key: str) -> int | None:
    """Segment's time of the row that told the newest change of a customer's key; None where that
    was no row: a call, or a run that found the row gone or dated in the future."""
    found = connection.execute(
        select(CHANGE.c.run, CHANGE.c.observed_at, CHANGE.c.recorded_at)
        .where(CHANGE.c.customer_id == customer_id, CHANGE.c.key == key)
        .order_by(CHANGE.c.id.desc())
        .limit(1)
    ).first()
    if found is None or found.run is None or found.observed_at is None:
        return None
    return int(found.observed_at) if found.observed_at < found.recorded_at else None


def traits(
    connection: Connection,
    *,
    released: bool = False,
    after: str | None = None,
    limit: int | None = None,
) -> list[TraitRow]:
    """All traits that are ours, also those that the source lost, or a page of them after a key;
    with `released` those too that were given back, for who asks for the past."""
    statement = select(*_TRAIT).order_by(TRAIT.c.key).limit(limit)
    if not released:
        statement = statement.where(TRAIT.c.released_at.is_(None))
    if after is not None:
        statement = statement.where(TRAIT.c.key > after)
    return [TraitRow._make(row) for row in connection.execute(statement)]


def trait(connection: Connection, key: str) -> TraitRow | None:
    """A trait by its key, also one that was given back."""
    found = connection.execute(select(*_TRAIT).where(TRAIT.c.key == key)).first()
    return None if found is None else TraitRow._make(found)


def owned(connection: Connection) -> frozenset[str]:
    """The names at Amberflo that are ours: not those that were given back."""
    names = select(TRAIT.c.trait).where(TRAIT.c.released_at.is_(None))
    return frozenset(connection.execute(names).scalars())


_TRAIT = [TRAIT.c[name] for name in TraitRow._fields]


def released(connection: Connection) -> set[str]:
    """The keys, and the names at Amberflo, of traits that were given back: they are not ours."""
    given_back = TRAIT.c.released_at.is_not(None)
    rows = connection.execute(select(TRAIT.c.key, TRAIT.c.trait).where(given_back))
    return {text for row in rows for text in row}


def size(connection: Connection) -> int:
    """How many customers are known."""
    return int(connection.execute(select(func.count()).select_from(CUSTOMER)).scalar_one())


def sent_count(connection: Connection) -> int:
    """How many customers Amberflo has acknowledged at least once."""
    statement = select(func.count()).select_from(CUSTOMER).where(CUSTOMER.c.acked_rev > 0)
    return int(connection.execute(statement).scalar_one())


def last_acknowledged(connection: Connection) -> int | None:
    """When Amberflo acknowledged a customer last."""
    found = connection.execute(select(func.max(CUSTOMER.c.acked_at))).scalar()
    return None if found is None else int(found)


def newest_acknowledged(connection: Connection, limit: int) -> list[str]:
    """The customers that Amberflo acknowledged last."""
    rows = connection.execute(
        select(CUSTOMER.c.customer_id)
        .where(CUSTOMER.c.acked_rev > 0)
        .order_by(CUSTOMER.c.acked_at.desc(), CUSTOMER.c.customer_id)
        .limit(limit)
    )
    return [str(row[0]) for row in rows]


def sent(connection: Connection, after: str, limit: int) -> list[str]:
    """The next ones of these in UTF-8 byte order of the id. Page by page and not one stream: to
    look at each may take hours, too long for a transaction."""
    rows = connection.execute(
        select(CUSTOMER.c.customer_id)
        .where(CUSTOMER.c.acked_rev > 0, CUSTOMER.c.customer_id > after)
        .order_by(CUSTOMER.c.customer_id)
        .limit(limit)
    )
    return [str(row[0]) for row in rows.all()]


def held(connection: Connection, customer_ids: Collection[str]) -> list[HeldRow]:
    """What Amberflo should hold of those of the named customers that are known."""
    ids = list(customer_ids)
    found: list[HeldRow] = []
    for start in range(0, len(ids), CHUNK):
        rows = connection.execute(_HELD, {"ids": ids[start : start + CHUNK]})
        found += map(HeldRow._make, rows.all())
    return found


#: Statements that are made once: one refers to itself, so its ids would stay with it until garbage
#: is collected.
_NAMED = CUSTOMER.c.customer_id.in_(bindparam("ids", expanding=True))
_HELD = select(*(CUSTOMER.c[name] for name in HeldRow._fields)).where(_NAMED)


# Writing a run's plan


def put_traits(connection: Connection, rows: Iterable[TraitRow]) -> None:
    """Record traits as ours; `members` is added to what is there. A name that is there under
    another key goes over to the new one; one that was given back is ours again."""
    known = traits(connection, released=True)
    keys, names = {row.key for row in known}, {row.trait for row in known}
    released = {row.trait for row in known if row.released_at is not None}
    for row in rows:
        values = {"key": row.key, "trait": row.trait, "kind": row.kind, "released_at": None}
        if row.trait in released:
            _give_back_no_more(connection, row.trait)
        if row.key not in keys and row.trait not in names:
            connection.execute(insert(TRAIT).values(**values, members=row.members))
        else:
            same = TRAIT.c.key == row.key if row.key in keys else TRAIT.c.trait == row.trait
            members = TRAIT.c.members + row.members
            connection.execute(update(TRAIT).where(same).values(**values, members=members))


def _give_back_no_more(connection: Connection, trait: str) -> None:
    """What of a trait was not given back yet stays: it is ours again."""
    statement = select(CUSTOMER.c.customer_id, CUSTOMER.c.given_back).where(
        CUSTOMER.c.given_back.contains(f'"{trait}":', autoescape=True)
    )
    rows = []
    for customer_id, text in connection.execute(statement).all():
        left = {name: value for name, value in orjson.loads(text).items() if name != trait}
        rows.append({"which": customer_id, "left": orjson.dumps(left).decode() if left else None})
    this = CUSTOMER.c.customer_id == bindparam("which")
    _many(connection, update(CUSTOMER).where(this).values(given_back=bindparam("left")), rows)


def describe_traits(connection: Connection, rows: Iterable[TraitRow]) -> None:
    """Write down what the Public API says of traits that are ours: name, status and size."""
    for row in rows:
        connection.execute(
            update(TRAIT)
            .where(TRAIT.c.key == row.key)
            .values(name=row.name, status=row.status, size=row.size)
        )


def insert_customers(
    connection: Connection,
    rows: Sequence[CustomerState],
    now: int,
    run: int | None = None,
    *,
    waits_in: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """New customers, due at once; a run that found them waits for them. `waits_in` has the lines
    (lines.py) of those that are not due by a run."""
    _many(
        connection,
        insert(CUSTOMER).values(rev=1, acked_rev=0, attempts=0, due_at=now, run=run),
        [{**row._asdict(), "line": waits_in.get(row.customer_id, lanes.RUN)} for row in rows],
    )


def update_customers(
    connection: Connection,
    rows: Sequence[CustomerState],
    now: int,
    run: int | None = None,
    *,
    waits_in: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """New desired states of known customers, due at once; as `insert_customers`."""
    due: dict[str, Any] = {"rev": CUSTOMER.c.rev + 1, "attempts": 0, "due_at": now}
    if run is not None:
        due["run"] = run
    line = lanes.earlier(CUSTOMER.c.line, CUSTOMER.c.due_at, bindparam("new_line", type_=Text))
    values = [
        {**one, "new_line": waits_in.get(one["which"], lanes.RUN)} for one in _state_values(rows)
    ]
    _many(connection, _update_state().values(**due, line=line), values)


def mark_compared(connection: Connection, customer_ids: Sequence[str], run: int) -> None:
    """A run that compared everything pulled these for the first time."""
    for start in range(0, len(customer_ids), CHUNK):
        these = CUSTOMER.c.customer_id.in_(customer_ids[start : start + CHUNK])
        connection.execute(
            update(CUSTOMER).where(these, CUSTOMER.c.compared.is_(None)).values(compared=run)
        )


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
    connection: Connection,
    rows: Sequence[ChangeRow],
    run: int | None,
    now: int,
    *,
    delivered_at: Mapping[str, int | None] = MappingProxyType({}),
) -> None:
    """History of customers just written: the changes belong to their present `rev`. Who adds them
    writes alone: a seal (seal.py) must see them in the order of their ids. `delivered_at` is of
    customers whose changes Amberflo has already."""
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
            {
                **row._asdict(),
                "rev": revs[row.customer_id],
                "step": step(row.before, row.after, row.source) if row.step is None else row.step,
                "delivered_at": delivered_at.get(row.customer_id),
                "salt": salt,
            }
            for row, salt in zip(rows, seal.salts(len(rows)), strict=True)
        ],
    )


def step(before: str | None, after: str | None, source: str | None = None) -> int:
    """1 where a change enters an audience, -1 where it leaves one, else 0. What is given back is
    nobody's membership any more, whatever others had there."""
    return (after == "true" and source != RELEASED) - (before == "true")


# Delivery


def backlog(connection: Connection, run: int | None = None) -> int:
    """Customers with something to send: all, or those that a run waits for."""
    statement = select(func.count()).select_from(CUSTOMER).where(_due(run))
    return int(connection.execute(statement).scalar_one())


def backlog_by_key(connection: Connection) -> dict[str, int]:
    """Customers that calls made due and that wait, by the short name of the key."""
    rows = connection.execute(
        select(CUSTOMER.c.line, func.count()).where(_DUE).group_by(CUSTOMER.c.line)
    )
    found: dict[str, int] = {}
    for line, count in rows:
        if key := lanes.key_of(line):
            found[key] = found.get(key, 0) + int(count)
    return found


def oldest_due(connection: Connection, run: int | None = None) -> int | None:
    """When the customer that waits longest became due or is to be tried next, less those that were
    put off."""
    return _oldest_due(connection, _due(run))


def _oldest_due(connection: Connection, which: ColumnElement[bool]) -> int | None:
    """The oldest of some of those that are due: by the line, each in the order of the index."""
    found = [
        connection.execute(
            select(func.min(CUSTOMER.c.due_at)).where(_DUE, CUSTOMER.c.line == line, which)
        ).scalar()
        for line in lanes.present(connection, CUSTOMER.c.line, _DUE, _NOT_PUT_OFF)
    ]
    return min((int(one) for one in found if one is not None), default=None)


def waits_since(connection: Connection) -> int | None:
    """Since when the customer waits that waits longest, less those that were put off: where it was
    tried before, since its oldest change that is not delivered."""
    tried = connection.execute(
        select(func.min(CHANGE.c.recorded_at))
        .select_from(CUSTOMER)
        .join(CHANGE, CHANGE.c.customer_id == CUSTOMER.c.customer_id)
        .where(_DUE, _NOT_PUT_OFF, CUSTOMER.c.attempts > 0, CHANGE.c.delivered_at.is_(None))
    ).scalar()
    fresh = _oldest_due(connection, CUSTOMER.c.attempts == 0)
    return min((int(one) for one in (tried, fresh) if one is not None), default=None)


_DUE = CUSTOMER.c.due_at.is_not(None)
_NOT_PUT_OFF = CUSTOMER.c.line != lanes.PUT_OFF


def _due(run: int | None) -> ColumnElement[bool]:
    return _DUE if run is None else and_(_DUE, CUSTOMER.c.run == run)


def any_due(connection: Connection, now: int) -> bool:
    """Whether a customer is to be sent by now, be it in work."""
    return any(
        connection.execute(
            select(CUSTOMER.c.customer_id).where(_DUE, CUSTOMER.c.line == line, by_now).limit(1)
        ).first()
        for line in lanes.present(connection, CUSTOMER.c.line, _DUE)
        for by_now in come_due(CUSTOMER.c.due_at, now)
    )


def claim(
    connection: Connection, worker: int, now: int, limit: int, run: int | None = None
) -> list[DueRow]:
    """Take customers to send by now that nobody else has in work: of each line (lines.py) its part,
    those that wait longest first. A `run` has those that it waits for, and what was put off."""
    first, rest = lanes.of_customers(lanes.present(connection, CUSTOMER.c.line, _DUE))
    for by_now in come_due(CUSTOMER.c.due_at, now):
        take = partial(_claim, connection, worker, by_now, run)
        if rows := lanes.shared(first, rest, limit, take):
            return rows
    return []


def _claim(
    connection: Connection,
    worker: int,
    by_now: ColumnElement[bool],
    run: int | None,
    line: str,
    limit: int,
) -> list[DueRow]:
    which = _DUE if line == lanes.PUT_OFF else _due(run)
    following = (
        select(CUSTOMER.c.customer_id)
        .where(CUSTOMER.c.line == line, which, by_now, CUSTOMER.c.claimed_by.is_(None))
        .order_by(CUSTOMER.c.due_at, CUSTOMER.c.customer_id)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("following")
    )
    rows = connection.execute(
        update(CUSTOMER)
        .where(CUSTOMER.c.customer_id.in_(select(following.c.customer_id)))
        .values(claimed_by=worker)
        .returning(CUSTOMER.c.due_at, *(CUSTOMER.c[name] for name in DueRow._fields))
    )
    return [DueRow._make(row[1:]) for row in sorted(rows, key=lambda row: row[:2])]


def claim_acknowledged(connection: Connection, worker: int, now: int, limit: int) -> list[DueRow]:
    """Take customers that Amberflo has as they are to be, those that it acknowledged last first, to
    send them once more: whether it takes them says whether it takes anybody. They are due until
    then, so that a worker that dies leaves them to others."""
    newest = (
        select(CUSTOMER.c.customer_id)
        .where(CUSTOMER.c.due_at.is_(None), CUSTOMER.c.acked_rev == CUSTOMER.c.rev)
        .where(CUSTOMER.c.claimed_by.is_(None))
        .order_by(CUSTOMER.c.acked_at.desc(), CUSTOMER.c.customer_id)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("newest")
    )
    rows = connection.execute(
        update(CUSTOMER)
        .where(CUSTOMER.c.customer_id.in_(select(newest.c.customer_id)))
        .values(claimed_by=worker, due_at=now)
        .returning(*(CUSTOMER.c[name] for name in DueRow._fields))
    )
    return [DueRow._make(row) for row in rows]


def give_back(connection: Connection, customer_ids: Collection[str]) -> None:
    """Let others have customers that were claimed and not begun."""
    connection.execute(
        update(CUSTOMER)
        .where(CUSTOMER.c.customer_id == bindparam("which"))
        .values(claimed_by=None),
        [{"which": one} for one in customer_ids],
    )


def take_over(connection: Connection, run: int, now: int) -> int:
    """Let a run wait for all that is due, and try it at once; gives how many that are. What was put
    off is tried, too, but no run waits for it."""
    connection.execute(
        update(CUSTOMER).where(CUSTOMER.c.due_at > now, _NOT_PUT_OFF).values(due_at=now, attempts=0)
    )
    connection.execute(
        update(CUSTOMER)
        .where(CUSTOMER.c.due_at > now, CUSTOMER.c.line == lanes.PUT_OFF)
        .values(due_at=now)
    )
    connection.execute(
        update(CUSTOMER)
        .where(_DUE, _NOT_PUT_OFF, CUSTOMER.c.run.is_distinct_from(run))
        .values(run=run)
    )
    return backlog(connection, run)


def send_again(
    connection: Connection,
    now: int,
    *,
    key: str | None = None,
    customer_ids: Collection[str] | None = None,
    run: int | None = None,
) -> int:
    """Make known customers due though nothing changed: all, those with a change of `key` in their
    history, or the named ones; a run may wait for them. Gives how many."""
    statement = update(CUSTOMER).values(due_at=now, attempts=0, run=run, line=_line_of_a_run())
    if key is not None:
        statement = statement.where(
            CUSTOMER.c.customer_id.in_(select(CHANGE.c.customer_id).where(CHANGE.c.key == key))
        )
    if customer_ids is None:
        return connection.execute(statement).rowcount
    ids = list(customer_ids)
    return sum(
        connection.execute(
            statement.where(CUSTOMER.c.customer_id.in_(ids[start : start + CHUNK]))
        ).rowcount
        for start in range(0, len(ids), CHUNK)
    )


def unacknowledge(connection: Connection, now: int) -> None:
    """Make all customers due as if Amberflo had never had one. Their `rev` goes up, so that what is
    acknowledged yet of an earlier delivery leaves them due."""
    connection.execute(
        update(CUSTOMER).values(
            rev=CUSTOMER.c.rev + 1,
            acked_rev=0,
            acked_at=None,
            due_at=now,
            attempts=0,
            line=_line_of_a_run(),
        )
    )


def _line_of_a_run() -> Any:
    return lanes.earlier(CUSTOMER.c.line, CUSTOMER.c.due_at, lanes.RUN)


def acknowledge(connection: Connection, sent: Sequence[DueRow], at: int) -> dict[int, int]:
    """Amberflo has taken these, as they were claimed: mark the customers and their history. Gives
    how many runs wait for one customer less, by run.

    A customer that was changed since stays due; the run that waited for it when it was claimed
    does not wait for that. What was given back is not given twice.
    """
    finished = _finished(connection, sent)
    rows = _claimed(sent, at)
    connection.execute(
        update(CUSTOMER)
        .where(CUSTOMER.c.customer_id == bindparam("which"))
        .values(
            acked_rev=bindparam("was"),
            acked_at=bindparam("at"),
            attempts=0,
            run=case((_waits_no_more(), None), else_=CUSTOMER.c.run),
            claimed_by=None,
            **_due_no_more(),
            given_back=case(
                (CUSTOMER.c.given_back == bindparam("gave"), None), else_=CUSTOMER.c.given_back
            ),
        ),
        rows,
    )
    _said_and_sent(connection, sent)
    connection.execute(
        update(CHANGE)
        .where(
            CHANGE.c.customer_id == bindparam("which"),
            CHANGE.c.rev <= bindparam("was"),
            CHANGE.c.delivered_at.is_(None),
        )
        .values(delivered_at=bindparam("at")),
        rows,
    )
    return finished


def _said_and_sent(connection: Connection, sent: Sequence[DueRow]) -> None:
    """Note that Amberflo has what identify calls said, where they have said nothing since."""
    left = [(row, identify_traits.acknowledged(row.called)) for row in sent if row.called]
    _many(
        connection,
        update(CUSTOMER)
        .where(CUSTOMER.c.customer_id == bindparam("which"))
        .where(CUSTOMER.c.called == bindparam("said"))
        .values(called=bindparam("left")),
        [
            {"which": row.customer_id, "said": row.called, "left": text}
            for row, text in left
            if text != row.called
        ],
    )


def park(connection: Connection, refused: Sequence[DueRow]) -> dict[int, int]:
    """Take these off the list: refused for good, until they change or are retried. Gives the same
    as `acknowledge`."""
    finished = _finished(connection, refused)
    connection.execute(
        update(CUSTOMER)
        .where(CUSTOMER.c.customer_id == bindparam("which"))
        .values(
            run=case((_waits_no_more(), None), else_=CUSTOMER.c.run),
            claimed_by=None,
            attempts=0,
            **_due_no_more(),
        ),
        _claimed(refused, 0),
    )
    return finished


def put_off(connection: Connection, failed: Sequence[tuple[DueRow, int]]) -> dict[int, int]:
    """Try these again at a later time (due_at), by themselves: no run waits for them any more.
    Who changed since it was claimed is tried as ever. Gives the same as `acknowledge`."""
    rows = [row for row, _ in failed]
    finished = _finished(connection, rows)
    same = CUSTOMER.c.rev == bindparam("was")
    connection.execute(
        update(CUSTOMER)
        .where(CUSTOMER.c.customer_id == bindparam("which"))
        .values(
            run=case((_waits_no_more(), None), else_=CUSTOMER.c.run),
            claimed_by=None,
            attempts=CUSTOMER.c.attempts + 1,
            due_at=case((same, bindparam("again_at")), else_=CUSTOMER.c.due_at),
            line=case((same, lanes.PUT_OFF), else_=CUSTOMER.c.line),
        ),
        [
            {**values, "again_at": due_at}
            for values, (_, due_at) in zip(_claimed(rows, 0), failed, strict=True)
        ],
    )
    return finished


def _due_no_more() -> dict[str, Any]:
    """A customer that was not changed since it was claimed."""
    same = CUSTOMER.c.rev == bindparam("was")
    return {
        "due_at": case((same, None), else_=CUSTOMER.c.due_at),
        "line": case((same, lanes.RUN), else_=CUSTOMER.c.line),
    }


def _claimed(rows: Sequence[DueRow], at: int) -> list[dict[str, Any]]:
    return [
        {
            "which": row.customer_id,
            "was": row.rev,
            "waited": row.run,
            "gave": row.given_back,
            "at": at,
        }
        for row in rows
    ]


def _waits_no_more() -> ColumnElement[bool]:
    return or_(CUSTOMER.c.rev == bindparam("was"), CUSTOMER.c.run == bindparam("waited"))


def _finished(connection: Connection, rows: Sequence[DueRow]) -> dict[int, int]:
    """For how many of these a run waits no more now, by run."""
    claimed = {row.customer_id: row for row in rows}
    finished: dict[int, int] = {}
    ids = list(claimed)
    for start in range(0, len(ids), CHUNK):
        there = connection.execute(
            select(CUSTOMER.c.customer_id, CUSTOMER.c.rev, CUSTOMER.c.run).where(
                CUSTOMER.c.customer_id.in_(ids[start : start + CHUNK]), CUSTOMER.c.run.is_not(None)
            )
        )
        for customer_id, rev, run in there:
            if rev == claimed[customer_id].rev or run == claimed[customer_id].run:
                finished[run] = finished.get(run, 0) + 1
    return finished


def postpone(connection: Connection, later: Sequence[tuple[str, int, int]]) -> None:
    """Try (customer_id, attempts so far, due_at) again at a later time."""
    connection.execute(
        update(CUSTOMER)
        .where(CUSTOMER.c.customer_id == bindparam("which"))
        .values(attempts=bindparam("tried"), due_at=bindparam("at"), claimed_by=None),
        [{"which": one, "tried": tried, "at": at} for one, tried, at in later],
    )


def _select(row: type[CustomerRow | CustomerState | DueRow]) -> Select[Any]:
    """The columns of `customer` that a row class names."""
    return select(*(CUSTOMER.c[name] for name in row._fields))


def _many(connection: Connection, statement: Any, rows: list[dict[str, Any]]) -> None:
    for start in range(0, len(rows), CHUNK):
        connection.execute(statement, rows[start : start + CHUNK])
