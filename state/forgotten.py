"""Customers that were erased and must not come back, and those that are about to be.

Of an erased one only a hash is kept: SHA-256 over a random salt of this database and its id.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from hashlib import sha256

from sqlalchemy import Connection, delete, insert, select

from state import memo
from state.tables import ERASURE, FORGOTTEN


@dataclass
class Forgotten:
    """The customers that must not come in: `"id" in forgotten`. `pending` are still here."""

    salt: str
    hashes: set[str]
    pending: set[str]

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
    pending = connection.execute(select(ERASURE.c.customer_id)).scalars()
    return Forgotten(memo.get(connection, "salt") or "", set(hashes), set(pending))


def forgotten_at(connection: Connection, customer_id: str) -> int | None:
    """When a customer was forgotten; None: it was not, or that was lifted."""
    salt = memo.get(connection, "salt")
    if salt is None:
        return None
    found = connection.execute(
        select(FORGOTTEN.c.forgotten_at).where(FORGOTTEN.c.hash == _hash(salt, customer_id))
    ).scalar()
    return None if found is None else int(found)


def ask(connection: Connection, customer_id: str, now: int) -> bool:
    """A customer is to be erased when Amberflo has taken its last write; asked twice it is once.
    Gives whether that is new."""
    known = select(ERASURE.c.customer_id).where(ERASURE.c.customer_id == customer_id)
    if connection.execute(known).first() or forgotten_at(connection, customer_id) is not None:
        return False
    connection.execute(insert(ERASURE).values(customer_id=customer_id, asked_at=now))
    return True


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
