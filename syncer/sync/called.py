"""What calls of Engage brought until now, for a set-up without a pull."""

from __future__ import annotations

from state import pending_calls, queue, snapshot
from state.db.database import Database
from syncer.engage.computations import AUDIENCE
from syncer.engage.events import Called
from syncer.engage.source import ObservedKey
from syncer.passthrough.scopes import SIGNED
from syncer.sync.trait_selection import kind_of

#: What the queue counts of calls of Engage: those that were applied, and those that wait.
_COUNTED = {"customer": "engage", "waiting": None}


def called(state: Database, calls: Database) -> Called:
    """Return the keys that are ours, and those that a signed call brought and no run took up.

    A bare write key shows a key to nobody: only Segment's webhook is signed.
    """
    with state.read() as connection:
        known = {
            row.key: _observed(row.key, kind_of(row), row.members)
            for row in snapshot.traits(connection)
        }
        waiting = {
            key: _observed(key, kind, customers)
            for key, kind, customers in pending_calls.keys(connection, SIGNED.name)
        }
    with calls.read() as connection:
        counters = queue.counters(connection)
    taken = sum(
        number
        for (name, reason), number in counters.items()
        if name in _COUNTED and _COUNTED[name] in (None, reason)
    )
    return Called(tuple((waiting | known).values()), taken)


def _observed(key: str, kind: str, customers: int) -> ObservedKey:
    """Return a key as a pull would see it: booleans are an audience, other values are a trait."""
    members, values = (customers, 0) if kind == AUDIENCE else (0, customers)
    return ObservedKey(key, customers, members, 0, values)
