"""What a delivery that lasts for hours must learn meanwhile, and what it must not do to others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
import uvloop
from sqlalchemy import update

from state import failures, outbox, snapshot
from state.db import workers
from state.db.database import Database
from state.db.tables import TRAIT
from state.failures import FailureRow
from state.snapshot import CustomerRow, TraitRow
from syncer.amberflo.client import AmberfloClient
from syncer.delivery.customers import CustomerDelivery, Delivery
from syncer.sandbox.faults import Faults
from tests.support.installation import API_KEY, Installation


@pytest.fixture
def database(installation: Installation) -> Iterator[Database]:
    with closing(Database.open(f"sqlite:///{installation.folder / 'syncer.db'}")) as database:
        yield database


def now() -> int:
    return time.time_ns() // 1_000_000


def learn(database: Database, customer_id: str, traits: str, *ours: str) -> None:
    """What a run commits: a customer's traits, and that these names are ours."""
    state = CustomerRow(customer_id, traits, None, None, None, None)
    with database.write(alone=True) as connection:
        snapshot.put_traits(connection, [TraitRow(trait, trait, "audience", 0) for trait in ours])
        if snapshot.known(connection, [customer_id]):
            snapshot.update_customers(connection, [state], now())
        else:
            snapshot.insert_customers(connection, [state], now())
        snapshot.mark_compared(connection, [customer_id], 1)


def deliver(database: Database, url: str, *steps: Callable[[], object], **options: Any) -> Delivery:
    """One delivery that goes on while the steps are done, each when all that is due is sent. (A
    customer whose next attempt is far off keeps it from its end.)"""
    with database.write() as connection:
        waiting = [CustomerRow("waiting", "{}", None, None, None, None)]
        snapshot.insert_customers(connection, waiting, now() + 500_000)
    rest = list(steps)

    def stop() -> bool:
        with database.read() as connection:
            busy = outbox.any_due(connection, now())
        if busy:
            return False
        if rest:
            rest.pop(0)()
            return False
        return True

    async def work(worker: workers.Worker) -> Delivery:
        async with AmberfloClient(API_KEY, customers_url=f"{url}/customers") as client:
            return await CustomerDelivery(database, worker, client, stop=stop, **options).run()

    with workers.register(database, "worker") as worker:
        return uvloop.run(work(worker))


def test_a_trait_that_became_ours_meanwhile_is_taken_away_when_it_goes(
    installation: Installation, database: Database
) -> None:
    """It is not a stranger's because it was not ours when the delivery began."""
    learn(database, "u1", '{"vip": true}', "vip")
    seen = []

    def then(traits: str) -> None:
        seen.append(installation.amberflo.customers["u1"]["traits"])
        learn(database, "u1", traits, "vip", "score")

    deliver(
        database,
        installation.amberflo_url,
        lambda: then('{"score": 5, "vip": true}'),
        lambda: then('{"vip": true}'),
    )
    assert seen == [{"vip": True}, {"score": 5, "vip": True}]
    assert installation.amberflo.customers["u1"]["traits"] == {"vip": True}


def test_a_trait_that_was_given_back_meanwhile_is_somebody_elses(
    installation: Installation, database: Database
) -> None:
    learn(database, "u1", '{"plan": true, "vip": true}', "vip", "plan")

    def give_back() -> None:
        with database.write() as connection:
            released = update(TRAIT).where(TRAIT.c.key == "plan").values(released_at=1)
            connection.execute(released)
        installation.amberflo.customers["u1"]["traits"]["plan"] = "theirs"
        learn(database, "u1", '{"vip": false}')

    deliver(database, installation.amberflo_url, give_back)
    assert installation.amberflo.customers["u1"]["traits"] == {"plan": "theirs", "vip": False}


def test_who_is_delivered_is_no_failure_any_more_whoever_recorded_it(
    installation: Installation, database: Database
) -> None:
    """Another process had it refused after this delivery had begun."""
    learn(database, "u1", '{"vip": true}', "vip")

    def refuse() -> None:
        rows = [
            FailureRow(
                failures.customer_ref(who), failures.CUSTOMER, "PUT answered 400", now(),
                customer_id=who, status=400,
            )
            for who in ("u1", "u2")
        ]  # fmt: skip
        with database.write() as connection:
            failures.put(connection, rows)
        learn(database, "u1", '{"vip": false}', "vip")

    assert deliver(database, installation.amberflo_url, refuse).delivered == 2
    with database.read() as connection:
        assert [row.customer_id for row in failures.find(connection)] == ["u2"]


def test_one_customer_is_never_written_into_another(
    installation: Installation, database: Database
) -> None:
    """Amberflo answers with another one's record: that is no answer, and both stay as they are."""
    for customer_id in ("u1", "u2"):
        learn(database, customer_id, '{"vip": true}', "vip")
    theirs = {
        "customerId": "u3", "customerName": "Grace", "customerEmail": "grace@example.com",
        "traits": {"stripeId": "cus_3"},
    }  # fmt: skip
    installation.amberflo.customers["u1"] = theirs.copy()
    result = deliver(database, installation.amberflo_url)
    assert (result.delivered, result.failed) == (1, 0)
    assert installation.puts() == {"u2": 1}
    assert installation.amberflo.customers["u1"] == theirs


def test_a_customer_waits_as_long_as_amberflo_asks(
    installation: Installation, database: Database
) -> None:
    """Nobody sends it before, be it a process that begins after this one ended."""
    learn(database, "u1", '{"vip": true}', "vip")
    installation.amberflo.faults = Faults.parse("429=1,retry_after=40")
    began = now()
    deliver(database, installation.amberflo_url)
    with database.read() as connection:
        assert not outbox.any_due(connection, began + 39_999)
        assert outbox.any_due(connection, now() + 40_001)
