"""Outcomes of a delivery share commits, and only so many wait for one."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

import pytest

from state import outbox, snapshot
from state.db import workers
from state.db.database import Database
from state.snapshot import CustomerRow
from syncer.amberflo.client import AmberfloClient
from syncer.delivery import outcomes
from syncer.delivery.customers import CustomerDelivery
from syncer.delivery.outcomes import Never, Outcome, Outcomes, PutOff, Sent
from syncer.errors import Refused, TryAgain
from syncer.sandbox.amberflo import AmberfloSandbox, running
from tests.support.state import put, records, row, statements

CUSTOMERS = 20


@pytest.fixture
def claimed(database: Database) -> list[CustomerRow]:
    """Customers that a worker has claimed and sent."""
    rows = [
        CustomerRow(f"u{number:02}", "{}", None, None, None, None) for number in range(CUSTOMERS)
    ]
    with database.write() as connection:
        snapshot.insert_customers(connection, rows, 1)
    with workers.register(database, "run") as worker, database.write() as connection:
        return outbox.claim(connection, worker.number, 1 << 62, CUSTOMERS)


def due(database: Database) -> int:
    with database.read() as connection:
        return outbox.backlog(connection)


def with_writer(written: Outcomes, work: Coroutine[None, None, None]) -> None:
    """Run `work` beside the task that writes."""

    async def run() -> None:
        writing = asyncio.create_task(written.write_all())
        try:
            async with asyncio.timeout(20):
                await work
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    asyncio.run(run())


def test_those_of_a_moment_share_a_commit(database: Database, claimed: list[CustomerRow]) -> None:
    commits: list[int] = []
    told: list[Outcome] = []

    def written(outcome: Outcome) -> None:
        told.append(outcome)
        commits.append(due(database))  # what is told is on disk

    writer = Outcomes(database, written)

    async def work() -> None:
        for customer in claimed:
            await writer.put(Sent(customer))
        while len(told) < CUSTOMERS:
            await asyncio.sleep(0.01)

    with_writer(writer, work())
    assert told == [Sent(customer) for customer in claimed]
    assert set(commits) == {0}


def test_processes_wait_for_each_other_only_at_the_end_of_a_transaction(database: Database) -> None:
    """All that deliver for a run count at its row, which is locked up to the commit."""
    put(database, *(row(f"u{number}") for number in range(3)), run=7)
    with database.write() as connection:
        sent, right, refused = outbox.claim(connection, 1, 1 << 62, 3)
    written: list[Outcome] = []
    outcomes_of_all = Outcomes(database, written.append)

    async def work() -> None:
        problem = Refused("no", status=400, request="", body="")
        for it in (Sent(sent), Sent(right, written=False), Never(refused, problem)):
            await outcomes_of_all.put(it)
        await outcomes_of_all.flush()

    with statements(database) as executed:
        with_writer(outcomes_of_all, work())
    counted = [number for number, it in enumerate(executed) if it.startswith("UPDATE run ")]
    assert counted == [len(executed) - 1]
    assert len(written) == 3


def test_no_more_wait_for_a_commit_than_may_be_sent_twice(
    database: Database, claimed: list[CustomerRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sends waits with the next customer while the database takes nothing."""
    monkeypatch.setattr(outcomes, "UNWRITTEN", 3)
    told: list[Outcome] = []
    writer = Outcomes(database, told.append)
    put = 0

    async def send() -> None:
        nonlocal put
        for customer in claimed:
            await writer.put(Sent(customer))
            put += 1

    async def work() -> None:
        sending = asyncio.create_task(send())
        with database.write(alone=True):
            await asyncio.sleep(0.3)
            assert (put, told) == (3, [])
        await writer.flush()  # also of the one that waits for room
        assert len(told) > 3
        await sending
        await writer.flush()
        assert len(told) == CUSTOMERS

    with_writer(writer, work())
    assert due(database) == 0


def test_a_delivery_that_gives_up_has_written_what_became_of_each(database: Database) -> None:
    """Nobody else could send those that stay claimed."""
    ids = ["a1", "a2", "b1"]
    put(database, row("z1"))
    with database.write() as connection:
        outbox.acknowledge(connection, outbox.claim(connection, 1, 1 << 62, 1), 1)
    put(database, *map(row, ids))
    amberflo = AmberfloSandbox("key")
    amberflo.odd = {"a1": "400", "a2": "400", "b1": "500", "z1": "500"}  # z1 is the probe

    async def deliver(url: str, worker: workers.Worker) -> str | None:
        async with AmberfloClient("key", customers_url=f"{url}/customers") as client:
            return (await CustomerDelivery(database, worker, client, patience=0.5).run()).problem

    with running(amberflo) as url, workers.register(database, "run") as worker:
        problem = asyncio.run(deliver(url, worker))
        assert problem is not None
        assert "nothing got through to Amberflo" in problem
        customers = records(database)
        assert [customers[id_]["claimed_by"] for id_ in ids] == [None] * 3
        assert min(customers[id_]["attempts"] for id_ in ids) > 0


def test_a_put_off_customer_waits_as_long_as_amberflo_asks(claimed: list[CustomerRow]) -> None:
    assert PutOff(claimed[0], TryAgain("not now", after=300.0)).wait == 300.0
    assert PutOff(claimed[0]._replace(attempts=20), TryAgain("not now", after=3.0)).wait == 540.0
