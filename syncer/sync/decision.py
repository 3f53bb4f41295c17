"""The decision: what of a run's changes may go through.

Pure. It joins what the guard holds, what waits for Segment, and what somebody decided before; so
every change meets one place that says whether it is applied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from syncer.engage.catalog import Catalog
from syncer.engage.values import Value
from syncer.sync.compare import AMBERFLO, CustomerChange, TraitChange, leaves


class Split(NamedTuple):
    """A customer's change, taken apart: what is applied (None: nothing), what is held, and what is
    neither: without what is held there is no customer yet."""

    kept: CustomerChange | None
    held: list[TraitChange]
    left: list[TraitChange]


@dataclass
class Decision:
    """`held` maps trait keys to why all their changes are held, `waiting` those of which what
    leaves waits for Segment to the reason; `deletions` says why deleted customers are held."""

    catalog: Catalog
    held: dict[str, str] = field(default_factory=dict)
    waiting: Mapping[str, str] = field(default_factory=dict)
    deletions: str | None = None

    def split(self, change: CustomerChange) -> Split:
        """What of a customer's change goes through, and what does not."""
        if self.holds_deletion(change):
            return Split(None, change.changes, [])
        held = [one for one in change.changes if self.holds(one)]
        if not held:
            return Split(change, [], [])
        kept = [one for one in change.changes if not self.holds(one)]
        # What Amberflo has stays there, so it is on record: the next write must not take it away.
        stays = [_as_it_is(one) for one in held if one.source == AMBERFLO]
        traits = _without(change.traits, held)
        if change.known:
            unchanged = change.name is None and change.email is None and not change.deleted
            if not (kept or stays) and unchanged:
                return Split(None, held, [])
        elif not traits:
            return Split(None, held, kept)
        changes = sorted(kept + stays, key=lambda one: one.trait)
        return Split(change._replace(traits=traits, changes=changes), held, [])

    def holds(self, one: TraitChange) -> bool:
        """Whether a change is not applied."""
        if one.ruling == "rejected":
            return True
        return (one.key in self.held and one.ruling is None) or self.waits(one)

    def holds_deletion(self, change: CustomerChange) -> bool:
        """Whether nothing of a change is applied, since the customer was deleted in Segment."""
        if not change.deleted or change.ruling == "approved":
            return False
        return change.ruling == "rejected" or self.deletions is not None

    def waits(self, one: TraitChange) -> bool:
        """Whether a change waits until Segment has computed the trait."""
        return one.key in self.waiting and leaves(one, self.catalog.by_key[one.key].kind)


def _without(traits: dict[str, Value], held: list[TraitChange]) -> dict[str, Value]:
    """The traits as they are before what is held."""
    found = dict(traits)
    for one in held:
        if one.before is None:
            found.pop(one.trait, None)
        else:
            found[one.trait] = one.before
    return found


def _as_it_is(one: TraitChange) -> TraitChange:
    return one._replace(after=one.before)
