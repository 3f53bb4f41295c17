"""The queue of calls: accepted requests as they came, and meter records that wait for Amberflo.

Part "queue" of the state (see schema.PARTS). Functions take a connection, so that the caller says
what is one transaction. Times are epoch milliseconds.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import orjson
from sqlalchemy import (
    Connection,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal,
    select,
    tuple_,
    update,
)
from sqlalchemy.types import TypeEngine

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from state import lanes
from state.claim import METER_RECORDS
from state.db.batches import execute_many
from state.db.row_statement import BYTES, NUMBER, TEXT, RowStatement
from state.db.tables import COUNTER, EVENT, INBOX
from state.db.upsert import insert_into

#: Bytes that a probe writes.
PROBE = 64 * 1024
#: Records that were sent before of which so many are read at a time.
TRIED = 500
_WAITS = EVENT.c.due_at.is_not(None)


class Accepted(NamedTuple):
    """A request that is answered with 200 once it is in: `events` calls in `body`.

    `key` is the short name of the key that it came by, `scopes` what that key may do (neither has a
    blank).
    """

    path: str
    body: bytes
    events: int
    received_at: int
    key: str = ""
    scopes: str = ""


class InboxRow(NamedTuple):
    """An accepted request that is not processed yet: number `place` of the inbox's row `id`.

    `scopes` is "" where an older program took it.
    """

    id: int
    place: int
    path: str
    body: bytes
    received_at: int
    key: str = ""
    scopes: str = ""


class EventRow(NamedTuple):
    """A meter call by its messageId and key.

    `record` is its frozen meter record, None once Amberflo has or refused it.
    """

    message_id: str
    record: bytes | None
    received_at: int
    due_at: int | None
    key: str = ""


class DueEvent(NamedTuple):
    """A meter record to send."""

    id: int
    message_id: str
    record: bytes
    attempts: int
    key: str = ""


_NEW: dict[str, TypeEngine[Any]] = {
    **{"message_id": TEXT, "record": BYTES, "received_at": NUMBER, "due_at": NUMBER, "key": TEXT}
}


@cache
def _store(dialect: str) -> RowStatement:
    """Return what stores calls; a messageId that is there already by the same key stays."""
    return RowStatement(
        insert_into(EVENT, dialect)
        .from_select(list(_NEW), select(*map(bindparam, _NEW)).where(literal(1) == 1))
        .on_conflict_do_nothing(index_elements=["message_id", "key"]),
        **_NEW,
    )


def accept(connection: Connection, rows: Sequence[Accepted]) -> None:
    """Put requests into the inbox; with the commit they are durable.

    Those of a key go into one row: each row more would cost the writing thread another wait for the
    interpreter, which a busy receiver gives away only every few milliseconds. Calls resemble one
    another, so compressing them costs less than writing them as they are.
    """
    by_key: dict[str, list[Accepted]] = {}
    for row in rows:
        by_key.setdefault(row.key, []).append(row)
    connection.execute(insert(INBOX), [_packed(key, of_it) for key, of_it in by_key.items()])


def _packed(key: str, rows: Sequence[Accepted]) -> dict[str, Any]:
    body = b"".join(
        b"%s %d %d %s\n%s"
        % (row.path.encode(), row.received_at, len(row.body), row.scopes.encode(), row.body)
        for row in rows
    )
    return {
        "body": zstd.compress(body, 1),
        "events": sum(row.events for row in rows),
        "received_at": rows[0].received_at,
        "key": key,
    }


def probe(connection: Connection) -> None:
    """Write something, as a request would be written, and leave nothing: it fails where that does.

    As large as a request may well be, so that a disk with room for less does not pass for one.
    """
    body = os.urandom(PROBE)
    added = connection.execute(
        insert(INBOX).values(body=body, events=0, received_at=0).returning(INBOX.c.id)
    ).scalar_one()
    connection.execute(delete(INBOX).where(INBOX.c.id == added))


def unprocessed(connection: Connection, events: int) -> list[InboxRow]:
    """Return the requests of the oldest rows of the inbox.

    Of each key that is one row, or as many as have its share of `events` calls.
    """
    keys = lanes.present(connection, INBOX.c.key)
    if not keys:
        return []
    ids = [event for key in keys for event in _oldest(connection, key, events // len(keys))]
    rows = connection.execute(
        select(INBOX.c.id, INBOX.c.body, INBOX.c.received_at, INBOX.c.key)
        .where(INBOX.c.id.in_(ids))
        .order_by(INBOX.c.id)
    )
    return [
        request
        for number, body, received_at, key in rows
        for request in _requests(int(number), bytes(body), int(received_at), str(key))
    ]


def _oldest(connection: Connection, key: str, events: int) -> list[int]:
    """Return the oldest rows of a key: one, or as many as have `events` calls."""
    ids: list[int] = []
    oldest = select(INBOX.c.id, INBOX.c.events).where(INBOX.c.key == key).order_by(INBOX.c.id)
    for number, count in connection.execute(oldest.limit(64)):
        events -= count
        if ids and events < 0:
            break
        ids.append(number)
    return ids


def _requests(number: int, packed: bytes, received_at: int, key: str) -> list[InboxRow]:
    """Return the requests of a row; one without a path, of its own bytes, if it is unreadable."""
    try:
        return _unpacked(number, packed, key)
    except (zstd.ZstdError, ValueError):
        return [InboxRow(number, 0, "", packed, received_at, key)]


def _unpacked(number: int, compressed: bytes, key: str) -> list[InboxRow]:
    packed = _decompressed(compressed)
    rows: list[InboxRow] = []
    start = 0
    while start < len(packed):
        end = packed.index(b"\n", start)
        path, received_at, size, *scopes = packed[start:end].decode().split(" ", 3)
        start = end + 1 + int(size)
        body = packed[end + 1 : start]
        rows.append(InboxRow(number, len(rows), path, body, int(received_at), key, "".join(scopes)))
    return rows


def _decompressed(frame: bytes) -> bytes:
    """Return the bytes of a frame: no more than its head says.

    Raise ZstdError where it is no whole frame, or does not say how many they are.
    """
    size = zstd.get_frame_info(frame).decompressed_size
    if size is None:
        raise zstd.ZstdError("the frame does not say its size")
    decompressor = zstd.ZstdDecompressor()
    content = decompressor.decompress(frame, size)
    if not decompressor.eof:
        raise zstd.ZstdError("the frame broke off")
    return content


def store_processed(
    connection: Connection, inbox: Collection[int], events: Sequence[EventRow]
) -> int:
    """Replace rows of the inbox by their calls; return how many calls were new.

    A messageId that is there already by the same key is a repeat and changes nothing.
    """
    new = 0
    if events:
        before = _newest_id(connection)
        _store(connection.dialect.name).execute(
            connection,
            [
                {**row._asdict(), "record": None if row.record is None else row.record.decode()}
                for row in events
            ],
        )
        # An older program did not know by which key they came.
        known = EVENT.alias()
        repeated = exists().where(known.c.message_id == EVENT.c.message_id, known.c.key == "")
        connection.execute(delete(EVENT).where(EVENT.c.id > before, EVENT.c.key != "", repeated))
        new = int(
            connection.execute(
                select(func.count()).select_from(EVENT).where(EVENT.c.id > before)
            ).scalar_one()
        )
    connection.execute(delete(INBOX).where(INBOX.c.id.in_(list(inbox))))
    return new


def any_due(connection: Connection, now: int) -> bool:
    """Whether a meter record is due at `now` that no worker has in work."""
    return METER_RECORDS.any_due(connection, now, METER_RECORDS.free)


def claim(connection: Connection, worker: int, now: int, limit: int) -> list[DueEvent]:
    """Claim meter records that are due at `now` and that no worker has in work.

    Each key gets its part, and those that wait longest come first. The result is in the order of
    their ids.
    """
    keys = METER_RECORDS.lanes(connection)
    columns = [EVENT.c[name] for name in DueEvent._fields]
    rows = METER_RECORDS.claim_due(
        connection, worker, now, limit, order=(keys, keys), columns=columns
    )
    return sorted(DueEvent._make(row) for row in rows)


def waiting_customer_ids(connection: Connection) -> Iterator[str]:
    """Yield the customer of each meter record that waits; some come several times."""
    statement = select(EVENT.c.record).where(_WAITS, EVENT.c.record.is_not(None))
    for (record,) in connection.execute(statement, execution_options={"yield_per": 1000}):
        customer_id = orjson.loads(record).get("customerId")
        if isinstance(customer_id, str):
            yield customer_id


def release(connection: Connection, ids: Collection[int]) -> None:
    """Let other workers have records that were claimed and not sent."""
    connection.execute(update(EVENT).where(EVENT.c.id.in_(list(ids))).values(claimed_by=None))


def settle(connection: Connection, ids: Collection[int]) -> None:
    """Keep only the messageId of records that Amberflo has, or refused."""
    connection.execute(
        update(EVENT)
        .where(EVENT.c.id.in_(list(ids)))
        .values(due_at=None, record=None, claimed_by=None)
    )


def give_up(connection: Connection, records: Collection[tuple[str, str]]) -> None:
    """Keep only the messageId of records that wait, each named by it and its key."""
    execute_many(
        connection,
        update(EVENT)
        .where(EVENT.c.message_id == bindparam("id_of_it"), EVENT.c.key == bindparam("key_of_it"))
        .where(_WAITS)
        .values(due_at=None, record=None),
        [{"id_of_it": message_id, "key_of_it": key} for message_id, key in records],
    )


def postpone(connection: Connection, ids: Collection[int], due_at: int) -> None:
    """Try records that are still due again at a later time."""
    connection.execute(
        update(EVENT)
        .where(EVENT.c.id == bindparam("which"), EVENT.c.due_at.is_not(None))
        .values(due_at=due_at, attempts=EVENT.c.attempts + 1, claimed_by=None),
        [{"which": event} for event in ids],
    )


def send_again(
    connection: Connection, message_id: str, record: bytes, now: int, key: str = ""
) -> None:
    """Make a refused record due again, the same bytes under the same messageId and key."""
    connection.execute(delete(EVENT).where(EVENT.c.message_id == message_id, EVENT.c.key == key))
    row = EventRow(message_id, record, now, now, key)
    connection.execute(insert(EVENT).values(**row._asdict()))


def unsettled(connection: Connection, records: Collection[tuple[str, str]]) -> int:
    """Count how many of the named records, each a messageId and its key, still wait."""
    statement = select(EVENT.c.message_id, EVENT.c.key).where(
        EVENT.c.message_id.in_([message_id for message_id, _ in records]), _WAITS
    )
    return len(set(records).intersection(map(tuple, connection.execute(statement))))


def purge(connection: Connection, before: int) -> int:
    """Forget settled calls received before a moment; return how many."""
    return connection.execute(
        delete(EVENT).where(EVENT.c.due_at.is_(None), EVENT.c.received_at < before)
    ).rowcount


def waiting(connection: Connection) -> tuple[int, int]:
    """Count the calls in the inbox, and the meter records that are due."""
    inbox = connection.execute(select(func.coalesce(func.sum(INBOX.c.events), 0))).scalar_one()
    records = connection.execute(
        select(func.count()).select_from(EVENT).where(EVENT.c.due_at.is_not(None))
    ).scalar_one()
    return int(inbox), int(records)


def waiting_by_key(connection: Connection) -> dict[str, int]:
    """Count the calls in the inbox and meter records that are due, by the key they came by."""
    counts: Counter[str] = Counter()
    for statement in (
        select(INBOX.c.key, func.sum(INBOX.c.events)).group_by(INBOX.c.key),
        select(EVENT.c.key, func.count()).where(_WAITS).group_by(EVENT.c.key),
    ):
        counts.update({str(key): int(count) for key, count in connection.execute(statement)})
    return counts


def received(connection: Connection, since: int) -> tuple[int, int | None]:
    """Count the meter calls received since a moment; also return when the first of them was."""
    recent = EVENT.c.received_at >= since
    count, first = connection.execute(
        select(func.count(), func.min(EVENT.c.received_at)).where(recent)
    ).one()
    return int(count), first


def oldest_waiting(connection: Connection) -> int | None:
    """Return when the call that waits longest was received."""
    moments = [
        connection.execute(select(func.min(INBOX.c.received_at))).scalar(),
        connection.execute(
            select(func.min(EVENT.c.received_at)).where(EVENT.c.due_at.is_not(None))
        ).scalar(),
    ]
    return min((int(moment) for moment in moments if moment is not None), default=None)


def oldest_untried(connection: Connection) -> int | None:
    """Return when the call that waits longest was received, of those never sent to Amberflo."""
    untried = _WAITS, EVENT.c.attempts == 0
    moments = [
        connection.execute(select(func.min(INBOX.c.received_at))).scalar(),
        connection.execute(select(func.min(EVENT.c.received_at)).where(*untried)).scalar(),
    ]
    return min((int(moment) for moment in moments if moment is not None), default=None)


def tried(connection: Connection) -> Iterator[list[tuple[int, str, str]]]:
    """Yield the records that wait though they were sent before, the oldest first, in parts.

    Each as (received_at, messageId, key).
    """
    columns = EVENT.c.received_at, EVENT.c.message_id, EVENT.c.key
    order = EVENT.c.received_at, EVENT.c.id
    statement = select(*columns, EVENT.c.id).where(_WAITS, EVENT.c.attempts > 0).order_by(*order)
    last = (-1, -1)
    while True:
        later = tuple_(*order) > tuple_(*map(literal, last))
        rows = connection.execute(statement.where(later).limit(TRIED)).all()
        if not rows:
            return
        yield [(int(row[0]), str(row[1]), str(row[2])) for row in rows]
        last = (int(rows[-1][0]), int(rows[-1][3]))


def count(connection: Connection, counts: Mapping[tuple[str, str], int]) -> None:
    """Add to the counters, each named by (name, reason).

    They are written in one order, so that two writers never wait for each other for ever.
    """
    for (name, reason), value in sorted(counts.items()):
        statement = insert_into(COUNTER, connection.dialect.name).values(
            name=name, reason=reason, value=value
        )
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=["name", "reason"], set_={"value": COUNTER.c.value + value}
            )
        )


def counters(connection: Connection) -> dict[tuple[str, str], int]:
    """Return all counters."""
    rows = connection.execute(select(COUNTER.c.name, COUNTER.c.reason, COUNTER.c.value))
    return {(name, reason): int(value) for name, reason, value in rows}


def _newest_id(connection: Connection) -> int:
    return int(connection.execute(select(func.coalesce(func.max(EVENT.c.id), 0))).scalar_one())
