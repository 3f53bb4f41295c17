"""What it takes to send customers from now on, by what the state knows: its Amberflo, the rate."""

from __future__ import annotations

from sqlalchemy import Connection

from state import outbox
from state.db import metadata
from state.db.database import Database
from syncer.clock import now_ms
from syncer.delivery.estimate import MANY, Estimate

#: Milliseconds for which a rate that is on record counts as the present one.
PRESENT = 60_000


def outlook(
    database: Database, new: int, known: int, configured: float, at_amberflo: int | None = None
) -> Estimate:
    """Return what it takes to send `new` and `known` customers (see `Estimate`).

    `configured` is `amberflo.rate`; the present rate is less where Amberflo's answers slowed it.
    `at_amberflo` is how many customers Amberflo listed; None: those that the state knows of.
    """
    with database.read() as connection:
        if at_amberflo is None:
            at_amberflo = outbox.acknowledged_count(connection) if new + known >= MANY else 0
        rate = present_rate(connection, configured)
    return Estimate(new, known, rate, at_amberflo)


def put_rate(connection: Connection, rate: float | None) -> None:
    """Put the rate of all processes on record, which answers slowed down; None: it is as ever."""
    if rate is None:
        metadata.drop(connection, metadata.PRESENT_RATE)
    else:
        metadata.put(connection, metadata.PRESENT_RATE, f"{rate:g} {now_ms()}")


def present_rate(connection: Connection, configured: float) -> float:
    """Return the present rate in requests per second; 0 is unlimited."""
    rate, _, at = (metadata.get(connection, metadata.PRESENT_RATE) or "").partition(" ")
    if not at or abs(now_ms() - int(at)) > PRESENT:
        return configured
    return min(float(rate), configured) if configured else float(rate)
