"""What must always be true of the service, whatever happened: a second look at every command.

It knows the rows of the warehouse, the calls, the decisions and the writes that Amberflo took, and
looks into the state only for what it believes (the customers) and keeps back (the holds).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from tests.faults.amberflo import Write

from .engage import AUDIENCES, TRAITS, Engage

DELETED = "*deleted*"
#: The guard of these histories: so many of a day, and more than that share, is too much.
MIN_EXITS, MAX_EXITS = 3, 0.25
DAY = 24.0

Place = tuple[str, str]
Traits = dict[str, dict[str, Any]]


class Customer(NamedTuple):
    traits: dict[str, Any]
    due: bool


class Kept(NamedTuple):
    """A change that waits for a decision, or was rejected, as it was when it was kept back: what
    Engage said then of the customer's trait."""

    hold: int
    after: Any
    rejected: bool
    said: object


@dataclass
class State:
    """What the state has: its customers, and what it keeps back by customer and trait."""

    customers: dict[str, Customer] = field(default_factory=dict)
    kept: dict[Place, tuple[int, Any, bool]] = field(default_factory=dict)
    open_holds: dict[int, str] = field(default_factory=dict)
    kinds: list[str] = field(default_factory=list)
    #: names that are ours; with a new state and no row of a key, its name is somebody else's
    ours: set[str] = field(default_factory=set)

    def value(self, place: Place) -> Any:
        customer = self.customers.get(place[0])
        return None if customer is None else member(customer.traits.get(place[1]))


def look(path: Path) -> State:
    """What is in the state's file; nothing where there is none."""
    if not path.exists():
        return State()
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as state:
        tables = {row[0] for row in state.execute("SELECT name FROM sqlite_master")}
        if "hold" not in tables:
            return State()
        customers = {
            customer_id: Customer(orjson.loads(traits), acked != rev)
            for customer_id, traits, acked, rev in state.execute(
                "SELECT customer_id, traits, acked_rev, rev FROM customer"
            )
        }
        kept = {
            (customer_id, trait): (hold, orjson.loads(after or "null"), decision == "rejected")
            for customer_id, trait, hold, after, decision in state.execute(
                "SELECT customer_id, held_change.trait, hold, after, decision "
                "FROM held_change JOIN hold ON hold.id = held_change.hold WHERE ended_at IS NULL "
                "AND (decision IS NULL OR decision = 'rejected') ORDER BY hold.id"
            )
        }
        holds = dict(state.execute("SELECT id, trait FROM hold WHERE decision IS NULL"))
        kinds = [row[0] for row in state.execute("SELECT kind FROM run ORDER BY id")]
        ours = {row[0] for row in state.execute("SELECT trait FROM trait")}
    return State(customers, kept, holds, kinds, ours)


@dataclass
class Memory:
    """What goes back with a copy of the state: what is kept back, and who left when."""

    kept: dict[Place, Kept] = field(default_factory=dict)
    #: hours of the clock, trait, and how many left by themselves
    exits: list[tuple[float, str, int]] = field(default_factory=list)


@dataclass
class Watch:
    """Looks at what a command did. `violations` are lines of what must not be."""

    memory: Memory = field(default_factory=Memory)
    state: State = field(default_factory=State)
    #: what Amberflo has, by its writes
    holdings: Traits = field(default_factory=dict)
    #: who may lose what: somebody said so, since they last had it
    justified: set[Place] = field(default_factory=set)
    #: of whom it was ever said that they are in an audience
    ever: set[Place] = field(default_factory=set)
    calls: dict[Place, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    # What else happens

    def call(self, customer_id: str, trait: str, value: Any) -> None:
        """A call said this of a customer."""
        place = customer_id, trait
        self.calls[place] = self.calls.get(place, 0) + 1
        (self.ever if value is True else self.justified).add(place)

    def another_state(self, path: Path, memory: Memory) -> None:
        """The state was replaced by an older one, or by none: what that one takes for gone may be
        sent as such until it is compared with Engage."""
        self.memory, self.state = memory, look(path)
        for customer_id, customer in self.state.customers.items():
            gone = [trait for trait in TRAITS if member(customer.traits.get(trait)) is None]
            self.justified |= {(customer_id, trait) for trait in gone}

    def another_account(self) -> None:
        self.holdings = {}

    def sorted(self, path: Path) -> None:
        """Calls changed the state; that is theirs to do."""
        self.state = look(path)

    # What a command did

    def ran(
        self,
        path: Path,
        engage: Engage,
        writes: list[Write],
        *,
        hours: float,
        approved: frozenset[int] = frozenset(),
        rejected: frozenset[int] = frozenset(),
        lifted: frozenset[int] = frozenset(),
    ) -> State:
        """A command ended; `writes` are those that Amberflo took since the last look. It carried
        out what somebody decided of these holds."""
        before, after = self.state, look(path)
        kinds = after.kinds[len(before.kinds) :]
        full = any(kind != "incremental" for kind in kinds)
        self._learn(engage, before, full)
        released = {place for place, entry in self.memory.kept.items() if entry.hold in approved}
        unbound = self._withdrawn(engage, before, after, approved | rejected)
        self._look_at_writes(engage, before, after, writes, released)
        self._look_at_open_holds(engage, before, after, released, unbound)
        if kinds:
            self._look_at_exits(engage, before, after, writes, released, hours)
        self._remember(engage, after, approved | lifted)
        for customer_id, traits in writes:
            self.holdings[customer_id] = dict(traits)
        self.state = after
        return after

    def _learn(self, engage: Engage, before: State, full: bool) -> None:
        """What the rows justify: a false or NULL row always, a missing one if all is compared."""
        for (customer_id, key), _ in engage.said.items():
            if key in TRAITS:
                member = engage.value(customer_id, key) is not None
                (self.ever if member else self.justified).add((customer_id, key))
        if full:
            for customer_id in before.customers.keys() | self.holdings.keys():
                for trait in TRAITS:
                    if engage.value(customer_id, trait) is None:
                        self.justified.add((customer_id, trait))

    def _look_at_writes(
        self,
        engage: Engage,
        before: State,
        after: State,
        writes: list[Write],
        released: set[Place],
    ) -> None:
        holdings = {id_: dict(traits) for id_, traits in self.holdings.items()}
        for customer_id, traits in writes:
            had = holdings.get(customer_id, {})
            for trait in TRAITS:
                place = customer_id, trait
                was, now = member(had.get(trait)), member(traits.get(trait))
                if was is not None and now is None and place not in self.justified:
                    self.violations.append(f"{place} was taken away, and nothing said so")
                if now is True and place not in self.ever:
                    self.violations.append(f"{place} is a member, and nothing ever said so")
                if now is not None:
                    self.justified.discard(place)
                if now not in (was, before.value(place), after.value(place)):
                    self.violations.append(f"{place} was sent as {now}, which no state was")
                kept = self.memory.kept.get(place)
                if (
                    kept is not None
                    and kept.rejected
                    and place not in released
                    and was != now == member(kept.after)
                    and self._said(engage, place) == kept.said
                    and before.value(place) != now
                ):
                    self.violations.append(f"{place} became {now}, which was rejected")
            holdings[customer_id] = dict(traits)

    def _withdrawn(
        self, engage: Engage, before: State, after: State, decided: frozenset[int]
    ) -> set[str]:
        """The traits whose hold ended without a decision. Engage must say nothing of it any
        more."""
        ended = before.open_holds.keys() - after.open_holds.keys() - decided
        for place, entry in self.memory.kept.items():
            if (
                entry.hold in ended
                and not entry.rejected
                and self._stands(engage, before, place, entry)
            ):
                self.violations.append(f"the hold of {place} ended, and Engage still says it")
        return {before.open_holds[hold] for hold in ended}

    def _stands(self, engage: Engage, before: State, place: Place, kept: Kept) -> bool:
        customer_id, trait = place
        if trait == DELETED:
            return customer_id not in engage.known
        if self._said(engage, place) != kept.said or customer_id not in engage.known:
            return False  # who is deleted is judged as such
        return bool(engage.value(customer_id, trait) != before.value(place))

    def _look_at_open_holds(
        self,
        engage: Engage,
        before: State,
        after: State,
        released: set[Place],
        unbound: set[str],
    ) -> None:
        """Under an open hold nothing of its trait changes, whoever the customer is."""
        waiting = {
            before.open_holds[hold] for hold in before.open_holds.keys() & after.open_holds.keys()
        }
        for customer_id in before.customers.keys() | after.customers.keys():
            for trait in TRAITS:
                place = customer_id, trait
                gone = (customer_id, DELETED)
                held = trait in waiting - unbound or (
                    gone in self.memory.kept
                    and not self.memory.kept[gone].rejected
                    and gone not in released
                    and DELETED not in unbound
                    and customer_id not in engage.known
                )
                changed = before.value(place) != after.value(place)
                if held and changed and place not in released and gone not in released:
                    self.violations.append(
                        f"{place} went from {before.value(place)} to {after.value(place)} "
                        "under an open hold"
                    )

    def _look_at_exits(
        self,
        engage: Engage,
        before: State,
        after: State,
        writes: list[Write],
        released: set[Place],
        hours: float,
    ) -> None:
        """Nobody approved these, so in a day they are within the bounds."""
        for audience in AUDIENCES:
            leavers = set()
            members = {id_ for id_ in before.customers if before.value((id_, audience)) is True}
            members |= {
                id_ for id_, has in self.holdings.items() if member(has.get(audience)) is True
            }
            sent_out = {
                customer_id
                for customer_id, traits in writes
                if member(self.holdings.get(customer_id, {}).get(audience)) is True
                and member(traits.get(audience)) is None
            }
            for customer_id in members:
                place = customer_id, audience
                gone = customer_id not in engage.known  # judged as deleted
                if gone or place in released or after.value(place) is not None:
                    continue
                known = before.customers.get(customer_id)
                if before.value(place) is True or (
                    customer_id in sent_out and not (known is not None and known.due)
                ):
                    leavers.add(customer_id)
            day = sum(
                number
                for at, trait, number in self.memory.exits
                if trait == audience and at > hours - DAY
            )
            total, base = len(leavers) + day, len(members) + day
            if leavers and total >= MIN_EXITS and total > MAX_EXITS * base + 1e-9:
                self.violations.append(
                    f"{len(leavers)} left {audience}, {total} of {base} in a day: {sorted(leavers)}"
                )
            if leavers:
                self.memory.exits.append((hours, audience, len(leavers)))

    def _remember(self, engage: Engage, after: State, decided: frozenset[int]) -> None:
        """What is kept back from now on. What is not on record any more must have been decided, or
        Engage says something else: else it stays in this memory, and must still not be sent."""
        for place, entry in list(self.memory.kept.items()):
            over = entry.hold in decided or self._said(engage, place) != entry.said
            if place not in after.kept and over:
                del self.memory.kept[place]
        for place, (hold, value, rejected) in after.kept.items():
            was = self.memory.kept.get(place)
            again = was is not None and was.rejected and not rejected and was.hold not in decided
            if again and was is not None and self._said(engage, place) == was.said:
                self.violations.append(f"{place} asks again, and was rejected")
            self.memory.kept[place] = Kept(hold, value, rejected, self._said(engage, place))

    def _said(self, engage: Engage, place: Place) -> object:
        customer_id, trait = place
        if trait == DELETED:
            return customer_id in engage.known
        return engage.said.get(place), self.calls.get(place, 0)

    # When all is well

    def equal(self, engage: Engage, holdings: Traits, names: dict[str, str]) -> Iterator[str]:
        """After a comparison of all and its delivery, Amberflo has what Engage says of everybody
        that it or the state knows, less what is kept back."""
        for customer_id in sorted(engage.known | self.state.customers.keys()):
            record = holdings.get(customer_id)
            for trait in TRAITS:
                says = engage.value(customer_id, trait)
                has = member((record or {}).get("traits", {}).get(trait))
                if has == says or (customer_id, DELETED) in self.state.kept:
                    continue
                if says is None and trait not in self.state.ours:
                    continue
                kept = self.state.kept.get((customer_id, trait))
                if kept is None or member(kept[1]) != says:
                    yield f"{customer_id}: {trait} is {has}, Engage says {says}, kept is {kept}"
            name = names.get(customer_id) if customer_id in self.state.customers else None
            if record is not None and name not in (None, record["customerName"]):
                yield f"{customer_id} is called {record['customerName']}, not {name}"

    def copy(self) -> Memory:
        """What goes with a copy of the state."""
        return replace(self.memory, kept=dict(self.memory.kept), exits=list(self.memory.exits))


def member(value: Any) -> Any:
    """False and absent alike are no membership and no value."""
    return None if value is False else value
