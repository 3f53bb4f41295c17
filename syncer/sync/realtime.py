"""Calls as they happen: from accepted requests to meter records, customers and memberships.

Sorting a request is one transaction of the queue; what it says of customers goes into the state
before that. Both can be done twice without harm (the same messageId is a repeat, the same value no
change), so a process that dies between the two loses and doubles nothing.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import orjson
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from state import failures, forgotten, queue, snapshot
from state.database import Database
from state.errors import StateError, Unfit
from state.queue import EventRow, InboxRow
from state.snapshot import ChangeRow, CustomerState, TraitRow
from syncer.engage.catalog import AUDIENCE, INTERNAL, PROFILE_KEYS, canonical
from syncer.engage.names import trait_name
from syncer.passthrough import mapping
from syncer.passthrough.call import Call, Dropped, Rejected, parse, split
from syncer.passthrough.mapping import CustomerUpdate, Delete, Membership, Meter

log = logging.getLogger("syncer")

#: Calls that one transaction sorts, or those of one commit of the inbox if these are more.
PAGE = 2000

#: Why a request is kept that nothing can be done with, and how many of its bytes.
UNSORTABLE, MAX_KEPT = "the accepted request cannot be sorted", 1024 * 1024

CustomerCall = CustomerUpdate | Membership | Delete


@dataclass
class Sorted:
    """What a page of requests came to."""

    events: list[EventRow] = field(default_factory=list)
    calls: list[CustomerCall] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
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
            new = queue.sort(connection, {request.id for request in requests}, found.events)
            found.counts["repeated", ""] += len(found.events) - new
            queue.count(connection, +found.counts)
        return len(requests)

    def _store(self, each: Sequence[Sorted]) -> Sorted:
        """Bring what requests say of customers, and their failures, into the state."""
        found = joined(each)
        if found.calls or found.failures:
            with self.state_database.write(alone=True) as connection:
                self._apply(connection, found)
                if found.failures:
                    failures.put(connection, found.failures)
        return found

    def _store_alone(self, request: InboxRow, one: Sorted) -> Sorted:
        try:
            return self._store([one])
        except Exception as error:
            if not costs_itself_only(error):
                raise
            return self._store([unsortable(request, error)])

    def _apply(self, connection: Connection, found: Sorted) -> None:
        """Bring customers and memberships into the desired state, in the order they came."""
        now = self.clock()
        gone = forgotten.load(connection)
        ids = {call.customer_id for call in found.calls}
        customers = {one.customer_id: one for one in snapshot.states(connection, ids)}
        before = dict(customers)
        traits = {row.key: row for row in snapshot.traits(connection)}
        names = {row.trait: row for row in traits.values()}
        changes: list[ChangeRow] = []
        members: Counter[str] = Counter()
        for call in found.calls:
            if call.customer_id in gone:
                found.counts["dropped", "forgotten"] += 1
                continue
            was = customers.get(call.customer_id)
            state: CustomerState | None
            if isinstance(call, CustomerUpdate):
                state = identified(was, call, names.keys())
                found.counts["customer", "identify"] += 1
            elif isinstance(call, Delete):
                state = None if was is None else blanked(was, now)
                forgotten.ask(connection, call.customer_id, now)
                gone.pending.add(call.customer_id)
                found.counts["customer", "delete"] += 1
            else:
                trait = self._trait(call, traits, names)
                if isinstance(trait, str):
                    found.counts["dropped", trait] += 1
                    continue
                state, change = computed(was, call, trait, self._last(connection, call, changes))
                found.counts["customer", "engage"] += 1
                if change is not None:
                    traits[trait.key] = names[trait.trait] = trait
                    changes.append(change)
                    members[trait.key] += _counts(change.after) - _counts(change.before)
            if state is not None:
                customers[call.customer_id] = state
        new = [state for one, state in customers.items() if one not in before]
        known = [(before[one], state) for one, state in customers.items() if one in before]
        changed = [state for was, state in known if sendable(state) != sendable(was)]
        noted = [state for was, state in known if state != was and state not in changed]
        snapshot.put_traits(
            connection,
            [traits[key]._replace(members=delta) for key, delta in members.items()],
        )
        snapshot.insert_customers(connection, new, now)
        snapshot.update_customers(connection, changed, now)
        snapshot.note_customers(connection, noted)
        snapshot.add_changes(connection, changes, None, now)

    def _trait(
        self, call: Membership, traits: dict[str, TraitRow], names: dict[str, TraitRow]
    ) -> TraitRow | str:
        """The trait that a call of Engage speaks of, or why it is none of ours."""
        if call.key in traits:
            return traits[call.key]
        computed_trait = _matches(call.key, self.computed_traits)
        if call.key in PROFILE_KEYS or fnmatchcase(call.key, INTERNAL):
            return "key is not ours"
        if not computed_trait and not _matches(call.key, self.audiences):
            return "key is not ours"
        if call.kind == AUDIENCE and computed_trait:
            return "key is not ours"
        name = trait_name(call.key)
        if not name or name in names:
            return "name taken twice"
        return TraitRow(call.key, name, call.kind, 0)

    def _last(
        self, connection: Connection, call: Membership, changes: Iterable[ChangeRow]
    ) -> int | None:
        """Segment's time of the newest change of that trait of that customer."""
        newest = snapshot.last_observed(connection, call.customer_id, call.key)
        for change in changes:
            if (change.customer_id, change.key) == (call.customer_id, call.key):
                newest = max(newest or 0, change.observed_at or 0)
        return newest


def joined(each: Iterable[Sorted]) -> Sorted:
    """What several requests came to together."""
    found = Sorted()
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


def read_whatever_it_is(request: InboxRow) -> Sorted:
    """Sort one accepted request; one that cannot be is a failure and stops nobody."""
    found = Sorted()
    try:
        read(request, found)
    except Exception as error:
        if not costs_itself_only(error):
            raise
        return unsortable(request, error)
    return found


def unsortable(request: InboxRow, error: Exception) -> Sorted:
    """A request that was accepted and cannot be sorted, as a failure with its bytes."""
    log.error(
        "an accepted request cannot be sorted, it is kept as a failure",
        extra={"inbox": request.id, "place": request.place},
        exc_info=error,
    )
    text = request.body[:MAX_KEPT].decode("utf-8", "backslashreplace").replace("\0", "\\x00")
    failure = _failure(request, 0, Rejected(UNSORTABLE, text))
    return Sorted(failures=[failure], counts=Counter({("rejected", UNSORTABLE): 1}))


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
            into.failures.append(_failure(request, place, outcome))
        else:
            into.calls.append(outcome)
            if isinstance(outcome, CustomerUpdate) and outcome.left_out:
                into.counts["dropped", mapping.LONG_NAME] += outcome.left_out


def identified(
    was: CustomerState | None, call: CustomerUpdate, engage_names: Collection[str]
) -> CustomerState:
    """The state after an identify: for name, email and each trait the newest Segment time wins.
    Names that Engage computes are not a client's to set."""
    state = was or CustomerState(call.customer_id, "{}", None, None, None, None)
    stamps: dict[str, int] = orjson.loads(state.stamps or "{}")
    called: dict[str, list[Any]] = orjson.loads(state.called or "{}")
    name, email = state.name, state.email
    if call.name is not None and call.at_ms >= stamps.get("name", 0):
        name, stamps["name"] = call.name, call.at_ms
    if call.email is not None and call.at_ms >= stamps.get("email", 0):
        email, stamps["email"] = call.email, call.at_ms
    for trait, value in call.traits.items():
        if trait not in engage_names and call.at_ms >= called.get(trait, [None, 0])[1]:
            called[trait] = [value, call.at_ms]
    return state._replace(name=name, email=email, called=_dump(called), stamps=_dump(stamps))


def computed(
    was: CustomerState | None, call: Membership, trait: TraitRow, last: int | None
) -> tuple[CustomerState | None, ChangeRow | None]:
    """The state after a call of Engage, and the change for the history if it is one."""
    if was is None and call.value is False:
        return None, None  # never a member, never sent (design §3, three states)
    state = was or CustomerState(call.customer_id, "{}", None, None, None, None)
    traits = orjson.loads(state.traits)
    stamps: dict[str, int] = orjson.loads(state.stamps or "{}")
    if call.at_ms < max(stamps.get(trait.trait, 0), last or 0):
        return was, None
    stamps[trait.trait] = call.at_ms
    before = traits.get(trait.trait)
    if call.value is None:
        traits.pop(trait.trait, None)
    else:
        traits[trait.trait] = call.value
    after = state._replace(traits=canonical(traits), stamps=_dump(stamps))
    if after.traits == state.traits:
        return (after if was is not None else None), None
    change = ChangeRow(
        call.customer_id, trait.key, trait.trait, _json(before), _json(call.value), call.at_ms
    )
    return after, change


def sendable(state: CustomerState) -> tuple[Any, ...]:
    """What of a state Amberflo gets to see."""
    called = {name: value for name, (value, _) in orjson.loads(state.called or "{}").items()}
    return state.traits, state.name, state.email, called


def blanked(was: CustomerState, now: int) -> CustomerState:
    """The state after Segment's delete call, until the customer is erased (forget.py): nothing
    personal is to be at Amberflo. The name there becomes the id, email and identify traits go."""
    called = {name: [None, now] for name in orjson.loads(was.called or "{}")}
    stamps = orjson.loads(was.stamps or "{}") | {"name": now, "email": now}
    return was._replace(name=was.customer_id, email="", called=_dump(called), stamps=_dump(stamps))


def _failure(request: InboxRow, place: int, rejected: Rejected) -> dict[str, Any]:
    return {
        "ref": f"call:{request.received_at}:{request.id}:{request.place}:{place}",
        "kind": failures.METER,
        "customer_id": None,
        "message_id": rejected.message_id,
        "reason": rejected.reason,
        "status": None,
        "request": rejected.raw,
        "body": None,
        "attempts": 0,
        "failed_at": request.received_at,
    }


def _matches(key: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def _dump(found: dict[str, Any]) -> str | None:
    return orjson.dumps(found, option=orjson.OPT_SORT_KEYS).decode() if found else None


def _json(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def _counts(value: str | None) -> int:
    return 0 if value in (None, "false") else 1
