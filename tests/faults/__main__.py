"""`python -m tests.faults --seeds 100`: play scenarios, a line each; exit 1 if one went wrong."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager

from tests.support.postgres import server

from .seeds import run_seed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, help="only this one, with all that was said")
    parser.add_argument("--seeds", type=int, default=100, help="how many [default: 100]")
    parser.add_argument("--start", type=int, default=0, help="the first [default: 0]")
    parser.add_argument("--postgres", action="store_true", help="the state on PostgreSQL")
    parser.add_argument("--daemon", action="store_true", help="troubles of a real daemon")
    parser.add_argument("--jobs", type=int, default=2, help="so many at a time [default: 2]")
    chosen = parser.parse_args()
    seeds = range(chosen.start, chosen.start + chosen.seeds)
    if chosen.seed is not None:
        seeds = range(chosen.seed, chosen.seed + 1)
    with _server(chosen.postgres):
        if chosen.seed is not None:
            outcome = run_seed(chosen.seed, chosen.postgres, chosen.daemon)
            print(outcome[1], outcome[2], sep="\n")
            return int(outcome[0])
        return _many(seeds, chosen.postgres, chosen.daemon, chosen.jobs)


@contextmanager
def _server(postgres: bool) -> Iterator[None]:
    """One PostgreSQL for all, which the processes find in the environment."""
    if not postgres:
        yield
        return
    with server() as url:
        os.environ["TEST_POSTGRES_URL"] = url
        yield


def _many(seeds: range, postgres: bool, daemon: bool, jobs: int) -> int:
    began, wrong = time.monotonic(), []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        work = {pool.submit(run_seed, seed, postgres, daemon): seed for seed in seeds}
        for done in as_completed(work):
            bad, said, _ = done.result()
            print(said, flush=True)
            if bad:
                wrong.append(work[done])
    took = time.monotonic() - began
    print(f"{len(seeds)} scenarios in {took:.0f} s, {len(wrong)} with violations: {sorted(wrong)}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
