"""The gate: exits that wait until Segment has computed their trait, and whether the sizes agree.

Pure. An audience that is being computed anew says of members that they are not in it: billing them
off would be wrong, and right again an hour later. Unlike what the guard holds, such exits need
nobody's word; the first run that finds the trait live applies them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from syncer.engage.catalog import Catalog
from syncer.engage.computations import AUDIENCE, UNLISTED, Computations
from syncer.engage.selection import matches
from syncer.sync.tally import Sums

#: So many members more or less are never a mismatch.
SLACK = 10


@dataclass(frozen=True)
class Mismatch:
    """An audience of which Segment counts another number of members than we have."""

    key: str
    segment: int
    here: int


def waiting(
    listing: Computations, sums: Mapping[str, Sums], held: Collection[str]
) -> dict[str, str]:
    """Trait keys with changes that leave and must wait, each with the reason in words; what the
    guard holds is not among them."""
    return {
        key: f"{found.leaving:,} that left stay as they are for now: {reason}"
        for key, found in sums.items()
        if found.leaving and key not in held and (reason := listing.exits_wait(key)) is not None
    }


def unseen(
    listing: Computations, catalog: Catalog, statuses: Mapping[str, str | None], *, whole: bool
) -> bool:
    """Whether the run left rows aside that may be ours: where the list could not be read, or where
    a partial run finds a key of ours in it that was not there before. `statuses` are those of all
    traits known before the run."""
    new = (key for key in catalog.keys if key in listing.kinds)
    return listing.problem is not None or (
        not whole and any(statuses.get(key, UNLISTED) == UNLISTED for key in new)
    )


def members_after(
    sums: Mapping[str, Sums],
    before: Mapping[str, int],
    held: Collection[str],
    waiting: Collection[str],
) -> dict[str, int]:
    """How many are in each audience when the run is applied."""
    return {
        key: before.get(key, 0)
        + (0 if key in held else found.entered - (0 if key in waiting else found.exited))
        for key, found in sums.items()
    }


def mismatches(
    listing: Computations, here: Mapping[str, int], audiences: Collection[str], tolerance: float
) -> list[Mismatch]:
    """The live audiences that are `audiences` (globs) and of which Segment's count differs by more
    than a share of it. `here` are our members by key."""
    found = [
        Mismatch(one.key, one.size, here.get(one.key, 0))
        for one in listing.computations.values()
        if one.kind == AUDIENCE and one.size is not None and one.exits_wait is None
        if matches(one.key, audiences)
    ]
    return [
        one for one in found if abs(one.segment - one.here) > max(tolerance * one.segment, SLACK)
    ]
