"""The initial full sync, killed on the way: does it go on where it was, is what it says right?

    python -m benchmarks.initial [--customers 20000] [--rate 200] [--kills 5]

A daemon syncs a sandbox Engage to a sandbox Amberflo at `rate` requests a second, is killed
(SIGKILL; the processes beside it end by themselves) at even parts of the way, and started again
each time. Prints, on half of each part, how far the run says it is against what Amberflo has got;
for the last part the seconds left against what it then took; at the end how often customers were
written. The reference is arithmetic: two requests a customer at `rate`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import tomllib
from contextlib import closing
from pathlib import Path
from typing import Any

from state import runs
from state.db.database import Database
from syncer.sandbox.environment import Environment, environment


class Daemon:
    """The real program on a config."""

    def __init__(self, config: Path) -> None:
        command = [sys.executable, "-m", "syncer", "daemon", "--config", str(config)]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if "receiving on" in line:
                break

    def end(self, *, kill: bool) -> None:
        assert self._process.stderr is not None
        self._process.kill() if kill else self._process.terminate()
        self._process.stderr.close()
        self._process.wait()


def doing(config: Path) -> dict[str, Any] | None:
    """What `syncer status` says of the run that goes on, from where it says it."""
    url = tomllib.loads(config.read_text())["state"]["url"]
    with closing(Database.peek(url)) as database, database.read() as connection:
        newest = runs.newest(connection, 1)
    progress: dict[str, Any] = dict(newest[0].progress or {}) if newest else {}
    return progress if progress.get("stage") == "delivering" and progress["seconds_left"] else None


def written(on: Environment) -> dict[str, int]:
    puts: dict[str, int] = on.amberflo.stats()["puts"]
    return puts


def until(on: Environment, config: Path, target: int) -> tuple[dict[str, Any] | None, int, float]:
    """Wait until so many customers are written; gives what was said on half of the way, how many
    were written then, and when."""
    begun, said = len(written(on)), None
    middle, at = 0, 0.0
    while len(written(on)) < target:
        if said is None and len(written(on)) >= begun + (target - begun) // 2:
            said = doing(config)
            middle, at = len(written(on)), time.monotonic()
        time.sleep(0.2)
    return said, middle, at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--customers", type=int, default=20_000)
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--kills", type=int, default=5)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        environment(Path(folder), users=options.customers, audiences=10) as on,
    ):
        play(on, Path(folder) / "config.toml", options.rate, options.kills)


def play(on: Environment, config: Path, rate: float, kills: int) -> None:
    config.write_text(on.config.replace("rate = 0", f"rate = {rate}"))
    total = sum(1 for _ in on.engage.expected())
    print(f"{total:,} customers; at {rate:g} requests a second: {2 * total / rate:.0f} s")
    began = time.monotonic()
    for kill in range(kills + 1):
        last = kill == kills
        daemon = Daemon(config)
        target = total if last else total * (kill + 1) // (kills + 1)
        said, real, at = until(on, config, target)
        if said is not None:
            print(
                f"start {kill + 1}: says {said['done']:,} of {said['total']:,}, "
                f"{said['seconds_left']} s left; Amberflo has {real:,}"
            )
        if last and said is not None:
            print(f"  it took {time.monotonic() - at:.1f} s")
        daemon.end(kill=not last)
    print(f"took {time.monotonic() - began:.0f} s in all")
    puts = written(on)
    twice = sum(count > 1 for count in puts.values())
    print(f"customers written: {len(puts):,}; more than once: {twice:,} (16 in flight at a kill)")
    print(f"written side by side: {on.amberflo.stats()['overlapping_writes']}")


if __name__ == "__main__":
    main()
