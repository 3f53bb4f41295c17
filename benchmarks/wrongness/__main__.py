"""For how long Amberflo has another value than Engage, in a simulated year.

    python -m benchmarks.wrongness [--days 365] [--seed 1] [--customers 150] [--without-calls]
        [--into docs/explanation]

Plays the same drawn time on the program's real parts and on a model of the hosted destination
(docs/explanation/wrongness.md), and prints, by cause, the hours in which a customer's trait was
wrong, of a million hours of a customer's trait. With `--into` a chart is written into that folder.
Two plays of one seed print the same figures, but for the seconds that they took.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.chart import Length, lengths
from benchmarks.wrongness import hosted, observer
from benchmarks.wrongness.observer import Observer
from benchmarks.wrongness.setting import Outcome, Setting
from benchmarks.wrongness.simulation import simulate
from benchmarks.wrongness.year import Rates

TITLES = {
    "merges": "hosted, if its PUT merges",
    "replaces": "hosted, if its PUT replaces",
}


def rows(outcome: Outcome) -> Iterator[tuple[str, str, float]]:
    """Yield who is observed, a cause, and the wrong hours of a million; `all` sums them up."""
    observed: list[tuple[str, Observer, tuple[str, ...]]] = [
        ("syncer", outcome.ours, observer.CAUSES)
    ]
    observed += [(TITLES[name], figures, hosted.CAUSES) for name, figures in outcome.hosted.items()]
    for who, seen, causes in observed:
        for cause in causes:
            yield who, cause, seen.per_million(seen.wrong_minutes[cause])
        yield who, "all", seen.per_million(seen.wrong_minutes.total())
        yield who, "besides, a mistake of Engage", seen.per_million(seen.mistaken_minutes)


def chart(outcome: Outcome) -> str:
    """Return an SVG of the causes that there were."""
    return lengths(
        [
            Length(f"{who}: {cause}", value, other=who != "syncer")
            for who, cause, value in rows(outcome)
            if value
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wrongness")
    parser.add_argument("--days", type=float, default=365.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--customers", type=int, default=150)
    parser.add_argument("--without-calls", action="store_true", help="by the schedule alone")
    parser.add_argument("--into", type=Path, help="the folder to write the chart into")
    options = parser.parse_args()
    if options.days <= 0 or options.customers < 10:
        parser.error("--days must be above 0, and --customers 10 or more")
    if options.into is not None and not options.into.is_dir():
        parser.error(f"--into: there is no folder {options.into}")
    rates = Rates(customers=options.customers)
    setting = Setting(options.seed, options.days, rates, calls=not options.without_calls)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="wrongness-") as folder:
        outcome = simulate(setting, Path(folder))
    print("| who | why | wrong hours of a million |\n|---|---|---|")
    for who, cause, value in rows(outcome):
        print(f"| {who} | {cause} | {value:,.1f} |")
    print(", ".join(f"{number:,} {what}" for what, number in sorted(outcome.happened.items())))
    print(f"{options.days:g} days in {time.monotonic() - began:,.0f} s")
    if options.into is not None:
        (options.into / "wrongness.svg").write_text(chart(outcome))


if __name__ == "__main__":
    main()
