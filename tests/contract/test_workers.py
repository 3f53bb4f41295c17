"""Workers side by side on one database: who lives, who has what in work, and who waits for whom."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from state import outbox, queue, runs, snapshot
from state.db import database as databases
from state.db import workers
from state.db.database import Database
from state.db.locks import lock_file, lock_holder
from state.errors import Busy, StateError
from state.queue import Accepted, EventRow
from syncer.engage.catalog import Catalog, KnownTrait
from syncer.engage.computations import AUDIENCE
from syncer.passthrough.processor import Processor
from syncer.sync.changes import CustomerChange, TraitChange
from syncer.sync.commit import Writer
from syncer.sync.decision import Decision
from tests.support import processes
from tests.support.postgres import end_others
from tests.support.state import NOW, as_claimed, ask, put, records, row

#: A worker that claims two customers and two meter records and holds them until it is told to go
#: on; then it leaves.
HOLD = """
import sys
from state import outbox, queue
from state.db import workers
from state.db.database import Database
state, calls = Database.open(sys.argv[1]), Database.open(sys.argv[1], "queue")
with workers.register(state, "worker", calls) as worker:
    with state.write() as connection:
        assert len(outbox.claim(connection, worker.number, int(sys.argv[2]), 2)) == 2
    with calls.write() as connection:
        assert len(queue.claim(connection, worker.number, int(sys.argv[2]), 2)) == 2
    print(worker.number, flush=True)
    sys.stdin.readline()
print("left", flush=True)
sys.stdin.readline()
"""
#: A worker that claims until there is nothing left, and says what it got.
CLAIM = """
import json, sys, time
from state import outbox, queue
from state.db.database import Database
state, calls = Database.open(sys.argv[1]), Database.open(sys.argv[1], "queue")
time.sleep(max(0.0, float(sys.argv[3]) - time.time()))
customers, events = [], []
while True:
    with state.write() as connection:
        rows = outbox.claim(connection, int(sys.argv[4]), int(sys.argv[2]), 7)
    with calls.write() as connection:
        more = queue.claim(connection, int(sys.argv[4]), int(sys.argv[2]), 7)
    customers += [one.customer_id for one in rows]
    events += [one.message_id for one in more]
    if not rows and not more:
        break
print(json.dumps([customers, events]))
"""


def python(script: str, *arguments: object) -> subprocess.Popen[str]:
    return processes.start(
        *("-c", script, *arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


class Elsewhere:
    """A worker in another process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        self.number = int(process.stdout.readline())

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def leave(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "left\n"


@contextmanager
def worker_elsewhere(url: str) -> Iterator[Elsewhere]:
    with python(HOLD, url, NOW) as process:
        try:
            yield Elsewhere(process)
        finally:
            process.kill()


def customers(database: Database, number: int, *, run: int | None = None) -> None:
    put(database, *(row(f"u{n:04d}") for n in range(number)), run=run)


def events(calls: Database, number: int) -> None:
    with calls.write() as connection:
        rows = [EventRow(f"m{n:04d}", b"{}", NOW, NOW) for n in range(number)]
        queue.store_processed(connection, [], rows)


def claim(database: Database, worker: int, limit: int = 100, run: int | None = None) -> list[str]:
    with database.write() as connection:
        found = outbox.claim(connection, worker, NOW, limit, run)
    return [one.customer_id for one in found]


def claims(database: Database, table: str = "customer") -> Counter[int]:
    """How many rows each worker has claimed."""
    found = [one["claimed_by"] for one in records(database, table).values()]
    return Counter(one for one in found if one is not None)


def on_record(database: Database) -> dict[int, str]:
    return {one.id: one.kind for one in ask(database, workers.all_of)}


def until(condition: Callable[[], bool]) -> float:
    """Seconds until it holds; the server may take a moment to see that a client died."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < 10
        time.sleep(0.02)
    return time.monotonic() - began


# -- coming and going


def test_who_joins_is_on_record_until_it_leaves(database: Database, calls: Database) -> None:
    assert workers.count_alive(database) == 0
    with (
        workers.register(database, "worker", calls) as one,
        workers.register(database, "run") as two,
    ):
        assert on_record(database) == {one.number: "worker", two.number: "run"}
        found = ask(database, workers.all_of)[0]
        assert found.pid == os.getpid()
        assert abs(found.started_at - time.time() * 1000) < 60_000
        assert workers.count_alive(database) == 2
        one.check()
        two.check()
    assert on_record(database) == {}
    assert workers.count_alive(database) == 0
    with workers.register(database, "worker", calls) as three:
        assert three.number > two.number  # a number is never another's


def test_a_worker_that_breaks_leaves_too(database: Database, calls: Database) -> None:
    customers(database, 3)

    def fail() -> None:
        with workers.register(database, "worker", calls) as worker:
            assert len(claim(database, worker.number)) == 3
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (on_record(database), claims(database)) == ({}, {})


def test_a_daemon_delivers_nothing_itself(database: Database) -> None:
    with (
        workers.register(database, workers.DAEMON) as idle,
        workers.register(database, workers.DAEMON) as scheduling,
        workers.register(database, "worker"),
    ):
        with database.write() as connection:
            workers.set_schedule(connection, scheduling.number, {"next_run": 1})
        assert workers.count_alive(database) == 1
        found = workers.daemons(database)
        assert [one.id for one in found] == [scheduling.number, idle.number]
        assert [one.schedule for one in found] == [{"next_run": 1}, None]
        with database.write() as connection:
            workers.set_schedule(connection, scheduling.number, None)
        assert [one.schedule for one in workers.daemons(database)] == [None, None]
    assert workers.daemons(database) == []


def test_who_leaves_gives_back_what_it_had(url: str, database: Database, calls: Database) -> None:
    customers(database, 3)
    events(calls, 3)
    with worker_elsewhere(url) as worker:
        assert claims(database) == claims(calls, "event") == {worker.number: 2}
        worker.leave()
        assert worker.process.poll() is None
        assert (on_record(database), workers.count_alive(database)) == ({}, 0)
        assert not claims(database)
        assert not claims(calls, "event")
        assert claim(database, 99) == ["u0000", "u0001", "u0002"]


def test_the_dead_are_found_at_once_and_the_living_are_let_be(
    url: str, database: Database, calls: Database
) -> None:
    customers(database, 5)
    events(calls, 5)
    with worker_elsewhere(url) as dead, worker_elsewhere(url) as alive:
        assert claims(database) == claims(calls, "event") == {dead.number: 2, alive.number: 2}
        workers.prune_dead(database, calls)
        assert claims(database) == claims(calls, "event") == {dead.number: 2, alive.number: 2}
        assert workers.count_alive(database) == 2
        dead.kill()
        assert until(lambda: workers.count_alive(database) == 1) < 5
        assert dead.number in on_record(database)  # nobody looked after it yet
        assert claims(database)[dead.number] == 2
        workers.prune_dead(database, calls)
        assert on_record(database) == {alive.number: "worker"}
        assert claims(database) == claims(calls, "event") == {alive.number: 2}
        assert claim(database, 99) == ["u0000", "u0001", "u0004"]
        alive.kill()
        until(lambda: workers.count_alive(database) == 0)
        workers.prune_dead(database, calls)
        assert (on_record(database), claims(database)) == ({}, {99: 3})


def test_who_cannot_look_into_the_queue_frees_customers_only(
    url: str, database: Database, calls: Database
) -> None:
    customers(database, 2)
    events(calls, 2)
    with worker_elsewhere(url) as dead:
        dead.kill()
        until(lambda: workers.count_alive(database) == 0)
        workers.prune_dead(database)
        assert not claims(database)
        assert claims(calls, "event") == {dead.number: 2}
        assert dead.number in on_record(database)  # for who can
        workers.prune_dead(database, calls)
        assert not claims(calls, "event")
        assert on_record(database) == {}


def test_a_dead_daemon_is_none(url: str, database: Database) -> None:
    script = HOLD.replace('"worker", calls', '"daemon"').replace(", 2)) == 2", ", 0)) == 0")
    with python(script, url, NOW) as process:
        daemon = Elsewhere(process)
        assert [one.id for one in workers.daemons(database)] == [daemon.number]
        daemon.kill()
        until(lambda: workers.daemons(database) == [])


def test_many_may_bury_at_once(url: str, database: Database, calls: Database) -> None:
    customers(database, 2)
    events(calls, 2)
    with worker_elsewhere(url) as dead:
        dead.kill()
        until(lambda: workers.count_alive(database) == 0)
        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(workers.prune_dead, database, calls) for _ in range(8)]:
                done.result()
    workers.prune_dead(database, calls)
    assert (on_record(database), claims(database), claims(calls, "event")) == ({}, {}, {})


def test_the_lock_files_of_the_dead_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "syncer.db"
    url = f"sqlite:///{path}"
    with closing(Database.open(url)) as database, closing(Database.open(url, "queue")) as calls:
        customers(database, 4)
        events(calls, 4)
        with worker_elsewhere(url) as leaving:
            assert lock_file(path, "worker", leaving.number).exists()
            leaving.leave()
            assert not lock_file(path, "worker", leaving.number).exists()
        with worker_elsewhere(url) as dead:
            dead.kill()
            assert lock_file(path, "worker", dead.number).exists()
            assert lock_holder(database, "worker", dead.number) is None
            workers.prune_dead(database, calls)
        assert sorted(found.name for found in tmp_path.glob("*.lock")) == []
        with workers.register(database, "run"):
            assert len(list(tmp_path.glob("*.lock"))) == 1
        assert list(tmp_path.glob("*.lock")) == []


def test_a_worker_whose_connection_broke_hears_of_it(state_postgres: str) -> None:
    """Others take it for dead: its lock went with its connection."""
    other = create_engine(state_postgres)
    with closing(Database.open(state_postgres)) as database:
        customers(database, 2)
        with workers.register(database, "worker") as worker:
            claim(database, worker.number)
            worker.check()
            end_others(other)
            with pytest.raises(StateError, match="broke; what is not done yet stays due"):
                worker.check()
            assert workers.count_alive(database) == 0
            workers.prune_dead(database)
            assert claim(database, 99) == ["u0000", "u0001"]
        assert claims(database) == {99: 2}
    other.dispose()


# -- claiming


def test_what_is_claimed_is_nobody_elses(database: Database) -> None:
    customers(database, 5)
    assert claim(database, 1, 2) == ["u0000", "u0001"]
    assert claim(database, 2, 2) == ["u0002", "u0003"]
    assert claim(database, 1) == ["u0004"]
    assert claim(database, 1) == claim(database, 2) == []
    assert claim(database, 1, 0) == []
    assert claims(database) == {1: 3, 2: 2}
    # What is in work is due all the same.
    assert ask(database, outbox.backlog) == 5
    assert ask(database, outbox.oldest_due) == NOW


def test_claims_come_in_the_order_they_wait(database: Database) -> None:
    for at, name in ((5, "e"), (3, "b"), (1, "d"), (3, "a"), (2, "c"), (9, "f")):
        put(database, row(name), now=NOW - 10 + at)
    got = [claim(database, worker, 2) for worker in (1, 2, 3)]
    assert got == [["d", "c"], ["a", "b"], ["e", "f"]]
    put(database, row("later"), now=NOW + 1)
    assert claim(database, 1) == []


def test_a_run_claims_what_waits_for_it(database: Database) -> None:
    put(database, row("a"), row("d"), run=7)
    put(database, row("b"), run=8)
    put(database, row("c"))
    assert claim(database, 1, run=7) == ["a", "d"]
    assert claim(database, 1, run=9) == []
    assert claim(database, 2) == ["b", "c"]


@pytest.mark.parametrize("how", ["acknowledge", "park", "postpone", "give_back", "leave"])
def test_what_ends_a_claim(database: Database, how: str) -> None:
    customers(database, 2)
    claim(database, 1, 1)
    claim(database, 2, 1)
    with database.write() as connection:
        if how == "acknowledge":
            outbox.acknowledge(connection, [as_claimed("u0000", 1)], NOW)
        elif how == "park":
            outbox.dead_letter(connection, [as_claimed("u0000", 1)])
        elif how == "postpone":
            outbox.postpone(connection, [("u0000", 1, NOW)])
        elif how == "give_back":
            outbox.release(connection, ["u0000"])
        else:
            workers.free_customers(connection, 1)
    assert claims(database) == {2: 1}
    due_again = how in ("postpone", "give_back", "leave")
    assert claim(database, 3) == (["u0000"] if due_again else [])


def test_a_customer_that_changes_in_work_stays_in_work_and_due(database: Database) -> None:
    """Its writes stay serial: who has it in work sends the old one first, then the new one."""
    customers(database, 1)
    claim(database, 1)
    with database.write() as connection:
        snapshot.update_customers(connection, [row("u0000", vip=True)], NOW, 7)
        outbox.adopt(connection, 7, NOW)
        outbox.send_again(connection, NOW)
    assert claims(database) == {1: 1}
    assert claim(database, 2) == []
    with database.write() as connection:
        outbox.acknowledge(connection, [as_claimed("u0000", 1)], NOW)
    assert claim(database, 2) == ["u0000"]


def test_threads_never_get_the_same(url: str, database: Database, calls: Database) -> None:
    customers(database, 300)
    events(calls, 300)

    def take(worker: int) -> tuple[list[str], list[str]]:
        got: tuple[list[str], list[str]] = ([], [])
        with closing(Database.open(url)) as state, closing(Database.open(url, "queue")) as events:
            together.wait(30)
            while True:
                mine = claim(state, worker, 7)
                with events.write() as connection:
                    more = queue.claim(connection, worker, NOW, 7)
                got[0].extend(mine)
                got[1].extend(one.message_id for one in more)
                if not mine and not more:
                    return got

    together = threading.Barrier(4)
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(take, range(1, 5)))
    assert sorted(one for mine, _ in got for one in mine) == [f"u{n:04d}" for n in range(300)]
    assert sorted(one for _, mine in got for one in mine) == [f"m{n:04d}" for n in range(300)]
    assert claims(database) == {n: len(mine) for n, (mine, _) in enumerate(got, 1) if mine}
    assert sum(bool(mine) for mine, _ in got) > 1


def test_processes_never_get_the_same(url: str, database: Database, calls: Database) -> None:
    customers(database, 400)
    events(calls, 400)
    start = time.time() + 0.5
    claiming = [python(CLAIM, url, NOW, start, worker) for worker in (1, 2, 3)]
    said = [process.communicate(timeout=60)[0] for process in claiming]
    assert [process.returncode for process in claiming] == [0, 0, 0]
    got = [json.loads(line) for line in said]
    assert sorted(one for mine, _ in got for one in mine) == [f"u{n:04d}" for n in range(400)]
    assert sorted(one for _, mine in got for one in mine) == [f"m{n:04d}" for n in range(400)]


def test_who_claims_does_not_wait_for_another_who_does(state_postgres: str) -> None:
    with (
        closing(Database.open(state_postgres)) as database,
        closing(Database.open(state_postgres, "queue")) as calls,
    ):
        customers(database, 6)
        events(calls, 6)
        with database.write() as first, database.write() as second:
            second.execute(text("SET LOCAL lock_timeout = '2s'"))
            one = outbox.claim(first, 1, NOW, 3)
            two = outbox.claim(second, 2, NOW, 3)
            assert [row.customer_id for row in one + two] == [f"u{n:04d}" for n in range(6)]
            assert outbox.claim(second, 2, NOW, 3) == []
        with calls.write() as first, calls.write() as second:
            second.execute(text("SET LOCAL lock_timeout = '2s'"))
            ones = queue.claim(first, 1, NOW, 3)
            twos = queue.claim(second, 2, NOW, 3)
            assert [row.message_id for row in ones + twos] == [f"m{n:04d}" for n in range(6)]


# -- what becomes of a run's customers


def test_outcomes_add_up(database: Database) -> None:
    with database.write() as connection:
        mine, other = (runs.start(connection, "initial", NOW, "{}") for _ in range(2))
    together = threading.Barrier(4)

    def add(number: int) -> None:
        together.wait(30)
        for _ in range(10):
            with database.write() as connection:
                runs.add_outcomes(connection, mine, delivered=2, failed=number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(4)))
    found = ask(database, lambda c: runs.get(c, mine))
    assert (found.delivered, found.failed) == (80, 60)
    found = ask(database, lambda c: runs.get(c, other))
    assert (found.delivered, found.failed) == (0, 0)


# -- one at a time


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
    put(database, *(row(one) for one in ids))
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
                    for one in ids:
                        change = TraitChange(f"k{number}", f"k{number}", None, True, None)
                        writer.write(CustomerChange(one, True, {}, None, None, [change]))
                    writer.flush()

    def sort() -> None:
        with closing(Database.open(url)) as state, closing(Database.open(url, "queue")) as inbox:
            processor = Processor(inbox, state, ("*",), ())
            together.wait(30)
            for number in range(rounds):
                batch = [identify(one, f"c{number}", number) for one in ids]
                with inbox.write() as connection:
                    queue.accept(connection, batch)
                assert processor.process() == len(ids)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(run), pool.submit(sort)]:
            done.result(60)
    for state in ask(database, lambda c: snapshot.find(c, ids)):
        assert json.loads(state.traits).keys() == {f"k{n}" for n in range(rounds)}
        assert json.loads(state.identify_traits).keys() == {f"c{n}" for n in range(rounds)}
    assert {one["rev"] for one in records(database).values()} == {1 + 2 * rounds}
    history = records(database, "change").values()
    assert {(one["customer_id"], one["rev"]) for one in history} <= {
        (one, rev) for one in ids for rev in range(2, 2 + 2 * rounds)
    }
    assert Counter(one["source"] for one in history) == dict.fromkeys(
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
        found = records(database)
    assert [found[one]["acked_rev"] for one in ("u0000", "u0001")] == [1, 1]
    assert [found[one]["due_at"] for one in ("u0000", "u0001")] == [NOW, None]


def test_deliveries_write_side_by_side(state_postgres: str) -> None:
    with closing(Database.open(state_postgres)) as database:
        customers(database, 2)
        with database.write(beside=True) as one, database.write(beside=True) as two:
            two.execute(text("SET LOCAL lock_timeout = '2s'"))
            outbox.acknowledge(one, [as_claimed("u0000", 1)], NOW)
            outbox.acknowledge(two, [as_claimed("u0001", 1)], NOW)
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
