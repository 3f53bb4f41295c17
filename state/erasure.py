"""The erasure of a customer: everything that this database has of it, in one transaction.

The history keeps the leaf hash of each change, so that the chain of seals still holds; a seal says
which changes these are. The salt goes with the change, so the hash cannot be tried against guesses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

import orjson
from sqlalchemy import Connection, case, delete, func, insert, or_, select, update

from state import (
    early_exits,
    failures,
    identify_traits,
    pending_calls,
    revisits,
    snapshot,
    suppression,
)
from state.claim import CUSTOMERS
from state.db import metadata
from state.db.tables import (
    ALERT,
    CHANGE,
    CUSTOMER,
    ERASED,
    FAILURE,
    HELD_CHANGE,
    HOLD,
    PROBLEM,
    RUN,
    TRAIT,
)
from state.errors import Locked
from state.history import seal, sizes
from state.removable import removable
from state.snapshot import CustomerRow

#: The value that is a time: what was erased up to then may have left traces in the files.
TRACES = "traces"


class Erased(NamedTuple):
    """What was erased: the customer itself, changes of the history, failures."""

    known: bool
    changes: int
    failures: int


class Taken(NamedTuple):
    """A customer that is kept from delivery.

    `row` is its last write: the traits of Engage that Amberflo should have, no traits of identify
    calls, its id for a name and no email. `owned` are the trait names that are ours. Of a customer
    that is not `known` here no trait is ours, and `asked` says that this call noted it as about to
    be erased.
    """

    row: CustomerRow
    owned: frozenset[str]
    known: bool = True
    asked: bool = False


def take(connection: Connection, customer_id: str, worker: int, now: int) -> Taken:
    """Claim a customer for a worker, in a transaction that writes alone.

    Raise `Locked` where another worker has it in work. The customer counts as due meanwhile: should
    the worker die, that releases it like any other. One that is not known here cannot come in
    meanwhile: it is about to be erased.
    """
    customer = snapshot.get(connection, customer_id)
    if customer is None:
        asked = suppression.ask(connection, customer_id, now)
        unknown = CustomerRow(customer_id, "{}")
        return Taken(_last(unknown), frozenset(), known=False, asked=asked)
    claimed = connection.execute(
        update(CUSTOMER)
        .where(CUSTOMER.c.customer_id == customer_id, CUSTOMERS.free)
        .values(claimed_by=worker, due_at=func.coalesce(CUSTOMER.c.due_at, now))
    )
    if not claimed.rowcount:
        raise Locked(f"the customer {customer_id!r} is just being sent; try again")
    return Taken(_last(customer), removable(connection, [customer])[customer_id])


def _last(row: CustomerRow) -> CustomerRow:
    """Return the last write of a customer: the traits of its identify calls are removed."""
    gone = {
        name: said.goes(said.at) for name, said in identify_traits.load(row.identify_traits).items()
    }
    return row._replace(name=row.customer_id, email="", identify_traits=identify_traits.dump(gone))


def release(connection: Connection, taken: Taken) -> None:
    """Undo `take`: the customer is due or not as it was before, unless a call made it due."""
    if taken.asked:
        suppression.lift(connection, taken.row.customer_id)
    same = CUSTOMER.c.rev == taken.row.rev
    connection.execute(
        update(CUSTOMER)
        .where(CUSTOMER.c.customer_id == taken.row.customer_id)
        .values(claimed_by=None, due_at=case((same, taken.row.due_at), else_=CUSTOMER.c.due_at))
    )


def erase(connection: Connection, customer_id: str, now: int) -> Erased:
    """Erase a customer and note that it is forgotten, in a transaction that writes alone.

    The caller has taken it, and makes sure that no run and no compaction is under way.
    """
    suppression.put(connection, customer_id, now)
    changes = _erase_changes(connection, customer_id, now)
    known = _erase_customer(connection, customer_id)
    _erase_held(connection, customer_id)
    pending_calls.erase(connection, customer_id)
    early_exits.remove(connection, [customer_id])
    revisits.erase(connection, [customer_id])
    failures = _erase_failures(connection, customer_id)
    _erase_errors(connection, customer_id)
    metadata.put(connection, TRACES, str(now))
    return Erased(known, changes, failures)


def _erase_changes(connection: Connection, customer_id: str, now: int) -> int:
    seal.seal(connection, None, now)
    theirs = CHANGE.c.customer_id == customer_id
    rows = connection.execute(select(*seal.LEAF_COLUMNS).where(theirs).order_by(CHANGE.c.id)).all()
    if not rows:
        return 0
    leaves = [(row[0], seal.leaf(tuple(row)).hex()) for row in rows]
    erased = seal.Sum()
    erased.add([seal.packed(pair) for pair in leaves])
    link = seal.append(connection, seal.ERASURE, erased, rows[0][0], rows[-1][0], now)
    values = [{"id": number, "leaf": leaf, "seal": link.number} for number, leaf in leaves]
    connection.execute(insert(ERASED), values)
    sizes.take_out(connection, customer_id)
    connection.execute(delete(CHANGE).where(theirs))
    return len(leaves)


def _erase_customer(connection: Connection, customer_id: str) -> bool:
    this = CUSTOMER.c.customer_id == customer_id
    traits = connection.execute(select(CUSTOMER.c.traits).where(this)).scalar()
    if traits is None:
        return False
    names = [name for name, value in orjson.loads(traits).items() if value is not False]
    for name in names:
        connection.execute(
            update(TRAIT).where(TRAIT.c.trait == name).values(members=TRAIT.c.members - 1)
        )
    connection.execute(delete(CUSTOMER).where(this))
    return True


def _erase_held(connection: Connection, customer_id: str) -> None:
    """Erase the customer's changes under holds, in force or not."""
    theirs = HELD_CHANGE.c.customer_id == customer_id
    holds = HELD_CHANGE.c.hold.in_(select(HOLD.c.id))  # by the primary key: holds are few
    connection.execute(delete(HELD_CHANGE).where(holds, theirs))


def _erase_failures(connection: Connection, customer_id: str) -> int:
    """Erase failures of the customer, and invalid calls that name it."""
    statement = select(FAILURE.c.id, FAILURE.c.customer_id, FAILURE.c.request).where(
        or_(
            FAILURE.c.customer_id == customer_id,
            FAILURE.c.customer_id.is_(None),
            failures.IS_CALL,  # it may name several
        )
    )
    numbers = [
        number
        for number, whose, request in connection.execute(statement)
        if whose == customer_id or _names(request or "", customer_id)
    ]
    for number in numbers:
        connection.execute(delete(FAILURE).where(FAILURE.c.id == number))
    return len(numbers)


def _names(call: str, customer_id: str) -> bool:
    """Return whether a call has the id as one of its values."""
    try:
        return customer_id in map(str, _values(orjson.loads(call)))
    except orjson.JSONDecodeError:
        texts = {f'"{customer_id}"', json.dumps(customer_id)}
        if customer_id.isdigit() and re.search(rf":\s*{customer_id}\b", call):
            return True
        return any(text in call or _ends_within(call, text) for text in texts)


def _ends_within(call: str, text: str) -> bool:
    """Return whether the kept part of a call that was cut (failures.py) ends within a text."""
    kept, mark, _ = call.rpartition(failures.CUT)
    return bool(mark) and any(kept.endswith(text[:end]) for end in range(2, len(text)))


def _values(call: Any) -> Iterator[Any]:
    """Return everything in a JSON value that is no list and no object, however deep."""
    values = [call]
    while values:
        value = values.pop()
        if isinstance(value, dict):
            values += value.values()
        elif isinstance(value, list):
            values += value
        else:
            yield value


def _erase_errors(connection: Connection, customer_id: str) -> None:
    """Take the customer out of errors of runs, out of alerts and problems.

    They name it as Python writes a text, or in the URL of a request.
    """
    in_url = re.compile(rf"customerId={re.escape(quote(customer_id, safe=''))}(?![^\s&;,:])")
    texts = (
        (RUN.c.id, RUN.c.error),
        (ALERT.c.name, ALERT.c.text),
        (PROBLEM.c.part, PROBLEM.c.text),
    )
    for key, column in texts:
        rows = connection.execute(select(key, column).where(column.is_not(None)))
        for which, text in rows.all():
            told = in_url.sub(
                "customerId=(forgotten)", text.replace(repr(customer_id), "'(forgotten)'")
            )
            if told != text:
                connection.execute(update(column.table).where(key == which).values({column: told}))
