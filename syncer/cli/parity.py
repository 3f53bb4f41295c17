"""The parity report as text and as JSON: for `adopt`, and for `diff --amberflo`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from syncer.cli import console, output
from syncer.cli.documents import drift_json, example_json, shown
from syncer.sync.findings import Drift
from syncer.sync.parity import EXAMPLES, Parity

#: Examples that the text shows of a trait, and customers that a line names.
SHOWN = 3


def parity_json(parity: Parity) -> dict[str, Any]:
    """Return a parity without its lists."""
    names = ("compared", "equal", "differ", "missing", "by_list", "recent", "unknown")
    return {
        "good": parity.good,
        "customers": {name: getattr(parity, name) for name in names},
        "traits": [
            {
                "trait": trait.trait,
                "equal": trait.equal,
                "differ": trait.differ,
                "missing": trait.missing,
                "unexpected": trait.unexpected,
                "examples": list(map(example_json, trait.examples)),
            }
            for trait in parity.traits()
        ],
        "spellings": [
            {
                "trait": spelling.trait,
                "key": spelling.key,
                "there": spelling.there,
                "customers": spelling.customers,
            }
            for spelling in parity.spellings
        ],
        "unknown_examples": list(islice(parity.findings.extra(), EXAMPLES)),
    }


def parity_lists(parity: Parity) -> dict[str, Iterable[object]]:
    """Return the lists of a parity, which may be as long as there are customers."""
    findings = parity.findings
    return {
        "differences": map(drift_json, findings.drifts()),
        "missing": findings.missing(),
        "unknown": findings.extra(),
    }


def print_parity(parity: Parity, *, customers: bool) -> None:
    """Print a parity for people; with `customers` every difference, else examples."""
    traits = parity.traits()
    console.print_table(
        ("trait", "equal", "differ", "missing", "not in Engage"),
        [[it.trait, it.equal, it.differ, it.missing, it.unexpected] for it in traits],
    )
    if customers:
        _print_lines(map(_line, parity.findings.drifts()))
        _print_lines(f"unknown to Engage: {it}" for it in parity.findings.extra())
    else:
        examples = (it for trait in traits for it in trait.examples[:SHOWN])
        _print_lines(map(_line, examples))
    _print_lines(_notes(parity))
    console.stdout().print(
        f"{parity.compared:,} customers compared with Amberflo: {parity.equal:,} equal, "
        f"{parity.differ:,} differ, {parity.missing:,} missing"
    )


def _line(drift: Drift) -> str:
    return (
        f"{drift.customer_id}: {drift.trait} is {shown(drift.found)} at Amberflo, "
        f"{shown(drift.expected)} by Engage"
    )


def _notes(parity: Parity) -> Iterator[str]:
    for spelling in parity.spellings:
        yield (
            f"{spelling.trait}: the hosted destination spells it {spelling.there!r}"
            if spelling.there == spelling.key
            else f"{spelling.trait}: it is also spelled {spelling.there!r}"
        ) + f"; {spelling.customers:,} customers have that, and it stays there as it is"
    if parity.unknown:
        some = ", ".join(map(repr, islice(parity.findings.extra(), SHOWN)))
        yield f"{parity.unknown:,} customers at Amberflo are unknown to Engage, such as {some}"
    if parity.recent:
        yield (
            f"{parity.recent:,} of those that differ changed at Amberflo after what the pull must "
            "know of: they may be equal once the source has that, too"
        )
    if parity.by_list:
        yield (
            f"{parity.by_list:,} of those that differ are judged by Amberflo's list alone, which "
            "may lag"
        )


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        output.print_line(line)
