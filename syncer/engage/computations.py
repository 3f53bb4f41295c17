"""The audiences and computed traits of a Segment space, and when their exits count.

Pure. Sources: docs/facts/segment.md §1.2 for the fields and states, docs/facts/segment.md §3.4 for
what a deleted audience leaves behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Self

AUDIENCE: Literal["audience"] = "audience"
COMPUTED_TRAIT: Literal["computed_trait"] = "computed_trait"
Kind = Literal["audience", "computed_trait"]

#: The status of a trait of ours that the Public API lists no more.
UNLISTED = "Unlisted"

#: The states in which an absence from a computation does not mean an exit yet.
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
    """An audience or computed trait of users; `size` is the number that Segment counts in it."""

    key: str
    name: str
    kind: Kind
    status: str | None = None
    enabled: bool = True
    size: int | None = None

    @property
    def exits_wait(self) -> str | None:
        """The reason in words why exits must wait; None while the computation is live."""
        if self.status in _UNSETTLED:
            return f"its status is {self.status}, {_UNSETTLED[self.status]}"
        return None if self.enabled else "it is not enabled, so it is not computed"


@dataclass(frozen=True)
class Computations:
    """All computations of a space by key.

    If the Public API could not be read, `problem` says why in one line, `kinds` are those that the
    last run knew, and no exit can be believed.
    """

    kinds: Mapping[str, Kind]
    computations: Mapping[str, Computation] = field(default_factory=dict)
    problem: str | None = None

    @classmethod
    def of(cls, computations: Iterable[Computation]) -> Self:
        """Return them from the entries of a list that could be read."""
        by_key = {computation.key: computation for computation in computations}
        return cls({key: computation.kind for key, computation in by_key.items()}, by_key)

    def exits_wait(self, key: str) -> str | None:
        """Return why exits of a key must wait; None if they need not."""
        if self.problem is not None:
            return "the Public API could not be read"
        computation = self.computations.get(key)
        return None if computation is None else computation.exits_wait
