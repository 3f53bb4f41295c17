"""What calls say of customers, laid over the desired state in the order in which they came.

A membership or computed trait by a call is provisional: it counts at once, and until a pull could
know better (compare.py). Of two calls, and of a name or email, the newest Segment time wins. No
time is later than its receipt, so nothing wins for ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import orjson
from sqlalchemy import Connection

from state import forgotten, holds, snapshot
from state.holds import InForce
from state.snapshot import ChangeRow, CustomerState, TraitRow
from syncer.engage.catalog import canonical
from syncer.engage.names import trait_name
from syncer.engage.selection import kind_by_globs
from syncer.passthrough.mapping import CustomerUpdate, Delete, Membership
from syncer.sync.commit import PROFILE, as_json, counts
from syncer.sync.compare import Stamp, read_stamps, same
from syncer.times import believed

CustomerCall = CustomerUpdate | Membership | Delete

#: What of a change's history says that an identify told it (`tables.SOURCES`).
IDENTIFY = "identify"
#: Bytes that a key of the history may have: databases put it into an index. A client's trait may
#: have a longer name.
MAX_KEY = 400

#: Why a call is dropped.
FORGOTTEN = "forgotten"
NOT_OURS = "key is not ours"
NAME_TAKEN = "name taken twice"
OLDER = "older than what is known"
HELD = "held"


class Calls:
    """Lays calls over the state of the customers that they name, and writes what came of it, in one
    transaction of the caller's that writes alone. `audiences` and `computed_traits` are the
    config's globs; `counts` is told what became of each call."""

    def __init__(
        self,
        connection: Connection,
        calls: Collection[CustomerCall],
        audiences: Sequence[str],
        computed_traits: Sequence[str],
        now: int,
        counts: Counter[tuple[str, str]],
    ) -> None:
        self._connection, self._now, self._counts = connection, now, counts
        self._globs = audiences, computed_traits
        ids = {call.customer_id for call in calls}
        self._gone = forgotten.load(connection)
        self._before = {one.customer_id: one for one in snapshot.states(connection, ids)}
        self._customers = dict(self._before)
        self._released = snapshot.released(connection)
        ours = snapshot.traits(connection)
        self._traits = {row.key: row for row in ours}
        self._names = {row.trait: row for row in ours}
        self._held = holds.in_force(connection, ids)
        self._ended: list[InForce] = []
        self._changes: list[ChangeRow] = []
        self._members: Counter[str] = Counter()

    def lay(self, call: CustomerCall) -> None:
        """Take one call."""
        if call.customer_id in self._gone:
            self._counts["dropped", FORGOTTEN] += 1
        elif isinstance(call, CustomerUpdate):
            self._identify(call)
            self._counts["customer", IDENTIFY] += 1
        elif isinstance(call, Delete):
            self._delete(call)
            self._counts["customer", "delete"] += 1
        elif (reason := self._compute(call)) is not None:
            self._counts["dropped", reason] += 1
        else:
            self._counts["customer", "engage"] += 1

    def write(self) -> None:
        """Write what the calls came to: customers, what is due, the history, ended holds."""
        before = self._before
        known = [(before[one], now) for one, now in self._customers.items() if one in before]
        changed = [now for was, now in known if sendable(now) != sendable(was)]
        noted = [now for was, now in known if now != was and sendable(now) == sendable(was)]
        new = [now for one, now in self._customers.items() if one not in before]
        snapshot.put_traits(
            self._connection,
            [self._traits[key]._replace(members=delta) for key, delta in self._members.items()],
        )
        snapshot.insert_customers(self._connection, new, self._now)
        snapshot.update_customers(self._connection, changed, self._now)
        snapshot.note_customers(self._connection, noted)
        snapshot.add_changes(self._connection, self._changes, None, self._now)
        holds.end(self._connection, self._ended, self._now)

    def _state(self, customer_id: str) -> CustomerState:
        nothing = CustomerState(customer_id, "{}", None, None, None, None)
        return self._customers.get(customer_id, nothing)

    # What a client says

    def _identify(self, call: CustomerUpdate) -> None:
        """Name, email and each trait, where the call is the newest word on it. Names that Engage
        computes are not a client's to set."""
        state = self._state(call.customer_id)
        stamps, called = read_stamps(state.stamps), orjson.loads(state.called or "{}")
        said = {"name": call.name, "email": call.email}
        values: dict[str, str | None] = {"name": state.name, "email": state.email}
        for key, trait in PROFILE:
            value = said[key]
            if value is None or self._outdated(call, stamps, key, key, value != values[key]):
                continue
            self._tell(call, key, trait, values[key] or None, value)
            values[key], stamps[key] = value, Stamp(call.at_ms, call.received_at)
        for trait, new in call.traits.items():
            was, at = called.get(trait, (None, 0))
            if trait not in self._names and not _newer(at, call):
                self._tell(call, trait, trait, was, new)
                called[trait] = [new, call.at_ms]
        self._customers[call.customer_id] = state._replace(
            name=values["name"],
            email=values["email"],
            called=_dump(called),
            stamps=_stamped(stamps),
        )

    def _tell(self, call: CustomerUpdate, key: str, trait: str, before: Any, after: Any) -> None:
        """Write a change of a client's into the history. It is no entry and no exit, whatever the
        value."""
        if not same(before, after):
            values = as_json(before), as_json(after)
            key = key.encode()[:MAX_KEY].decode(errors="ignore")
            row = ChangeRow(call.customer_id, key, trait, *values, call.at_ms, IDENTIFY, step=0)
            self._changes.append(row)

    def _delete(self, call: Delete) -> None:
        """Segment's delete call. Until the customer is erased (forget.py), nothing personal is to
        be at Amberflo: the name there becomes the id, email and identify traits go."""
        forgotten.ask(self._connection, call.customer_id, self._now)
        self._gone.pending.add(call.customer_id)
        was = self._customers.get(call.customer_id)
        if was is None:
            return
        called = {name: [None, self._now] for name in orjson.loads(was.called or "{}")}
        stamps = read_stamps(was.stamps) | dict.fromkeys(
            ("name", "email"), Stamp(self._now, self._now)
        )
        self._customers[call.customer_id] = was._replace(
            name=was.customer_id, email="", called=_dump(called), stamps=_stamped(stamps)
        )

    # What Engage says

    def _compute(self, call: Membership) -> str | None:
        """A membership or computed trait; gives why the call is dropped, where it is."""
        trait = self._trait(call)
        if isinstance(trait, str):
            return trait
        state = self._state(call.customer_id)
        traits, stamps = orjson.loads(state.traits), read_stamps(state.stamps)
        before = traits.get(trait.trait)
        changes = not same(before, call.value)
        if self._outdated(call, stamps, trait.trait, trait.key, changes):
            return OLDER
        if (held := self._held.get((call.customer_id, trait.trait))) is not None:
            if held.observed_at is not None and _newer(held.observed_at, call):
                return OLDER
            if _keeps_back(held, call):
                return HELD
            self._ended.append(self._held.pop((call.customer_id, trait.trait)))
        known = call.customer_id in self._customers
        if not known and (call.value is False or not changes):
            return None  # never a member, never sent (design §3, three states)
        stamps[trait.trait] = Stamp(call.at_ms, call.received_at)
        if call.value is None:
            traits.pop(trait.trait, None)
        else:
            traits[trait.trait] = call.value
        if changes:
            self._traits[trait.key] = self._names[trait.trait] = trait
            values = as_json(before), as_json(call.value)
            self._changes.append(
                ChangeRow(call.customer_id, trait.key, trait.trait, *values, call.at_ms)
            )
            self._members[trait.key] += counts(call.value) - counts(before)
        self._customers[call.customer_id] = state._replace(
            traits=canonical(traits), stamps=_stamped(stamps)
        )
        return None

    def _trait(self, call: Membership) -> TraitRow | str:
        """The trait that a call of Engage speaks of, or why it is none of ours."""
        kind = kind_by_globs(call.key, *self._globs)
        name = trait_name(call.key)
        if kind is None or not self._released.isdisjoint((call.key, name)):
            return NOT_OURS
        if call.key in self._traits:
            return self._traits[call.key]
        if call.kind != kind:
            return NOT_OURS
        if not name or name in self._names:
            return NAME_TAKEN
        return TraitRow(call.key, name, call.kind, 0)

    # Which is newer

    def _outdated(
        self,
        call: CustomerUpdate | Membership,
        stamps: dict[str, Stamp],
        name: str,
        key: str,
        changes: bool,
    ) -> bool:
        """Whether something newer than the call is known: by another call, or by a row that a run
        pulled. (Where the call changes nothing, the row does not matter.)"""
        stamp = stamps.get(name)
        if stamp is not None and _newer(stamp.at, call):
            return True
        if not changes:
            return False
        pulled = snapshot.last_pulled(self._connection, call.customer_id, key)
        return pulled is not None and _newer(pulled, call)


def _newer(at: int, call: CustomerUpdate | Membership) -> bool:
    """Whether what is of a time is newer than a call. A time that this call's receipt shows to lie
    in the future (a clock was wrong, or an older program believed it) is not."""
    _, reason = believed(at, call.received_at)
    return reason is None and at > call.at_ms


def _keeps_back(held: InForce, call: Membership) -> bool:
    """Whether a hold keeps a call back: it says what waits for a decision, or what was rejected
    when the call was here already. Anything else is something new."""
    says_it = same(None if held.after is None else orjson.loads(held.after), call.value)
    return says_it and (held.decided_at is None or call.received_at <= held.decided_at)


def sendable(state: CustomerState) -> tuple[Any, ...]:
    """What of a state Amberflo gets to see."""
    called = {name: value for name, (value, _) in orjson.loads(state.called or "{}").items()}
    return state.traits, state.name, state.email, called


def _dump(found: dict[str, Any]) -> str | None:
    return orjson.dumps(found, option=orjson.OPT_SORT_KEYS).decode() if found else None


def _stamped(stamps: dict[str, Stamp]) -> str | None:
    return _dump({name: list(stamp) for name, stamp in stamps.items()})
