"""The decision: what of a run's changes may go through.

Pure. It joins what the guard holds, what waits for Segment, and what somebody decided before; so
every change meets one place that says whether it is applied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from syncer.engage.catalog import Catalog
from syncer.engage.values import Value, same
from syncer.sync.diff import AMBERFLO, CustomerChange, TraitChange, leaves


class Split(NamedTuple):
    """A customer's change, taken apart: what is applied (None: nothing), what is held, and what is
    neither: without what is held the customer is in nothing, so it is nobody yet."""

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
        all_held = self.holds_deletion(change)
        held = [one for one in change.changes if all_held or self.holds(one)]
        if not (held or all_held):
            return Split(change, [], [])
        kept = [one for one in change.changes if one not in held]
        # What Amberflo has stays there, so it is on record: the next write must not take it away.
        stays = [one._replace(after=one.before) for one in held if _writing_tells(one)]
        traits = _without(change.traits, held)
        if change.known:
            deletes = change.deleted and not all_held
            unchanged = change.name is None and change.email is None and not deletes
            if not (kept or stays) and unchanged:
                return Split(None, held, [])
        elif all(value is False for value in traits.values()):
            return Split(None, held, kept)
        changes = sorted(kept + stays, key=lambda one: one.trait)
        deleted = change.deleted and not all_held
        return Split(change._replace(traits=traits, changes=changes, deleted=deleted), held, [])

    def holds(self, one: TraitChange) -> bool:
        """Whether a change is not applied."""
        if one.ruling == "rejected":
            return True
        return self.waits(one) or self.guards(one)

    def guards(self, one: TraitChange) -> bool:
        """Whether a change needs somebody's word."""
        if one.key not in self.held or one.ruling is not None:
            return False
        is_there = one.source == AMBERFLO and same(one.before, one.after)
        return not (is_there or _mends(one))

    def holds_deletion(self, change: CustomerChange) -> bool:
        """Whether nothing of a change is applied, since the customer was deleted in Segment."""
        if not change.deleted or change.ruling == "approved":
            return False
        return change.ruling == "rejected" or self.deletions is not None

    def waits(self, one: TraitChange) -> bool:
        """Whether a change waits until Segment has computed the trait."""
        return one.key in self.waiting and leaves(one, self.catalog.by_key[one.key].kind)


def _mends(one: TraitChange) -> bool:
    """Whether a change only puts back at Amberflo what is recorded, and takes nothing away there
    that is not."""
    return one.source == AMBERFLO and same(one.was, one.after) and not _writing_tells(one)


def _writing_tells(one: TraitChange) -> bool:
    """Whether the next write of what is recorded would do at Amberflo what is held: take away what
    is not recorded here."""
    if one.source != AMBERFLO or one.before is None:
        return False
    return one.was is None or (one.before is True and one.was is not True)


def _without(traits: dict[str, Value], held: list[TraitChange]) -> dict[str, Value]:
    """The traits as they are before what is held."""
    found = dict(traits)
    for one in held:
        before = one.before if _writing_tells(one) else one.was
        if before is None:
            found.pop(one.trait, None)
        else:
            found[one.trait] = before
    return found
