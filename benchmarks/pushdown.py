"""What leaves a warehouse that compares itself, and how long it takes, against reading everything.

    python -m benchmarks.pushdown [--engine postgresql|duckdb] [--customers 100000] [--audiences 10]
        [--changed 100] [--runs 3]

Makes a space of Profiles Sync, where each customer has a row for each audience, a name and an
email, and two states (SQLite) that a first run has filled: one reads everything, the other has the
warehouse compare. Then one in `--changed` customers changes, and each makes a run of all, in a
process of its own and in turn: the pull, the comparison and the commit, without requests. Both must
find the same number of changes.

PostgreSQL is the one of the tests ($TEST_POSTGRES_URL, else one from the wheel), with its own
settings; DuckDB is a file, and its engine is in our process, so that its memory counts as ours.
Prints for each way the seconds, the characters that the engine gave out, and the peak memory of the
process.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url

from benchmarks.pull import fill
from state.db.database import Database
from syncer.engage.profiles_sync import ProfilesSync, ProfilesSyncPull
from syncer.engage.pushdown import PushDownSource
from syncer.engage.source import Source
from syncer.engage.warehouses import warehouse_of
from syncer.sync.trait_selection import Selection
from tests.support import postgres
from tests.support.space import runs_on

SCRATCH = "scratch"
WAYS = ("full", "pushdown")
ENGINES = ("postgresql", "duckdb")


def source_of(way: str, url: str) -> Source:
    source = ProfilesSync(make_url(url))
    return source if way == "full" else PushDownSource(source, SCRATCH)


def count_what_leaves() -> list[int]:
    """Count the characters of all that the engine gives out from now on, in a list of one."""
    given = [0]

    def counted(rows: Iterator[Any]) -> Iterator[Any]:
        for row in rows:
            given[0] += sum(len(str(cell)) for cell in row)
            yield row

    ask, stream = ProfilesSyncPull.ask, ProfilesSyncPull._stream
    patched: Any = ProfilesSyncPull
    patched.ask = lambda self, statement: list(counted(iter(ask(self, statement))))
    patched._stream = lambda self, statement: counted(stream(self, statement))
    return given


def run_of_all(way: str, url: str, state: str) -> None:
    """Make a run that compares everything, and print what it took."""
    given = count_what_leaves()
    with closing(Database.open(state)) as database:
        runs = runs_on(database, source_of(way, url))
        selection = Selection(("*",), (), "{}")
        runs = replace(runs, comparison=replace(runs.comparison, selection=selection))
        began = time.perf_counter()
        record = runs.sync(full=True).record
        seconds = time.perf_counter() - began
    assert record is not None
    changes = record.entered + record.exited + record.changed
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures = {"seconds": seconds, "characters": given[0], "peak_mb": peak, "changes": changes}
    print(json.dumps(figures))


def in_a_process(way: str, url: str, state: str) -> Any:
    command = [sys.executable, "-m", "benchmarks.pushdown", "--one", way, url, state]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def change(connection: Connection, one_in: int) -> None:
    flipped = "CASE WHEN value = 'true' THEN 'false' ELSE 'true' END"
    these = f"name = 'audience_000' AND seq % {one_in} = 0"
    connection.execute(text(f"UPDATE user_traits SET value = {flipped} WHERE {these}"))


@contextmanager
def written(url: str) -> Iterator[Connection]:
    """A transaction that writes to the warehouse; nothing holds it open afterwards."""
    engine = warehouse_of(make_url(url)).engine(make_url(url), writes=True)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


@contextmanager
def place(engine: str, folder: Path) -> Iterator[str]:
    """The URL of an empty warehouse."""
    if engine == "duckdb":
        import duckdb

        duckdb.connect(str(folder / "engage.duckdb")).close()
        yield f"duckdb:///{folder / 'engage.duckdb'}"
        return
    with postgres.server() as server, postgres.database(server) as url:
        yield url


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", choices=ENGINES, default="postgresql")
    parser.add_argument("--customers", type=int, default=100_000)
    parser.add_argument("--audiences", type=int, default=10)
    parser.add_argument("--changed", type=int, default=100)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--one", nargs=3, metavar=("WAY", "URL", "STATE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        run_of_all(*options.one)
        return
    figures: dict[str, list[Any]] = {way: [] for way in WAYS}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(place(options.engine, folder))
        states = {way: f"sqlite:///{folder / way}.db" for way in WAYS}
        with written(url) as connection:
            fill(connection, options.customers, options.audiences)
            connection.execute(text(f"CREATE SCHEMA {SCRATCH}"))
        for way in WAYS:
            in_a_process(way, url, states[way])
        for _ in range(options.runs):
            with written(url) as connection:
                change(connection, options.changed)
            for way in WAYS:
                figures[way].append(in_a_process(way, url, states[way]))
    for measured in zip(*figures.values(), strict=True):
        assert len({figure["changes"] for figure in measured}) == 1, measured
    middle = {
        way: {name: statistics.median(figure[name] for figure in runs) for name in runs[0]}
        for way, runs in figures.items()
    }
    for way, of in middle.items():
        times = [figure["seconds"] for figure in figures[way]]
        print(
            f"{way:8} {of['seconds']:6.2f} s (min {min(times):.2f}, max {max(times):.2f}), "
            f"{of['characters']:,} characters left the engine, peak {of['peak_mb']:.0f} MB, "
            f"{of['changes']:,} changes"
        )
    full, pushed = middle["full"], middle["pushdown"]
    share = pushed["characters"] / full["characters"]
    print(f"pushdown/full: {pushed['seconds'] / full['seconds']:.2f} of the time")
    print(f"pushdown/full: {share:.4f} of the characters")


if __name__ == "__main__":
    main()
