"""The search for customers by a part of the id, the name or the email, within a bound of time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from sqlalchemy import Connection, select

from state.db.tables import CUSTOMER

#: Customers that are read at a time.
CHUNK = 2000


class Match(NamedTuple):
    """A customer whose id, name or email has the part."""

    customer_id: str
    name: str | None
    email: str | None


class Search(NamedTuple):
    """What a search found: the `matches` in UTF-8 byte order of the id.

    It looked at `looked_at` customers, up to the id `reached`; None: at all that there are.
    """

    matches: list[Match]
    looked_at: int
    reached: str | None


_CUSTOMERS = (
    select(CUSTOMER.c.customer_id, CUSTOMER.c.name, CUSTOMER.c.email)
    .order_by(CUSTOMER.c.customer_id)
    .limit(CHUNK)
)


def containing(
    connection: Connection,
    part: str,
    *,
    after: str = "",
    limit: int,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> Search:
    """Search customers after the id `after`, in capital and small letters alike.

    No index has parts of texts, so it reads customer by customer. It ends after `limit` matches or
    after `seconds`, and at the earliest after one chunk; the next search goes on at `reached`.
    """
    wanted, until = part.casefold(), clock() + seconds
    matches: list[Match] = []
    looked_at = 0
    while True:
        rows = connection.execute(_CUSTOMERS.where(CUSTOMER.c.customer_id > after)).all()
        for row in rows:
            looked_at += 1
            after = row.customer_id
            if any(wanted in text.casefold() for text in row if text):
                matches.append(Match._make(row))
                if len(matches) == limit:
                    return Search(matches, looked_at, after)
        if len(rows) < CHUNK:
            return Search(matches, looked_at, None)
        if clock() >= until:
            return Search(matches, looked_at, after)
