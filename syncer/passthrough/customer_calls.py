"""What calls say of customers, laid over the desired state in the order in which they came.

A membership or computed trait by a call is provisional: it counts at once, and until a pull could
know better (compare.py). Of two calls, and of a name or email, the newest Segment time wins. No
time is later than its receipt, so nothing wins for ever.

A call makes no trait ours: what it says of a trait of Engage that no pull knows waits (early.py),
and a name that is Engage's is no client's. What is protected nobody writes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import orjson
from sqlalchemy import Connection

from state import holds, identify_traits, lanes, pending_calls, snapshot, suppression
from state.db.tables import IDENTIFY
from state.history.record import ChangeRow, add_changes, last_observed
from state.holds import InForce
from state.identify_traits import Said
from state.pending_calls import EarlyCall
from state.snapshot import CustomerRow, TraitRow
from syncer.amberflo.record import is_protected
from syncer.clock import believed
from syncer.engage.catalog import canonical
from syncer.engage.computations import AUDIENCE, COMPUTED_TRAIT
from syncer.engage.selection import kind_by_globs, matches
from syncer.engage.trait_names import trait_name
from syncer.engage.values import as_json, counts, same
from syncer.event_times import Stamp, read_stamps, write_stamps
from syncer.passthrough.mapping import CustomerUpdate, Delete, Membership
from syncer.passthrough.pending import TOO_MANY, waiting

CustomerCall = CustomerUpdate | Membership | Delete

#: Name and email in the history: their key in Segment, and their name at Amberflo.
PROFILE = (("name", "customerName"), ("email", "customerEmail"))
#: Traits that identify calls may set of a customer, and bytes of all of them.
MAX_TRAITS, MAX_CALLED = 300, 256 * 1024

#: Why a call is dropped.
FORGOTTEN = "forgotten"
NOT_OURS = "key is not ours"
NAME_TAKEN = "name taken twice"
OLDER = "older than what is known"
HELD = "held"
OTHER_KIND = "call and trait are of different kinds"
#: Why a trait of an identify call is dropped.
PROTECTED = "trait that is protected"
ENGAGES = "trait that is Engage's alone"
NOTHING_OF_OURS = "null of a trait that no call has set"
MANY_TRAITS = f"more than {MAX_TRAITS} traits of a customer"
LARGE_TRAITS = f"more than {MAX_CALLED // 1024} KB of traits of a customer"
#: What comes of a delete.
DELETE = "delete"
DELETE_WAITS = "delete that waits for `syncer forget --pending`"
#: A call that waits for a pull to know its key.
WAITS = "key that no pull knows yet"


class Calls:
    """Lays calls over the state of the customers that they name, and writes what came of it, in one
    transaction of the caller's that writes alone. `audiences` and `computed_traits` are the
    config's globs, `protected` the names or globs of traits that nobody writes; more deletes than
    `deletes_per_day` wait for somebody's word. `counts` is told what became of each call."""

    def __init__(
        self,
        connection: Connection,
        calls: Collection[CustomerCall],
        audiences: Sequence[str],
        computed_traits: Sequence[str],
        now: int,
        counts: Counter[tuple[str, str]],
        *,
        protected: tuple[str, ...] = (),
        deletes_per_day: int = 100,
    ) -> None:
        self._connection, self._now, self._counts = connection, now, counts
        self._globs = {AUDIENCE: audiences, COMPUTED_TRAIT: computed_traits}
        self._protected = protected
        self._deletes_per_day = deletes_per_day
        ids = {call.customer_id for call in calls}
        self._gone = suppression.load(connection)
        self._before = {one.customer_id: one for one in snapshot.find(connection, ids)}
        self._customers = dict(self._before)
        self._released = snapshot.released(connection)
        ours = snapshot.traits(connection)
        self._traits = {row.key: row for row in ours}
        self._names = {row.trait: row for row in ours}
        self._held = holds.in_force(connection, ids)
        self._first_contacts = {
            trait
            for trait, hold in holds.open_holds(connection).items()
            if hold.reason.startswith(holds.FIRST_CONTACT)
        }
        self._ended: list[InForce] = []
        self._changes: list[ChangeRow] = []
        self._members: Counter[str] = Counter()
        self._early: list[EarlyCall] = []
        self._room: int | None = None
        self._lines: dict[str, str] = {}

    def lay(self, call: CustomerCall) -> None:
        """Take one call."""
        if call.customer_id in self._gone:
            self._counts["dropped", FORGOTTEN] += 1
        elif isinstance(call, CustomerUpdate):
            self._identify(call)
            self._stands_in(call, lanes.identify(call.via, trusted=call.trusted))
            self._counts["customer", IDENTIFY] += 1
        elif isinstance(call, Delete):
            self._counts["customer", self._delete(call)] += 1
        elif (reason := self._compute(call)) is not None:
            self._counts["waiting" if reason == WAITS else "dropped", reason] += 1
        else:
            self._stands_in(call, lanes.membership(call.via))
            self._counts["customer", "engage"] += 1

    def _stands_in(self, call: CustomerUpdate | Membership, line: str) -> None:
        """Where the customer waits if the call makes it due."""
        known = self._lines.get(call.customer_id)
        self._lines[call.customer_id] = line if known is None else min(line, known)

    def write(self) -> None:
        """Write what the calls came to: customers, what is due, the history, ended holds."""
        before = self._before
        known = [(before[one], now) for one, now in self._customers.items() if one in before]
        # Whose history tells of something is due, also where a later call took all of it back: only
        # Amberflo's answer says that it has what the last of these rows says.
        told = {row.customer_id for row in self._changes}
        changed, noted = [], []
        for was, now in known:
            if sendable(now) != sendable(was) or now.customer_id in told:
                changed.append(now)
            elif now != was:
                noted.append(now)
        new = [now for one, now in self._customers.items() if one not in before]
        snapshot.put_traits(
            self._connection,
            [self._traits[key]._replace(members=delta) for key, delta in self._members.items()],
        )
        waits_in = self._lines
        snapshot.insert_customers(self._connection, new, self._now, waits_in=waits_in)
        snapshot.update_customers(self._connection, changed, self._now, waits_in=waits_in)
        pending_calls.put(self._connection, self._early)
        snapshot.touch_customers(self._connection, noted)
        add_changes(self._connection, self._changes, None, self._now)
        holds.end(self._connection, self._ended, self._now)

    def _state(self, customer_id: str) -> CustomerRow:
        nothing = CustomerRow(customer_id, "{}", None, None, None, None)
        return self._customers.get(customer_id, nothing)

    # What a client says

    def _identify(self, call: CustomerUpdate) -> None:
        """Name, email and each trait, where the call is the newest word on it. Names that Engage
        computes are not a client's to set."""
        state = self._state(call.customer_id)
        stamps = read_stamps(state.stamps)
        said = {"name": call.name, "email": call.email}
        values: dict[str, str | None] = {"name": state.name, "email": state.email}
        for key, trait in PROFILE:
            value = said[key]
            if value is None or self._outdated(call, stamps, key, key, value != values[key]):
                continue
            self._tell(call, key, trait, values[key] or None, value)
            values[key], stamps[key] = value, Stamp(call.at_ms, call.received_at)
        self._customers[call.customer_id] = state._replace(
            name=values["name"],
            email=values["email"],
            called=self._said(call, state.called) if call.traits else state.called,
            stamps=write_stamps(stamps),
        )

    def _said(self, call: CustomerUpdate, before: str | None) -> str | None:
        """What identify calls say of a customer's traits, with this one."""
        found, room = identify_traits.load(before), MAX_CALLED - len((before or "").encode())
        for trait, new in call.traits.items():
            was = found.get(trait)
            if was is not None and _newer(was.at, call):
                continue
            reason = self._refused(trait, new, was)
            if reason is None and was is None and not _made_room(found):
                reason = MANY_TRAITS
            size = 0 if new is None else len(orjson.dumps([trait, new]))
            if reason is None and size > room:
                reason = LARGE_TRAITS
            if reason is not None:
                self._counts["dropped", reason] += 1
                continue
            room -= size
            self._tell(call, trait, trait, None if was is None else was.value, new)
            found[trait] = (was or Said(None, 0)).says(new, call.at_ms)
        return identify_traits.dump(found)

    def _refused(self, trait: str, new: Any, was: Said | None) -> str | None:
        """Why a client's trait is not taken."""
        if trait in self._names:
            return ENGAGES
        if is_protected(trait, self._protected):
            return PROTECTED
        return NOTHING_OF_OURS if new is None and was is None else None

    def _tell(self, call: CustomerUpdate, key: str, trait: str, before: Any, after: Any) -> None:
        """Write a change of a client's into the history. It is no entry and no exit, whatever the
        value."""
        if not same(before, after):
            values = as_json(before), as_json(after)
            via = call.via or None
            row = ChangeRow(
                call.customer_id, key, trait, *values, call.at_ms, IDENTIFY, step=0, via=via
            )
            self._changes.append(row)

    def _delete(self, call: Delete) -> str:
        """Segment's delete call; gives what comes of it. Until the customer is erased (forget.py),
        nothing personal is to be at Amberflo: the name there becomes the id, email and identify
        traits go."""
        waits = suppression.ask_by_call(
            self._connection, call.customer_id, self._now, self._deletes_per_day
        )
        if waits is not False:
            return DELETE_WAITS
        self._gone.pending.add(call.customer_id)
        was = self._customers.get(call.customer_id)
        if was is None:
            return DELETE
        said = {name: one.goes(self._now) for name, one in identify_traits.load(was.called).items()}
        stamps = read_stamps(was.stamps) | dict.fromkeys(
            ("name", "email"), Stamp(self._now, self._now)
        )
        self._customers[call.customer_id] = was._replace(
            name=was.customer_id,
            email="",
            called=identify_traits.dump(said),
            stamps=write_stamps(stamps),
        )
        return DELETE

    # What Engage says

    def _compute(self, call: Membership) -> str | None:
        """A membership or computed trait; gives why the call waits or is dropped, where it does."""
        trait = self._trait(call)
        if trait is None:
            return self._wait(call)
        if isinstance(trait, str):
            return trait
        if trait.trait in self._first_contacts:
            return HELD
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
            return None  # never a member, never sent (docs/design.md §3.4)
        stamps[trait.trait] = Stamp(call.at_ms, call.received_at)
        if call.value is None:
            traits.pop(trait.trait, None)
        else:
            traits[trait.trait] = call.value
        if changes:
            self._traits[trait.key] = self._names[trait.trait] = trait
            values = as_json(before), as_json(call.value)
            via = call.via or None
            self._changes.append(
                ChangeRow(call.customer_id, trait.key, trait.trait, *values, call.at_ms, via=via)
            )
            self._members[trait.key] += counts(call.value) - counts(before)
        self._customers[call.customer_id] = state._replace(
            traits=canonical(traits), stamps=write_stamps(stamps)
        )
        return None

    def _trait(self, call: Membership) -> TraitRow | str | None:
        """The trait that a call of Engage speaks of, or why it is none of ours; None: it may be one
        that no pull knows yet."""
        kind = kind_by_globs(call.key, self._globs[AUDIENCE], self._globs[COMPUTED_TRAIT])
        name = trait_name(call.key)
        if kind is None or not self._released.isdisjoint((call.key, name)):
            return NOT_OURS
        if is_protected(name, self._protected):
            return PROTECTED
        if (known := self._traits.get(call.key)) is not None:
            if known.kind != kind and not matches(call.key, self._globs[known.kind]):
                return NOT_OURS
            return known if call.kind == known.kind else OTHER_KIND
        if call.kind != kind:
            return NOT_OURS
        return NAME_TAKEN if not name or name in self._names else None

    def _wait(self, call: Membership) -> str:
        """Let a call wait for a pull to know its key; gives that, or why it is dropped."""
        if self._room is None:
            self._room = pending_calls.MOST - pending_calls.count(self._connection)
        if self._room <= 0:
            return TOO_MANY
        self._room -= 1
        self._early.append(waiting(call))
        return WAITS

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
        pulled = last_observed(self._connection, call.customer_id, key)
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


def _made_room(found: dict[str, Said]) -> bool:
    """Whether there is room for one more trait: one that a call took away, and of which Amberflo
    has nothing more of ours, makes room, the oldest first."""
    if len(found) >= MAX_TRAITS:
        gone = [(one.at, name) for name, one in found.items() if one.value is None]
        over = [name for at, name in sorted(gone) if not found[name].written]
        if not over:
            return False
        del found[over[0]]
    return True


def sendable(state: CustomerRow) -> tuple[Any, ...]:
    """What of a state Amberflo gets to see."""
    said = {name: one.value for name, one in identify_traits.load(state.called).items()}
    return state.traits, state.name, state.email, said


def _dump(found: dict[str, Any]) -> str | None:
    return orjson.dumps(found, option=orjson.OPT_SORT_KEYS).decode() if found else None
