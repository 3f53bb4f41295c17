"""The full compare against a bare streaming merge, over the same two sorted streams.

    python -m benchmarks.compare [--customers 1000000] [--audiences 10] [--changed 0.01]

Makes two SQLite files in a temporary folder: the pull, already grouped by customer and sorted, and
the snapshot. Then times, each in a process of its own and in turn:

- bare:    two cursors, a merge of 12 lines that compares two texts and parses where they differ;
           its snapshot keeps the pull's own text, and it counts nothing;
- compare: `syncer.sync.diff` on the same cursors, with everything it does in a run.

Prints seconds, peak memory and the ratio of the medians.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from syncer.engage.catalog_builder import build
from syncer.engage.source import ObservedKey, PulledCustomer
from syncer.json_text import canonical
from syncer.sync.diff import compare
from syncer.sync.join import merge
from syncer.sync.tally import Tally

PULL = "SELECT customer_id, keys, value_texts, times, profile FROM pull ORDER BY customer_id"
SNAPSHOT = (
    "SELECT customer_id, {column}, name, email, NULL, 1, 1 FROM customer ORDER BY customer_id"
)


def keys_of(audiences: int) -> list[str]:
    return [f"audience_{number:03}" for number in range(audiences)]


def make(folder: Path, customers: int, audiences: int, changed: float, unique: bool) -> None:
    """The two files. With `unique` every customer also has a computed trait of its own value, so
    that no two texts are equal."""
    rng = random.Random(1)
    keys = keys_of(audiences)
    pull = sqlite3.connect(folder / "pull.db")
    pull.execute(
        "CREATE TABLE pull (customer_id TEXT PRIMARY KEY, keys, value_texts, times, profile)"
        " WITHOUT ROWID"
    )
    state = sqlite3.connect(folder / "state.db")
    state.execute(
        "CREATE TABLE customer (customer_id TEXT PRIMARY KEY, traits, value_texts, name, email)"
        " WITHOUT ROWID"
    )
    keys_text = json.dumps([*keys, *(["total_revenue"] if unique else [])], separators=(",", ":"))
    time_text = json.dumps(["2026-11-01 00:00:00.000000"] * (audiences + unique))
    for start in range(0, customers, 10_000):
        pulled, known = [], []
        for number in range(start, min(start + 10_000, customers)):
            customer_id = f"user_{number:09}"
            now: dict[str, Any] = {key: rng.random() < 0.3 for key in keys}
            was = dict(now)
            if rng.random() < changed:
                flipped = rng.choice(keys)
                was[flipped] = not was[flipped]
            if unique:
                now["total_revenue"] = was["total_revenue"] = number / 100
            name, email = f"Name {number}", f"{number}@example.com"
            profile = json.dumps([["email", email, "t"], ["name", name, "t"]])
            pulled.append((customer_id, keys_text, value_texts(now), time_text, profile))
            known.append((customer_id, canonical(was), value_texts(was), name, email))
        pull.executemany("INSERT INTO pull VALUES (?, ?, ?, ?, ?)", pulled)
        state.executemany("INSERT INTO customer VALUES (?, ?, ?, ?, ?)", known)
    for connection in (pull, state):
        connection.commit()
        connection.close()


def value_texts(traits: dict[str, Any]) -> str:
    """The values as the pull has them: a JSON array of texts."""
    return json.dumps([json.dumps(value) for value in traits.values()], separators=(",", ":"))


def run_bare(pulled: Iterator[Any], snapshot: Iterator[Any]) -> int:
    changed = 0
    known = next(snapshot, None)
    for row in pulled:
        while known is not None and known[0] < row[0]:
            known = next(snapshot, None)
        if known is not None and known[0] == row[0]:
            if known[1] != row[2]:
                before, after = json.loads(known[1]), json.loads(row[2])
                changed += before != after
            known = next(snapshot, None)
    return changed


def run_compare(pulled: Iterator[Any], snapshot: Iterator[Any], keys: list[str]) -> int:
    observed = [ObservedKey(key, 1, 1, 0, 0) for key in keys]
    observed.append(ObservedKey("total_revenue", 1, 0, 0, 1))
    catalog = build(observed, [], audiences=["*"], computed_traits=["total_revenue"])
    tally = Tally(catalog)
    pairs = merge(map(PulledCustomer._make, pulled), snapshot)
    changed = sum(1 for _ in compare(pairs, catalog, tally))
    assert tally.changed == changed
    return changed


def timed_pass(folder: Path, which: str, audiences: int) -> None:
    """A single timed pass; prints its figures as JSON."""
    pull = sqlite3.connect(folder / "pull.db")
    state = sqlite3.connect(folder / "state.db")
    started = time.perf_counter()
    column = "value_texts" if which == "bare" else "traits"
    snapshot = state.execute(SNAPSHOT.format(column=column))
    if which == "bare":
        changed = run_bare(pull.execute(PULL), snapshot)
    else:
        changed = run_compare(pull.execute(PULL), snapshot, keys_of(audiences))
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "changed": changed, "peak_mb": peak}))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--customers", type=int, default=1_000_000)
    parser.add_argument("--audiences", type=int, default=10)
    parser.add_argument("--changed", type=float, default=0.01)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--unique", action="store_true", help="a computed trait, all different")
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "WHICH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        timed_pass(Path(options.one[0]), options.one[1], options.audiences)
        return
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), options.customers, options.audiences, options.changed, options.unique)
        figures: dict[str, list[Any]] = {"bare": [], "compare": []}
        for _ in range(options.runs):
            for which, results in figures.items():
                command = [sys.executable, "-m", "benchmarks.compare", "--one", folder, which]
                command += ["--audiences", str(options.audiences)]
                process = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                results.append(json.loads(process.stdout))
    medians = {}
    for which, results in figures.items():
        medians[which] = statistics.median(result["seconds"] for result in results)
        print(
            f"{which:8} {medians[which]:6.2f} s (min {min(r['seconds'] for r in results):.2f}, "
            f"max {max(r['seconds'] for r in results):.2f}), "
            f"peak {max(r['peak_mb'] for r in results):.0f} MB, "
            f"{results[0]['changed']:,} of {options.customers:,} customers changed"
        )
    print(f"ratio compare/bare {medians['compare'] / medians['bare']:.2f}")


if __name__ == "__main__":
    main()
