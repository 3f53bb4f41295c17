"""A million events from the receiver to Amberflo: how long, and how much memory.

    python -m benchmarks.endtoend [--events 1000000]

The daemon and an Amberflo that costs next to nothing (target.py) are processes of their own. Events
go in by /v1/batch, 100 a request, over 16 connections; the clock stops when the last one is at
Amberflo. Prints events per second in and through, and the highest memory of the receiver and of its
worker at a tenth, half and all of the way: it must not grow with the number of events.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import uvloop

from benchmarks.receiver import KEY, event, request
from benchmarks.target import target

CONFIG = """\
[amberflo]
api_key = "{api_key}"
customers_url = "{amberflo}/customers"
ingest_url = "{amberflo}/ingest"
[engage.profiles_sync]
url = "sqlite:///{folder}/none.db"
[state]
url = "sqlite:///{folder}/state.db"
[ops]
listen = "127.0.0.1:0"
[passthrough]
listen = "127.0.0.1:0"
write_keys = ["{write_key}"]
queue_limit = 100000000
"""


def memory(process: int) -> float:
    """The highest resident memory of a process so far, in MB."""
    status = Path(f"/proc/{process}/status").read_text()
    match = re.search(r"VmHWM:\s+(\d+)", status)
    return int(match[1]) / 1024 if match else 0.0


def children(process: int) -> list[int]:
    threads = Path(f"/proc/{process}/task").iterdir()  # each has those that it started
    return [int(pid) for thread in threads for pid in (thread / "children").read_text().split()]


def child(process: int) -> int:
    """The worker of a daemon: its child that holds most memory."""
    return max(children(process), key=memory)


def waiting(ops: str) -> float:
    text = urllib.request.urlopen(f"{ops}/metrics").read().decode()
    values = re.findall(
        r"^(?:syncer_calls_unprocessed|syncer_meters_waiting) (\S+)", text, re.MULTILINE
    )
    return sum(map(float, values))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=1_000_000)
    options = parser.parse_args()
    program = [sys.executable, "-m"]
    with tempfile.TemporaryDirectory() as folder, target() as amberflo:
        config = Path(folder) / "config.toml"
        config.write_text(
            CONFIG.format(api_key=KEY, amberflo=amberflo, folder=folder, write_key=KEY)
        )
        daemon = subprocess.Popen(
            [*program, "syncer", "daemon", "--config", str(config)],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert daemon.stderr is not None
        ops = next(line.split()[-1] for line in daemon.stderr if "health and metrics" in line)
        url = next(line.split()[-1] for line in daemon.stderr if "receiving on" in line)
        port = int(url.rpartition(":")[2])
        time.sleep(2)
        worker = child(daemon.pid)
        print(f"before: receiver {memory(daemon.pid):.0f} MB, worker {memory(worker):.0f} MB")
        sent, started = 0, time.perf_counter()
        marks = [options.events // 10, options.events // 2, options.events]
        uvloop.run(send(port, 0, marks[0]))
        for number, mark in enumerate(marks):
            if number:
                uvloop.run(send(port, marks[number - 1], mark))
            sent = mark
            taken = time.perf_counter() - started
            while waiting(ops):
                time.sleep(0.2)
            print(
                f"{sent:,} events: taken in after {taken:.1f} s, at Amberflo after "
                f"{time.perf_counter() - started:.1f} s; receiver {memory(daemon.pid):.0f} MB, "
                f"worker {memory(worker):.0f} MB"
            )
        seconds = time.perf_counter() - started
        print(f"{options.events / seconds:,.0f} events/s from the first byte to Amberflo")
        daemon.terminate()
        daemon.communicate()


async def send(port: int, start: int, end: int) -> None:
    """Send events `start` to `end` in batches of 100, each once."""
    numbers = iter(range(start, end, 100))

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for first in numbers:
            batch = [event(first + offset) for offset in range(100)]
            writer.write(request("/v1/batch", {"writeKey": KEY, "batch": batch}))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            await reader.readuntil(b"}")
        writer.close()

    await asyncio.gather(*(connection() for _ in range(16)))


if __name__ == "__main__":
    main()
