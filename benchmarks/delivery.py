"""Customer delivery against a bare aiohttp loop that does the same GET and PUT.

    python -m benchmarks.delivery [--customers 5000] [--concurrency 16] [--delay 0]

Both go, in turn and each in a process of its own, against an Amberflo that costs next to nothing
(target.py) and has no customer yet, so that every customer takes one GET and one PUT:

- bare:     aiohttp on uvloop, one GET and one PUT of a ready body a customer; it reads no database,
            merges nothing, keeps no pace and records no outcome;
- delivery: `syncer.delivery.customers` at rate 0 from a SQLite state in which all are due, until
            every acknowledgement is on disk.

With a `--delay` each answer comes so many seconds after its request, and the reference is a loop as
row-by-row tools have it: httpx, a PUT of a ready body a row, one after the other (200 of them).

What it leaves out: the network, TLS, records of others to merge, and the history of a run, whose
changes are marked as delivered.

Prints requests per second (two a customer), the processor time that a request takes in the
subject's own process, and the ratios of the medians. Other work on the machine changes the second
less.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import aiohttp
import httpx
import orjson
import uvloop

from benchmarks.target import target
from state import snapshot
from state.db import workers
from state.db.database import Database
from state.snapshot import CustomerRow, TraitRow
from syncer.amberflo.client import AmberfloClient
from syncer.delivery.customers import CustomerDelivery
from syncer.process.runtime import tune_for_throughput

KEY = "benchmark"
AUDIENCES = 10
#: Customers of the loop that sends them one by one.
ROWS = 200


def traits(number: int) -> dict[str, bool]:
    return {f"audience_{index:03}": (number + index) % 3 == 0 for index in range(AUDIENCES)}


def rows(customers: int) -> list[CustomerRow]:
    """Customers that no other process has made."""
    return [
        CustomerRow(
            f"user_{os.getpid()}_{number:07}",
            orjson.dumps(traits(number)).decode(),
            f"Name {number}",
            f"{number}@example.com",
            None,
            None,
        )
        for number in range(customers)
    ]


class Clock:
    """Seconds since it was made, and seconds of processor time."""

    def __init__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self._began[0], time.process_time() - self._began[1]


async def bare(url: str, customers: int, concurrency: int) -> tuple[float, float]:
    queue: asyncio.Queue[CustomerRow] = asyncio.Queue()
    for row in rows(customers):
        queue.put_nowait(row)
    headers = {"x-api-key": KEY, "content-type": "application/json"}
    connector = aiohttp.TCPConnector(limit=concurrency)
    async with aiohttp.ClientSession(headers=headers, connector=connector) as session:

        async def work() -> None:
            while not queue.empty():
                row = queue.get_nowait()
                at = f"{url}/customers?customerId={quote(row.customer_id, safe='')}"
                async with session.get(at) as response:
                    await response.read()
                body = {
                    "customerId": row.customer_id,
                    "customerName": row.name,
                    "customerEmail": row.email,
                    "traits": orjson.loads(row.traits),
                }
                async with session.put(f"{url}/customers", data=orjson.dumps(body)) as response:
                    await response.read()
                    assert response.status == 200

        clock = Clock()
        await asyncio.gather(*(work() for _ in range(concurrency)))
        return clock.read()


def rows_one_by_one(url: str, customers: int) -> tuple[float, float]:
    clock = Clock()
    with httpx.Client(headers={"x-api-key": KEY}) as client:
        for row in rows(customers):
            traits_of_it = orjson.loads(row.traits)
            body = {"customerId": row.customer_id, "customerName": row.name, "traits": traits_of_it}
            client.put(f"{url}/customers", json=body).raise_for_status()
    return clock.read()


async def delivery(url: str, customers: int, concurrency: int) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        database = Database.open(f"sqlite:///{Path(folder) / 'state.db'}")
        with database.write() as connection:
            snapshot.put_traits(
                connection, [TraitRow(name, name, "audience", 0) for name in traits(0)]
            )
            snapshot.insert_customers(connection, rows(customers), 1)
            connection.exec_driver_sql("UPDATE customer SET compared = 1")
        client = AmberfloClient(KEY, customers_url=f"{url}/customers", connections=concurrency)
        with workers.register(database, "run") as worker:
            async with client:
                clock = Clock()
                result = await CustomerDelivery(
                    database, worker, client, concurrency=concurrency
                ).run()
                took = clock.read()
        database.close()
        assert result.delivered == customers
        assert abs(client.answers.total() - 2 * customers) < 0.01 * customers, client.answers
        return took


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--customers", type=int, default=5000)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--one", nargs=2, metavar=("URL", "WHICH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        url, which = options.one
        requests = 2 * options.customers
        if which == "rows":
            requests = 2 * ROWS  # a customer counts as two in both
            seconds, work = rows_one_by_one(url, ROWS)
        elif which == "bare":
            seconds, work = uvloop.run(bare(url, options.customers, options.concurrency))
        else:  # as `syncer` runs it
            tune_for_throughput()
            seconds, work = uvloop.run(delivery(url, options.customers, options.concurrency))
        print(json.dumps([requests / seconds, work / requests]))
        return
    program = [sys.executable, "-m", "benchmarks.delivery"]
    sizes = ["--customers", str(options.customers), "--concurrency", str(options.concurrency)]
    reference = "rows" if options.delay else "bare"
    figures: dict[str, list[list[float]]] = {reference: [], "delivery": []}
    with target(options.delay) as url:
        for _ in range(options.runs):
            for which, results in figures.items():
                printed = subprocess.run(
                    [*program, "--one", url, which, *sizes],
                    check=True,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                results.append(json.loads(printed.stdout))
    for which, results in figures.items():
        rates = [rate for rate, _ in results]
        print(
            f"{which:9} {_median(results, 0):6,.0f} requests/s "
            f"(min {min(rates):,.0f}, max {max(rates):,.0f}), "
            f"{_median(results, 1) * 1e6:,.0f} µs of processor time a request"
        )
    rate, work = (
        _median(figures["delivery"], part) / _median(figures[reference], part) for part in (0, 1)
    )
    print(f"ratio delivery/{reference} {rate:.2f}; of the processor time {work:.2f}")


def _median(results: list[list[float]], part: int) -> float:
    return statistics.median(result[part] for result in results)


if __name__ == "__main__":
    main()
