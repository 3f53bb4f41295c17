"""Calls of Engage whose trait no pull knows yet: how long they wait, and what becomes of them.

state/pending_calls.py stores them.
"""

from __future__ import annotations

import orjson
from sqlalchemy import Connection

from state import pending_calls, runs
from state.pending_calls import EarlyCall
from syncer import clock
from syncer.engage.computations import AUDIENCE, COMPUTED_TRAIT
from syncer.event_times import horizon
from syncer.json_text import to_json_or_none
from syncer.passthrough.mapping import Membership

#: How long a call waits for its trait, in milliseconds, and how many are read at a time.
PATIENCE, PAGE = 24 * 3600 * 1000, 2000

#: Why a call is dropped after that time, or at once.
UNKNOWN = "no pull knew its key within 24 hours"
TOO_MANY = f"more than {pending_calls.MOST:,} calls wait for their keys"


def waiting(call: Membership) -> EarlyCall:
    """Return a call as the state stores it."""
    times = call.at_ms, call.received_at
    value = to_json_or_none(call.value)
    return EarlyCall(call.key, call.customer_id, call.kind, value, *times, call.via)


def any_to_settle(connection: Connection, now: int) -> bool:
    """Return whether the wait of a call is over at `now` (epoch milliseconds)."""
    expired = now - PATIENCE
    return pending_calls.any_known(connection) or pending_calls.any_before(connection, expired)


def take_known(connection: Connection) -> list[Membership]:
    """Take out the calls whose trait a pull, or the Public API's list, made ours meanwhile."""
    return [_call(row) for row in pending_calls.take_known(connection, PAGE)]


def known_better(connection: Connection, now: int) -> int:
    """Return the receipt (epoch milliseconds) up to which the last whole pull had seen calls.

    Of such calls the pull's word stands.
    """
    last = runs.last_whole(connection)
    if last is None:
        return 0
    return horizon(clock.read(last.watermark) or int(last.started_at), now)


def drop_expired(connection: Connection, now: int) -> int:
    """Drop the calls that waited too long; return how many."""
    return pending_calls.let_go(connection, now - PATIENCE)


def _call(row: EarlyCall) -> Membership:
    value = None if row.value is None else orjson.loads(row.value)
    kind = AUDIENCE if row.kind == AUDIENCE else COMPUTED_TRAIT
    return Membership(row.customer_id, row.key, kind, value, row.at, row.received_at, row.via)
