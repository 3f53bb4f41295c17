"""The customers that the next comparison by fingerprints reads, whatever these say.

A fingerprint that is as it was says that Engage's rows are. What became of a customer here since
then (a call, a run between, the end of a hold), or what an earlier run left open of it, it does not
say. Whoever writes such a thing notes the customer; the run whose fingerprints become the baseline
has seen to all that were noted before it began. Nothing is noted while there are no fingerprints.

Functions take a connection, so that the caller says what is one transaction. Who notes, writes
alone, so that the numbers go up as the notes become visible.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sqlalchemy import Connection, delete, func, or_, select

from state import fingerprint_tables
from state.db.batches import ROWS, batches, insert_rows
from state.db.tables import REVISIT

_ID = REVISIT.c.customer_id


def note(connection: Connection, customer_ids: Iterable[str]) -> None:
    """Note customers, also those that are noted already."""
    if not fingerprint_tables.any_on_record(connection):
        return
    for ids in batches(customer_ids, ROWS):
        named = list(dict.fromkeys(ids))
        erase(connection, named)
        insert_rows(connection, REVISIT, ["customer_id"], ((each,) for each in named))


def newest(connection: Connection) -> int:
    """Return the number of the newest note."""
    return int(connection.execute(select(func.coalesce(func.max(REVISIT.c.id), 0))).scalar_one())


def listed(connection: Connection) -> Iterator[str]:
    """Yield the customers that are noted."""
    after = 0
    while rows := connection.execute(
        select(REVISIT.c.id, _ID).where(REVISIT.c.id > after).order_by(REVISIT.c.id).limit(ROWS)
    ).all():
        yield from (customer_id for _, customer_id in rows)
        after = rows[-1].id


def settle(connection: Connection, until: int, after: int) -> None:
    """Forget the notes up to a number, and those after another one: a run has seen to them."""
    connection.execute(delete(REVISIT).where(or_(REVISIT.c.id <= until, REVISIT.c.id > after)))


def erase(connection: Connection, customer_ids: Iterable[str]) -> None:
    """Forget these customers."""
    for ids in batches(customer_ids):
        connection.execute(delete(REVISIT).where(_ID.in_(ids)))


def clear(connection: Connection) -> None:
    """Forget all notes."""
    connection.execute(delete(REVISIT))
