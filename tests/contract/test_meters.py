"""One meter record that Amberflo does not take costs itself, and what befalls all costs none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import orjson
import pytest

from state import failures, queue
from state.db import workers
from state.db.database import Database
from state.queue import EventRow
from syncer import retry
from syncer.amberflo.client import AmberfloClient
from syncer.delivery.meters import MeterDelivery
from syncer.sandbox.amberflo import AmberfloSandbox, running

ODD = {
    "p1": ("403", "answered 403: Forbidden"),
    "p2": ("500", "answered 500"),
    "p3": ("413", "answered 413: Request Too Long"),
    "p4": ("html", "does not say how many records were ingested"),
    "p5": ("[1]", "does not say how many records were ingested"),
    "p6": ("other", "does not say how many records were ingested"),
    "p7": ("cut", "payload is not completed"),
    "p8": ("short", "1 records were sent, and Amberflo says: 0 records were ingested"),
    "p9": ("302", "amberflo.ingest_url answers 302 to /moved"),
    "pa": ("401", "answered 401"),
    "pb": ("429", "answered 429"),
}
#: Seconds after which a test has failed.
BOUND = 60.0


class World:
    """A state with its queue, and Amberflo."""

    def __init__(self, folder: Path, amberflo: AmberfloSandbox, url: str) -> None:
        self.amberflo, self.url = amberflo, url
        place = f"sqlite:///{folder / 'syncer.db'}"
        self.state, self.calls = Database.open(place), Database.open(place, "queue")
        self.troubles: list[str | None] = []

    def close(self) -> None:
        self.state.close()
        self.calls.close()

    def put(self, customer_ids: list[str]) -> None:
        """A record of each."""
        now = time.time_ns() // 1_000_000
        rows = []
        for number, customer_id in enumerate(customer_ids):
            record = {
                "uniqueId": f"m-{customer_id}-{number}",
                "customerId": customer_id,
                "meterApiName": "calls",
            }
            record |= {"meterValue": 1.0, "meterTimeInMillis": now}
            rows.append(EventRow(f"m-{customer_id}-{number}", orjson.dumps(record), now, now))
        with self.calls.write() as connection:
            queue.store_processed(connection, [], rows)

    def deliver(self, until: Callable[[], bool]) -> None:
        """Deliver until that is so."""
        bound = time.monotonic() + BOUND

        async def run(number: int) -> None:
            client = AmberfloClient(
                "key", customers_url=f"{self.url}/customers", ingest_url=f"{self.url}/ingest"
            )
            async with client:
                await MeterDelivery(
                    self.calls,
                    self.state,
                    number,
                    client,
                    stop=lambda: until() or time.monotonic() > bound,
                    trouble=self.troubles.append,
                    chance=lambda: 0.02,
                ).run()

        with workers.register(self.state, "worker", self.calls) as worker:
            asyncio.run(run(worker.number))
        assert until()

    def arrived(self) -> list[str]:
        return sorted(record["customerId"] for record in self.amberflo.records)

    def listed(self) -> dict[str, str]:
        with self.state.read() as connection:
            rows = failures.find(connection)
        return {str(row.customer_id): str(row.reason) for row in rows}

    def waiting(self) -> int:
        with self.calls.read() as connection:
            return queue.waiting(connection)[1]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    amberflo = AmberfloSandbox("key")
    with running(amberflo) as url, closing(World(tmp_path, amberflo, url)) as world:
        yield world


def test_the_odd_ones_cost_themselves(world: World) -> None:
    good = [f"u{number:03}" for number in range(1000 - len(ODD))]
    ids = [*good]
    for place, odd_id in enumerate(ODD):
        ids.insert(place * 90, odd_id)
    world.amberflo.odd = {odd_id: how for odd_id, (how, _) in ODD.items()}
    world.amberflo.faults.retry_after = 0
    world.put(ids)
    world.deliver(lambda: len(world.listed()) == len(ODD))
    assert world.arrived() == sorted(good)
    for odd_id, (_, said) in ODD.items():
        assert said in world.listed()[odd_id]
    # Those that Amberflo did not refuse are tried again, much later.
    later = ("500", "html", "[1]", "other", "cut", "302", "429")
    assert world.waiting() == sum(how in later for how, _ in ODD.values())


@pytest.mark.parametrize("answer", ["302", "400", "403", "404", "413", "429", "500", "html"])
def test_what_all_are_answered_is_no_verdict_on_any(world: World, answer: str) -> None:
    ids = [f"u{number:03}" for number in range(250)]
    world.amberflo.faults.retry_after = 0
    world.amberflo.odd = {"*": answer}
    world.put(ids)
    often = 3 if answer in ("403", "429") else 40
    world.deliver(
        lambda: (
            bool(world.troubles)
            and world.amberflo.stats()["requests"].get("POST /ingest", 0) >= often
        )
    )
    assert world.listed() == {}
    assert world.waiting() == 250
    assert None not in world.troubles
    world.amberflo.odd = {}
    world.deliver(lambda: not world.waiting())
    assert world.arrived() == ids
    assert world.listed() == {}


def test_one_alone_is_judged_when_another_got_through(world: World) -> None:
    world.amberflo.odd = {"p1": "400"}
    world.put(["p1"])
    came = False

    def judged() -> bool:
        nonlocal came
        if not came and world.amberflo.stats()["requests"].get("POST /ingest", 0) >= 3:
            assert world.listed() == {}
            world.put(["u1"])
            came = True
        return bool(world.listed())

    world.deliver(judged)
    assert world.arrived() == ["u1"]
    assert world.waiting() == 0


def test_what_was_put_off_and_comes_after_all_is_listed_no_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have had bad luck with an Amberflo that fails at random: it comes again soon."""
    monkeypatch.setattr(retry, "BASE", 0.02)
    world.amberflo.odd = {"p1": "500"}
    world.put(["p1", *(f"u{number}" for number in range(20))])
    world.deliver(lambda: bool(world.listed()))
    assert world.waiting() == 1
    world.amberflo.odd = {}
    world.deliver(lambda: not world.waiting())
    assert "p1" in world.arrived()
    assert world.listed() == {}
