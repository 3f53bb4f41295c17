"""Sealing and proving the history, against the bare hashing of the same rows.

    python -m benchmarks.seal [--changes 1000000] [--runs 3]

Each in a process of its own and in turn, on SQLite in a temporary folder:

- commit:   the snapshot and history of an initial run (5 changes a customer), as a run writes them,
            in one transaction, without a seal;
- sealed:   the same, sealed before it commits;
- hand:     the same rows by the `sqlite3` module, one `executemany` a table, with the same indexes;
            without a seal, and it asks for no revision;
- bare:     a cursor over the history and two calls of SHA-256 a row, over the same text;
- prove:    `state.history.proof.prove`, the whole chain against the whole history.

Prints seconds of a processor, peak memory, and the ratios of the medians.
"""

from __future__ import annotations

import argparse
import json
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from state import snapshot
from state.db.batches import ROWS
from state.db.database import Database
from state.history import seal
from state.history.proof import prove
from state.history.record import ChangeRow, add_changes
from state.snapshot import CustomerRow

KEYS = [f"audience_{number:03}" for number in range(5)]
TRAITS = json.dumps(dict.fromkeys(KEYS, True), separators=(",", ":"))
NOW = 1_790_000_000_000


def run_commit(path: Path, changes: int, sealed: bool) -> float:
    """Gives the seconds that sealing took."""
    database = Database.open(f"sqlite:///{path}")
    with database.write() as connection:
        for start in range(0, changes // 5, ROWS):
            states = [
                CustomerRow(f"user_{number:09}", TRAITS, f"N {number}", None, None, None)
                for number in range(start, start + ROWS)
            ]
            rows = [
                ChangeRow(state.customer_id, key, key, None, "true", NOW - 1)
                for state in states
                for key in KEYS
            ]
            snapshot.insert_customers(connection, states, NOW)
            add_changes(connection, rows, 1, NOW)
        started = time.perf_counter()
        if sealed:
            seal.seal(connection, 1, NOW)
        seconds = time.perf_counter() - started
    database.close()
    return seconds


def run_hand(path: Path, changes: int) -> None:
    Database.open(f"sqlite:///{path}").close()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript("PRAGMA synchronous = FULL; PRAGMA cache_size = -16000; BEGIN")
    connection.executemany(
        "INSERT INTO customer (customer_id, traits, name, rev, acked_rev, attempts, due_at, line)"
        f" VALUES (?, ?, ?, 1, 0, 0, {NOW}, '2')",
        ((f"user_{n:09}", TRAITS, f"N {n}") for n in range(changes // 5)),
    )
    connection.executemany(
        "INSERT INTO change (customer_id, key, trait, after, observed_at, recorded_at, delta, run,"
        f" rev, salt) VALUES (?, ?, ?, 'true', {NOW - 1}, {NOW}, 1, 1, 1, ?)",
        (
            (f"user_{n:09}", key, key, salt)
            for n in range(changes // 5)
            for key, salt in zip(KEYS, seal.salts(len(KEYS)), strict=True)
        ),
    )
    connection.execute("COMMIT")
    connection.close()


def run_bare(path: Path) -> None:
    columns = ", ".join(column.name for column in seal.LEAF_COLUMNS)
    cursor = sqlite3.connect(path).execute(f"SELECT {columns} FROM change ORDER BY id")
    digest = sha256()
    while rows := cursor.fetchmany(1000):
        for row in rows:
            digest.update(sha256(orjson.dumps(row)).digest())
    digest.hexdigest()


def run_prove(path: Path) -> None:
    database = Database.open(f"sqlite:///{path}")
    with database.read() as connection:
        report = prove(connection)
    assert report.broken is None
    assert report.changes
    database.close()


def timed_pass(folder: Path, which: str, changes: int) -> None:
    """A single timed pass; prints its figures as JSON."""
    path, of_it = folder / "sealed.db", 0.0
    if which in ("hand", "commit", "sealed"):
        path = folder / f"{which}.db"
        for file in folder.glob(f"{which}.db*"):
            file.unlink()
    started = time.process_time()
    if which == "bare":
        run_bare(path)
    elif which == "prove":
        run_prove(path)
    elif which == "hand":
        run_hand(path, changes)
    else:
        of_it = run_commit(path, changes, which == "sealed")
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "sealing": of_it, "peak_mb": peak}))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--changes", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "WHICH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        timed_pass(Path(options.one[0]), options.one[1], options.changes)
        return
    figures: dict[str, list[Any]] = {
        which: [] for which in ("hand", "commit", "sealed", "bare", "prove")
    }
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.runs):
            for which, results in figures.items():
                command = [sys.executable, "-m", "benchmarks.seal", "--one", folder, which]
                command += ["--changes", str(options.changes)]
                process = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                results.append(json.loads(process.stdout))
    medians = {}
    for which, results in figures.items():
        medians[which] = statistics.median(result["seconds"] for result in results)
        print(
            f"{which:7} {medians[which]:6.2f} s (min {min(r['seconds'] for r in results):.2f}, "
            f"max {max(r['seconds'] for r in results):.2f}), "
            f"peak {max(r['peak_mb'] for r in results):.0f} MB"
        )
    sealing = statistics.median(result["sealing"] for result in figures["sealed"])
    print(f"sealing {sealing:.2f} s, ratio sealing/bare {sealing / medians['bare']:.2f}")
    print(f"ratio sealed/commit {medians['sealed'] / medians['commit']:.2f}")
    print(f"ratio sealed/hand {medians['sealed'] / medians['hand']:.2f}")
    print(f"ratio prove/bare {medians['prove'] / medians['bare']:.2f}")


if __name__ == "__main__":
    main()
