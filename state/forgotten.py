"""Customers that were erased and must not come back, and those that are about to be.

Of an erased one only a hash is kept: SHA-256 over a random salt of this database and its id.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from sqlalchemy import Connection, delete, insert, select

from state import memo
from state.tables import ERASURE, FORGOTTEN


@dataclass
class Forgotten:
    """The customers that must not come in: `"id" in forgotten`. `pending` are still here; those of
    them that are `doubted` only a run missed in Segment."""

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
    """All of them, as of now. Nobody is erased before the end of a transaction that writes alone,
    as those do that bring customers in."""
    hashes = connection.execute(select(FORGOTTEN.c.hash)).scalars()
    pending = connection.execute(select(ERASURE.c.customer_id, ERASURE.c.run)).all()
    return Forgotten(
        memo.get(connection, "salt") or "",
        set(hashes),
        {row.customer_id for row in pending},
        frozenset(row.customer_id for row in pending if row.run is not None),
    )


def forgotten_at(connection: Connection, customer_id: str) -> int | None:
    """When a customer was forgotten; None: it was not, or that was lifted."""
    salt = memo.get(connection, "salt")
    if salt is None:
        return None
    found = connection.execute(
        select(FORGOTTEN.c.forgotten_at).where(FORGOTTEN.c.hash == _hash(salt, customer_id))
    ).scalar()
    return None if found is None else int(found)


def ask(connection: Connection, customer_id: str, now: int, run: int | None = None) -> bool:
    """A customer is to be erased when Amberflo has taken its last write, as a run found or somebody
    asked; asked twice it is once. Gives whether that is new."""
    known = select(ERASURE.c.customer_id).where(ERASURE.c.customer_id == customer_id)
    if connection.execute(known).first() or forgotten_at(connection, customer_id) is not None:
        return False
    connection.execute(insert(ERASURE).values(customer_id=customer_id, asked_at=now, run=run))
    return True


def keep(connection: Connection, customer_ids: Iterable[str]) -> None:
    """Segment has these again, so they are not erased, unless somebody asked for it."""
    for customer_id in customer_ids:
        these = ERASURE.c.customer_id == customer_id, ERASURE.c.run.is_not(None)
        connection.execute(delete(ERASURE).where(*these))


def asked(connection: Connection) -> list[str]:
    """The customers that are to be erased, those first who wait longest."""
    return list(
        connection.execute(
            select(ERASURE.c.customer_id).order_by(ERASURE.c.asked_at, ERASURE.c.customer_id)
        ).scalars()
    )


def put(connection: Connection, customer_id: str, now: int) -> None:
    """It is erased: from here on only the hash stands for it."""
    lift(connection, customer_id)
    salt = memo.get(connection, "salt")
    if salt is None:
        salt = secrets.token_hex(32)
        memo.put(connection, "salt", salt)
    connection.execute(insert(FORGOTTEN).values(hash=_hash(salt, customer_id), forgotten_at=now))


def lift(connection: Connection, customer_id: str) -> bool:
    """It may come back, or is not to be erased after all; gives whether there was anything."""
    salt = memo.get(connection, "salt") or ""
    hashed = FORGOTTEN.c.hash == _hash(salt, customer_id)
    gone = connection.execute(delete(FORGOTTEN).where(hashed)).rowcount
    gone += connection.execute(delete(ERASURE).where(ERASURE.c.customer_id == customer_id)).rowcount
    return gone > 0


def _hash(salt: str, customer_id: str) -> str:
    return sha256(f"{salt}{customer_id}".encode()).hexdigest()
