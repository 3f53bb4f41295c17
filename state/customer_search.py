"""The search for customers by a part of the id, the name or the email, within a bound of time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, LargeBinary, cast, false, func, or_, select

from state.db.tables import CUSTOMER

#: Customers that the database looks at in one statement.
CHUNK = 20_000


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


_TEXTS = (CUSTOMER.c.customer_id, CUSTOMER.c.name, CUSTOMER.c.email)
_IDS = select(CUSTOMER.c.customer_id).order_by(CUSTOMER.c.customer_id)


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

    No index has parts of texts, so the database looks at customer by customer. The search ends
    after `limit` matches or after `seconds`, and at the earliest after one chunk; the next search
    goes on at `reached`.
    """
    wanted, until = part.casefold(), clock() + seconds
    may_match = _may_match(connection, wanted)
    matches: list[Match] = []
    looked_at = 0
    while True:
        ids = _IDS.where(CUSTOMER.c.customer_id > after).limit(CHUNK).subquery()
        count, last = connection.execute(
            select(func.count(), func.max(ids.c.customer_id)).select_from(ids)
        ).one()
        if count:
            span = CUSTOMER.c.customer_id > after, CUSTOMER.c.customer_id <= last
            rows = select(*_TEXTS).where(*span, may_match).order_by(CUSTOMER.c.customer_id)
            for row in connection.execute(rows):
                if any(wanted in text.casefold() for text in row if text):
                    matches.append(Match._make(row))
                    if len(matches) == limit:
                        passed = ids.c.customer_id <= row.customer_id
                        upto = select(func.count()).select_from(ids).where(passed)
                        looked_at += connection.execute(upto).scalar_one()
                        return Search(matches, looked_at, row.customer_id)
            looked_at += count
            after = last
        if count < CHUNK:
            return Search(matches, looked_at, None)
        if clock() >= until:
            return Search(matches, looked_at, after)


def _may_match(connection: Connection, wanted: str) -> ColumnElement[bool]:
    """Return a condition that all customers meet whose texts have a part, and few others.

    Databases fold the letters of ASCII alike. Other letters are folded as Python does, so a text
    that has some is handed over.
    """
    if "\0" in wanted:
        return false()  # no text has one, and PostgreSQL does not take it
    text = func.coalesce(CUSTOMER.c.name, "") + "\n" + func.coalesce(CUSTOMER.c.email, "")
    text = CUSTOMER.c.customer_id + "\n" + text
    if connection.dialect.name == "sqlite":
        beyond = func.length(cast(text, LargeBinary)) != func.length(text)
        has_part = text.contains(wanted, autoescape=True)  # there LIKE folds letters
    else:
        beyond = func.octet_length(text) != func.char_length(text)
        has_part = text.icontains(wanted, autoescape=True)
    return or_(has_part, beyond) if wanted.isascii() else beyond
