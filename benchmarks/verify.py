"""The verification against bare aiohttp that only reads the same pages.

    python -m benchmarks.verify [--customers 200000] [--drifted 100]

Both go, in turn and each in a process of its own, against the same sandbox Amberflo in the same
run, which is a process of its own too and makes each page once:

- bare:   aiohttp, page after page, each parsed; it compares nothing and knows no state;
- verify: `syncer verify` on a SQLite state that Amberflo acknowledged all of, with some customers
          drifted, which are read once more by themselves.

Prints seconds, customers a second, peak memory and the ratio of the medians; then `verify` where
pages have no traits, so that it reads the list of all customers.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import uvloop
from aiohttp import web

from state import outbox, snapshot
from state.db.database import Database
from state.snapshot import TraitRow
from syncer.app import App
from syncer.config import load
from syncer.process.runtime import tune_for_throughput
from syncer.progress import LineProgress
from syncer.sandbox.amberflo import AmberfloSandbox, Call

from .delivery import KEY, rows, traits

LIMIT = 1000


class Amberflo(AmberfloSandbox):
    """The stand-in sorts and filters for every page: here each is made once."""

    pages: dict[str, bytes] | None = None

    def _page_customers(self, call: Call) -> web.Response:
        if self.pages is None:
            customers = sorted(self.customers.values(), key=lambda record: str(record["id"]))
            items = list(self._shown(customers, self.paging_traits))
            self.pages = {
                str(number): orjson.dumps({"items": items[start : start + LIMIT]})
                for number, start in enumerate(range(0, len(items), LIMIT), 1)
            }
        body = self.pages.get(call.query["page"], b'{"items":[]}')
        return web.Response(body=body, content_type="application/json")


async def serve(customers: int, drifted: int, paging_traits: bool) -> None:
    sandbox = Amberflo(KEY, paging_traits=paging_traits)
    for number, row in enumerate(rows(customers)):
        wrong = number % max(1, customers // drifted) == 0
        sandbox.customers[row.customer_id] = {
            "id": row.customer_id,
            "customerId": row.customer_id,
            "customerName": "x" if wrong else row.name,
            "customerEmail": row.email,
            "traits": {**traits(number), "stripeId": f"cus_{number}"},
            "lifecycleStage": "ACTIVE",
            "enabled": True,
            "createTime": 1,
            "updateTime": 1,
        }
    print(await sandbox.start(), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await sandbox.stop()


def make_state(path: Path, customers: int) -> None:
    database = Database.open(f"sqlite:///{path}")
    with database.write() as connection:
        snapshot.put_traits(
            connection, [TraitRow(trait, trait, "audience", 0) for trait in traits(0)]
        )
        snapshot.insert_customers(connection, rows(customers), 1)
        claimed = outbox.claim(connection, 1, 2, customers)
        outbox.acknowledge(connection, claimed, 2)
    database.close()


async def bare(url: str) -> int:
    async with aiohttp.ClientSession(headers={"x-api-key": KEY}) as session:
        total, number = 0, 1
        while True:
            query = f"limit={LIMIT}&page={number}&sort=id&isAscending=true"
            async with session.get(f"{url}/customers/paging?{query}") as response:
                items = orjson.loads(await response.read())["items"]
            if not items:
                return total
            total += len(items)
            number += 1


def verify(url: str, folder: Path) -> int:
    config = folder / "config.toml"
    config.write_text(
        f'[amberflo]\napi_key = "{KEY}"\ncustomers_url = "{url}/customers"\nrate = 0\n'
        f'[engage.profiles_sync]\nurl = "sqlite:///none.db"\n'
        f'[state]\nurl = "sqlite:///{folder / "state.db"}"\n',
        encoding="utf-8",
    )
    app = App(load(config, {}), LineProgress())
    with (
        app.state(writes=False) as database,
        contextlib.closing(app.verify(database)) as verification,
    ):
        assert verification.checked == verification.equal + verification.drifted
        return verification.checked


def timed_pass(url: str, which: str, folder: Path) -> None:
    tune_for_throughput()
    started = time.perf_counter()
    checked = uvloop.run(bare(url)) if which == "bare" else verify(url, folder)
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "customers": checked, "memory": peak_memory()}))


def peak_memory() -> float:
    """Megabytes of this process; getrusage would count what its parent had."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.findall(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--customers", type=int, default=200_000)
    parser.add_argument("--drifted", type=int, default=100)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--one", nargs=3, metavar=("URL", "WHICH", "DIR"), help=argparse.SUPPRESS)
    parser.add_argument("--serve", choices=["traits", "bare"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.customers, options.drifted, options.serve == "traits"))
        return
    if options.one:
        timed_pass(options.one[0], options.one[1], Path(options.one[2]))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_state(folder / "state.db", options.customers)
        sizes = ["--customers", str(options.customers), "--drifted", str(options.drifted)]
        program = [sys.executable, "-m", "benchmarks.verify", *sizes]
        medians = {}
        for kind, whiches in (("traits", ("bare", "verify")), ("bare", ("verify",))):
            server: Any = subprocess.Popen(
                [*program, "--serve", kind],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            url = server.stdout.readline().strip()
            uvloop.run(bare(url))  # the pages are made
            results: dict[str, list[dict[str, float]]] = {which: [] for which in whiches}
            for _ in range(options.runs):
                for which, passes in results.items():
                    process = subprocess.run(
                        [*program, "--one", url, which, name],
                        check=True,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.DEVNULL,
                        text=True,
                    )
                    passes.append(json.loads(process.stdout))
            server.communicate("")
            for which, passes in results.items():
                label = f"{which} of the list" if kind == "bare" else which
                seconds = statistics.median(row["seconds"] for row in passes)
                medians[label] = seconds
                memory = max(row["memory"] for row in passes)
                print(
                    f"{label:18} {seconds:6.2f} s, {passes[0]['customers'] / seconds:8,.0f} "
                    f"customers/s, {memory:,.0f} MB",
                    flush=True,
                )
        print(f"ratio verify/bare {medians['verify'] / medians['bare']:.2f}")


if __name__ == "__main__":
    main()
