"""Questions to a long history against the same rows by hand-written SQL.

    python -m benchmarks.history [--changes 5000000] [--runs 5] [--file history.db]

Makes a SQLite state with so many changes (50 million are 13 GB, and take a quarter of an hour):
a tenth as many customers, 20 audiences, 100 runs an hour apart; a customer enters an audience,
leaves it, enters the next. The last run is not acknowledged yet. With `--file` it is kept, or taken
if it is there.

Then asks, in turn, in one process and with the caches as they come:

- history: the functions of `state.history`, as the command line and the page ask them;
- raw:     the `sqlite3` module with SQL written for this one index, which fetches the same rows.

Prints the medians, their ratio, and the highest memory of all this.
"""

from __future__ import annotations

import argparse
import random
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection

from state import snapshot
from state.db.database import Database
from state.history import listings, past
from state.history.listings import MOVED

AUDIENCES, RUNS = 20, 100
START, HOUR = 1_790_000_000_000, 3_600_000
KEY = "audience_07"

#: Change number i is of customer i mod {customers}, its number m = i div {customers}.
FILL = """
INSERT INTO change (
    run, customer_id, rev, key, trait, before, after, observed_at, recorded_at, delivered_at, delta
)
WITH RECURSIVE number(i) AS (
    SELECT 0 UNION ALL SELECT i + 1 FROM number WHERE i + 1 < {changes}
)
SELECT
    i / {per_run} + 1,
    printf('user_%09d', i % {customers}),
    i / {customers} + 1,
    printf('audience_%02d', (i % {customers} + i / {customers} / 2) % {audiences}),
    printf('audience_%02d', (i % {customers} + i / {customers} / 2) % {audiences}),
    CASE WHEN i / {customers} % 2 = 1 THEN 'true' END,
    CASE WHEN i / {customers} % 2 = 1 THEN 'false' ELSE 'true' END,
    {start} + i / {per_run} * {hour} - 90000,
    {start} + i / {per_run} * {hour},
    CASE WHEN i < {changes} - {per_run} THEN {start} + i / {per_run} * {hour} + 60000 END,
    CASE WHEN i / {customers} % 2 = 1 THEN -1 ELSE 1 END
FROM number
"""
CUSTOMERS = """
INSERT INTO customer (customer_id, traits, rev, acked_rev)
SELECT customer_id, '{}', max(rev), max(CASE WHEN delivered_at IS NULL THEN 0 ELSE rev END)
FROM change INDEXED BY change_customer GROUP BY customer_id
"""
TRAITS = """
INSERT INTO trait (key, trait, kind, members)
SELECT key, key, 'audience', sum(delta) FROM change GROUP BY key
"""


def make(file: Path, changes: int) -> None:
    """The state; its indexes are made behind the rows, which is faster."""
    Database.open(f"sqlite:///{file}").close()
    values = {
        "changes": changes,
        "customers": changes // 10,
        "per_run": changes // RUNS,
        "audiences": AUDIENCES,
        "start": START,
        "hour": HOUR,
    }
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -1000000"):
            connection.execute(f"PRAGMA {pragma}")
        indexes = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'change'"
        ).fetchall()
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}")
        connection.execute(FILL.format(**values))
        for _, sql in indexes:
            connection.execute(sql)
        connection.execute(CUSTOMERS)
        connection.execute(TRAITS)


class Question(NamedTuple):
    """What both sides are asked; each gives what it found, and both must have found as much."""

    name: str
    ours: Callable[[Connection], Iterable[Any]]
    raw: Callable[[sqlite3.Connection], Iterable[Any]]


ROW = (
    "id, run, customer_id, rev, key, trait, before, after, delta, observed_at, recorded_at,"
    " delivered_at"
)


def questions(changes: int) -> list[Question]:
    rng = random.Random(1)
    customers = changes // 10
    some = [f"user_{rng.randrange(customers):09}" for _ in range(200)]
    at = START + 60 * HOUR
    since, until = START + 50 * HOUR, START + 60 * HOUR
    per_run = changes // RUNS
    # Changes of the audience in the first half of a run, as it goes (see FILL).
    places = [55 * per_run + 6 + 20 * (number * per_run // 8000) for number in range(200)]
    members = (
        "SELECT customer_id FROM (SELECT customer_id, max(id), delta FROM change "
        "INDEXED BY change_member WHERE key = ? AND delta != 0 AND recorded_at <= ? "
        "GROUP BY customer_id) WHERE delta = 1"
    )
    return [
        Question(
            "200 customers: all changes",
            lambda c: [row for customer_id in some for row in listings.of_customer(c, customer_id)],
            lambda c: [
                row
                for customer_id in some
                for row in c.execute(
                    f"SELECT {ROW} FROM change INDEXED BY change_customer "
                    "WHERE customer_id = ? ORDER BY id",
                    (customer_id,),
                )
            ],
        ),
        Question(
            "200 customers: in an audience at a time?",
            lambda c: [past.member_at(c, customer_id, KEY, at) for customer_id in some],
            lambda c: [
                c.execute(
                    "SELECT delta FROM change INDEXED BY change_member WHERE key = ? AND "
                    "customer_id = ? AND delta != 0 AND recorded_at <= ? ORDER BY id DESC LIMIT 1",
                    (KEY, customer_id, at),
                ).fetchone()
                for customer_id in some
            ],
        ),
        Question(
            "200 pages of 50 entries and exits of an audience",
            lambda c: [
                row
                for place in places
                for row in listings.of_key(c, KEY, deltas=MOVED, after_id=place, limit=50)
            ],
            lambda c: [
                row
                for place in places
                for row in c.execute(
                    f"SELECT {ROW} FROM change INDEXED BY change_time WHERE key = ? AND "
                    "recorded_at = (SELECT recorded_at FROM change WHERE id = ?) AND id > ? "
                    "AND delta != 0 ORDER BY id LIMIT 50",
                    (KEY, place, place),
                )
            ],
        ),
        Question(
            "entries and exits of an audience in a tenth of the time",
            lambda c: listings.of_key(c, KEY, since, until, deltas=MOVED),
            lambda c: c.execute(
                f"SELECT {ROW} FROM change INDEXED BY change_time WHERE key = ? AND "
                "recorded_at >= ? AND recorded_at < ? AND delta != 0 ORDER BY recorded_at, id",
                (KEY, since, until),
            ),
        ),
        Question(
            "the whole diff of a run",
            lambda c: listings.of_run(c, 55),
            lambda c: c.execute(
                f"SELECT {ROW} FROM change INDEXED BY change_run WHERE run = 55 ORDER BY key, id"
            ),
        ),
        Question(
            "entries and exits of a run, by audience",
            lambda c: listings.run_moves(c, 55),
            lambda c: c.execute(
                "SELECT key, sum(delta = 1), sum(delta = -1), sum(delta = 0) FROM change "
                "INDEXED BY change_run WHERE run = 55 GROUP BY key"
            ),
        ),
        Question(
            "who was in an audience at a time",
            lambda c: past.members_at(c, KEY, at),
            lambda c: c.execute(members, (KEY, at)),
        ),
        Question(
            "how many were in an audience at a time",
            lambda c: [past.count_at(c, KEY, at)],
            lambda c: c.execute(f"SELECT count(*) FROM ({members})", (KEY, at)),
        ),
        Question(
            "size of an audience over all the time, 100 points",
            lambda c: past.sizes(c, KEY, START, START + (RUNS - 1) * HOUR, RUNS),
            lambda c: c.execute(
                "SELECT recorded_at, sum(delta) FROM change INDEXED BY change_time "
                "WHERE key = ? GROUP BY recorded_at",
                (KEY,),
            ),
        ),
        Question(
            "everything that Amberflo has not acknowledged",
            lambda c: listings.undelivered(c),
            lambda c: c.execute(
                f"SELECT {', '.join('h.' + column.strip() for column in ROW.split(','))}, c.due_at "
                "FROM change h INDEXED BY change_undelivered JOIN customer c USING (customer_id) "
                "WHERE h.delivered_at IS NULL AND h.rev > c.acked_rev ORDER BY customer_id, h.id"
            ),
        ),
        Question(
            "200 searches for a customer, 50 shown",
            lambda c: [
                row for customer_id in some for row in snapshot.with_prefix(c, customer_id[:11])
            ],
            lambda c: [
                row
                for customer_id in some
                for row in c.execute(
                    "SELECT customer_id, name, email FROM customer "
                    "WHERE customer_id >= ? AND customer_id < ? ORDER BY customer_id LIMIT 50",
                    (customer_id[:11], customer_id[:11] + "\U0010ffff"),
                )
            ],
        ),
    ]


def timed(ask: Callable[[Any], Iterable[Any]], connection: Any) -> tuple[float, int]:
    """Seconds, and how many rows came."""
    started = time.perf_counter()
    rows = sum(1 for _ in ask(connection))
    return time.perf_counter() - started, rows


def compare(file: Path, changes: int, runs: int) -> None:
    print(f"{'':58} {'rows':>9} {'history':>10} {'raw':>10} {'ratio':>6}")
    with (
        closing(Database.peek(f"sqlite:///{file}")) as database,
        database.read() as connection,
        closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as raw,
    ):
        raw.execute("PRAGMA cache_size = -16000")
        for question in questions(changes):
            ours: list[float] = []
            theirs: list[float] = []
            for number in range(runs + 1):
                took, rows = timed(question.ours, connection)
                other, expected = timed(question.raw, raw)
                assert rows == expected, (question.name, rows, expected)
                if number:  # the first time brings the pages into memory
                    ours.append(took)
                    theirs.append(other)
            own, other = statistics.median(ours), statistics.median(theirs)
            print(
                f"{question.name:58} {rows:9,} {own * 1000:7.1f} ms {other * 1000:7.1f} ms"
                f" {own / other:6.2f}",
                flush=True,
            )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"highest memory {peak:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--changes", type=int, default=5_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--make", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    changes = options.changes // 20_000 * 20_000  # the customers, a tenth, in whole turns
    if options.make:
        make(options.file, changes)
        return
    with tempfile.TemporaryDirectory() as folder:
        file = options.file or Path(folder) / "history.db"
        if not file.exists():
            started = time.perf_counter()
            # In a process of its own: it takes memory that is not to be counted.
            command = [sys.executable, "-m", "benchmarks.history", "--make", "--file", str(file)]
            subprocess.run([*command, "--changes", str(changes)], check=True)
            size = file.stat().st_size / 1e9
            print(f"{changes:,} changes: {size:.1f} GB in {time.perf_counter() - started:.0f} s")
        compare(file, changes, options.runs)


if __name__ == "__main__":
    main()
