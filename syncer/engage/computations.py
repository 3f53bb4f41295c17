"""What Segment's Public API lists of a space: its audiences and computed traits, and whether what
leaves them counts now.

Pure. Source of the fields and states: docs/facts/segment.md §1.2; of what a deleted audience
leaves behind: docs/facts/segment.md §3.4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Self

AUDIENCE: Literal["audience"] = "audience"
COMPUTED_TRAIT: Literal["computed_trait"] = "computed_trait"
Kind = Literal["audience", "computed_trait"]

#: What stands as the status of a trait of ours that is not listed any more.
UNLISTED = "Unlisted"

#: While it is in one of these states, that somebody is not in it says nothing yet.
_UNSETTLED = {
    "Backfilling": "Segment is still computing its history",
    "Preparing": "Segment is preparing it",
    "Computing": "Segment is computing it",
    "Locked": "Segment keeps it locked until it is computed anew",
    "Failed": "Segment failed to compute it",
    "Error": "Segment failed to compute it",
    "Disabled": "it is disabled and not computed",
}


@dataclass(frozen=True)
class Computation:
    """An audience or computed trait of users. `size` is how many Segment counts in it."""

    key: str
    name: str
    kind: Kind
    status: str | None = None
    enabled: bool = True
    size: int | None = None

    @property
    def exits_wait(self) -> str | None:
        """Why what leaves it must not be believed yet, in words; None while it is live."""
        if self.status in _UNSETTLED:
            return f"its status is {self.status}, {_UNSETTLED[self.status]}"
        return None if self.enabled else "it is not enabled, so it is not computed"


@dataclass(frozen=True)
class Computations:
    """All that is listed, by key. Where the Public API could not be read, `problem` says why, in
    one line; then `kinds` are those that the last run knew, and no exit can be believed."""

    kinds: Mapping[str, Kind]
    computations: Mapping[str, Computation] = field(default_factory=dict)
    problem: str | None = None

    @classmethod
    def of(cls, computations: Iterable[Computation]) -> Self:
        found = {one.key: one for one in computations}
        return cls({one.key: one.kind for one in found.values()}, found)

    def exits_wait(self, key: str) -> str | None:
        """Why exits of this key must wait."""
        if self.problem is not None:
            return "the Public API could not be read"
        found = self.computations.get(key)
        return None if found is None else found.exits_wait
