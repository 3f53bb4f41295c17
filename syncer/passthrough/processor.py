"""Calls as they happen: from accepted requests to meter records, customers and memberships.

Sorting a request is one transaction of the queue; what it says of customers goes into the state
before that. Both can be done twice without harm (the same messageId is a repeat, the same value no
change), so a process that dies between the two loses and doubles nothing.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from state import failures, queue
from state.db.database import Database
from state.errors import StateError, Unfit
from state.queue import EventRow, InboxRow
from syncer.passthrough import mapping, pending, scopes
from syncer.passthrough.call import Call, Dropped, Rejected, parse, split
from syncer.passthrough.customer_calls import OLDER, Calls, CustomerCall
from syncer.passthrough.mapping import CustomerUpdate, Delete, Membership, Meter, Outcome

log = logging.getLogger("syncer")

#: Calls that one transaction processes, or those of one commit of the inbox if these are more.
PAGE = 2000

#: Why a request is kept that nothing can be done with, and how many of its bytes.
UNPROCESSABLE, MAX_KEPT = "the accepted request cannot be processed", 32 * 1024


@dataclass
class Processed:
    """What a page of requests came to."""

    events: list[EventRow] = field(default_factory=list)
    calls: list[CustomerCall] = field(default_factory=list)
    failures: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=failures.CALLS))
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)


@dataclass
class Processor:
    """Takes requests out of the inbox. `audiences` and `computed_traits` are the config's globs,
    `protected` the names or globs of traits that nobody writes; of more deletes than
    `deletes_per_day` each waits for somebody's word."""

    queue_database: Database
    state_database: Database
    audiences: Sequence[str]
    computed_traits: Sequence[str]
    clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    protected: tuple[str, ...] = ()
    deletes_per_day: int = 100

    def process(self) -> int:
        """Process the oldest requests; return how many there were."""
        with self.queue_database.read() as connection:
            requests = queue.unprocessed(connection, PAGE)
        if not requests:
            return 0
        each = [read_whatever_it_is(request) for request in requests]
        try:
            found = self._store(each)
        except Exception as error:
            if not costs_itself_only(error):
                raise
            # One of them cannot be stored: which one, and the others must not wait for it.
            alone = [self._store_alone(*pair) for pair in zip(requests, each, strict=True)]
            found = joined(alone)
        with self.queue_database.write() as connection:
            new = queue.store_processed(
                connection, {request.id for request in requests}, found.events
            )
            found.counts["repeated", ""] += len(found.events) - new
            queue.count(connection, +found.counts)
        return len(requests)

    def settle_early(self) -> None:
        """Take the calls of Engage that waited for a pull to know their trait, and let go of those
        that waited for too long."""
        now = self.clock()
        with self.state_database.read() as connection:
            if not pending.any_to_settle(connection, now):
                return
        counts: Counter[tuple[str, str]] = Counter()
        with self.state_database.write(alone=True) as connection:
            known, pulled = pending.take_known(connection), pending.known_better(connection, now)
            newer: list[CustomerCall] = [one for one in known if one.received_at > pulled]
            counts["dropped", OLDER] += len(known) - len(newer)
            self._apply(connection, Processed(calls=newer, counts=counts))
            counts["dropped", pending.UNKNOWN] += pending.let_go(connection, now)
        with self.queue_database.write() as connection:
            queue.count(connection, +counts)

    def _store(self, each: Sequence[Processed]) -> Processed:
        """Bring what requests say of customers, and their failures, into the state."""
        found = joined(each)
        if found.calls or found.failures:
            with self.state_database.write(alone=True) as connection:
                self._apply(connection, found)
                if found.failures:
                    found.counts["failure", "let go"] += failures.put(connection, found.failures)
        return found

    def _store_alone(self, request: InboxRow, one: Processed) -> Processed:
        try:
            return self._store([one])
        except Exception as error:
            if not costs_itself_only(error):
                raise
            return self._store([unprocessable(request, error)])

    def _apply(self, connection: Connection, found: Processed) -> None:
        """Bring what the calls say of customers into the desired state, in the order they came."""
        calls = Calls(
            connection,
            found.calls,
            self.audiences,
            self.computed_traits,
            self.clock(),
            found.counts,
            protected=self.protected,
            deletes_per_day=self.deletes_per_day,
        )
        for call in found.calls:
            calls.lay(call)
        calls.write()


def joined(each: Iterable[Processed]) -> Processed:
    """What several requests came to together."""
    found = Processed()
    for one in each:
        found.events += one.events
        found.calls += one.calls
        found.failures += one.failures
        found.counts += one.counts
    return found


def costs_itself_only(error: Exception) -> bool:
    """Whether it is about what was to be done, not about the database and the machine."""
    if isinstance(error, StateError | SQLAlchemyError):
        return isinstance(error, Unfit)
    return not isinstance(error, OSError | MemoryError)


def read_whatever_it_is(request: InboxRow) -> Processed:
    """Process one accepted request; one that cannot be processed is a failure and stops nobody."""
    found = Processed()
    try:
        read(request, found)
    except Exception as error:
        if not costs_itself_only(error):
            raise
        return unprocessable(request, error)
    return found


def unprocessable(request: InboxRow, error: Exception) -> Processed:
    """A request that was accepted and cannot be processed, as a failure with its bytes."""
    log.error(
        "an accepted request cannot be processed, it is kept as a failure",
        extra={"inbox": request.id, "place": request.place},
        exc_info=error,
    )
    text = request.body[:MAX_KEPT].decode("utf-8", "backslashreplace").replace("\0", "\\x00")
    found = Processed(counts=Counter({("rejected", UNPROCESSABLE): 1}))
    failure = _failure(request, 0, Rejected(UNPROCESSABLE, ""))
    found.failures.append({**failure, "request": text})  # of what we took and cannot read, more
    return found


def read(request: InboxRow, into: Processed) -> None:
    """Process one accepted request.

    Its ids and times follow from what was stored, so doing it again has the same result."""
    numbers = iter(range(1_000_000))

    def make_id() -> str:
        place = f"{request.id:x}-{request.place:x}-{next(numbers):x}"
        return f"syncer-{request.received_at:x}-{place}"

    events = split(
        request.path, parse(request.body), received_at=request.received_at, make_id=make_id
    )
    may = scopes.allowed(request.path, request.scopes)
    for place, event in enumerate(events):
        outcome = _outcome(event, may, request.key)
        into.counts["call", event.type if isinstance(event, Call) else ""] += 1
        into.counts["key", request.key] += 1
        if isinstance(event, Call):
            for note in event.notes:
                into.counts["noted", note] += 1
        if isinstance(outcome, Meter):
            at = request.received_at
            into.events.append(EventRow(outcome.message_id, outcome.record, at, at, request.key))
            if outcome.left_out:
                into.counts["dropped", mapping.RESERVED_NAME] += outcome.left_out
        elif isinstance(outcome, Dropped):
            into.counts["dropped", outcome.reason] += 1
        elif isinstance(outcome, Rejected):
            into.counts["rejected", outcome.reason] += 1
            if len(into.failures) == into.failures.maxlen:
                into.counts["failure", "let go"] += 1
            into.failures.append(_failure(request, place, outcome))
        else:
            into.calls.append(outcome)
            if isinstance(outcome, CustomerUpdate) and outcome.left_out:
                into.counts["dropped", mapping.LONG_NAME] += outcome.left_out


def _outcome(event: Call | Dropped | Rejected, may: Collection[str], via: str) -> Outcome:
    """What becomes of an event that came by a key which may do some things and not others."""
    if not isinstance(event, Call):
        return event
    need = event.scope
    if need not in may:
        return Dropped(scopes.NOT_ALLOWED[need])
    found = mapping.outcome(event)
    if isinstance(found, CustomerUpdate):
        return replace(found, via=via, trusted=scopes.MEMBERSHIPS in may)
    if isinstance(found, Membership | Delete):
        return replace(found, via=via)
    return found


def _failure(request: InboxRow, place: int, rejected: Rejected) -> dict[str, Any]:
    ref = f"{request.received_at}:{request.id}:{request.place}:{place}"
    return failures.call(
        ref,
        rejected.message_id,
        rejected.reason,
        rejected.raw,
        request.received_at,
        via=request.key or None,
        customer_id=rejected.customer_id,
    )
