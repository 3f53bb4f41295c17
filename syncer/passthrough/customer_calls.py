"""Applies calls about customers to the desired state, in the order in which they came.

A membership or computed trait by a call is provisional: it counts at once, until a pull that could
have seen it says otherwise (sync/diff.py). Of two calls, and of two names or emails, the one with
the newest Segment time wins. No time is later than its receipt, so none wins for ever.

A call makes no trait ours: it waits while no pull knows its trait of Engage (pending.py).
An identify call cannot set a trait whose name belongs to Engage, and no call a protected one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import orjson
from sqlalchemy import Connection

from state import early_exits, holds, identify_traits, lanes, pending_calls, snapshot, suppression
from state.change_sources import IDENTIFY
from state.history.record import ChangeRow, add_changes, last_observed
from state.holds import InForce
from state.identify_traits import Said
from state.pending_calls import EarlyCall
from state.snapshot import CustomerRow, TraitRow
from syncer.amberflo.record import is_protected
from syncer.clock import believed
from syncer.engage.computations import AUDIENCE, COMPUTED_TRAIT, Kind
from syncer.engage.selection import KeySelection
from syncer.engage.trait_names import trait_name
from syncer.engage.values import counts, same
from syncer.event_times import Stamp, read_stamps, write_stamps
from syncer.json_text import canonical, to_json, to_json_or_none
from syncer.passthrough.mapping import CustomerUpdate, Delete, Membership
from syncer.passthrough.pending import TOO_MANY, waiting

CustomerCall = CustomerUpdate | Membership | Delete

#: Name and email in the history: the key in Segment, and the name at Amberflo.
PROFILE = (("name", "customerName"), ("email", "customerEmail"))
#: How many traits of one customer identify calls may set, and how many bytes of JSON.
MAX_TRAITS, MAX_TRAITS_BYTES = 300, 256 * 1024

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
LARGE_TRAITS = f"more than {MAX_TRAITS_BYTES // 1024} KB of traits of a customer"
#: The outcomes of a delete.
DELETE = "delete"
DELETE_WAITS = "delete that waits for `syncer forget --pending`"
#: What is noted where more exits of customers who are not known came than are kept.
EXIT_LET_GO = f"more than {early_exits.MOST:,} customers left who are not known"
#: Why a call waits.
WAITS = "key that no pull knows yet"


class CustomerCalls:
    """Applies calls to the state of the customers that they name, and writes the result.

    All of it happens in one transaction of the caller, which takes the exclusive lock. `audiences`
    and `computed_traits` are the config's globs, `protected` the names or globs of traits that are
    never written. Deletes beyond `deletes_per_day` wait until an operator confirms them. `counts`
    counts the outcome of each call; `now` is in epoch milliseconds.
    """

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
        self._selection = KeySelection(audiences, computed_traits)
        self._protected = protected
        self._deletes_per_day = deletes_per_day
        ids = {call.customer_id for call in calls}
        self._suppressed = suppression.load(connection)
        self._before = {state.customer_id: state for state in snapshot.find(connection, ids)}
        self._customers = dict(self._before)
        self._exits = early_exits.find(connection, ids - self._before.keys())
        self._noted: set[str] = set()
        self._released = snapshot.released(connection)
        ours = snapshot.traits(connection)
        self._traits = {row.key: row for row in ours}
        self._traits_by_name = {row.trait: row for row in ours}
        self._holds = holds.in_force(connection, ids)
        self._first_contacts = {
            trait
            for trait, hold in holds.open_holds(connection).items()
            if hold.reason.startswith(holds.FIRST_CONTACT)
        }
        self._ended_holds: list[InForce] = []
        self._changes: list[ChangeRow] = []
        self._members: Counter[str] = Counter()
        self._early: list[EarlyCall] = []
        self._room: int | None = None
        self._lanes: dict[str, str] = {}

    def apply(self, call: CustomerCall) -> None:
        """Apply one call."""
        if call.customer_id in self._suppressed:
            self._counts["dropped", FORGOTTEN] += 1
        elif isinstance(call, CustomerUpdate):
            self._apply_identify(call)
            self._choose_lane(call, lanes.identify(call.via, trusted=call.trusted))
            self._counts["customer", IDENTIFY] += 1
        elif isinstance(call, Delete):
            self._counts["customer", self._apply_delete(call)] += 1
        elif (reason := self._apply_membership(call)) is not None:
            self._counts["waiting" if reason == WAITS else "dropped", reason] += 1
        else:
            self._choose_lane(call, lanes.membership(call.via))
            self._counts["customer", "engage"] += 1

    def _choose_lane(self, call: CustomerUpdate | Membership, lane: str) -> None:
        """Note the lane in which the customer waits for delivery, if the call makes it due."""
        known = self._lanes.get(call.customer_id)
        self._lanes[call.customer_id] = lane if known is None else min(lane, known)

    def write(self) -> None:
        """Write the result: customers, what is due, the history, holds that ended."""
        before, after = self._before, self._customers
        # A customer with a change in the history is due, even if a later call took all of it back:
        # only Amberflo's answer shows that it has what the last of these changes says.
        recorded = {change.customer_id for change in self._changes}
        changed, unsent = [], []
        for customer_id, old in before.items():
            new = after[customer_id]
            if sendable(new) != sendable(old) or customer_id in recorded:
                changed.append(new)
            elif new != old:
                unsent.append(new)
        added = [state for customer_id, state in after.items() if customer_id not in before]
        snapshot.put_traits(
            self._connection,
            [self._traits[key]._replace(members=delta) for key, delta in self._members.items()],
        )
        waits_in = self._lanes
        snapshot.insert_customers(self._connection, added, self._now, waits_in=waits_in)
        snapshot.update_customers(self._connection, changed, self._now, waits_in=waits_in)
        self._write_exits({state.customer_id for state in added})
        pending_calls.put(self._connection, self._early)
        snapshot.touch_customers(self._connection, unsent)
        add_changes(self._connection, self._changes, None, self._now)
        holds.end(self._connection, self._ended_holds, self._now)

    def _write_exits(self, added: set[str]) -> None:
        """Write the exits of who is not known; of who is known by now, its own row has them."""
        early_exits.remove(self._connection, self._exits.keys() & added)
        exits = {key: self._exits[key] for key in self._noted.difference(added)}
        self._counts["noted", EXIT_LET_GO] += early_exits.put(self._connection, exits, self._now)

    def _state(self, customer_id: str) -> CustomerRow:
        state = self._customers.get(customer_id)
        if state is not None:
            return state
        return CustomerRow(customer_id, "{}", event_times=self._exits.get(customer_id))

    # Identify and delete calls

    def _apply_identify(self, call: CustomerUpdate) -> None:
        """Set the name, the email and each trait, where no newer call or pull has set them.

        Names that Engage computes are not the client's to set.
        """
        state = self._state(call.customer_id)
        stamps = read_stamps(state.event_times)
        new_values = {"name": call.name, "email": call.email}
        values: dict[str, str | None] = {"name": state.name, "email": state.email}
        for key, trait in PROFILE:
            value = new_values[key]
            if value is None or self._outdated(call, stamps, key, key, value != values[key]):
                continue
            self._record_change(call, key, trait, values[key] or None, value)
            values[key], stamps[key] = value, Stamp(call.at_ms, call.received_at)
        self._customers[call.customer_id] = state._replace(
            name=values["name"],
            email=values["email"],
            identify_traits=self._with_traits(call, state.identify_traits)
            if call.traits
            else state.identify_traits,
            event_times=write_stamps(stamps),
        )

    def _with_traits(self, call: CustomerUpdate, before: str | None) -> str | None:
        """Return the traits that identify calls set of a customer, this call's among them."""
        traits = identify_traits.load(before)
        room = MAX_TRAITS_BYTES - len((before or "").encode())
        for trait, value in call.traits.items():
            was = traits.get(trait)
            if was is not None and _newer(was.at, call):
                continue
            reason = self._refusal(trait, value, was)
            if reason is None and was is None and not _made_room(traits):
                reason = MANY_TRAITS
            size = 0 if value is None else len(to_json([trait, value]).encode())
            if reason is None and size > room:
                reason = LARGE_TRAITS
            if reason is not None:
                self._counts["dropped", reason] += 1
                continue
            room -= size
            self._record_change(call, trait, trait, None if was is None else was.value, value)
            traits[trait] = (was or Said(None, 0)).says(value, call.at_ms)
        return identify_traits.dump(traits)

    def _refusal(self, trait: str, value: Any, was: Said | None) -> str | None:
        """Return why an identify call may not set a trait; None if it may."""
        if trait in self._traits_by_name:
            return ENGAGES
        if is_protected(trait, self._protected):
            return PROTECTED
        return NOTHING_OF_OURS if value is None and was is None else None

    def _record_change(
        self, call: CustomerUpdate, key: str, trait: str, before: Any, after: Any
    ) -> None:
        """Add a change by an identify call to the history.

        Whatever the value, it is neither an entry nor an exit.
        """
        if not same(before, after):
            values = to_json_or_none(before), to_json_or_none(after)
            via = call.via or None
            row = ChangeRow(
                call.customer_id, key, trait, *values, call.at_ms, IDENTIFY, delta=0, via=via
            )
            self._changes.append(row)

    def _apply_delete(self, call: Delete) -> str:
        """Apply Segment's delete call; return its outcome.

        Until the customer is erased (privacy/forget.py), nothing personal may stay at Amberflo: the
        name there becomes the id, the email and the identify traits go.
        """
        waits = suppression.ask_by_call(
            self._connection, call.customer_id, self._now, self._deletes_per_day
        )
        if waits is not False:
            return DELETE_WAITS
        self._suppressed.pending.add(call.customer_id)
        state = self._customers.get(call.customer_id)
        if state is None:
            return DELETE
        traits = identify_traits.load(state.identify_traits)
        gone = {name: trait.goes(self._now) for name, trait in traits.items()}
        stamps = read_stamps(state.event_times) | dict.fromkeys(
            ("name", "email"), Stamp(self._now, self._now)
        )
        self._customers[call.customer_id] = state._replace(
            name=state.customer_id,
            email="",
            identify_traits=identify_traits.dump(gone),
            event_times=write_stamps(stamps),
        )
        return DELETE

    # Calls of Engage

    def _apply_membership(self, call: Membership) -> str | None:
        """Apply a membership or computed trait; return why it waits or is dropped, None if not."""
        trait = self._trait(call)
        if trait is None:
            return self._wait(call)
        if isinstance(trait, str):
            return trait
        if trait.trait in self._first_contacts:
            return HELD
        state = self._state(call.customer_id)
        traits, stamps = orjson.loads(state.traits), read_stamps(state.event_times)
        before = traits.get(trait.trait)
        changes = not same(before, call.value)
        if self._outdated(call, stamps, trait.trait, trait.key, changes):
            return OLDER
        if (reason := self._meet_hold(call, trait)) is not None:
            return reason
        stamps[trait.trait] = Stamp(call.at_ms, call.received_at)
        known = call.customer_id in self._customers
        if not known and (call.value is False or not changes):
            # Never a member, never sent (docs/design.md §3.4); but an older entry may come still.
            self._exits[call.customer_id] = write_stamps(stamps) or "{}"
            self._noted.add(call.customer_id)
            return None
        if call.value is None:
            traits.pop(trait.trait, None)
        else:
            traits[trait.trait] = call.value
        if changes:
            self._record_membership(call, trait, before)
        self._customers[call.customer_id] = state._replace(
            traits=canonical(traits), event_times=write_stamps(stamps)
        )
        return None

    def _meet_hold(self, call: Membership, trait: TraitRow) -> str | None:
        """Return why a held change keeps the call back; end the hold if the call is newer."""
        hold = self._holds.get((call.customer_id, trait.trait))
        if hold is None:
            return None
        if hold.observed_at is not None and _newer(hold.observed_at, call):
            return OLDER
        if _keeps_back(hold, call):
            return HELD
        self._ended_holds.append(self._holds.pop((call.customer_id, trait.trait)))
        return None

    def _record_membership(self, call: Membership, trait: TraitRow, before: Any) -> None:
        """Add a change by a call of Engage to the history and to the number of members."""
        self._traits[trait.key] = self._traits_by_name[trait.trait] = trait
        values = to_json_or_none(before), to_json_or_none(call.value)
        via = call.via or None
        self._changes.append(
            ChangeRow(call.customer_id, trait.key, trait.trait, *values, call.at_ms, via=via)
        )
        self._members[trait.key] += counts(call.value) - counts(before)

    def _trait(self, call: Membership) -> TraitRow | str | None:
        """Return the trait that a call of Engage is about, or why it is none of ours.

        None if it may be a trait that no pull knows yet.
        """
        name = trait_name(call.key)
        known = self._traits.get(call.key)
        kind = self._selection.kind(call.key, None if known is None else _kind(known))
        if kind is None or self._selection.releases(call.key, self._released):
            return NOT_OURS
        if is_protected(name, self._protected):
            return PROTECTED
        if known is not None:
            return known if call.kind == kind else OTHER_KIND
        if call.kind != kind:
            return NOT_OURS
        return NAME_TAKEN if not name or name in self._traits_by_name else None

    def _wait(self, call: Membership) -> str:
        """Let a call wait until a pull knows its key; return that, or why it is dropped."""
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
        """Return whether a call, or a row that a run pulled, is newer than this call.

        If the call changes nothing, the row does not matter.
        """
        stamp = stamps.get(name)
        if stamp is not None and _newer(stamp.at, call):
            return True
        if not changes:
            return False
        pulled = last_observed(self._connection, call.customer_id, key)
        return pulled is not None and _newer(pulled, call)


def _kind(trait: TraitRow) -> Kind:
    return AUDIENCE if trait.kind == AUDIENCE else COMPUTED_TRAIT


def _newer(at: int, call: CustomerUpdate | Membership) -> bool:
    """Return whether a time (epoch milliseconds) is newer than a call.

    It is not if the call's receipt shows that it lies in the future: a clock was wrong, or an older
    program believed it.
    """
    _, reason = believed(at, call.received_at)
    return reason is None and at > call.at_ms


def _keeps_back(hold: InForce, call: Membership) -> bool:
    """Return whether a hold keeps a call back.

    It does if the call says what waits for a decision, or what had happened when it was rejected: a
    call that comes late, or once more, is nothing new.
    """
    value = None if hold.after is None else orjson.loads(hold.after)
    decided_on = hold.decided_at is None or call.at_ms <= hold.decided_at
    return same(value, call.value) and decided_on


def _made_room(traits: dict[str, Said]) -> bool:
    """Return whether one more trait fits in, removing one if need be.

    The oldest trait goes that a call took away, if Amberflo has nothing of it that is ours.
    """
    if len(traits) >= MAX_TRAITS:
        gone = [(trait.at, name) for name, trait in traits.items() if trait.value is None]
        removable = [name for _, name in sorted(gone) if not traits[name].written]
        if not removable:
            return False
        del traits[removable[0]]
    return True


def sendable(state: CustomerRow) -> tuple[Any, ...]:
    """Return the parts of a state that Amberflo gets to see."""
    traits = {
        name: trait.value for name, trait in identify_traits.load(state.identify_traits).items()
    }
    return state.traits, state.name, state.email, traits
