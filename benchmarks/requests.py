"""How many requests an initial sync takes, and whether the writes of others survive it.

    python -m benchmarks.requests [--customers 100000]

A state in which every customer is due is delivered to a sandbox Amberflo in a process of its own,
in five cases:

- empty:     Amberflo has nobody;
- right:     it has all customers as they should be;
- half made: it has every second one as it should be, and not the others;
- half right: it has all, every second one with other values of ours;
- edited:    as half right; meanwhile another writer sets a trait of its own on one customer in a
             hundred, at random, at Amberflo itself, until the delivery has ended.

Prints requests a customer, by method, how many were already right, and for the last case how many
traits of the other writer are lost. Every case ends with a look at all customers: each must have
our traits, and those that others had there.
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson
import uvloop
from aiohttp import web

from state import snapshot
from state.db import workers
from state.db.database import Database
from state.snapshot import CustomerRow, TraitRow
from syncer.amberflo.client import AmberfloClient
from syncer.delivery.customers import CustomerDelivery
from syncer.process.runtime import tune_for_throughput
from syncer.sandbox.amberflo import AmberfloSandbox, Call

KEY = "benchmark"
AUDIENCES = 10
CASES = ("empty", "right", "half made", "half right", "edited")
#: One customer in so many is edited by another writer, in the case "edited".
EDITED = 100


def traits(number: int) -> dict[str, bool]:
    return {f"audience_{index:03}": (number + index) % 3 == 0 for index in range(AUDIENCES)}


def ids(customers: int) -> list[str]:
    return [f"user_{number:07}" for number in range(customers)]


class Amberflo(AmberfloSandbox):
    """The sandbox, with pages that cost no sort: it has the customers that it began with, in order.

    Customers come by POST and PUT alone, and none is deleted.
    """

    def __init__(self) -> None:
        super().__init__(KEY)
        self.order: list[str] = []

    def seed(self, customers: int, case: str) -> None:
        for number, customer_id in enumerate(ids(customers)):
            wrong = number % 2 == 1
            if case == "empty" or (case == "half made" and wrong):
                continue
            ours = traits(number)
            if wrong and case in ("half right", "edited"):
                ours = {name: not value for name, value in ours.items()}
            self._store(
                {
                    "customerId": customer_id,
                    "customerName": f"Name {number}",
                    "customerEmail": f"{number}@example.com",
                    "traits": {**ours, "theirs": "before"},
                },
                {},
            )

    def _store(self, customer: dict[str, Any], before: dict[str, Any]) -> web.Response:
        if customer["customerId"] not in self.customers:
            bisect.insort(self.order, customer["customerId"])
        return super()._store(customer, before)

    def _page_customers(self, call: Call) -> web.Response:
        limit, page = int(call.query["limit"]), int(call.query["page"])
        assert call.query["sort"] == "id"
        some = self.order[(page - 1) * limit : page * limit]
        body = {
            "items": [self.customers[customer_id] for customer_id in some],
            "metadata": {"totalRowCount": len(self.order)},
        }
        return web.Response(body=orjson.dumps(body), content_type="application/json")

    async def edit(self, customers: int, seconds: float) -> list[str]:
        """Set a trait of another writer on some customers, spread over so many seconds."""
        chance = random.Random(7)
        chosen = chance.sample(ids(customers), customers // EDITED)
        for number, customer_id in enumerate(chosen):
            record = self.customers[customer_id]
            fields = {**record, "traits": {**record["traits"], "stripeId": f"cus_{number}"}}
            self._store(fields, record)
            await asyncio.sleep(seconds / len(chosen))
        return chosen

    def lost(self, customers: int, case: str, edited: list[str]) -> dict[str, int]:
        """Count the customers without our traits, and those that lost what others wrote."""
        ours = theirs = 0
        for number, customer_id in enumerate(ids(customers)):
            held = self.customers.get(customer_id, {}).get("traits", {})
            ours += any(held.get(name) is not value for name, value in traits(number).items())
            exists = case not in ("empty", "half made") or (case == "half made" and number % 2 == 0)
            theirs += exists and held.get("theirs") != "before"
        stripe = sum("stripeId" not in self.customers[edited_id]["traits"] for edited_id in edited)
        return {"ours": ours, "theirs": theirs, "edits": stripe, "edited": len(edited)}


async def serve(customers: int, case: str, seconds: float) -> None:
    amberflo = Amberflo()
    amberflo.seed(customers, case)
    print(await amberflo.start(), flush=True)
    editing = None
    if case == "edited":
        await asyncio.to_thread(sys.stdin.readline)
        editing = asyncio.create_task(amberflo.edit(customers, seconds))
    await asyncio.to_thread(sys.stdin.read)
    edited = await editing if editing is not None else []
    print(json.dumps(amberflo.lost(customers, case, edited)), flush=True)
    await amberflo.stop()


async def deliver(url: str, customers: int, rate: float, began: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        database = Database.open(f"sqlite:///{Path(folder) / 'state.db'}")
        rows = [
            CustomerRow(
                customer_id,
                orjson.dumps(traits(number)).decode(),
                f"Name {number}",
                f"{number}@example.com",
            )
            for number, customer_id in enumerate(ids(customers))
        ]
        with database.write() as connection:
            ours = [TraitRow(name, name, "audience", 0) for name in traits(0)]
            snapshot.put_traits(connection, ours)
            snapshot.insert_customers(connection, rows, 1)
        client = AmberfloClient(KEY, customers_url=f"{url}/customers", rate=rate)
        with workers.register(database, "run") as worker:
            async with client:
                began()
                started = time.perf_counter()
                result = await CustomerDelivery(database, worker, client).run()
                seconds = time.perf_counter() - started
        database.close()
        assert result.delivered == customers, result
        return {
            "requests": sum(client.answers.values()) / customers,
            "answers": dict(client.answers),
            "right": result.already_right,
            "seconds": seconds,
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--customers", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--edit-seconds", type=float, default=60.0)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.customers, options.serve, options.edit_seconds))
        return
    tune_for_throughput()
    sizes = ["--customers", str(options.customers), "--edit-seconds", str(options.edit_seconds)]
    for case in options.cases.split(","):
        program = [sys.executable, "-m", "benchmarks.requests", "--serve", case, *sizes]
        server: Any = subprocess.Popen(
            program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        url = server.stdout.readline().strip()

        def began(server: Any = server) -> None:
            server.stdin.write("go\n")
            server.stdin.flush()

        figures = uvloop.run(deliver(url, options.customers, options.rate, began))
        lost = json.loads(server.communicate("")[0])
        print(
            f"{case:10} {figures['requests']:.4f} requests a customer "
            f"({', '.join(f'{n:,} {what}' for what, n in sorted(figures['answers'].items()))}), "
            f"{figures['right']:,} already right, {figures['seconds']:.0f} s; lost: {lost}",
            flush=True,
        )


if __name__ == "__main__":
    main()
