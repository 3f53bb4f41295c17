"""The sums of a run or a diff by trait, for people: only what moved, and what was skipped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from state.runs import RunTraitRow
from syncer.cli import output
from syncer.ids import NO_ID

#: Keys that a line names, and held traits that have a line each.
NAMED, LINES = 3, 3


def print_sums(traits: Sequence[RunTraitRow], *, everything: bool = False, hint: str) -> None:
    """Print the rows that moved, or all; `hint` says how the others are shown."""
    # Not at the top: `status` compares nothing, and prints no table.
    from syncer.cli import console
    from syncer.sync.preview import moved

    rows = [row for row in traits if everything or moved(row)]
    if rows or not traits:
        cells = [[getattr(row, name) for name in output.TRAIT_COLUMNS] for row in rows]
        console.print_table(output.TRAIT_COLUMNS, cells)
    if still := len(traits) - len(rows):
        console.stdout().print(f"nothing moved of {still:,} other traits: {hint}")


def skipped_lines(traits: Iterable[RunTraitRow]) -> Iterator[str]:
    """Yield a line for each reason to skip values of a trait, and for what waits.

    Profiles without a customer id lack it in all traits: one line says so.
    """
    without_id: Counter[str] = Counter()
    for row in traits:
        for reason, count in row.reasons.items():
            if reason == NO_ID:
                without_id[row.trait] = count
            else:
                yield f"{row.trait}: {count:,} skipped: {reason}"
        if row.waiting:
            yield f"{row.trait}: {row.waiting:,} wait for Segment"
    if without_id:
        yield f"{named(without_id)}: {without_id.total():,} skipped: {NO_ID}"


def held_lines(reasons: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each held key with its reason; more than a few are summed up in one."""
    if len(reasons) > LINES:
        yield f"{len(reasons):,} traits ({named(reasons)})"
        return
    for key, reason in reasons.items():
        yield f"{key}: {reason}"


def named(keys: Iterable[str]) -> str:
    """Name some of the keys."""
    names = list(keys)
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more:,} more" if more > 0 else "")
