"""Calls as they happen: from accepted requests to meter records, customers and memberships.

Processing a request is one transaction of the queue; what its calls say of customers goes into the
state before that. Both may happen twice without harm (the same messageId is a repeat, the same
value is no change), so a process that dies between the two loses nothing and doubles nothing.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from state import early_exits, failures, queue
from state.db.database import Database
from state.errors import StateError, Unfit
from state.failures import FailureRow
from state.queue import EventRow, InboxRow
from syncer.clock import now_ms
from syncer.passthrough import mapping, pending, scopes
from syncer.passthrough.call import Call, Dropped, Rejected, rejected, split
from syncer.passthrough.customer_calls import OLDER, CustomerCall, CustomerCalls
from syncer.passthrough.mapping import CustomerUpdate, Delete, Membership, Meter, Outcome
from syncer.passthrough.parsing import parse

log = logging.getLogger("syncer")

#: Calls that one transaction processes, or those of one commit of the inbox if these are more. The
#: receiver waits while it is written.
PAGE = 500

#: Why a request that cannot be processed is kept, and how many of its bytes are.
UNPROCESSABLE, MAX_KEPT = "the accepted request cannot be processed", 32 * 1024


@dataclass
class Processed:
    """What a page of requests becomes: meter records, calls about customers, failures, counts."""

    events: list[EventRow] = field(default_factory=list)
    calls: list[CustomerCall] = field(default_factory=list)
    failures: deque[FailureRow] = field(default_factory=lambda: deque(maxlen=failures.CALLS))
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(
        self,
        request: InboxRow,
        place: int,
        event: Call | Dropped | Rejected,
        may: Collection[str],
    ) -> None:
        """Add the event at a place of a request that has the scopes `may`."""
        self.counts["call", event.type if isinstance(event, Call) else ""] += 1
        self.counts["key", request.key] += 1
        if isinstance(event, Call):
            for note in event.notes:
                self.counts["noted", note] += 1
        outcome = _outcome(event, may, request.key)
        if isinstance(outcome, Meter):
            at = request.received_at
            self.events.append(EventRow(outcome.message_id, outcome.record, at, at, request.key))
            if outcome.left_out:
                self.counts["dropped", mapping.RESERVED_NAME] += outcome.left_out
        elif isinstance(outcome, Dropped):
            self.counts["dropped", outcome.reason] += 1
        elif isinstance(outcome, Rejected):
            self._add_failure(request, place, outcome)
        else:
            self.calls.append(outcome)
            if isinstance(outcome, CustomerUpdate) and outcome.left_out:
                self.counts["dropped", mapping.LONG_NAME] += outcome.left_out

    def _add_failure(self, request: InboxRow, place: int, event: Rejected) -> None:
        self.counts["rejected", event.reason] += 1
        if len(self.failures) == self.failures.maxlen:
            self.counts["failure", "let go"] += 1
        self.failures.append(_failure(request, place, event))


@dataclass
class Processor:
    """Takes requests out of the inbox and processes them.

    `audiences` and `computed_traits` are the config's globs, `protected` the names or globs of
    traits that are never written. Deletes beyond `deletes_per_day` wait until an operator confirms
    them. `clock` returns epoch milliseconds.
    """

    queue_database: Database
    state_database: Database
    audiences: Sequence[str]
    computed_traits: Sequence[str]
    clock: Callable[[], int] = now_ms
    protected: tuple[str, ...] = ()
    deletes_per_day: int = 100

    def process(self) -> int:
        """Process the oldest requests; return how many there were."""
        with self.queue_database.read() as connection:
            requests = queue.unprocessed(connection, PAGE)
        if not requests:
            return 0
        pages = [process_safely(request) for request in requests]
        try:
            page = self._store(pages)
        except Exception as error:
            if not _concerns_one_request(error):
                raise
            # One of them cannot be stored. The others must not wait until it is known which one.
            page = joined(map(self._store_alone, requests, pages))
        with self.queue_database.write() as connection:
            ids = {request.id for request in requests}
            new = queue.store_processed(connection, ids, page.events)
            page.counts["repeated", ""] += len(page.events) - new
            queue.count(connection, +page.counts)
        return len(requests)

    def apply_early_calls(self) -> None:
        """Apply the calls of Engage that waited until a pull knew their trait.

        Those that waited too long are dropped, and so are exits that were kept for long enough.
        """
        now = self.clock()
        with self.state_database.read() as connection:
            expired = early_exits.any_expired(connection, now)
            if not expired and not pending.any_to_settle(connection, now):
                return
        counts: Counter[tuple[str, str]] = Counter()
        with self.state_database.write(alone=True) as connection:
            known, pulled = pending.take_known(connection), pending.known_better(connection, now)
            newer: list[CustomerCall] = [call for call in known if call.received_at > pulled]
            counts["dropped", OLDER] += len(known) - len(newer)
            self._apply(connection, Processed(calls=newer, counts=counts))
            counts["dropped", pending.UNKNOWN] += pending.drop_expired(connection, now)
            early_exits.drop_expired(connection, now)
        with self.queue_database.write() as connection:
            queue.count(connection, +counts)

    def _store(self, pages: Sequence[Processed]) -> Processed:
        """Write what requests say of customers, and their failures, to the state; join them."""
        page = joined(pages)
        if page.calls or page.failures:
            with self.state_database.write(alone=True) as connection:
                self._apply(connection, page)
                if page.failures:
                    page.counts["failure", "let go"] += failures.put(connection, page.failures)
        return page

    def _store_alone(self, request: InboxRow, page: Processed) -> Processed:
        try:
            return self._store([page])
        except Exception as error:
            if not _concerns_one_request(error):
                raise
            return self._store([unprocessable(request, error)])

    def _apply(self, connection: Connection, page: Processed) -> None:
        """Write what the calls say of customers into the desired state, in the order they came."""
        calls = CustomerCalls(
            connection,
            page.calls,
            self.audiences,
            self.computed_traits,
            self.clock(),
            page.counts,
            protected=self.protected,
            deletes_per_day=self.deletes_per_day,
        )
        for call in page.calls:
            calls.apply(call)
        calls.write()


def joined(pages: Iterable[Processed]) -> Processed:
    """Return several requests' events, calls, failures and counts as one page."""
    total = Processed()
    for page in pages:
        total.events += page.events
        total.calls += page.calls
        total.failures += page.failures
        total.counts += page.counts
    return total


def _concerns_one_request(error: Exception) -> bool:
    """Return whether an error is about the request, not about the database or the machine."""
    if isinstance(error, StateError | SQLAlchemyError):
        return isinstance(error, Unfit)
    return not isinstance(error, OSError | MemoryError)


def process_safely(request: InboxRow) -> Processed:
    """Process one request; one that cannot be processed becomes a failure and stops no other."""
    try:
        return process_request(request)
    except Exception as error:
        if not _concerns_one_request(error):
            raise
        return unprocessable(request, error)


def unprocessable(request: InboxRow, error: Exception) -> Processed:
    """Return a request that cannot be processed as a failure with its bytes."""
    log.error(
        "an accepted request cannot be processed, it is kept as a failure",
        extra={"inbox": request.id, "place": request.place},
        exc_info=error,
    )
    text = request.body[:MAX_KEPT].decode("utf-8", "backslashreplace").replace("\0", "\\x00")
    page = Processed(counts=Counter({("rejected", UNPROCESSABLE): 1}))
    failure = _failure(request, 0, Rejected(UNPROCESSABLE, ""))
    page.failures.append(failure._replace(request=text))  # longer than what a single call may keep
    return page


def process_request(request: InboxRow) -> Processed:
    """Process one accepted request.

    Its ids and times follow from what the inbox stores, so that a second time has the same result.
    """
    numbers = iter(range(1_000_000))

    def make_id() -> str:
        place = f"{request.id:x}-{request.place:x}-{next(numbers):x}"
        return f"syncer-{request.received_at:x}-{place}"

    body = parse(request.body)
    events = split(request.path, body, received_at=request.received_at, make_id=make_id)
    may = scopes.allowed(request.path, request.scopes)
    page = Processed()
    for place, event in enumerate(events):
        page.add(request, place, event, may)
    return page


def _outcome(
    event: Call | Dropped | Rejected, may: Collection[str], via: str
) -> Outcome | Rejected:
    """Return what an event becomes that came by a key (`via`) with the scopes `may`."""
    if not isinstance(event, Call):
        return event
    if event.scope not in may:
        return Dropped(scopes.NOT_ALLOWED[event.scope])
    outcome = mapping.outcome(event)
    if isinstance(outcome, str):
        return rejected(outcome, event.source, event.message_id, event.type)
    if isinstance(outcome, CustomerUpdate):
        return replace(outcome, via=via, trusted=scopes.MEMBERSHIPS in may)
    if isinstance(outcome, Membership | Delete):
        return replace(outcome, via=via)
    return outcome


def _failure(request: InboxRow, place: int, event: Rejected) -> FailureRow:
    ref = f"{request.received_at}:{request.id}:{request.place}:{place}"
    return failures.call(
        ref,
        event.message_id,
        event.reason,
        event.raw,
        request.received_at,
        via=request.key or None,
        customer_id=event.customer_id,
        event=event.name,
    )
