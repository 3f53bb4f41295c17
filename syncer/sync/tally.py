"""The counts of a run: what its comparison saw, and what its commit made of it. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import orjson

from syncer.engage.catalog import Catalog, KnownTrait, Layout, Reading
from syncer.engage.computations import AUDIENCE
from syncer.engage.source import Counted, PulledCustomer
from syncer.engage.values import read_rows
from syncer.errors import SyncerError
from syncer.sync.changes import TraitChange

#: Invalid customer ids that a notice shows.
EXAMPLES = 3


@dataclass
class Sums:
    """What became of one trait's values in a run.

    pulled = unchanged + entered + exited + changed + skipped. A membership or value whose row
    vanished counts as pulled too, and in `vanished`.
    """

    pulled: int = 0
    entered: int = 0
    exited: int = 0
    changed: int = 0
    unchanged: int = 0
    vanished: int = 0
    #: computed traits that lost their value; they are in `changed`
    dropped: int = 0
    #: members that Amberflo has and the snapshot does not know
    unrecorded: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def skipped(self) -> int:
        return self.reasons.total()

    @property
    def differing(self) -> int:
        return self.entered + self.exited + self.changed

    @property
    def leaving(self) -> int:
        """Members that would leave: exits of an audience, lost values of a computed trait."""
        return self.exited + self.dropped


class Tally:
    """Counts while the comparison streams; complete after `close`."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.sums: dict[str, Sums] = {key: Sums() for key in catalog.by_key}
        self.new = self.changed = self.unchanged = 0
        #: customers and trait rows that the source gave, to hold against its own count
        self.customers = self.rows = 0
        #: customers among these that have an identifier in Engage and no row of a trait
        self.without_traits = 0
        self.counted: Counted | None = None
        #: customers that were about to be forgotten, and that Segment has again
        self.returned: list[str] = []
        #: customers that Segment may have deleted, and of whom a call came that it may not know yet
        self.unconfirmed_deletions: list[str] = []
        #: customers of whom a call said something that the pull does not overrule, or not yet
        self.unsettled: list[str] = []
        #: known customers of whom the pull does not know what Engage has
        self.unread = 0
        #: customers known before, and those that were deleted in Segment
        self.known = self.deleted = 0
        #: values that Amberflo has under names of ours and the snapshot does not know of
        self.first_contact = 0
        #: invalid customer ids by the reason, and some of them
        self.invalid_ids: Counter[str] = Counter()
        self.examples: list[str] = []
        #: names and emails that cannot be read
        self.unreadable = 0
        #: customers whose traits did not change, by the keys they have
        self.unchanged_layouts: Counter[Layout] = Counter()

    def count_unchanged(self, reading: Reading) -> None:
        """Count a customer whose traits did not change."""
        if reading.skipped:
            for key, reason in reading.skipped:
                self.sums[key].reasons[reason] += 1
                self.sums[key].unchanged -= 1  # the layout counts it as such
        self.unchanged_layouts[reading.layout] += 1

    def skip(self, row: PulledCustomer, reason: str) -> None:
        """Count a customer that is not compared: all that was pulled of it is skipped."""
        keys = orjson.loads(row.keys)
        self.customers += 1
        self.rows += len(keys) + len(read_rows(row.profile))
        for key in set(keys):
            self.sums[key].pulled += 1
            self.sums[key].reasons[reason] += 1

    def skip_invalid_id(self, row: PulledCustomer, reason: str) -> None:
        """Count a customer with an invalid id, and keep some for a notice."""
        self.skip(row, reason)
        self.invalid_ids[reason] += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(row.customer_id[:40])

    def recount(self, counted: TraitChange, made: TraitChange | None) -> None:
        """Correct the count of a change that came to another one in the end, or (None) to none."""
        sums, trait = self.sums[counted.key], self.catalog.by_key[counted.key]
        count_change(sums, trait, counted, -1)
        if made is None:
            sums.unchanged += 1
        else:
            count_change(sums, trait, made)

    def close(self) -> None:
        """Spread the counted layouts over their traits."""
        for layout, times in self.unchanged_layouts.items():
            for key in layout.keys:
                self.sums[key].pulled += times
                self.sums[key].unchanged += times
        self.unchanged_layouts.clear()

    def check_sums(self) -> None:
        """Raise SyncerError if the sums of a trait do not close: that is a fault of ours."""
        for key, sums in self.sums.items():
            parts = sums.unchanged + sums.entered + sums.exited + sums.changed + sums.skipped
            if sums.pulled != parts:
                raise SyncerError(
                    f"the sums of {key!r} do not close: pulled {sums.pulled:,}, but unchanged, "
                    f"entered, exited, changed and skipped are {parts:,}; nothing was changed"
                )

    def notices(self) -> list[str]:
        """Return a line for each kind of customer that could not be read."""
        notices = []
        if self.invalid_ids:
            reasons = "; ".join(f"{count:,}: {why}" for why, count in self.invalid_ids.items())
            shown = ", ".join(map(repr, self.examples))
            notices.append(f"customers that are skipped ({reasons}), such as {shown}")
        if self.unread:
            notices.append(
                f"{self.unread:,} customers could not be read from the source and stay as they are"
            )
        if self.unreadable:
            notices.append(
                f"{self.unreadable:,} names and emails cannot be read and stay as they are"
            )
        return notices


def count_change(sums: Sums, trait: KnownTrait, change: TraitChange, by: int = 1) -> None:
    """Count a change in the sums of its trait, or take it out (`by` -1)."""
    if trait.kind != AUDIENCE:
        sums.changed += by
        sums.dropped += by * (change.after is None)
    elif change.after is True and change.was is not True:
        sums.entered += by
    elif change.before is True and change.after is not True:
        sums.exited += by
    else:
        sums.changed += by  # absent → false: Amberflo gets the value, nobody entered or left


@dataclass
class Applied:
    """What a run's changes came to.

    By trait key: `held` changes, `members` more or less, members that `left` without an approval,
    and the number of the hold (`holds`). `due` counts the customers to deliver, `held_customers`
    those with something held, `deleted` those that were deleted in Segment, `adopted` those that
    Amberflo had as they should be. `unsettled` are those that an exit by a call keeps out for now.
    """

    held: Counter[str] = field(default_factory=Counter)
    members: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    held_customers: int = 0
    deleted: int = 0
    holds: dict[str, int] = field(default_factory=dict)
    due: int = 0
    adopted: int = 0
    unsettled: list[str] = field(default_factory=list)
