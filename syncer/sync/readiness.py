"""The readiness of traits: exits wait until Segment has computed their trait; are the sizes equal?

Pure. While Segment recomputes an audience, it says of members that they are not in it. Ending their
billing would be wrong, and right again an hour later. Unlike what the guard holds, such exits need
no approval: the first run that finds the trait live applies them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from syncer.engage.catalog import Catalog
from syncer.engage.computations import AUDIENCE, UNLISTED, Computations
from syncer.engage.selection import matches
from syncer.sync.tally import Sums

#: A difference of at most this many members is never a mismatch.
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
    """Return the trait keys with leaving changes that must wait, each with the reason in words.

    Keys that the guard holds are not among them.
    """
    return {
        key: f"{trait.leaving:,} that left stay as they are for now: {reason}"
        for key, trait in sums.items()
        if trait.leaving and key not in held and (reason := listing.exits_wait(key)) is not None
    }


def unseen(
    listing: Computations, catalog: Catalog, statuses: Mapping[str, str | None], *, whole: bool
) -> bool:
    """Return whether the run left rows aside that may be ours.

    It did if the listing could not be read, or if a partial run finds a key of ours in it that was
    not listed before. `statuses` are those of all traits known before the run.
    """
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
    """Return how many members each audience has when the run is applied."""
    return {
        key: before.get(key, 0)
        + (0 if key in held else trait.entered - (0 if key in waiting else trait.exited))
        for key, trait in sums.items()
    }


def mismatches(
    listing: Computations, here: Mapping[str, int], audiences: Collection[str], tolerance: float
) -> list[Mismatch]:
    """Return the live audiences of which Segment's count differs by more than a share of it.

    `audiences` are globs of the keys, `here` are our members by key.
    """
    counted = [
        Mismatch(computation.key, computation.size, here.get(computation.key, 0))
        for computation in listing.computations.values()
        if computation.kind == AUDIENCE
        and computation.size is not None
        and computation.exits_wait is None
        and matches(computation.key, audiences)
    ]
    return [
        audience
        for audience in counted
        if abs(audience.segment - audience.here) > max(tolerance * audience.segment, SLACK)
    ]
