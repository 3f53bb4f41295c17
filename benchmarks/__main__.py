"""The ratios of the benchmarks against their bounds, as a table and a chart.

    python -m benchmarks [--quick] [--only compare,fullrun] [--into docs]

Runs the benchmarks that print a ratio, one after the other, each in processes of its own, and
writes `benchmarks.svg` and the table `benchmarks-ratios.md` into a folder. With --quick the
populations are small, which tells whether everything runs and little of the ratios. Each benchmark
says in its own docstring what it leaves out; the table repeats it.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chart import Bar, chart, table

#: A line of a benchmark with a ratio: `ratio NAME VALUE`, with words before it or behind it.
RATIO = re.compile(r"\bratio (\S+) ([0-9]+(?:\.[0-9]+)?)")


@dataclass(frozen=True)
class Benchmark:
    """A module of this folder, its options for a quick run, and what it prints and leaves out.

    `bounds` has, by the name of a ratio, what is measured and the bound; with `at_least` the ratios
    should not be less.
    """

    module: str
    quick: tuple[str, ...]
    bounds: dict[str, tuple[str, float]]
    leaves_out: str
    at_least: bool = False


BENCHMARKS = [
    Benchmark(
        "compare",
        ("--customers", "20000", "--runs", "1"),
        {"compare/bare": ("the comparison alone / a bare merge", 3.0)},
        "the source, the commit",
    ),
    Benchmark(
        "fullrun",
        ("--customers", "5000", "--runs", "1"),
        {
            "diff/script": ("a full comparison / a plain script", 2.0),
            "first/script": ("the first run / a plain script", 2.0),
            "later/script": ("a full run / a plain script", 2.0),
        },
        "the start of the program, Amberflo; the script has no seals, sums, guard",
    ),
    Benchmark(
        "seal",
        ("--changes", "20000", "--runs", "1"),
        {
            "sealed/commit": ("a commit with seals / without", 1.5),
            "sealed/hand": ("a commit with seals / the same rows by hand", 1.5),
            "prove/bare": ("the proof / bare hashing", 2.0),
        },
        "the comparison",
    ),
    Benchmark(
        "delivery",
        ("--customers", "1000", "--runs", "1"),
        {"delivery/bare": ("delivery / a bare aiohttp loop", 0.7)},
        "the network, TLS, records of others, the history of a run",
        at_least=True,
    ),
    Benchmark(
        "receiver",
        ("--seconds", "3", "--sustained", "5", "--runs", "1"),
        {
            "receiver/batch": ("the receiver, batches / bare Starlette", 0.7),
            "receiver/single": ("the receiver, singles / bare Starlette", 0.7),
            "daemon/batch": ("the daemon, batches / bare Starlette", 0.3),
        },
        "the network, TLS; the receiver alone leaves the worker out",
        at_least=True,
    ),
]


def ratios(printed: str) -> dict[str, float]:
    """Return the ratios that a benchmark printed, by name."""
    return {name: float(value) for name, value in RATIO.findall(printed)}


def bars(benchmark: Benchmark, printed: str) -> list[Bar]:
    """Return the bars of a benchmark; raise ValueError where it did not print one."""
    measured = ratios(printed)
    missing = benchmark.bounds.keys() - measured.keys()
    if missing:
        raise ValueError(f"benchmarks.{benchmark.module} printed no ratio {', '.join(missing)}")
    command, leaves_out = f"benchmarks.{benchmark.module}", benchmark.leaves_out
    return [
        Bar(title, measured[name], bound, command, leaves_out, benchmark.at_least)
        for name, (title, bound) in benchmark.bounds.items()
    ]


def run(benchmark: Benchmark, options: Sequence[str]) -> str:
    """Run a benchmark, show what it prints, and return that."""
    command = [sys.executable, "-m", f"benchmarks.{benchmark.module}", *options]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    sys.stdout.write(done.stdout)
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--quick", action="store_true", help="small populations")
    parser.add_argument("--only", default="", help="names of benchmarks, with commas")
    parser.add_argument("--into", type=Path, default=Path("docs"), help="the folder to write into")
    options = parser.parse_args()
    names = {benchmark.module for benchmark in BENCHMARKS}
    only = set(filter(None, options.only.split(","))) or names
    if unknown := only - names:
        parser.error(f"no ratio comes from {', '.join(sorted(unknown))}; choose from {names}")
    if not options.into.is_dir():
        parser.error(f"--into: there is no folder {options.into}")
    measured = [
        bar
        for benchmark in BENCHMARKS
        if benchmark.module in only
        for bar in bars(benchmark, run(benchmark, benchmark.quick if options.quick else ()))
    ]
    (options.into / "benchmarks.svg").write_text(chart(measured))
    (options.into / "benchmarks-ratios.md").write_text(table(measured, quick=options.quick))


if __name__ == "__main__":
    main()
