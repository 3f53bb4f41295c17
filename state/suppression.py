"""The suppression list: customers that were erased and must not come back.

Also here are those that are about to be erased. Of an erased customer only a hash is kept: SHA-256
over a random salt of this database and its id.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256

from sqlalchemy import (
    ColumnElement,
    Connection,
    bindparam,
    delete,
    func,
    insert,
    select,
    union,
    update,
)

from state import revisits
from state.db import metadata
from state.db.tables import (
    CHANGE,
    CUSTOMER,
    EARLY_CALL,
    EARLY_EXIT,
    ERASURE,
    FAILURE,
    FORGOTTEN,
    HELD_CHANGE,
    REVISIT,
)

#: The value that counts how many were asked for by calls, by the hour.
_ASKED, _HOUR = "deletes", 3_600_000
_MAY = ERASURE.c.waits_since.is_(None)


@dataclass
class Forgotten:
    """The customers that must not come in: `"id" in forgotten`.

    `pending` are still here; `doubted` are those of them that only a run missed in Segment. (Those
    that wait for a person's approval go on as before.)
    """

    salt: str
    hashes: set[str]
    pending: set[str]
    doubted: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.hashes or self.pending)

    def __contains__(self, customer_id: str) -> bool:
        if customer_id in self.pending:
            return True
        return bool(self.hashes) and _hash(self.salt, customer_id) in self.hashes


def load(connection: Connection) -> Forgotten:
    """Return all of them, as of now.

    Nobody is erased before the end of a transaction that writes alone, as those do that bring
    customers in.
    """
    hashes = connection.execute(select(FORGOTTEN.c.hash)).scalars()
    columns = ERASURE.c.customer_id, ERASURE.c.run
    pending = connection.execute(select(*columns).where(_MAY)).all()
    return Forgotten(
        metadata.get(connection, "salt") or "",
        set(hashes),
        {row.customer_id for row in pending},
        frozenset(row.customer_id for row in pending if row.run is not None),
    )


def forgotten_at(connection: Connection, customer_id: str) -> int | None:
    """Return when a customer was forgotten; None where it was not, or that was lifted."""
    salt = metadata.get(connection, "salt")
    if salt is None:
        return None
    at = connection.execute(
        select(FORGOTTEN.c.forgotten_at).where(FORGOTTEN.c.hash == _hash(salt, customer_id))
    ).scalar()
    return None if at is None else int(at)


def is_suppressed(connection: Connection, customer_id: str) -> bool:
    """Return whether a customer must not come in: it was erased, or is about to be."""
    pending = select(ERASURE.c.customer_id).where(ERASURE.c.customer_id == customer_id, _MAY)
    if connection.execute(pending).first() is not None:
        return True
    return forgotten_at(connection, customer_id) is not None


def ask(connection: Connection, customer_id: str, now: int, run: int | None = None) -> bool:
    """Note that a customer is erased once Amberflo has taken its last write; return if it is new.

    A run found it deleted (`run`), or a person asked. Asked twice it is noted once. A customer that
    waits for approval is approved when a person asks.
    """
    known = select(ERASURE.c.customer_id).where(ERASURE.c.customer_id == customer_id)
    if connection.execute(known).first():
        if run is None:
            approve(connection, [customer_id])
        return False
    if forgotten_at(connection, customer_id) is not None:
        return False
    connection.execute(insert(ERASURE).values(customer_id=customer_id, asked_at=now, run=run))
    return True


def ask_by_call(connection: Connection, customer_id: str, now: int, most: int) -> bool | None:
    """Note the same by a call; return whether the erasure waits for a person's approval.

    Of more than `most` in a day (by full hours) each waits. None: it is noted, or done, already.
    """
    known = select(ERASURE.c.customer_id).where(ERASURE.c.customer_id == customer_id)
    if connection.execute(known).first() or forgotten_at(connection, customer_id) is not None:
        return None
    hour = now // _HOUR
    told: dict[str, int] = json.loads(metadata.get(connection, _ASKED) or "{}")
    today = {at: count for at, count in told.items() if hour - 24 <= int(at) <= hour}
    waits = sum(today.values()) >= most
    if not waits:
        today[str(hour)] = today.get(str(hour), 0) + 1
        metadata.put(connection, _ASKED, json.dumps(today))
    row = {"customer_id": customer_id, "asked_at": now, "waits_since": now if waits else None}
    connection.execute(insert(ERASURE).values(row))
    return waits


def keep(connection: Connection, customer_ids: Iterable[str]) -> None:
    """Do not erase these: Segment has them again. What a person asked for stays."""
    for customer_id in customer_ids:
        these = ERASURE.c.customer_id == customer_id, ERASURE.c.run.is_not(None)
        connection.execute(delete(ERASURE).where(*these))


def asked(connection: Connection) -> list[str]:
    """Return the customers that will be erased, those first who wait longest."""
    return [customer_id for customer_id, _ in _asked(connection, _MAY)]


def waiting(connection: Connection) -> list[tuple[str, int]]:
    """Return the customers that wait for approval, and since when (epoch milliseconds)."""
    return _asked(connection, ERASURE.c.waits_since.is_not(None))


def waiting_count(connection: Connection) -> int:
    """Count the customers that wait for approval."""
    statement = select(func.count()).where(ERASURE.c.waits_since.is_not(None))
    return int(connection.execute(statement).scalar_one())


def approve(connection: Connection, customer_ids: Collection[str]) -> None:
    """Approve the erasure of customers."""
    connection.execute(
        update(ERASURE).where(ERASURE.c.customer_id == bindparam("which")).values(waits_since=None),
        [{"which": customer_id} for customer_id in customer_ids],
    )


def _asked(connection: Connection, which: ColumnElement[bool]) -> list[tuple[str, int]]:
    rows = connection.execute(
        select(ERASURE.c.customer_id, ERASURE.c.asked_at)
        .where(which)
        .order_by(ERASURE.c.asked_at, ERASURE.c.customer_id)
    )
    return [(str(customer_id), int(at)) for customer_id, at in rows]


def put(connection: Connection, customer_id: str, now: int) -> None:
    """Note that a customer is erased: from here on only the hash stands for it."""
    lift(connection, customer_id)
    salt = metadata.get(connection, "salt")
    if salt is None:
        salt = secrets.token_hex(32)
        metadata.put(connection, "salt", salt)
    connection.execute(insert(FORGOTTEN).values(hash=_hash(salt, customer_id), forgotten_at=now))


def lift(connection: Connection, customer_id: str) -> bool:
    """Let a customer come back, or not be erased after all; return whether it was on record."""
    revisits.note(connection, [customer_id])
    salt = metadata.get(connection, "salt") or ""
    hashed = FORGOTTEN.c.hash == _hash(salt, customer_id)
    gone = connection.execute(delete(FORGOTTEN).where(hashed)).rowcount
    gone += connection.execute(delete(ERASURE).where(ERASURE.c.customer_id == customer_id)).rowcount
    return gone > 0


def carry_over(newer: Connection, restored: Connection, now: int) -> int | None:
    """Bring what a newer state of the same origin knows of the forgotten into a restored one.

    Customers that were erased since are to be erased again, those that were to be erased are so,
    too. Return how many of them the restored state has; None where the two have no common origin.
    """
    salt, own = metadata.get(newer, "salt"), metadata.get(restored, "salt")
    if own not in (None, salt):
        return None
    known = set(restored.execute(select(FORGOTTEN.c.hash)).scalars())
    columns = FORGOTTEN.c.hash, FORGOTTEN.c.forgotten_at
    since = {row[0]: row[1] for row in newer.execute(select(*columns)) if row[0] not in known}
    asked = set(restored.execute(select(ERASURE.c.customer_id)).scalars())
    rows = newer.execute(select(ERASURE)).mappings().all()
    pending = {row["customer_id"]: dict(row) for row in rows if row["customer_id"] not in asked}
    if salt is not None and own is None:
        metadata.put(restored, "salt", salt)
    for customer_id in _named(restored) if since else ():
        if since.pop(_hash(salt or "", customer_id), None) is not None:
            pending[customer_id] = {"customer_id": customer_id, "asked_at": now, "run": None}
    if since:
        values = [{"hash": text, "forgotten_at": at} for text, at in since.items()]
        restored.execute(insert(FORGOTTEN), values)
    for row in pending.values():
        restored.execute(insert(ERASURE).values(row))
    return len(pending)


def _named(connection: Connection) -> Iterator[str]:
    """Return the customers of whom a state has something: not every one has a row of its own."""
    tables = CUSTOMER, CHANGE, HELD_CHANGE, EARLY_CALL, EARLY_EXIT, REVISIT, FAILURE
    columns = (table.c.customer_id for table in tables)
    known = union(*(select(column).where(column.is_not(None)) for column in columns))
    for customer_id in connection.execute(known).scalars():
        yield str(customer_id)


def _hash(salt: str, customer_id: str) -> str:
    return sha256(f"{salt}{customer_id}".encode()).hexdigest()
