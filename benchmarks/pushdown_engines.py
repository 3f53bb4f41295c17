"""Push-down on a real engine: who changed leaves it, and nobody else.

    python -m benchmarks.pushdown_engines [--engine duckdb|spark] [--customers 5000000]
        [--audiences 10] [--folder PLACE] [--memory 1GB] [--workers 2,1,3072] [--driver 3g]

Makes the tables of Profiles Sync, keeps the fingerprints of all customers, changes a hundredth of
the customers (a value), deletes a few and adds a few. Then one process has the engine compare and
takes who is given out, and another one reads everything and compares each customer with what it had
before. Both must name exactly who was changed, with the same rows. Prints for each the customers
and bytes that left the engine, the seconds by the clock and of a processor, and the peak of the
resident memory. DuckDB runs in the same process, with `--memory` at most: what it holds by its own
account is printed beside the most that is resident without it, some of which the allocator keeps
after the engine gave it back. Spark is a cluster of two workers with a core and 3 GB each
(`--workers`), through Spark Connect, and the statements are Databricks'; the processor seconds of
its processes are added.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy.engine import make_url

from syncer.engage.profiles_sync import ProfilesSync
from syncer.engage.pushdown import PushDownSource
from syncer.engage.source import Everything, Fingerprints, PulledCustomer

SCRATCH = "scratch"
#: Which profiles change a value, and which go, by how their ids end; how many are new.
CHANGED, GONE, NEW = "07", "0003", 10_000
#: Values of an audience by the number of the customer.
PERIOD = 7

ROWS = """
SELECT CASE WHEN n % 10 = 5 AND k = 1 THEN 'o' ELSE 'p' END || {n} AS canonical_segment_id,
    'audience_' || lpad({k}, 3, '0') AS name,
    CASE WHEN (n + k * 3) % {period} < 3 THEN 'true' ELSE 'false' END AS value,
    n AS seq, {at} AS received_at, {at} AS uuid_ts, {at} AS timestamp
FROM range({first}, {end}) AS people(n) CROSS JOIN range({audiences}) AS audiences(k)
"""
IDS = """
SELECT 'p' || {n} AS canonical_segment_id, 'user_id' AS type,
    'user_' || lpad({n}, 9, '0') AS value,
    n AS seq, {at} AS received_at, {at} AS uuid_ts, {at} AS timestamp
FROM range({first}, {end}) AS people(n)
"""
MERGES = """
SELECT 'p' || {n} AS canonical_segment_id, 'o' || {n} AS segment_id,
    n AS seq, {at} AS received_at, {at} AS uuid_ts, {at} AS timestamp
FROM range({first}, {end}) AS people(n) WHERE n % 10 = 5
"""
TABLES = {"user_traits": ROWS, "user_identifiers": IDS, "profile_merges": MERGES}


class Engine(Protocol):
    """An engine with a population in it."""

    def make(self, customers: int, audiences: int) -> None:
        """Make the tables."""

    def change(self, customers: int, audiences: int) -> None:
        """Change, delete and add."""

    def source(self, changed: bool) -> ProfilesSync:
        """Read the tables as they were, or as they are."""

    def account(self, step: str) -> AbstractContextManager[Callable[[], int]]:
        """Yield what says how many bytes of this process are the engine's, while a step runs."""


def selected(statement: str, first: int, end: int, audiences: int) -> str:
    return statement.format(
        n="CAST(n AS STRING)",
        k="CAST(k AS STRING)",
        at="CAST('2026-11-01 00:00:00' AS TIMESTAMP)",
        period=PERIOD,
        first=first,
        end=end,
        audiences=audiences,
    )


class DuckDBEngine:
    """A file, whose rows are changed in place."""

    def __init__(self, folder: Path, memory: str) -> None:
        self._path, self._memory = folder / "engage.duckdb", memory

    def make(self, customers: int, audiences: int) -> None:
        for name, statement in TABLES.items():
            rows = selected(statement, 0, customers, audiences)
            self._run(f"CREATE TABLE {name} AS {rows}")
        self._run(f"CREATE SCHEMA {SCRATCH}")

    def change(self, customers: int, audiences: int) -> None:
        new = (customers, customers + customers // NEW, audiences)
        self._run(
            "UPDATE user_traits SET value = CASE value WHEN 'true' THEN 'false' ELSE 'true' END "
            f"WHERE name = 'audience_000' AND canonical_segment_id LIKE 'p%{CHANGED}'"
        )
        for name, statement in TABLES.items():
            self._run(f"DELETE FROM {name} WHERE canonical_segment_id LIKE 'p%{GONE}'")
            self._run(f"INSERT INTO {name} {selected(statement, *new)}")

    def source(self, changed: bool) -> ProfilesSync:
        return ProfilesSync(make_url(f"duckdb:///{self._path}?memory_limit={self._memory}"))

    @contextmanager
    def account(self, step: str) -> Iterator[Callable[[], int]]:
        """By its own account: DuckDB runs in this process."""
        from syncer.engage.warehouses.duckdb_connection import DuckDBConnection

        settings = dict(self.source(changed=True).url.query)
        connection = DuckDBConnection(str(self._path), settings, read_only=step == "read")

        def held() -> int:
            cursor = connection.cursor()
            cursor.execute("SELECT sum(memory_usage_bytes) FROM duckdb_memory()")
            ((number,),) = cursor.fetchall()
            connection.rollback()
            return int(number)

        try:
            yield held
        finally:
            connection.close()

    def _run(self, statement: str) -> None:
        import duckdb

        with duckdb.connect(str(self._path)) as connection:
            connection.execute(statement)


@contextmanager
def opened(options: argparse.Namespace) -> Iterator[Engine]:
    if options.engine == "duckdb":
        yield DuckDBEngine(Path(options.folder), options.memory)
        return
    from benchmarks import spark_engine

    with spark_engine.engine(options.address) as engine:
        yield engine


def planted(customers: int) -> set[str]:
    """Who was changed, deleted or added."""
    numbers = [*range(int(CHANGED), customers, 100), *range(int(GONE), customers, 10_000)]
    # An id such as p7 does not end in 07.
    numbers = [n for n in numbers if f"p{n}".endswith((CHANGED, GONE))]
    return {f"user_{n:09}" for n in (*numbers, *range(customers, customers + customers // NEW))}


class Before:
    """What each customer had, as a pull gives it out."""

    def __init__(self, audiences: int) -> None:
        self._keys = json.dumps(
            [f"audience_{k:03}" for k in range(audiences)], separators=(",", ":")
        )
        self._values = [
            json.dumps(
                ["true" if (n + k * 3) % PERIOD < 3 else "false" for k in range(audiences)],
                separators=(",", ":"),
            )
            for n in range(PERIOD)
        ]

    def differs(self, row: PulledCustomer) -> bool:
        number = int(row.customer_id.removeprefix("user_"))
        return row.values != self._values[number % PERIOD] or row.keys != self._keys


def size(row: PulledCustomer) -> int:
    return sum(map(len, row))


def shown(row: PulledCustomer | None) -> str:
    """A hash of what a customer has, as the texts of fifty thousand are no memory of a run's."""
    return "" if row is None else blake2b(f"{row.keys} {row.values}".encode()).hexdigest()[:16]


# What each process does. It prints a JSON object.


def keep(engine: Engine, options: argparse.Namespace) -> dict[str, Any]:
    with push_down(engine, changed=False) as compared:
        compared.make(name := "syncer_fingerprints_before")
        kept = compared.keep(name, keys(options))
        compared.finish()
    return {"kept": [kept.table, kept.customers, kept.rows], "customers": kept.customers}


def compare(engine: Engine, options: argparse.Namespace) -> dict[str, Any]:
    before, given, letters = Fingerprints(*json.loads(options.kept)), dict[str, str](), 0
    with push_down(engine, changed=True) as compared:
        assert compared.fault(before) is None
        compared.make(name := "syncer_fingerprints_now")
        now = compared.keep(name, keys(options))
        compared.choose(before, now, ())
        for customer_id, row in compared.given(keys(options)):
            letters += len(customer_id) if row is None else size(row)
            given[customer_id] = shown(row)
        unchanged = compared.unchanged(now, keys(options))
        compared.drop(before.table)
        compared.finish()
    written(options, "given", given)
    counted = unchanged.customers + sum(map(bool, given.values()))
    return {"customers": len(given), "bytes": letters, "living": counted}


def read(engine: Engine, options: argparse.Namespace) -> dict[str, Any]:
    had, differ = Before(options.audiences), dict[str, str]()
    number, letters, last = 0, 0, options.customers
    with engine.source(changed=True).pull(Everything()) as pull:
        for row in pull.customers(keys(options)):
            number += 1
            letters += size(row)
            if int(row.customer_id.removeprefix("user_")) >= last or had.differs(row):
                differ[row.customer_id] = shown(row)
    written(options, "differ", differ)
    return {"customers": number, "bytes": letters, "living": number}


STEPS = {"keep": keep, "compare": compare, "read": read}


@contextmanager
def push_down(engine: Engine, *, changed: bool) -> Iterator[Any]:
    with PushDownSource(engine.source(changed), SCRATCH).comparing() as (_, compared):
        yield compared


def keys(options: argparse.Namespace) -> list[str]:
    return [f"audience_{k:03}" for k in range(options.audiences)]


def written(options: argparse.Namespace, name: str, rows: dict[str, str]) -> None:
    Path(options.folder, f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")


def measured(step: str, engine: Engine, options: argparse.Namespace) -> dict[str, Any]:
    began = time.perf_counter()
    with engine.account(step) as held, Sampled(held) as sampled:
        result = STEPS[step](engine, options)
    result |= {"seconds": time.perf_counter() - began, "cpu": sum(os.times()[:2])}
    result |= {"peak": resident("VmHWM") >> 20, "engine": sampled.engine >> 20}
    result["ours"] = sampled.ours >> 20
    return result


class Sampled:
    """What is looked at four times a second: the most of the engine, and of all else."""

    def __init__(self, held: Callable[[], int]) -> None:
        self._held, self._end = held, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.engine = self.ours = 0

    def __enter__(self) -> Sampled:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(0.25):
            engine, all_of_it = self._held(), resident("VmRSS")
            self.engine = max(self.engine, engine)
            self.ours = max(self.ours, all_of_it - engine)


def resident(name: str) -> int:
    """The bytes of this process in memory: now (VmRSS), or at most (VmHWM)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.findall(rf"^{name}:\s*(\d+) kB$", status, re.MULTILINE)[0]) * 1024


def in_a_process(step: str, options: argparse.Namespace, **more: str) -> dict[str, Any]:
    arguments = [f"--{name}={value}" for name, value in (vars(options) | more).items() if value]
    command = [sys.executable, "-m", "benchmarks.pushdown_engines", *arguments, f"--step={step}"]
    engine = seconds_of_java()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    result["cpu"] += seconds_of_java() - engine
    cells = (f"{result[each]:,.0f}" if each in result else "" for each in ("customers", "bytes"))
    times = (f"{result[each]:.1f}" for each in ("seconds", "cpu"))
    memory = (f"{result[each]} MiB" for each in ("peak", "engine", "ours"))
    print(f"| {step} | {' | '.join((*cells, *times, *memory))} |", flush=True)
    return result


def seconds_of_java() -> float:
    """The processor seconds of the processes of Spark that this one has started."""
    ticks, parents, java = dict[int, int](), dict[int, int](), set[int]()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        name, fields = text.partition("(")[2].rpartition(")")[0], text.rpartition(")")[2].split()
        own = int(path.parent.name)
        ticks[own], parents[own] = int(fields[11]) + int(fields[12]), int(fields[1])
        if name == "java":
            java.add(own)

    def ours(process: int) -> bool:
        return process == os.getpid() or (process in parents and ours(parents[process]))

    return sum(ticks[each] for each in java if ours(each)) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", choices=["duckdb", "spark"], default="duckdb")
    parser.add_argument("--customers", type=int, default=5_000_000)
    parser.add_argument("--audiences", type=int, default=10)
    parser.add_argument("--memory", default="1GB")
    parser.add_argument("--workers", default="2,1,3072")
    parser.add_argument("--driver", default="3g")
    parser.add_argument("--folder")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--kept", help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        with opened(options) as engine:
            print(json.dumps(measured(options.step, engine, options)))
        return
    with ExitStack() as stack:
        folder = tempfile.TemporaryDirectory(prefix="pushdown-", dir=options.folder)
        options.folder = stack.enter_context(folder)
        if options.engine == "spark":
            from tests.support import spark

            cluster = spark.cluster(Path(options.folder), spark_settings(options), options.workers)
            options.address = stack.enter_context(cluster)
        run(stack.enter_context(opened(options)), options)


def spark_settings(options: argparse.Namespace) -> dict[str, str]:
    """Parts that one task can sort in memory; and room at the driver, where Spark Connect keeps
    what was not yet fetched."""
    parts = max(16, options.customers * options.audiences // 500_000)
    return {
        "spark.sql.shuffle.partitions": str(parts),
        "spark.driver.memory": options.driver,
        "spark.driver.maxResultSize": "0",
    }


def run(engine: Engine, options: argparse.Namespace) -> None:
    size = (options.customers, options.audiences)
    began = time.perf_counter()
    engine.make(*size)
    print(f"the tables were made in {time.perf_counter() - began:.0f} s", flush=True)
    columns = "customers | bytes | seconds | of a processor | peak memory | the engine | all else"
    print(f"| | {columns} |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    kept = in_a_process("keep", options)["kept"]
    engine.change(*size)
    compared = in_a_process("compare", options, kept=json.dumps(kept))
    everything = in_a_process("read", options)
    given, differ = (
        json.loads(Path(options.folder, f"{name}.json").read_text(encoding="utf-8"))
        for name in ("given", "differ")
    )
    expected = planted(options.customers)
    assert given.keys() == expected, "the engine gave out others than were changed"
    living = {customer_id: rows for customer_id, rows in given.items() if rows}
    assert living == differ, "the engine gave out others than a compare of everything finds"
    assert compared["living"] == everything["living"], "the sums do not close"
    share = compared["bytes"] / everything["bytes"]
    print(
        f"who is given out is who was changed: {len(given):,}, with the rows that a full read has"
    )
    print(
        f"{share:.2%} of the bytes, {compared['seconds'] / everything['seconds']:.2f} of the time"
    )


if __name__ == "__main__":
    main()
