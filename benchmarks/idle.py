"""What the daemon takes while it has nothing to do: processor, memory, wake-ups.

    python -m benchmarks.idle [--customers 2000] [--windows 5] [--seconds 30]

Runs `syncer daemon` on SQLite until its first run is delivered to an Amberflo that costs next to
nothing (target.py), then watches the daemon and its worker. Each window gives the part of a core
that their threads ran, and how often a second one of them began to wait (each wait has an end,
which is a wake-up). The memory is what the kernel counts of them with shared pages split up (PSS).
Prints the medians of the windows, each process and both together, and the wake-ups of each thread.

The load of the machine changes what a wake-up costs, but not how many there are.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.endtoend import children
from benchmarks.fullrun import make
from benchmarks.target import target

CONFIG = """\
[amberflo]
api_key = "a-key-of-some-length"
customers_url = "{amberflo}/customers"
ingest_url = "{amberflo}/ingest"
rate = 1000
[engage]
audiences = ["audience_*"]
[engage.profiles_sync]
url = "sqlite:///{folder}/source.db"
[state]
url = "sqlite:///{folder}/state.db"
[ops]
listen = "127.0.0.1:0"
[passthrough]
listen = "127.0.0.1:0"
write_keys = ["a-write-key-of-some-length"]
"""


class Usage(NamedTuple):
    """What a thread has taken so far: nanoseconds on a processor, and waits."""

    ran: int
    waits: int


def usage(process: int) -> dict[int, Usage]:
    """Return what each thread of a process has taken so far."""
    threads = {}
    for folder in Path(f"/proc/{process}/task").iterdir():
        try:
            ran = int((folder / "schedstat").read_text().split()[0])
            status = (folder / "status").read_text()
        except OSError:  # it ended just now
            continue
        match = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.MULTILINE)
        assert match is not None
        threads[int(folder.name)] = Usage(ran, int(match[1]))
    return threads


def pss(process: int) -> float:
    """Return the proportional memory of a process in MB."""
    text = Path(f"/proc/{process}/smaps_rollup").read_text()
    match = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    assert match is not None
    return int(match[1]) / 1024


@contextmanager
def idle_daemon(customers: int) -> Iterator[tuple[int, ...]]:
    """Run a daemon until it has delivered its first run; yield it and its worker, as processes."""
    with tempfile.TemporaryDirectory() as folder, target() as amberflo:
        make(Path(folder) / "source.db", customers, changed=False)
        config = Path(folder) / "config.toml"
        config.write_text(CONFIG.format(amberflo=amberflo, folder=folder))
        daemon = subprocess.Popen(
            [sys.executable, "-m", "syncer", "daemon", "--config", str(config)],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert daemon.stderr is not None
        ops = next(line.split()[-1] for line in daemon.stderr if "health and metrics" in line)
        try:
            while not delivered(ops) or len(children(daemon.pid)) > 1:  # its run's, too
                time.sleep(1)
            yield daemon.pid, *children(daemon.pid)
        finally:
            daemon.terminate()
            daemon.communicate()


def delivered(ops: str) -> bool:
    """Return whether the first run of a daemon is delivered, from its metrics."""
    return (
        b"\nsyncer_last_good_run_timestamp_seconds "
        in urllib.request.urlopen(f"{ops}/metrics").read()
    )


class Window(NamedTuple):
    """What a process took in a window: the part of a core, and each thread's waits a second."""

    core: float
    waits: list[float]
    memory: float

    @property
    def all_waits(self) -> float:
        return sum(self.waits)


def watch(processes: tuple[int, ...], seconds: float) -> tuple[Window, Window]:
    """Watch both processes for some seconds."""
    before, began = [usage(process) for process in processes], time.monotonic()
    time.sleep(seconds)
    after, seconds = [usage(process) for process in processes], time.monotonic() - began
    first, second = (
        _window(process, then, now, seconds)
        for process, then, now in zip(processes, before, after, strict=True)
    )
    return first, second


def _window(
    process: int, before: dict[int, Usage], after: dict[int, Usage], seconds: float
) -> Window:
    """Return a window; a thread that ended in it does not count."""
    none = Usage(0, 0)
    ran = sum(now.ran - before.get(thread, none).ran for thread, now in after.items())
    waits = [now.waits - before.get(thread, none).waits for thread, now in after.items()]
    rates = sorted((number / seconds for number in waits), reverse=True)
    return Window(ran / 1e9 / seconds, rates, pss(process))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--customers", type=int, default=2000)
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    with idle_daemon(options.customers) as processes:
        time.sleep(10)
        windows = [watch(processes, options.seconds) for _ in range(options.windows)]
    for number, name in enumerate(("daemon", "worker")):
        of_process = [window[number] for window in windows]
        busiest = ", ".join(f"{rate:.1f}" for rate in of_process[-1].waits)
        print(f"{name}: {_told(of_process)}; of each thread {busiest}")
    both = [Window(a.core + b.core, a.waits + b.waits, a.memory + b.memory) for a, b in windows]
    print(f"both:   {_told(both)}")


def _told(windows: list[Window]) -> str:
    core = statistics.median(window.core for window in windows)
    waits = statistics.median(window.all_waits for window in windows)
    memory = statistics.median(window.memory for window in windows)
    return f"{core:.2%} of a core, {memory:.1f} MB (PSS), {waits:.1f} wake-ups a second"


if __name__ == "__main__":
    main()
