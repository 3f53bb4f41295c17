"""A full pull and compare against psycopg, which streams the same rows and drops them.

    python -m benchmarks.pull [--customers 1000000] [--audiences 10] [--runs 3]

Makes a space of Profiles Sync in PostgreSQL, where each customer has a row for each audience, a
name and an email, and a state (SQLite) that knows all customers, of whom 1 % differ. Then times,
each in a process of its own and in turn:

- rows: the trait rows that the pull reads, in its order, through a cursor of the server, 1,000 at a
  time, by psycopg, which drops them: these are the same rows, and what the bound is about;
- grouped: the same, but PostgreSQL makes one row a customer of them, as the pull has it do;
- compare: a full `diff`: every statement of the pull, the comparison with the state, the sums.

PostgreSQL is the one of the tests ($TEST_POSTGRES_URL, else one from the wheel), with its own
settings. Prints seconds, peak memory of the process and the ratios of the medians.

1,000,000 customers take about 4 GB of the disk; it does not begin where there is not twice that,
PostgreSQL writes no more than 4 GB of temporary files, and a measurement ends after `--limit`
seconds.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import Connection, create_engine, event, insert, select, text
from sqlalchemy.engine import make_url

from state import runs as run_records
from state import snapshot
from state.db.database import Database
from state.db.tables import CUSTOMER
from syncer.engage.profiles_sync import ProfilesSync
from syncer.engage.source import Everything
from syncer.sync.trait_selection import Selection
from tests.support import postgres
from tests.support.space import runs_on

#: What a trait row takes of the disk, with its share of all that is sorted and of the state.
BYTES = 330
TIME = "'2026-11-01 00:00:00+00'::timestamptz"


def keys_of(audiences: int) -> list[str]:
    return [f"audience_{number:03}" for number in range(audiences)]


def fill(connection: Connection, customers: int, audiences: int) -> None:
    kind = "UNLOGGED TABLE" if connection.dialect.name == "postgresql" else "TABLE"
    rest = "seq BIGINT, received_at TIMESTAMPTZ, uuid_ts TIMESTAMPTZ, timestamp TIMESTAMPTZ"
    for table, own in (
        ("user_traits", "canonical_segment_id TEXT, name TEXT, value TEXT"),
        ("user_identifiers", "canonical_segment_id TEXT, type TEXT, value TEXT"),
        ("profile_merges", "canonical_segment_id TEXT, segment_id TEXT"),
    ):
        connection.execute(text(f"CREATE {kind} {table} ({own}, {rest})"))
    numbers = f"generate_series(0, {customers - 1}) AS numbers(n)"
    end = f"n, {TIME}, {TIME}, {TIME} FROM {numbers}"
    values = {
        key: f"CASE WHEN (n * {2 * place + 3}) % 10 < 3 THEN 'true' ELSE 'false' END"
        for place, key in enumerate(keys_of(audiences))
    }
    values |= {"name": "'Name ' || n", "email": "n || '@example.com'"}
    for key, value in values.items():
        statement = f"INSERT INTO user_traits SELECT 'use_' || n, '{key}', {value}, {end}"
        connection.execute(text(statement))
    ids = "'use_' || n, 'user_id', 'user_' || lpad(n::text, 9, '0')"
    connection.execute(text(f"INSERT INTO user_identifiers SELECT {ids}, {end}"))
    merges = f"INSERT INTO profile_merges SELECT 'use_' || n, 'old_' || n, {end} WHERE n % 10 = 0"
    connection.execute(text(merges))


def know(database: Database, customers: int, audiences: int) -> None:
    with database.write() as connection:
        run = run_records.start(connection, "initial", 1, "{}")
        for first in range(0, customers, 10_000):
            numbers = range(first, min(first + 10_000, customers))
            connection.execute(insert(CUSTOMER), [_known(n, audiences, run) for n in numbers])
        traits = [snapshot.TraitRow(key, key, "audience", 1) for key in keys_of(audiences)]
        snapshot.put_traits(connection, traits)
        values = {"state": "done", "committed_at": 1, "watermark": "2026-11-01T00:00:00+00:00"}
        run_records.set_values(connection, run, values)


def _known(n: int, audiences: int, run: int) -> dict[str, Any]:
    traits = {key: (n * (2 * at + 3)) % 10 < 3 for at, key in enumerate(keys_of(audiences))}
    if n % 100 == 0:
        traits["audience_000"] = not traits["audience_000"]
    return {
        "customer_id": f"user_{n:09}",
        "traits": json.dumps(traits, separators=(",", ":")),
        "name": f"Name {n}",
        "email": f"{n}@example.com",
        "rev": 1,
        "acked_rev": 1,
        "acked_at": 1,
        "compared": run,
    }


class _Said(Exception):
    """A statement that is not run."""


def statement_of(url: str, audiences: int, which: str) -> tuple[str, Any]:
    """Return the statement that reads the rows of a pull, and its parameters."""

    def listen(_connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        raise _Said(statement, values)

    with ProfilesSync(make_url(url)).pull(Everything()) as pull:
        rows = pull.rows(keys_of(audiences))
        event.listen(pull._connection, "before_cursor_execute", listen)
        try:
            if which == "grouped":
                next(pull.customers(keys_of(audiences)))
            pull.ask(select(rows).order_by(rows.c.customer_id, rows.c.name, rows.c.time))
        except _Said as said:
            statement, values = said.args
    return statement, values


def run_psycopg(url: str, statement: str, values: Any) -> int:
    """Stream rows, and drop them."""
    rows = 0
    address = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(address) as connection, connection.cursor(name="bare") as cursor:
        cursor.execute(statement, values)
        while part := cursor.fetchmany(1000):
            rows += len(part)
    return rows


def run_compare(url: str, state: str, audiences: int) -> int:
    with closing(Database.open(state)) as database:
        runs = runs_on(database, ProfilesSync(make_url(url)))
        selection = Selection(("*",), (), "{}")
        runs = replace(runs, comparison=replace(runs.comparison, selection=selection))
        compared = runs.diff(full=True)
        changed = sum(1 for _ in compared.changes)
        assert compared.tally.counted is not None
        assert changed == compared.tally.counted.customers // 100
        compared.close()
    return int(compared.tally.customers)


def timed_pass(which: str, url: str, state: str, audiences: int) -> None:
    statement = None if which == "compare" else statement_of(url, audiences, which)
    began = time.perf_counter()
    rows = run_psycopg(url, *statement) if statement else run_compare(url, state, audiences)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "rows": rows, "peak_mb": peak}))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--customers", type=int, default=1_000_000)
    parser.add_argument("--audiences", type=int, default=10)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--one", nargs=3, metavar=("WHICH", "URL", "STATE"), help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=float, default=600.0)
    options = parser.parse_args()
    if options.one:
        which, url, state = options.one
        timed_pass(which, url, state, options.audiences)
        return
    wanted = options.customers * (options.audiences + 2) * BYTES
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < 2 * wanted:
        parser.error(f"{tempfile.gettempdir()} has {free >> 20:,} MB: {2 * wanted >> 20:,} needed")
    figures: dict[str, list[Any]] = {"rows": [], "grouped": [], "compare": []}
    with (
        tempfile.TemporaryDirectory() as folder,
        postgres.server() as server,
        postgres.database(server) as url,
    ):
        engine = create_engine(url)
        with engine.begin() as connection:
            fill(connection, options.customers, options.audiences)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))
            name = engine.url.database
            connection.execute(text(f"ALTER DATABASE {name} SET temp_file_limit = '4GB'"))
        engine.dispose()
        state = f"sqlite:///{Path(folder) / 'state.db'}"
        with closing(Database.open(state)) as database:
            know(database, options.customers, options.audiences)
        for _ in range(options.runs):
            for which, results in figures.items():
                command = [sys.executable, "-m", "benchmarks.pull", "--one", which, url, state]
                command += ["--audiences", str(options.audiences)]
                done = subprocess.run(
                    command,
                    check=True,
                    stdout=subprocess.PIPE,
                    text=True,
                    timeout=options.limit,
                )
                results.append(json.loads(done.stdout))
    for which, results in figures.items():
        times = [result["seconds"] for result in results]
        print(
            f"{which:8} {statistics.median(times):6.2f} s (min {min(times):.2f}, max "
            f"{max(times):.2f}), peak {max(each['peak_mb'] for each in results):.0f} MB, "
            f"{results[0]['rows']:,} rows"
        )
    middle = {
        which: statistics.median(result["seconds"] for result in results)
        for which, results in figures.items()
    }
    for reference in ("rows", "grouped"):
        print(f"ratio compare/{reference} {middle['compare'] / middle[reference]:.2f}")


if __name__ == "__main__":
    main()
