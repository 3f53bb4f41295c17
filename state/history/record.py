"""Writing the history: the changes of customers, as a run or a call made them.

Times are epoch milliseconds; values are JSON text, None is absent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from sqlalchemy import Connection, select

from state.change_sources import RELEASED
from state.db.batches import ROWS, batches, insert_rows
from state.db.tables import CHANGE, CUSTOMER
from state.history import seal


class ChangeRow(NamedTuple):
    """One trait's change for the history; `before` and `after` are JSON, None is absent.

    `source` is as in `change_sources.SOURCES`; where `delta` is None, it follows from `before` and
    `after`; `via` is the short name of the key that a call came by.
    """

    customer_id: str
    key: str
    trait: str
    before: str | None
    after: str | None
    observed_at: int | None
    source: str | None = None
    delta: int | None = None
    via: str | None = None


#: The columns that are written, in this order: those of a row, and those of all its changes.
_COLUMNS = (*ChangeRow._fields, "run", "rev", "recorded_at", "delivered_at", "salt")


def add_changes(
    connection: Connection,
    rows: Sequence[ChangeRow],
    run: int | None,
    now: int,
    *,
    delivered_at: Mapping[str, int | None] = MappingProxyType({}),
) -> None:
    """Add changes of customers that were just written: they belong to the present `rev` of these.

    The caller's transaction writes alone (`Database.write`): a seal (seal.py) must see the changes
    in the order of their ids. `delivered_at` has the time, by customer, where Amberflo has the
    changes already.
    """
    statement = select(CUSTOMER.c.customer_id, CUSTOMER.c.rev)
    revs: dict[str, int] = {}
    for ids in batches(sorted({row.customer_id for row in rows}), ROWS):
        current = connection.execute(statement.where(CUSTOMER.c.customer_id.in_(ids)))
        revs.update({row.customer_id: row.rev for row in current})
    salts = seal.salts(len(rows))
    insert_rows(
        connection,
        CHANGE,
        _COLUMNS,
        (
            (
                *row[:7],
                delta_of(row.before, row.after, row.source) if row.delta is None else row.delta,
                row.via,
                run,
                revs[row.customer_id],
                now,
                delivered_at.get(row.customer_id),
                salt,
            )
            for row, salt in zip(rows, salts, strict=True)
        ),
    )


def delta_of(before: str | None, after: str | None, source: str | None = None) -> int:
    """Return 1 where a change enters an audience, -1 where it leaves one, else 0.

    A value that is given back is no membership any more, whatever others had under the name.
    """
    return (after == "true" and source != RELEASED) - (before == "true")


def last_observed(connection: Connection, customer_id: str, key: str) -> int | None:
    """Return Segment's time of the row that the newest change of a customer's key comes from.

    None where it comes from no row: from a call, or from a run that missed the row or found it
    dated in the future.
    """
    row = connection.execute(
        select(CHANGE.c.run, CHANGE.c.observed_at, CHANGE.c.recorded_at)
        .where(CHANGE.c.customer_id == customer_id, CHANGE.c.key == key)
        .order_by(CHANGE.c.id.desc())
        .limit(1)
    ).first()
    if row is None or row.run is None or row.observed_at is None:
        return None
    return int(row.observed_at) if row.observed_at < row.recorded_at else None
