"""A delivery to an Amberflo that answers pages and POST in odd ways."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import orjson
import uvloop
from aiohttp import web

from state import snapshot
from state.db import workers
from state.db.database import Database
from state.snapshot import CustomerRow, TraitRow
from syncer.amberflo.client import AmberfloClient
from syncer.amberflo.codec import Record
from syncer.delivery.customers import CustomerDelivery, Delivery
from syncer.sandbox.amberflo import AmberfloSandbox, Call, running

KEY = "the-key"
MANY = 200
IDS = [f"u{number:04}" for number in range(MANY)]
RIGHT, WRONG = {"vip": True}, {"vip": False}


class Amberflo(AmberfloSandbox):
    """The stand-in, with what pages and POST may do beside what is documented."""

    def __init__(self) -> None:
        super().__init__(KEY)
        #: does what others do in the moment after a page was read; gets its size
        self.after_page: Callable[[int], None] = lambda limit: None
        #: makes of a record what a page of a size shows of it
        self.on_page: Callable[[Record, int], Record] = lambda record, limit: record
        #: a page after the last one is the last one again; POST replaces who is there
        self.repeats = self.post_replaces = False
        #: makes of the customers of a page what it shows; answers POST, unless None
        self.shows: Callable[[list[Record]], list[Record]] = lambda records: records
        self.on_post: Callable[[Amberflo, str], None] = lambda stand_in, customer_id: None

    def has(self, customers: Mapping[str, dict[str, Any]]) -> None:
        """Store customers with these traits of ours, and what others wrote."""
        for customer_id, traits in customers.items():
            record = {"customerId": customer_id, "customerName": customer_id, "description": "d"}
            self._store({**record, "traits": {**traits, "theirs": 1}}, {})

    def edit(self, customer_id: str) -> None:
        """Another writer sets a trait of its own."""
        self.customers[customer_id]["traits"]["stripeId"] = "cus_1"

    def _page_customers(self, call: Call) -> web.Response:
        answer = super()._page_customers(call)
        assert isinstance(answer.body, bytes)
        body = orjson.loads(answer.body)
        if not body["items"] and self.repeats and self._last is not None:
            body = self._last
        self._last = body
        limit = int(call.query["limit"])
        body["items"] = self.shows([self.on_page(record, limit) for record in body["items"]])
        self.after_page(limit)
        return web.Response(body=orjson.dumps(body), content_type="application/json")

    _last: dict[str, Any] | None = None

    def _create_customer(self, call: Call) -> web.Response:
        self.on_post(self, customer_id := self._given(call.body)["customerId"])
        if self.post_replaces:
            self.customers.pop(customer_id, None)
        return super()._create_customer(call)


WRONG = {"vip": False}


def due(database: Database, *ids: str, traits: dict[str, Any] | None = None) -> None:
    """What a run commits: these customers, who shall have the traits."""
    text = orjson.dumps(RIGHT if traits is None else traits).decode()
    with database.write() as connection:
        snapshot.put_traits(connection, [TraitRow("vip", "vip", "audience", 0)])
        rows = [CustomerRow(customer_id, text) for customer_id in ids or IDS]
        snapshot.insert_customers(connection, rows, time.time_ns() // 1_000_000)


class Delivered:
    """What a delivery came to: its result, and the requests that it made by method."""

    def __init__(self, result: Delivery, client: AmberfloClient) -> None:
        self.result, self.answers = result, client.answers
        self.requests = sum(client.answers.values()) / max(result.delivered, 1)


def deliver(
    database: Database, url: str, *, workers_: int = 1, rate: float = 0, **options: Any
) -> Delivered:
    async def deliver_as(client: AmberfloClient, number: int) -> Delivery:
        with workers.register(database, f"worker {number}") as worker:
            return await CustomerDelivery(database, worker, client, **options).run()

    async def work() -> Delivered:
        async with AmberfloClient(KEY, customers_url=f"{url}/customers", rate=rate) as client:
            results = await asyncio.gather(
                *(deliver_as(client, number) for number in range(workers_))
            )
            whole = results[0]
            for result in results[1:]:
                whole.delivered += result.delivered
                whole.already_right += result.already_right
            return Delivered(whole, client)

    return uvloop.run(work())


@contextmanager
def amberflo(**options: Any) -> Iterator[tuple[Amberflo, str]]:
    stand_in = Amberflo()
    for name, value in options.items():
        setattr(stand_in, name, value)
    with running(stand_in) as url:
        yield stand_in, url


def ours(stand_in: Amberflo) -> dict[str, Any]:
    return {
        customer_id: record["traits"].get("vip")
        for customer_id, record in stand_in.customers.items()
    }
