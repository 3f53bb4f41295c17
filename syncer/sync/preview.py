"""What a run would change and send, from its comparison: for `diff` and the page."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from state.db.database import Database
from state.runs import RunTraitRow
from syncer.delivery.estimate import Estimate
from syncer.delivery.outlook import outlook
from syncer.ids import NO_ID
from syncer.sync.compared import Compared
from syncer.sync.tally import Applied

#: Traits that the line of a preview names.
NAMED = 10


@dataclass(frozen=True)
class Preview:
    """The sums by trait, how many customers were `deleted` in Segment, and what is to be sent."""

    compared: Compared
    sums: list[RunTraitRow]
    deleted: int
    estimate: Estimate

    def __str__(self) -> str:
        """Say it in one line."""
        tally, held = self.compared.tally, self.compared.decision.held
        parts = [
            f"{self.compared.kind}: {tally.new:,} new customers, {tally.changed:,} changed, "
            f"{tally.unchanged:,} unchanged"
        ]
        changed = [row for row in self.sums if row.entered or row.exited or row.changed]
        parts += [
            f"{row.trait}: {row.entered:,} entered, {row.exited:,} exited, {row.changed:,} changed"
            + (f" (would be held: {held[row.key]})" if row.key in held else "")
            for row in changed[:NAMED]
        ]
        if more := changed[NAMED:]:
            parts.append(f"{len(more):,} more traits")
        return "; ".join([*parts, f"to send: {self.estimate}"])


def preview(compared: Compared, database: Database, rate: float) -> Preview:
    """Return what a comparison would come to; `rate` is `amberflo.rate`."""
    would, sent = Applied(), Counter[bool]()
    for change in compared.changes:
        split = compared.decision.split(change)
        would.held.update(difference.key for difference in split.held)
        would.deleted += change.deleted
        if split.kept is not None:
            sent[change.known] += 1
    estimate = outlook(database, sent[False], sent[True], rate)
    return Preview(compared, compared.trait_sums(would), would.deleted, estimate)


def moved(row: RunTraitRow) -> bool:
    """Return whether something of a trait changed, waits, or could not be read."""
    skipped = any(reason != NO_ID for reason in row.reasons)
    return bool(row.entered or row.exited or row.changed or row.held or row.waiting or skipped)
