"""Calls as they happen: from accepted requests to meter records, customers and memberships.

Sorting a request is one transaction of the queue; what it says of customers goes into the state
before that. Both can be done twice without harm (the same messageId is a repeat, the same value no
change), so a process that dies between the two loses and doubles nothing.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from state import failures, queue
from state.database import Database
from state.queue import EventRow, InboxRow
from syncer.passthrough import mapping
from syncer.passthrough.call import Call, Dropped, Rejected, parse, split
from syncer.passthrough.mapping import Meter
from syncer.sync.calls import Calls, CustomerCall

#: Calls that one transaction sorts, or those of one commit of the inbox if these are more.
PAGE = 2000


@dataclass
class Sorted:
    """What a page of requests came to."""

    events: list[EventRow] = field(default_factory=list)
    calls: list[CustomerCall] = field(default_factory=list)
    failures: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=failures.CALLS))
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)


@dataclass
class Sorter:
    """Takes requests out of the inbox. `audiences` and `computed_traits` are the config's globs."""

    queue_database: Database
    state_database: Database
    audiences: Sequence[str]
    computed_traits: Sequence[str]
    clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000

    def sort(self) -> int:
        """Sort the oldest requests; gives how many there were."""
        with self.queue_database.read() as connection:
            requests = queue.unsorted(connection, PAGE)
        if not requests:
            return 0
        found = Sorted()
        for request in requests:
            read(request, found)
        if found.calls or found.failures:
            with self.state_database.write(alone=True) as connection:
                self._apply(connection, found)
                if found.failures:
                    found.counts["failure", "let go"] += failures.put(connection, found.failures)
        with self.queue_database.write() as connection:
            new = queue.sort(connection, {request.id for request in requests}, found.events)
            found.counts["repeated", ""] += len(found.events) - new
            queue.count(connection, +found.counts)
        return len(requests)

    def _apply(self, connection: Connection, found: Sorted) -> None:
        """Bring what the calls say of customers into the desired state, in the order they came."""
        globs = self.audiences, self.computed_traits
        calls = Calls(connection, found.calls, *globs, self.clock(), found.counts)
        for call in found.calls:
            calls.lay(call)
        calls.write()


def read(request: InboxRow, into: Sorted) -> None:
    """Sort one accepted request. Its ids and times follow from what was stored, so doing it again
    gives the same."""
    numbers = iter(range(1_000_000))

    def make_id() -> str:
        place = f"{request.id:x}-{request.place:x}-{next(numbers):x}"
        return f"syncer-{request.received_at:x}-{place}"

    events = split(
        request.path, parse(request.body), received_at=request.received_at, make_id=make_id
    )
    for place, event in enumerate(events):
        outcome = mapping.outcome(event) if isinstance(event, Call) else event
        into.counts["call", event.type if isinstance(event, Call) else ""] += 1
        if isinstance(event, Call):
            for note in event.notes:
                into.counts["noted", note] += 1
        if isinstance(outcome, Meter):
            at = request.received_at
            into.events.append(EventRow(outcome.message_id, outcome.record, at, at))
        elif isinstance(outcome, Dropped):
            into.counts["dropped", outcome.reason] += 1
        elif isinstance(outcome, Rejected):
            into.counts["rejected", outcome.reason] += 1
            if len(into.failures) == into.failures.maxlen:
                into.counts["failure", "let go"] += 1
            into.failures.append(_failure(request, place, outcome))
        else:
            into.calls.append(outcome)


def _failure(request: InboxRow, place: int, rejected: Rejected) -> dict[str, Any]:
    ref = f"{request.received_at}:{request.id}:{request.place}:{place}"
    raw, received_at = rejected.raw, request.received_at
    return failures.call(ref, rejected.message_id, rejected.reason, raw, received_at)
