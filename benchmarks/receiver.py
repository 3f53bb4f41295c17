"""The receiver against a bare Starlette app that parses the same bodies with orjson and drops them.

    python -m benchmarks.receiver [--seconds 6]

Both are served by uvicorn in a process of their own, in turn, against the same load from this
process: connections that each send the next request when the last is answered.

- batch:  /v1/batch, 100 track calls a request, 16 connections
- single: /v1/track, 64 connections
- half:   /v1/track at half of the rate just measured, for the 99th percentile

The receiver's own answers come after the fsync of the commit that holds the calls; its worker
process is not running here. Prints events per second, ratios and latencies.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson
import uvloop

KEY = "benchmark"


def event(number: int) -> dict[str, Any]:
    return {
        "type": "track",
        "userId": f"user_{number % 5000}",
        "event": "API Call",
        "messageId": f"message-{time.time_ns()}-{number}",
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
        self._transport.write(self._requests[self._number % len(self._requests)])
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
            lambda number=number: Client(load, requests[number::connections]), "127.0.0.1", port
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
            routes=[Route(f"/v1/{one}", drop, methods=["POST"]) for one in ("batch", "track")]
        )
        stop_inbox = None
    else:
        from state.db.database import Database
        from syncer.passthrough.inbox import Inbox
        from syncer.passthrough.receiver import Receiver
        from syncer.passthrough.scopes import SCOPES, Caller
        from syncer.process.runtime import tune_for_receiver, tune_for_throughput
        from syncer.process.supervisor import Supervisor

        inbox = Inbox(Database.open(f"sqlite:///{folder}/state.db", "queue"), 1_000_000_000)
        inbox.start(Supervisor())
        tune_for_throughput()  # as the daemon does
        tune_for_receiver()
        stop_inbox = inbox.stop
        app = Receiver(inbox, (Caller("bench", frozenset(SCOPES), KEY),), None).app()
    ended = False

    async def main() -> None:
        nonlocal ended

        async def wait() -> None:
            nonlocal ended
            await asyncio.to_thread(sys.stdin.read)
            ended = True

        waiting = asyncio.create_task(wait())
        await serve_app(app, listener, lambda: ended)
        await waiting

    uvloop.run(main())
    if stop_inbox is not None:
        stop_inbox()


def run_one(which: str, seconds: float) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.receiver", "--serve", which, str(Path(folder))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert server.stdout is not None
        port = int(server.stdout.readline())
        batches = [
            request(
                "/v1/batch",
                {"writeKey": KEY, "batch": [event(start * 100 + one) for one in range(100)]},
            )
            for start in range(160)
        ]
        singles = [
            request("/v1/track", {"writeKey": KEY, **event(number)}) for number in range(6400)
        ]
        uvloop.run(measure(port, batches, 16, 1.0))
        batch = uvloop.run(measure(port, batches, 16, seconds))
        single = uvloop.run(measure(port, singles, 64, seconds))
        rate = len(single.latencies) / seconds
        half = uvloop.run(measure(port, singles, 64, seconds, rate / 2))
        server.communicate("")
        return {
            "batch": 100 * len(batch.latencies) / seconds,
            "single": rate,
            "batch_p99": p99(batch),
            "single_p99": p99(single),
            "half_p99": p99(half),
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(*options.serve)
        return
    figures: dict[str, list[dict[str, float]]] = {"bare": [], "receiver": []}
    for _ in range(options.runs):
        for which, results in figures.items():
            results.append(run_one(which, options.seconds))
    medians = {
        which: {name: statistics.median(one[name] for one in results) for name in results[0]}
        for which, results in figures.items()
    }
    print(json.dumps(medians, indent=2))
    for name in ("batch", "single"):
        print(f"ratio {name} {medians['receiver'][name] / medians['bare'][name]:.2f}")
    print(f"receiver p99 at half load {medians['receiver']['half_p99']:.1f} ms")


if __name__ == "__main__":
    main()
