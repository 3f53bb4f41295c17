"""The guard: which traits' changes a run must hold back until somebody approves them.

Pure. A source that lost rows looks like customers that left; billing them off is not undone by
finding out later (design §3, Guard).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from syncer.sync.compare import Sums


@dataclass(frozen=True)
class Guard:
    """Limits: a share of a trait's members, and a number below which the share does not count."""

    max_exits: float = 0.2
    min_exits: int = 100

    def held(
        self,
        sums: Mapping[str, Sums],
        members: Mapping[str, int],
        *,
        whole: bool,
        pending: Mapping[str, int],
        lost: Collection[str] = (),
        unlisted: Collection[str] = (),
        waiting: Collection[str] = (),
    ) -> dict[str, str]:
        """Trait keys to hold, each with the reason in words.

        `members` are those before the run; `whole` says that all customers were pulled; `pending`
        maps keys that are held already to their run: a partial run cannot clear them; `lost` are
        keys that nothing is pulled of any more, whatever the run, `unlisted` those of them that
        Segment's Public API does not list; `waiting` are keys of which nothing that leaves is
        applied anyway.
        """
        found: dict[str, str] = {}
        for key, trait in sums.items():
            before = members.get(key, 0)
            if not trait.differing:
                continue
            if key in waiting:
                pass  # the guard looks at them when they are to be applied
            elif before and (key in lost or (whole and trait.pulled == trait.vanished)):
                found[key] = (
                    "the Public API lists it no more: it was deleted in Engage, or never was an "
                    f"audience or computed trait of users; it had {before:,} members"
                    if key in unlisted
                    else f"the pull has no rows of it, and it had {before:,} members"
                )
            elif trait.leaving >= max(self.min_exits, 1) and (
                # A share is not exact in binary: 0.29 of 100 is not less than 29.
                trait.leaving - self.max_exits * before > 1e-9 * before
            ):
                found[key] = (
                    f"{trait.leaving:,} of {before:,} members would leave, more than "
                    f"{self.max_exits:.0%}"
                )
            if key not in found and not whole and key in pending:
                found[key] = f"held since run {pending[key]}"
        return found
