"""Workers side by side on one database: who waits for whom."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from state import outbox, queue, snapshot
from state.db import database as databases
from state.db.database import Database
from state.errors import Busy, StateError
from state.queue import Accepted
from syncer.engage.catalog import Catalog, KnownTrait
from syncer.engage.computations import AUDIENCE
from syncer.passthrough.processor import Processor
from syncer.sync.changes import CustomerChange, TraitChange
from syncer.sync.commit import Writer
from syncer.sync.decision import Decision
from tests.contract.workers.helpers import claim, customers
from tests.support.state import NOW, as_claimed, ask, put, records, row


def test_who_writes_alone_waits_for_another_who_does(url: str, database: Database) -> None:
    order: list[str] = []
    with closing(Database.open(url)) as other, ThreadPoolExecutor(1) as pool:

        def write() -> None:
            with other.write(alone=True):
                order.append("second")

        with database.write(alone=True):
            waiting = pool.submit(write)
            time.sleep(0.3)
            order.append("first")
        waiting.result(20)
    assert order == ["first", "second"]


def test_who_writes_alone_lets_others_accept_and_read(state_postgres: str) -> None:
    with (
        closing(Database.open(state_postgres)) as database,
        closing(Database.open(state_postgres, "queue")) as calls,
        database.write(alone=True),
    ):
        with calls.write() as connection:
            connection.execute(text("SET LOCAL lock_timeout = '2s'"))
            queue.accept(connection, [Accepted("track", b"{}", 1, NOW)])
        assert ask(calls, queue.waiting) == (1, 0)
        assert ask(database, snapshot.size) == 0
        put(database, row("u1"))


def test_a_run_and_calls_lose_nothing_of_each_other(
    url: str, database: Database, calls: Database
) -> None:
    """Both read a customer and write all of it: each must see what the other wrote before."""
    ids = [f"u{n}" for n in range(6)]
    put(database, *(row(id_) for id_ in ids))
    rounds = 15
    together = threading.Barrier(2)
    keys = [f"k{number}" for number in range(rounds)]
    catalog = Catalog([KnownTrait(key, key, AUDIENCE) for key in keys], {}, [])

    def run() -> None:
        with closing(Database.open(url)) as state:
            together.wait(30)
            for number in range(rounds):
                with state.write(alone=True) as connection:
                    writer = Writer(connection, 1, NOW, Decision(catalog))
                    for id_ in ids:
                        change = TraitChange(f"k{number}", f"k{number}", None, True, None)
                        writer.write(CustomerChange(id_, True, {}, None, None, [change]))
                    writer.flush()

    def sort() -> None:
        with closing(Database.open(url)) as state, closing(Database.open(url, "queue")) as inbox:
            processor = Processor(inbox, state, ("*",), ())
            together.wait(30)
            for number in range(rounds):
                batch = [identify(id_, f"c{number}", number) for id_ in ids]
                with inbox.write() as connection:
                    queue.accept(connection, batch)
                assert processor.process() == len(ids)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(run), pool.submit(sort)]:
            done.result(60)
    for state in ask(database, lambda c: snapshot.find(c, ids)):
        assert json.loads(state.traits).keys() == {f"k{n}" for n in range(rounds)}
        assert json.loads(state.identify_traits).keys() == {f"c{n}" for n in range(rounds)}
    assert {record["rev"] for record in records(database).values()} == {1 + 2 * rounds}
    history = records(database, "change").values()
    assert {(entry["customer_id"], entry["rev"]) for entry in history} <= {
        (id_, rev) for id_ in ids for rev in range(2, 2 + 2 * rounds)
    }
    assert Counter(entry["source"] for entry in history) == dict.fromkeys(
        (None, "identify"), rounds * len(ids)
    )


def identify(customer_id: str, trait: str, number: int) -> Accepted:
    body = {
        "userId": customer_id,
        "messageId": f"{customer_id}-{number}",
        "traits": {trait: number},
        "timestamp": "2026-03-04T10:00:00Z",
    }
    return Accepted("identify", json.dumps(body).encode(), 1, NOW)


def test_a_run_and_a_delivery_never_wait_for_each_other_for_ever(state_postgres: str) -> None:
    """Each changes many customers, in an order of its own: rows that the other wants next."""
    with (
        closing(Database.open(state_postgres)) as database,
        closing(Database.open(state_postgres)) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        customers(database, 2)
        delivered_one = threading.Event()
        committing = threading.Event()

        def deliver() -> None:
            with other.write(beside=True) as connection:
                outbox.acknowledge(connection, [as_claimed("u0001", 1)], NOW)
                delivered_one.set()
                committing.wait(0.5)
                outbox.acknowledge(connection, [as_claimed("u0000", 1)], NOW)

        with database.write(alone=True) as connection:
            snapshot.update_customers(connection, [row("u0000", vip=True)], NOW, 7)
            delivery = pool.submit(deliver)
            delivered_one.wait(0.5)
            committing.set()
            outbox.adopt(connection, 7, NOW)
        delivery.result(20)
        # Both are there: nothing was undone.
        rows = records(database)
    assert [rows[id_]["acked_rev"] for id_ in ("u0000", "u0001")] == [1, 1]
    assert [rows[id_]["due_at"] for id_ in ("u0000", "u0001")] == [NOW, None]


def test_deliveries_write_side_by_side(state_postgres: str) -> None:
    with closing(Database.open(state_postgres)) as database:
        customers(database, 2)
        with database.write(beside=True) as first, database.write(beside=True) as second:
            second.execute(text("SET LOCAL lock_timeout = '2s'"))
            outbox.acknowledge(first, [as_claimed("u0000", 1)], NOW)
            outbox.acknowledge(second, [as_claimed("u0001", 1)], NOW)
    with closing(Database.open(state_postgres)) as database:
        assert ask(database, outbox.backlog) == 0


def test_who_waits_too_long_for_another_writer_is_told_that_it_is_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "BUSY", 1)
    path = tmp_path / "syncer.db"
    with (
        closing(Database.open(f"sqlite:///{path}")) as database,
        closing(sqlite3.connect(path, isolation_level=None)) as other,
    ):
        customers(database, 1)
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        with pytest.raises(Busy, match="database is locked") as caught:
            claim(database, 1)
        assert 0.9 <= time.monotonic() - began < 10
        assert "\n" not in str(caught.value)
        assert isinstance(caught.value, StateError)
        with (
            database.writer() as write,
            pytest.raises(Busy),
            write(),
        ):
            pass
        assert ask(database, snapshot.size) == 1  # who reads does not wait
        other.execute("COMMIT")
        assert claim(database, 1) == ["u0000"]


def test_other_trouble_is_not_that_it_is_busy(database: Database) -> None:
    customers(database, 1)
    with pytest.raises(StateError) as caught:
        customers(database, 1)
    assert not isinstance(caught.value, Busy)
