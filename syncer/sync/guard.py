"""The guard: which traits' changes a run must hold back until somebody decides.

Pure. A source that lost rows looks like customers that left; billing them off is not undone by
finding out later (docs/design.md §3.13). What leaves is added up over a sliding day, so that many
small runs are not less than one large one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from syncer.sync.tally import Sums

#: So long (milliseconds) a run's exits count beside those of the runs after it.
DAY = 24 * 3600 * 1000


@dataclass(frozen=True)
class Guard:
    """The limits of what may leave without an approval.

    They are a share of a trait's members, and a number below which the share does not count; the
    same for small audiences, and for customers that were deleted in Segment.
    """

    max_exits: float = 0.2
    min_exits: int = 100
    small_max_exits: float = 0.3
    small_min_exits: int = 10
    max_deleted: float = 0.05

    def held(
        self,
        sums: Mapping[str, Sums],
        members: Mapping[str, int],
        *,
        whole: bool,
        still: Mapping[str, str],
        excused: Mapping[str, int],
        leavers: Mapping[str, int],
        lost: Collection[str] = (),
        unlisted: Collection[str] = (),
        waiting: Collection[str] = (),
    ) -> dict[str, str]:
        """Return the trait keys to hold, each with the reason in words.

        `members` are those before the run; `whole` says that all customers were pulled. `still`
        maps keys with an open hold to its reason. `excused` is the number of exits that people
        decided on already; `leavers` counts members that left within a day before. `lost`
        are keys that the pull has no rows of any more, `unlisted` those of them that Segment's
        Public API does not list. Of the keys in `waiting` nothing that leaves is applied anyway.
        """
        held: dict[str, str] = {}
        for key, trait in sums.items():
            before = members.get(key, 0) + trait.unrecorded
            leaving = trait.leaving - excused.get(key, 0)
            if key in still:
                held[key] = still[key]
            elif not trait.differing or key in waiting:
                pass  # the guard looks at those that wait when they are to be applied
            elif (
                leaving > 0
                and before
                and (key in lost or (whole and trait.pulled == trait.vanished))
            ):
                held[key] = (
                    "the Public API lists it no more: it was deleted in Engage, or never was an "
                    f"audience or computed trait of users; it had {before:,} members"
                    if key in unlisted
                    else f"the pull has no rows of it, and it had {before:,} members"
                )
            elif leaving > 0 and (why := self._too_many(leaving, leavers.get(key, 0), before)):
                held[key] = why
        return held

    def held_deletions(
        self, deleted: int, before: int, gone: int, *, nobody: bool = False
    ) -> str | None:
        """Return why customers that were deleted in Segment are held; None if they are not.

        The run deletes `deleted` of `before` customers; `gone` were deleted within a day before.
        `nobody` says that the pull had no customer at all.
        """
        number, all_of_them = deleted + gone, before + gone
        if deleted and (nobody or deleted * 2 > before):
            return (
                f"{deleted:,} of {before:,} customers have no identifier in Segment any more, more "
                "than half of all"
            )
        if (
            deleted
            and number >= self.small_min_exits
            and _more(number, self.max_deleted, all_of_them)
        ):
            return (
                f"{deleted:,} of {before:,} customers have no identifier in Segment any more, "
                f"more than {self.max_deleted:.0%}{_within(gone)}"
            )
        return None

    def _too_many(self, leaving: int, leavers: int, before: int) -> str | None:
        number, all_of_them = leaving + leavers, before + leavers
        small = max(self.small_max_exits, self.max_exits)
        for least, share in ((self.min_exits, self.max_exits), (self.small_min_exits, small)):
            if number >= max(least, 1) and _more(number, share, all_of_them):
                return (
                    f"{leaving:,} of {before:,} members would leave, more than "
                    f"{share:.0%}{_within(leavers)}"
                )
        return None


def _more(number: int, share: float, of: int) -> bool:
    # A share is not exact in binary: 0.29 of 100 is not less than 29.
    return number - share * of > 1e-9 * of


def _within(leavers: int) -> str:
    return f" within a day, in which {leavers:,} left before" if leavers else ""
