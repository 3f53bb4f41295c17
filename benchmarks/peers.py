"""A full compare, from the files that are read to the file that is written, by several programs.

    python -m benchmarks.peers [--customers 1000000] [--changed 0.01] [--with /PLACE/bin/python]

Everybody has the same rows, as `benchmarks.compare` makes them: a pull and a snapshot, a row a
customer with the values of ten audiences as a JSON text. Each reads both, finds the customers whose
values differ, and writes these, in a process of its own and in turn:

- syncer:  `syncer.sync.diff` over two SQLite files, with all it does in a run; a CSV of each trait
           that changed, before and after;
- bare:    the merge of `benchmarks.compare` over the same files, a CSV of both texts;
- duckdb:  a FULL OUTER JOIN of two tables of a DuckDB file, where the texts are distinct; a CSV;
- parquet: the same join of two Parquet files;
- polars:  a full join of these Parquet files, streamed into a CSV (polars 2);
- drt:     a sync of the pull from SQLite to a CSV file. It compares nothing: it writes all rows.

duckdb comes with the extra `files`. polars and drt are none of this project's dependencies: make
them an environment (`python3 -m venv PLACE`, `PLACE/bin/pip install polars drt-core`) and name its
Python in --with; without it these two are left out. The making of the files is left out for all.
Joins compare texts alone, as the bare merge does: no names, kinds, guard, sums or tally.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

COLUMNS = "customer_id, value_texts"
#: The rows of both sides whose texts differ, or that only one side has.
JOIN = """
    COPY (
        SELECT coalesce(pull.customer_id, customer.customer_id) AS customer_id,
               customer.value_texts AS before, pull.value_texts AS after
        FROM {pull} AS pull FULL OUTER JOIN {customer} AS customer USING (customer_id)
        WHERE customer.value_texts IS DISTINCT FROM pull.value_texts
    ) TO '{written}' (HEADER)
"""
DRT = {
    "drt_project.yml": 'name: bench\nversion: "0.1"\nprofile: default\n',
    "syncs/pull.yml": """\
name: pull
model: SELECT customer_id, value_texts FROM pull ORDER BY customer_id
destination:
  type: file
  path: {folder}/drt.csv
  format: csv
sync:
  mode: full
  batch_size: 10000
""",
    "home/.drt/profiles.yml": "default:\n  type: sqlite\n  database: {folder}/pull.db\n",
}


def make_files(folder: Path, customers: int, changed: float) -> None:
    """Make the rows as SQLite, as DuckDB's own file, as Parquet, and a project of drt."""
    import duckdb

    from benchmarks.compare import make

    make(folder, customers, 10, changed, unique=False)
    with duckdb.connect(str(folder / "both.duckdb")) as database:
        for name, table in (("pull", "pull"), ("state", "customer")):
            text = folder / f"{table}.csv"
            with sqlite3.connect(folder / f"{name}.db") as source, text.open("w") as file:
                rows = source.execute(f"SELECT {COLUMNS} FROM {table} ORDER BY customer_id")
                csv.writer(file).writerows(rows)
            database.execute(
                f"CREATE TABLE {table} AS SELECT * FROM read_csv('{text}', header=false, "
                "columns={'customer_id': 'VARCHAR', 'value_texts': 'VARCHAR'})"
            )
            database.execute(f"COPY {table} TO '{folder / table}.parquet'")
            text.unlink()
    for name, content in DRT.items():
        path = folder / "drt" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content.replace("{folder}", str(folder)))


def read(folder: Path, name: str, statement: str) -> Iterator[Any]:
    return sqlite3.connect(folder / f"{name}.db").execute(statement)


def run_syncer(folder: Path) -> None:
    from benchmarks.compare import PULL, SNAPSHOT, keys_of
    from syncer.engage.catalog_builder import build
    from syncer.engage.source import ObservedKey, PulledCustomer
    from syncer.sync.diff import compare
    from syncer.sync.join import merge
    from syncer.sync.tally import Tally

    observed = [ObservedKey(key, 1, 1, 0, 0) for key in keys_of(10)]
    catalog = build(observed, [], audiences=["*"], computed_traits=[])
    pulled = map(PulledCustomer._make, read(folder, "pull", PULL))
    pairs = merge(pulled, read(folder, "state", SNAPSHOT.format(column="traits")))
    with (folder / "syncer.csv").open("w") as file:
        writer = csv.writer(file)
        for customer in compare(pairs, catalog, Tally(catalog)):
            for change in customer.changes:
                writer.writerow((customer.customer_id, change.key, change.before, change.after))


def run_bare(folder: Path) -> None:
    statement = "SELECT {} FROM {} ORDER BY customer_id"
    snapshot = read(folder, "state", statement.format(COLUMNS, "customer"))
    known = next(snapshot, None)
    with (folder / "bare.csv").open("w") as file:
        writer = csv.writer(file)
        for row in read(folder, "pull", statement.format(COLUMNS, "pull")):
            while known is not None and known[0] < row[0]:
                writer.writerow((known[0], known[1], ""))
                known = next(snapshot, None)
            if known is None or known[0] != row[0]:
                writer.writerow((row[0], "", row[1]))
                continue
            if known[1] != row[1] and json.loads(known[1]) != json.loads(row[1]):
                writer.writerow((row[0], known[1], row[1]))
            known = next(snapshot, None)
        while known is not None:
            writer.writerow((known[0], known[1], ""))
            known = next(snapshot, None)


def run_duckdb(folder: Path) -> None:
    import duckdb

    with duckdb.connect(str(folder / "both.duckdb"), read_only=True) as database:
        written = folder / "duckdb.csv"
        database.execute(JOIN.format(pull="pull", customer="customer", written=written))


def run_parquet(folder: Path) -> None:
    import duckdb

    places = {name: f"'{folder / name}.parquet'" for name in ("pull", "customer")}
    with duckdb.connect() as database:
        database.execute(JOIN.format(**places, written=folder / "parquet.csv"))


def run_polars(folder: Path) -> None:
    import polars  # type: ignore[import-not-found,unused-ignore]

    pull, customer = (
        polars.scan_parquet(folder / f"{name}.parquet") for name in ("pull", "customer")
    )
    joined = customer.join(pull, on="customer_id", how="full", coalesce=True)
    differ = polars.col("value_texts").ne_missing(polars.col("value_texts_right"))
    joined.filter(differ).sink_csv(folder / "polars.csv")


def run_drt(folder: Path) -> None:
    """In a process of its own: the time includes its start, as its users wait for it."""
    program = [str(Path(sys.executable).parent / "drt"), "run"]
    home = {"HOME": str(folder / "drt" / "home"), "PATH": "/usr/bin:/bin", "DRT_TELEMETRY": "0"}
    subprocess.run(program, check=True, cwd=folder / "drt", env=home, stdout=subprocess.DEVNULL)


RUNS: dict[str, Callable[[Path], None]] = {
    **{"syncer": run_syncer, "bare": run_bare, "duckdb": run_duckdb, "parquet": run_parquet},
    **{"polars": run_polars, "drt": run_drt},
}
#: These are run by the Python of --with.
ELSEWHERE = {"polars", "drt"}


def measured(which: str, folder: Path) -> dict[str, float]:
    """Run one, here; return its seconds, those of a processor, and the highest memory in MB."""
    began = time.perf_counter()
    RUNS[which](folder)
    seconds = time.perf_counter() - began
    own, children = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    processor = sum(usage.ru_utime + usage.ru_stime for usage in (own, children))
    peak = max(own.ru_maxrss, children.ru_maxrss) / 1024
    with (folder / f"{which}.csv").open() as file:
        lines = sum(1 for _ in file)
    return {"seconds": seconds, "processor": processor, "peak_mb": peak, "lines": lines}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--customers", type=int, default=1_000_000)
    parser.add_argument("--changed", type=float, default=0.01)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--with", dest="python", default="", help="a Python with polars and drt")
    parser.add_argument("--only", default=",".join(RUNS), help="some of them, with commas")
    parser.add_argument("--make", help=argparse.SUPPRESS)
    parser.add_argument("--one", nargs=2, metavar=("WHICH", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        which, place = options.one
        print(json.dumps(measured(which, Path(place))))
        return
    if options.make:
        make_files(Path(options.make), options.customers, options.changed)
        return
    chosen = options.only.split(",")
    if unknown := set(chosen) - RUNS.keys():
        parser.error(f"--only: {', '.join(sorted(unknown))} is none of {', '.join(RUNS)}")
    chosen = [peer for peer in chosen if options.python or peer not in ELSEWHERE]
    figures: dict[str, list[dict[str, float]]] = {which: [] for which in chosen}
    with tempfile.TemporaryDirectory() as folder:
        # In a process of its own: who is started by a large one counts as large from its start.
        program = [sys.executable, "-m", "benchmarks.peers", "--make", folder]
        program += ["--customers", str(options.customers), "--changed", str(options.changed)]
        subprocess.run(program, check=True)
        for _ in range(options.runs):
            for which, results in figures.items():
                python = options.python if which in ELSEWHERE else sys.executable
                program = [python, "-m", "benchmarks.peers", "--one", which, folder]
                done = subprocess.run(program, check=True, stdout=subprocess.PIPE, text=True)
                results.append(json.loads(done.stdout))
    median = {
        which: {name: statistics.median(result[name] for result in results) for name in results[0]}
        for which, results in figures.items()
    }
    for which, medians in median.items():
        print(
            f"{which:8} {medians['seconds']:7.2f} s, of a processor "
            f"{medians['processor']:7.2f} s, "
            f"{medians['peak_mb']:5.0f} MB, {medians['lines']:,.0f} lines written"
        )
    for which in median.keys() - {"syncer"}:
        if "syncer" in median:
            ratio = median["syncer"]["seconds"] / median[which]["seconds"]
            print(f"ratio syncer/{which} {ratio:.2f}")


if __name__ == "__main__":
    main()
