"""A full run, from the first byte of the source to the commit, against a plain script.

    python -m benchmarks.fullrun [--customers 200000] [--runs 3] [--cases diff,first,later]
        [--profile diff]

Makes a space of Profiles Sync on SQLite without an index: each customer has eight audiences, a
computed trait of its own value and one of five values, and every tenth profile was merged into
another one. Then times, each in a process of its own and in turn:

- diff:  a full comparison with a state that knows all customers, of whom 1 % changed;
- first: the first run, which writes every customer and every change;
- later: a full run with the 1 % that changed.

The script opens the same files with the `sqlite3` module. It reads the merges and the identifiers
into dictionaries and the rows of the traits as they come, keeps the newest value of each trait,
reads its text, compares with the snapshot, and writes the same rows of `customer` and `change`, in
one transaction, with the same indexes.

The script has all customers in memory, and knows no order, no guard, no sums, no held changes, no
values that cannot be read, no calls and no seals. Not measured: the start of the program, Amberflo.
Prints seconds, peak memory, and the ratios of the medians; with --profile where the time goes.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import resource
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url

from state.db.database import Database
from state.history import seal
from syncer.delivery.customers import Delivery
from syncer.engage.profiles_sync import ProfilesSync
from syncer.sync.comparison import Comparison
from syncer.sync.guard import Guard
from syncer.sync.preview import preview
from syncer.sync.runs import Runs
from syncer.sync.trait_selection import Selection

AUDIENCES = [f"audience_{number:02}" for number in range(8)]
COMPUTED = ["plan", "total_revenue"]
PLANS = ["free", "team", "business", "enterprise", "partner"]
#: Each customer whose number this divides changes.
STEP = 100
BEFORE, NOW = "2026-10-01 00:00:00.000", "2026-11-01 00:00:00.000"
CASES = ("diff", "first", "later")


def make(path: Path, customers: int, *, changed: bool) -> None:
    """The tables of the source, as they are before or after the change."""
    database = sqlite3.connect(path)
    database.execute("PRAGMA synchronous = OFF")
    rest = "seq INTEGER, received_at TEXT, uuid_ts TEXT, timestamp TEXT"
    for table, own in (
        ("user_traits", "canonical_segment_id TEXT, name TEXT, value TEXT"),
        ("user_identifiers", "canonical_segment_id TEXT, type TEXT, value TEXT"),
        ("profile_merges", "canonical_segment_id TEXT, segment_id TEXT"),
    ):
        database.execute(f"CREATE TABLE {table} ({own}, {rest})")
    database.executemany(
        "INSERT INTO user_traits VALUES (?,?,?,?,?,?,?)", _traits(customers, changed)
    )
    end = (1, BEFORE, BEFORE, BEFORE)
    ids = ((f"use_{n}", "user_id", f"user_{n:09}", *end) for n in range(customers))
    database.executemany("INSERT INTO user_identifiers VALUES (?,?,?,?,?,?,?)", ids)
    merges = ((f"use_{n}", f"old_{n}", *end) for n in range(0, customers, 10))
    database.executemany("INSERT INTO profile_merges VALUES (?,?,?,?,?,?)", merges)
    database.commit()
    database.close()


def _traits(customers: int, changed: bool) -> Iterator[tuple[Any, ...]]:
    """Rows in no order of the customers, as a warehouse has them."""
    for name_number, name in enumerate([*AUDIENCES, *COMPUTED]):
        for place in range(customers):
            number = place * 7919 % customers
            flipped = changed and number % STEP == 0 and name == AUDIENCES[0]
            if name == "plan":
                value = PLANS[number % 5]
            elif name == "total_revenue":
                value = f"{number / 100:.2f}"
            else:
                member = (number * (2 * name_number + 3) % 10 < 3) != flipped
                value = "true" if member else "false"
            # The rows of a merged profile are partly of the one, partly of the other.
            old = number % 10 == 0 and name_number % 2
            at = NOW if flipped else BEFORE
            yield f"{'old' if old else 'use'}_{number}", name, value, place, at, at, at


# The script


def script(source: Path, state: Path, *, writes: bool) -> int:
    """Read, merge, compare and write; return how many customers changed."""
    warehouse, database = sqlite3.connect(source), sqlite3.connect(state, isolation_level=None)
    database.execute("PRAGMA synchronous = FULL")
    merges = dict(warehouse.execute("SELECT segment_id, canonical_segment_id FROM profile_merges"))
    ids = dict(
        warehouse.execute(
            "SELECT canonical_segment_id, value FROM user_identifiers WHERE type = 'user_id'"
        )
    )
    customers: defaultdict[str, dict[str, tuple[str, str]]] = defaultdict(dict)
    rows = warehouse.execute("SELECT canonical_segment_id, name, value, timestamp FROM user_traits")
    for segment_id, name, value, at in rows:
        customer_id = ids.get(merges.get(segment_id, segment_id))
        if customer_id is None:
            continue
        rows_of_it = customers[customer_id]
        if name not in rows_of_it or rows_of_it[name][1] <= at:
            rows_of_it[name] = (value, at)
    known = dict(database.execute("SELECT customer_id, traits FROM customer"))
    now = time.time_ns() // 1_000_000
    new: list[tuple[str, str]] = []
    old: list[tuple[str, str]] = []
    changes: list[tuple[Any, ...]] = []
    for customer_id in sorted(customers):
        texts = customers[customer_id]
        traits = {name: _read(texts[name][0]) for name in sorted(texts)}
        text, was = json.dumps(traits, separators=(",", ":")), known.get(customer_id)
        if text == was:
            continue
        before = json.loads(was) if was else {}
        (old if was else new).append((text, customer_id))
        for name, after in traits.items():
            if before.get(name) != after:
                delta = (after is True) - (before.get(name) is True)
                changes.append(
                    (
                        customer_id,
                        name,
                        name,
                        json.dumps(before[name]) if name in before else None,
                        json.dumps(after),
                        _ms(texts[name][1]),
                        now,
                        delta,
                    )
                )
    if writes:
        database.execute("BEGIN IMMEDIATE")
        database.executemany(
            "INSERT INTO customer (traits, customer_id, rev, due_at, run, line, compared)"
            f" VALUES (?, ?, 1, {now}, 1, '2', 1)",
            new,
        )
        database.executemany(
            f"UPDATE customer SET traits = ?, rev = rev + 1, due_at = {now} WHERE customer_id = ?",
            old,
        )
        salts = iter(seal.salts(len(changes)))
        database.executemany(
            "INSERT INTO change (customer_id, key, trait, before, after, observed_at, recorded_at,"
            " delta, run, rev, salt) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 1, 1, ?)",
            ((*change, next(salts)) for change in changes),
        )
        database.execute("COMMIT")
    return len(new) + len(old)


def _read(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    try:
        return json.loads(text)
    except ValueError:
        return text


def _ms(text: str, known: dict[str, int] = {}) -> int:  # noqa: B006 - remembers
    from datetime import UTC, datetime

    if text not in known:
        known[text] = round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)
    return known[text]


# Ours


class _Committed(Exception):
    """Ends a run when it has committed."""


class _Quiet:
    def say(self, text: str) -> None: ...
    def begin(self, stage: str, total: int, done: int = 0) -> None: ...
    def at(self, done: int) -> None: ...
    def end(self) -> None: ...
    def trouble(self, text: str | None) -> None: ...


def ours(source: Path, state: Path, *, writes: bool) -> int:
    """A full comparison or run; return how many customers changed."""

    def deliver(run: int, progress: Callable[[int], None]) -> Delivery:
        raise _Committed

    with closing(Database.open(f"sqlite:///{state}")) as database:
        selection = Selection(("audience_*",), tuple(COMPUTED), "{}")
        warehouse = ProfilesSync(make_url(f"sqlite:///{source}"))
        comparison = Comparison(database, warehouse, selection, Guard(), _Quiet())
        runs = Runs(database, comparison, deliver, _Quiet())
        if not writes:
            with closing(runs.diff(full=True)) as compared:
                return preview(compared, database, 0).estimate.customers
        with suppress(_Committed):
            runs.sync(full=True)
        with database.read() as connection:
            return int(
                connection.exec_driver_sql(
                    "SELECT due FROM run ORDER BY id DESC LIMIT 1"
                ).scalar_one()
            )


def timed_pass(folder: Path, case: str, which: str, profiled: bool) -> None:
    """A single timed pass; prints its figures as JSON."""
    state, source = folder / "state.db", folder / ("before.db" if case == "first" else "after.db")
    for file in folder.glob("state.db*"):
        file.unlink()
    if case == "first":
        Database.open(f"sqlite:///{state}").close()
    else:
        shutil.copy(folder / "known.db", state)
    profile = cProfile.Profile()
    run = script if which == "script" else ours
    started, used = time.perf_counter(), time.process_time()
    if profiled:
        profile.enable()
    changed = run(source, state, writes=case != "diff")
    profile.disable()
    seconds, used = time.perf_counter() - started, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "cpu": used, "changed": changed, "peak_mb": peak}))
    if profiled:
        pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(40)


def prepare(folder: Path, customers: int) -> None:
    """The source before and after the change, and a state that knows the one before."""
    make(folder / "before.db", customers, changed=False)
    make(folder / "after.db", customers, changed=True)
    ours(folder / "before.db", folder / "known.db", writes=True)
    known = sqlite3.connect(folder / "known.db")
    known.execute("UPDATE customer SET acked_rev = rev, acked_at = 1, due_at = NULL, run = NULL")
    known.execute("UPDATE change SET delivered_at = 1")
    known.execute("UPDATE run SET state = 'done'")
    known.commit()
    known.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    known.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--customers", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--folder", type=Path, help="keep the files there, and use those there")
    parser.add_argument("--profile", metavar="CASE", help="show where the time of a case goes")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        folder, case, which = options.one
        timed_pass(Path(folder), case, which, bool(options.profile))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "known.db").exists():
            prepare(folder, options.customers)
        if options.profile:
            command = ["--one", str(folder), options.profile, "ours", "--profile", options.profile]
            subprocess.run([sys.executable, "-m", "benchmarks.fullrun", *command], check=True)
            return
        for case in options.cases.split(","):
            measure(folder, case, options.runs)


def measure(folder: Path, case: str, runs: int) -> float:
    """Time a case, and return the ratio of the medians."""
    figures: dict[str, list[Any]] = {"script": [], "ours": []}
    for _ in range(runs):
        for which, results in figures.items():
            command = [
                sys.executable,
                "-m",
                "benchmarks.fullrun",
                "--one",
                str(folder),
                case,
                which,
            ]
            process = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results.append(json.loads(process.stdout))
    medians = {}
    for which, results in figures.items():
        medians[which] = statistics.median(result["cpu"] for result in results)
        print(
            f"{case:6} {which:7} {medians[which]:6.2f} s of a processor "
            f"({min(r['cpu'] for r in results):.2f} to {max(r['cpu'] for r in results):.2f}), "
            f"{statistics.median(r['seconds'] for r in results):.2f} s in all, "
            f"peak {max(r['peak_mb'] for r in results):.0f} MB, {results[0]['changed']:,} changed"
        )
    ratio: float = medians["ours"] / medians["script"]
    print(f"ratio {case}/script {ratio:.2f}", flush=True)
    return ratio


if __name__ == "__main__":
    main()
