"""Taking calls in, against a bare Starlette app that parses the same bodies and drops them.

    python -m benchmarks.receiver [--seconds 6] [--sustained 60] [--only bare receiver daemon]

Each is served by uvicorn in a process of its own, in turn, against the same load from this process:
connections that each send the next request when the last is answered. Every call is a new one.

- bare:     parses with orjson, answers, keeps nothing;
- receiver: the receiver alone, whose answers come after the fsync of the commit that holds the
            calls. It leaves out the worker, which shares cores and disk with it;
- daemon:   `syncer daemon` with its worker, which processes the calls meanwhile and delivers their
            meter records to an Amberflo that costs next to nothing (target.py). What has not been
            delivered at the end is printed.

- batch:  /v1/batch, 100 track calls a request, 16 connections
- single: /v1/track, 64 connections
- half:   the same at half of the rate just measured, for the 99th percentile

All leave out the network and TLS. Prints events per second, ratios and latencies (milliseconds).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
import uvloop

from benchmarks.target import target

KEY = "benchmark"
#: Where a request gets its number, so that each call is a new one.
PLACE = b"<request no>"


def event(number: int) -> dict[str, Any]:
    return {
        "type": "track",
        "userId": f"user_{number % 5000}",
        "event": "API Call",
        "messageId": f"message-{PLACE.decode()}-{number}",
        "timestamp": "2026-11-24T06:51:04.123Z",
        "properties": {
            "value": number % 7,
            "region": "us-west-2",
            "path": "/v1/things/42",
            "method": "GET",
            "plan": "enterprise",
            "cached": False,
        },
        "context": {"library": {"name": "analytics-python", "version": "2.3.4"}},
    }


def request(path: str, body: dict[str, Any]) -> bytes:
    content = orjson.dumps(body)
    head = (
        f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"content-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


CONFIG = """\
[amberflo]
api_key = "{key}"
customers_url = "{amberflo}/customers"
ingest_url = "{amberflo}/ingest"
[engage]
source = "events"
[state]
url = "sqlite:///{folder}/state.db"
[ops]
listen = "127.0.0.1:0"
[passthrough]
listen = "127.0.0.1:0"
write_keys = ["{key}"]
queue_limit = 100000000
"""


class Client(asyncio.Protocol):
    """One connection: sends a request, waits for the answer, sends the next."""

    def __init__(self, load: Load, requests: list[bytes]) -> None:
        self._load, self._requests = load, requests
        self._number = 0
        self._answer = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._send()

    def _send(self) -> None:
        delay = self._load.delay()
        if delay > 0:
            asyncio.get_running_loop().call_later(delay, self._send_now)
        else:
            self._send_now()

    def _send_now(self) -> None:
        if self._load.over():
            self._transport.close()
            return
        self._started = time.perf_counter()
        number = self._load.next_number()
        body = self._requests[self._number % len(self._requests)]
        self._transport.write(body.replace(PLACE, b"%012x" % number))
        self._number += 1

    def data_received(self, data: bytes) -> None:
        self._answer += data  # head and body may come one after the other
        if not self._answer.endswith(b"}"):
            return
        assert self._answer.startswith(b"HTTP/1.1 200"), self._answer[:300]
        self._answer = b""
        self._load.latencies.append(time.perf_counter() - self._started)
        self._send()


class Load:
    """What the connections of a measurement share; `rate` 0 is as fast as it goes."""

    def __init__(self, seconds: float, rate: float = 0.0) -> None:
        self._end = time.perf_counter() + seconds
        self._rate, self._next = rate, time.perf_counter()
        self.latencies: list[float] = []
        self._numbers = count(time.time_ns() // 1000 % 16**12)

    def next_number(self) -> int:
        return next(self._numbers)

    def over(self) -> bool:
        return time.perf_counter() > self._end

    def delay(self) -> float:
        if not self._rate:
            return 0.0
        self._next = max(self._next, time.perf_counter() - 0.05) + 1 / self._rate
        return self._next - time.perf_counter()


async def measure(
    port: int, requests: list[bytes], connections: int, seconds: float, rate: float = 0.0
) -> Load:
    load = Load(seconds, rate)
    loop = asyncio.get_running_loop()
    clients = [
        await loop.create_connection(
            partial(Client, load, requests[number::connections]), "127.0.0.1", port
        )
        for number in range(connections)
    ]
    while not load.over() or any(not transport.is_closing() for transport, _ in clients):
        await asyncio.sleep(0.05)
    return load


def p99(load: Load) -> float:
    return statistics.quantiles(load.latencies, n=100)[98] * 1000


def serve(which: str, folder: str) -> None:
    """The server process: prints its port, serves until stdin closes."""
    from syncer.process.server import bind
    from syncer.process.server import serve as serve_app
    from syncer.stop import Stop

    listener = bind("127.0.0.1", 0)
    print(listener.getsockname()[1], flush=True)
    if which == "bare":
        from starlette.applications import Starlette
        from starlette.requests import Request
        from starlette.responses import JSONResponse
        from starlette.routing import Route

        async def drop(request: Request) -> JSONResponse:
            orjson.loads(await request.body())
            return JSONResponse({"success": True})

        app: Any = Starlette(
            routes=[Route(f"/v1/{name}", drop, methods=["POST"]) for name in ("batch", "track")]
        )
        stop_inbox = None
    else:
        from state.db.database import Database
        from syncer.passthrough.inbox import Inbox
        from syncer.passthrough.receiver import Receiver
        from syncer.passthrough.scopes import SCOPES, Caller
        from syncer.process.runtime import tune_for_throughput, tune_for_writers
        from syncer.process.supervisor import Supervisor

        inbox = Inbox(Database.open(f"sqlite:///{folder}/state.db", "queue"), 1_000_000_000)
        inbox.start(Supervisor())
        tune_for_throughput()  # as the daemon does
        tune_for_writers()
        stop_inbox = inbox.stop
        app = Receiver(inbox, (Caller("bench", frozenset(SCOPES), KEY),), None).app()
    ended = Stop()

    def wait() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait).start()
    uvloop.run(serve_app(app, listener, ended))
    if stop_inbox is not None:
        stop_inbox()


@contextmanager
def alone(which: str) -> Iterator[int]:
    """Serve the bare app or the receiver; yield its port."""
    with TemporaryDirectory() as folder:
        program = [sys.executable, "-m", "benchmarks.receiver", "--serve", which, folder]
        server = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        yield int(server.stdout.readline())
        server.communicate("")


@contextmanager
def daemon() -> Iterator[tuple[int, str]]:
    """Run a daemon with its worker; yield the port of its receiver, and its metrics' URL."""
    with TemporaryDirectory() as folder, target() as amberflo:
        config = Path(folder) / "config.toml"
        config.write_text(CONFIG.format(amberflo=amberflo, folder=folder, key=KEY))
        process = subprocess.Popen(
            [sys.executable, "-m", "syncer", "daemon", "--config", str(config)],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        ops = next(line.split()[-1] for line in process.stderr if "health and metrics" in line)
        url = next(line.split()[-1] for line in process.stderr if "receiving on" in line)
        time.sleep(3)  # its worker starts
        yield int(url.rpartition(":")[2]), ops
        process.terminate()
        process.communicate()


def batches() -> list[bytes]:
    return [
        request(
            "/v1/batch",
            {"writeKey": KEY, "batch": [event(start * 100 + offset) for offset in range(100)]},
        )
        for start in range(160)
    ]


def singles() -> list[bytes]:
    return [request("/v1/track", {"writeKey": KEY, **event(number)}) for number in range(6400)]


def load_at(
    port: int, requests: list[bytes], connections: int, seconds: float
) -> tuple[float, float, float]:
    """Return requests per second, and the 99th percentiles at that rate and at half of it."""
    uvloop.run(measure(port, requests, connections, 1.0))
    full = uvloop.run(measure(port, requests, connections, seconds))
    rate = len(full.latencies) / seconds
    half = uvloop.run(measure(port, requests, connections, seconds, rate / 2))
    return rate, p99(full), p99(half)


def run_alone(which: str, options: argparse.Namespace) -> dict[str, float]:
    with alone(which) as port:
        batch = load_at(port, batches(), 16, options.seconds)
        single = load_at(port, singles(), 64, options.seconds)
    return _figures(batch=batch, single=single)


def run_daemon(options: argparse.Namespace) -> dict[str, float]:
    with daemon() as (port, ops):
        batch = load_at(port, batches(), 16, options.sustained)
        text = urllib.request.urlopen(f"{ops}/metrics").read().decode()
    waits = re.findall(
        r"^(syncer_calls_unprocessed|syncer_meters_waiting) (\S+)", text, re.MULTILINE
    )
    return {**_figures(batch=batch), **{name: float(value) for name, value in waits}}


def _figures(**measured: tuple[float, float, float]) -> dict[str, float]:
    figures = {}
    for name, (rate, full, half) in measured.items():
        figures[name] = rate * (100 if name == "batch" else 1)
        figures |= {f"{name}_p99": full, f"{name}_half_p99": half}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--sustained", type=float, default=60.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=["bare", "receiver", "daemon"])
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(*options.serve)
        return
    figures: dict[str, list[dict[str, float]]] = {which: [] for which in options.only}
    for _ in range(options.runs):
        for which, results in figures.items():
            measured = run_daemon(options) if which == "daemon" else run_alone(which, options)
            results.append(measured)
    medians = {
        which: {name: statistics.median(result[name] for result in results) for name in results[0]}
        for which, results in figures.items()
    }
    print(json.dumps(medians, indent=2))
    bare = medians.get("bare", {})
    for which in medians.keys() - {"bare"}:
        for name in bare.keys() & medians[which].keys() & {"batch", "single"}:
            ratio, half = medians[which][name] / bare[name], medians[which][f"{name}_half_p99"]
            print(f"ratio {which}/{name} {ratio:.2f}: of bare; p99 at half of it {half:.1f} ms")


if __name__ == "__main__":
    main()
