"""Memberships and computed traits by calls whose trait no pull knows yet: how long they wait, and
what becomes of them (state/pending_calls.py keeps them)."""

from __future__ import annotations

from typing import Literal

import orjson
from sqlalchemy import Connection

from state import pending_calls, runs
from state.pending_calls import EarlyCall
from syncer import clock
from syncer.event_times import horizon
from syncer.passthrough.mapping import Membership

#: How long a call waits for its trait, in milliseconds, and how many are taken at a time.
PATIENCE, PAGE = 24 * 3600 * 1000, 2000

#: Why it is dropped then, or at once.
UNKNOWN = "no pull knew its key within 24 hours"
TOO_MANY = f"more than {pending_calls.MOST:,} calls wait for their keys"


def waiting(call: Membership) -> EarlyCall:
    """A call that is to wait."""
    value = None if call.value is None else orjson.dumps(call.value).decode()
    times = call.at_ms, call.received_at
    return EarlyCall(call.key, call.customer_id, call.kind, value, *times, call.via)


def any_to_settle(connection: Connection, now: int) -> bool:
    """Whether one waits no longer."""
    last = now - PATIENCE
    return pending_calls.any_known(connection) or pending_calls.any_before(connection, last)


def take_known(connection: Connection) -> list[Membership]:
    """Take out those whose trait a pull, or the Public API's list, made ours meanwhile."""
    return [_call(row) for row in pending_calls.take_known(connection, PAGE)]


def known_better(connection: Connection, now: int) -> int:
    """What came until then, the pull that made its trait ours knew: its word stands."""
    last = runs.last_whole(connection)
    if last is None:
        return 0
    return horizon(clock.read(last["watermark"]) or int(last["started_at"]), now)


def let_go(connection: Connection, now: int) -> int:
    """Drop those that waited for too long; gives how many."""
    return pending_calls.let_go(connection, now - PATIENCE)


def _call(row: EarlyCall) -> Membership:
    value = None if row.value is None else orjson.loads(row.value)
    kind: Literal["audience", "computed_trait"] = (
        "audience" if row.kind == "audience" else "computed_trait"
    )
    return Membership(row.customer_id, row.key, kind, value, row.at, row.received_at, row.via)
