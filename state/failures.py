"""Failures: what Amberflo refused, kept until it is retried, discarded, or sent after all.

Invalid calls are failures too. A caller can make any number of them, so only the newest are kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    select,
)

from state.db.batches import batches
from state.db.database import Database
from state.db.tables import FAILURE

CUSTOMER, METER = "customer", "meter"
#: Rows that one statement takes at a time.
CHUNK = 500
#: Calls that could not be taken of which so many are kept, and bytes of each.
CALLS, RAW = 10_000, 1024
#: What stands after the beginning of a longer one.
CUT = " … ("
#: Nothing of these was ever sent. Written so that the partial index is used.
IS_CALL = FAILURE.c.attempts == literal_column("0")
_ANY = select(FAILURE.c.id).limit(1)
_CLEAR = delete(FAILURE).where(FAILURE.c.ref.in_(bindparam("refs", expanding=True)))


class FailureRow(NamedTuple):
    """A failure, as the table `failure` has it; see `models.Failure`.

    `failed_at` is in epoch milliseconds. `id` is 0 until it is recorded.
    """

    ref: str
    kind: str
    reason: str
    failed_at: int
    customer_id: str | None = None
    message_id: str | None = None
    status: int | None = None
    request: str | None = None
    body: str | None = None
    attempts: int = 1
    via: str | None = None
    event: str | None = None
    id: int = 0

    @property
    def only_discarded(self) -> bool:
        """Whether it is an invalid call, so that no retry can help."""
        return self.ref.startswith("call:")


_FAILURES = select(*(FAILURE.c[name] for name in FailureRow._fields))


def put(connection: Connection, rows: Collection[FailureRow]) -> int:
    """Record failures; return how many older calls were dropped, as only the newest CALLS are kept.

    A failure replaces an earlier one with the same `ref`, and keeps the time when that failed
    first.
    """
    newest = {row.ref: row for row in rows}
    for refs in batches(newest):
        recorded = FAILURE.c.ref.in_(refs)
        since = connection.execute(select(FAILURE.c.ref, FAILURE.c.failed_at).where(recorded))
        for ref, failed_at in since.all():
            newest[ref] = newest[ref]._replace(failed_at=failed_at)
        connection.execute(delete(FAILURE).where(recorded))
        connection.execute(insert(FAILURE), [_values(newest[ref]) for ref in refs])
    return _let_go(connection) if any(row.attempts == 0 for row in rows) else 0


def _values(row: FailureRow) -> dict[str, Any]:
    values = row._asdict()
    del values["id"]  # the database numbers them
    return values


def _let_go(connection: Connection) -> int:
    first_kept = select(FAILURE.c.id).where(IS_CALL).order_by(FAILURE.c.id.desc())
    first = connection.execute(first_kept.offset(CALLS - 1).limit(1)).scalar()
    if first is None:
        return 0
    return connection.execute(delete(FAILURE).where(IS_CALL, FAILURE.c.id < first)).rowcount


def call(
    ref: str,
    message_id: str | None,
    reason: str,
    raw: str,
    received_at: int,
    *,
    via: str | None = None,
    customer_id: str | None = None,
    event: str | None = None,
) -> FailureRow:
    """Return the failure of an invalid call.

    `ref` says where it was, `via` is the short name of its key, `customer_id` the customer that it
    is about, `event` its event or type.
    """
    return FailureRow(
        ref=f"call:{ref}",
        kind=METER,
        reason=reason,
        failed_at=received_at,
        customer_id=customer_id,
        message_id=message_id,
        request=_brief(raw),
        attempts=0,
        via=via,
        event=event,
    )


def meter_ref(message_id: str, key: str) -> str:
    """Return the name of a call's meter record: a messageId is unique for its key."""
    return f"meter:{key}:{message_id}" if key else f"meter:{message_id}"


def _brief(raw: str) -> str:
    """Return a call in at most RAW bytes: of a longer one its beginning, and its length."""
    text = raw.encode("utf-8", "replace")
    if len(text) <= RAW:
        return raw
    note = f"{CUT}{len(text):,} bytes)"
    return text[: RAW - len(note.encode())].decode("utf-8", "ignore") + note


def customer_ref(customer_id: str) -> str:
    """Return the name of a customer's failure."""
    return f"customer:{customer_id}"


def clear(connection: Connection, refs: Collection[str]) -> None:
    """Remove failures that were delivered after all."""
    if connection.execute(_ANY).first() is None:
        return  # as nearly always, and to name many costs
    for part in batches(refs):
        connection.execute(_CLEAR, {"refs": part})


def find(connection: Connection, ids: Collection[int] | None = None) -> list[FailureRow]:
    """Return failures, oldest first: all, or the numbered ones that exist."""
    if ids is None:
        return list(each(connection))
    statement = _FAILURES.order_by(FAILURE.c.id)
    return [
        FailureRow._make(row)
        for part in batches(sorted(ids))
        for row in connection.execute(statement.where(FAILURE.c.id.in_(part)))
    ]


def each(
    connection: Connection, *, customer_id: str | None = None, limit: int | None = None
) -> Iterator[FailureRow]:
    """Yield failures, oldest first: all or those of a customer, or the newest `limit` of them.

    However many there are, only some of them are in memory at a time.
    """
    after = 0
    if limit is not None:
        newest = _of(select(FAILURE.c.id), customer_id).order_by(FAILURE.c.id.desc())
        first = connection.execute(newest.offset(limit - 1).limit(1)).scalar()
        after = 0 if first is None else int(first) - 1
    statement = _of(_FAILURES, customer_id).order_by(FAILURE.c.id).limit(CHUNK)
    while True:
        rows = connection.execute(statement.where(FAILURE.c.id > after)).all()
        yield from map(FailureRow._make, rows)
        if len(rows) < CHUNK:
            return
        after = rows[-1].id


def refused(
    database: Database, kind: str, ids: Collection[int] | None, until: int
) -> Iterator[FailureRow]:
    """Yield what Amberflo refused of a kind up to the number `until`, oldest first.

    `ids` limits it to the numbered ones. It is read in parts, each in a transaction of its own,
    while other processes send and remove failures.
    """
    of_kind = (
        _FAILURES.where(FAILURE.c.kind == kind, FAILURE.c.attempts > 0, FAILURE.c.id <= until)
        .order_by(FAILURE.c.id)
        .limit(CHUNK)
    )

    def read(scope: ColumnElement[bool]) -> list[FailureRow]:
        with database.read() as connection:
            return [FailureRow._make(row) for row in connection.execute(of_kind.where(scope))]

    if ids is not None:
        for part in batches(sorted(ids)):
            yield from read(FAILURE.c.id.in_(part))
        return
    after = 0
    while rows := read(FAILURE.c.id > after):
        yield from rows
        after = rows[-1].id


def _of(statement: Select[Any], customer_id: str | None) -> Select[Any]:
    """Limit a statement to one customer, where one is named."""
    return (
        statement if customer_id is None else statement.where(FAILURE.c.customer_id == customer_id)
    )


def page(
    connection: Connection,
    *,
    before: int | None = None,
    limit: int,
    customer_id: str | None = None,
) -> list[FailureRow]:
    """Return failures, newest first: of all or of a customer; the next page is before the last."""
    statement = _of(_FAILURES, customer_id).order_by(FAILURE.c.id.desc()).limit(limit)
    if before is not None:
        statement = statement.where(FAILURE.c.id < before)
    return [FailureRow._make(row) for row in connection.execute(statement)]


def newest(connection: Connection) -> int:
    """Return the number of the newest failure; 0 where there is none."""
    statement = select(func.coalesce(func.max(FAILURE.c.id), 0))
    return int(connection.execute(statement).scalar_one())


def remove(connection: Connection, ids: Collection[int]) -> int:
    """Remove the numbered failures; return how many."""
    return sum(
        connection.execute(delete(FAILURE).where(FAILURE.c.id.in_(part))).rowcount
        for part in batches(ids)
    )


def count(connection: Connection, refs: Collection[str] | None = None) -> int:
    """Count the failures: all, or those with these refs."""
    statement = select(func.count()).select_from(FAILURE)
    if refs is None:
        return int(connection.execute(statement).scalar_one())
    return sum(
        int(connection.execute(statement.where(FAILURE.c.ref.in_(part))).scalar_one())
        for part in batches(refs)
    )


def listed(connection: Connection, refs: Collection[str]) -> set[str]:
    """Return those of these refs of which there is a failure."""
    statement = select(FAILURE.c.ref)
    return {
        str(row.ref)
        for part in batches(refs)
        for row in connection.execute(statement.where(FAILURE.c.ref.in_(part)))
    }


def count_retryable(connection: Connection) -> int:
    """Count the failures that can be sent again: all but invalid calls."""
    return count(connection) - count_calls(connection)


def count_calls(connection: Connection) -> int:
    """Count the failures that are invalid calls."""
    return int(
        connection.execute(select(func.count()).select_from(FAILURE).where(IS_CALL)).scalar_one()
    )


def count_of(connection: Connection, customer_id: str | None) -> int:
    """Count the failures of a customer, or all."""
    statement = _of(select(func.count()).select_from(FAILURE), customer_id)
    return int(connection.execute(statement).scalar_one())


def customers_since(connection: Connection, moment: int) -> int:
    """Count the customers that failed first since a moment (epoch milliseconds)."""
    statement = (
        select(func.count())
        .select_from(FAILURE)
        .where(FAILURE.c.kind == CUSTOMER, FAILURE.c.failed_at >= moment)
    )
    return int(connection.execute(statement).scalar_one())
