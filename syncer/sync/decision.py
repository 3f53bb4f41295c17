"""The decision: what of a run's changes may go through.

Pure. The decision joins what the guard holds, what waits for Segment, and what people decided. It
is the only place that says whether a change is applied.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from state import holds
from state.holds import Hold
from syncer.engage.catalog import Catalog
from syncer.engage.computations import Computations
from syncer.engage.values import Value, same
from syncer.sync import readiness
from syncer.sync.changes import AMBERFLO, CustomerChange, TraitChange, leaves
from syncer.sync.guard import Guard
from syncer.sync.tally import Tally

#: Why a change is not applied: somebody rejected it, it waits for an approval, or it waits until
#: Segment has computed its trait.
Obstacle = Literal["rejected", "held", "waiting"]


@dataclass(frozen=True)
class Attribution:
    """The name of the person who decides on a hold, and the reason that this person states."""

    by: str | None = None
    because: str | None = None


#: Nobody states a name or a reason.
ANONYMOUS = Attribution()


@dataclass(frozen=True)
class Approval:
    """Approved holds (numbers) with the changes that runs up to `run` put under them."""

    holds: frozenset[int]
    run: int
    attribution: Attribution


@dataclass(frozen=True)
class Evidence:
    """What a decision is based on.

    `members` maps trait keys to the members before the run, `excused` to the changes that leave and
    that somebody decided on already. `conflicts` maps keys that must not overwrite others' values
    at Amberflo to the number of customers with such a value. `left` maps trait names to the members
    that left within a day before, `deleted` counts customers deleted in Segment within that day.
    `whole` says that the run pulled all customers.
    """

    catalog: Catalog
    tally: Tally
    members: Mapping[str, int]
    excused: Mapping[str, int]
    computations: Computations | None
    conflicts: Mapping[str, int]
    open_holds: Mapping[str, Hold]
    left: Mapping[str, int]
    deleted: int
    whole: bool
    approved: Collection[int] = ()

    def still_open(self, trait: str) -> str | None:
        """Return why the changes of a trait stay held, if an open hold is not approved."""
        hold = self.open_holds.get(trait)
        if hold is None or hold.id in self.approved:
            return None
        return f"held since run {hold.since_run}: {hold.reason}"


class Split(NamedTuple):
    """A customer's change, taken apart.

    `kept` is applied (None: nothing is), `held` is not. `dropped` is neither: without what is held,
    a customer that nobody knew is in no audience, so it is not created.
    """

    kept: CustomerChange | None
    held: list[TraitChange]
    dropped: list[TraitChange]


@dataclass
class Decision:
    """What may go through.

    `held` maps the trait keys whose changes are all held to the reason, `waiting` the keys whose
    leaving changes wait for Segment. `deletions` says why deleted customers are held (None: they
    are not).
    """

    catalog: Catalog
    held: dict[str, str] = field(default_factory=dict)
    waiting: Mapping[str, str] = field(default_factory=dict)
    deletions: str | None = None

    def split(self, customer: CustomerChange) -> Split:
        """Take a customer's change apart into what goes through and what does not."""
        all_held = self.holds_deletion(customer)
        judged = bool(self.held or self.waiting)
        held = [
            change
            for change in customer.changes
            if all_held or ((judged or change.ruling is not None) and self.holds(change))
        ]
        if not (held or all_held):
            return Split(customer, [], [])
        kept = [change for change in customer.changes if change not in held]
        # What Amberflo has now is recorded, or the next write would apply the held change.
        stays = [
            change._replace(after=change.before) for change in held if _writing_applies(change)
        ]
        traits = _without(customer.traits, held)
        if customer.known:
            deletes = customer.deleted and not all_held
            unchanged = customer.name is None and customer.email is None and not deletes
            if not (kept or stays) and unchanged:
                return Split(None, held, [])
        elif all(value is False for value in traits.values()):
            return Split(None, held, kept)
        changes = sorted(kept + stays, key=lambda change: change.trait)
        deleted = customer.deleted and not all_held
        return Split(customer._replace(traits=traits, changes=changes, deleted=deleted), held, [])

    def obstacle(self, change: TraitChange) -> Obstacle | None:
        """Return why a change is not applied; None if it is applied."""
        if change.ruling == "rejected":
            return "rejected"
        if self._guards(change):
            return "held"
        return "waiting" if self.waits(change) else None

    def holds(self, change: TraitChange) -> bool:
        """Return whether a change is not applied."""
        return self.obstacle(change) is not None

    def waits(self, change: TraitChange) -> bool:
        """Return whether a change waits until Segment has computed the trait."""
        return change.key in self.waiting and leaves(change, self.catalog.by_key[change.key].kind)

    def holds_deletion(self, change: CustomerChange) -> bool:
        """Return whether nothing of a change is applied because Segment deleted the customer."""
        if not change.deleted or change.ruling == "approved":
            return False
        return change.ruling == "rejected" or self.deletions is not None

    def _guards(self, change: TraitChange) -> bool:
        """Return whether a change needs an approval that it does not have."""
        if change.key not in self.held or change.ruling is not None:
            return False
        is_there = change.source == AMBERFLO and same(change.before, change.after)
        return not (is_there or _restores(change))


def decide(guard: Guard, evidence: Evidence) -> Decision:
    """Decide what of a comparison may go through."""
    catalog, tally, computations = evidence.catalog, evidence.tally, evidence.computations
    still_held = {
        catalog.by_name[trait].key: reason
        for trait in evidence.open_holds
        if trait in catalog.by_name and (reason := evidence.still_open(trait)) is not None
    }
    held = guard.held(
        tally.sums,
        evidence.members,
        whole=evidence.whole,
        still={key: reason for key, reason in still_held.items() if tally.sums[key].differing},
        excused=evidence.excused,
        leavers={trait.key: evidence.left.get(trait.name, 0) for trait in catalog.by_name.values()},
        lost=catalog.by_key.keys() - set(catalog.keys),
        unlisted=catalog.unlisted,
        waiting=readiness.waiting(computations, tally.sums, ()) if computations else (),
    )
    waiting = readiness.waiting(computations, tally.sums, held) if computations else {}
    conflicts = {
        key: f"{holds.FIRST_CONTACT}: {customers:,} customers have another value at Amberflo under "
        "this name"
        for key, customers in evidence.conflicts.items()
        if customers and key not in held
    }
    return Decision(catalog, held | conflicts, waiting, _deletions(guard, evidence))


def _deletions(guard: Guard, evidence: Evidence) -> str | None:
    """Return why customers that were deleted in Segment are held, if they are."""
    tally = evidence.tally
    if tally.deleted and (reason := evidence.still_open(holds.DELETED)) is not None:
        return reason
    return guard.held_deletions(
        tally.deleted - evidence.excused[holds.DELETED],
        tally.known,
        evidence.deleted,
        nobody=not tally.customers,
    )


def _restores(change: TraitChange) -> bool:
    """Return whether a change only restores at Amberflo what is recorded here.

    It must not remove a value there that is not recorded here.
    """
    return (
        change.source == AMBERFLO
        and same(change.was, change.after)
        and not _writing_applies(change)
    )


def _writing_applies(change: TraitChange) -> bool:
    """Return whether the next write of what is recorded would itself apply a held change.

    It would: each write removes at Amberflo the values of ours that are not recorded here.
    """
    if change.source != AMBERFLO or change.before is None:
        return False
    return change.was is None or (change.before is True and change.was is not True)


def _without(traits: dict[str, Value], held: list[TraitChange]) -> dict[str, Value]:
    """Return the traits as they are before the held changes."""
    remaining = dict(traits)
    for change in held:
        before = change.before if _writing_applies(change) else change.was
        if before is None:
            remaining.pop(change.trait, None)
        else:
            remaining[change.trait] = before
    return remaining
