"""Workers side by side on one database: who has what in work."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from sqlalchemy import text

from state import outbox, queue, runs, snapshot
from state.db import workers
from state.db.database import Database
from tests.contract.workers.helpers import CLAIM, claim, claims, customers, events, python
from tests.support.state import NOW, as_claimed, ask, put, row

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
                got[1].extend(event.message_id for event in more)
                if not mine and not more:
                    return got

    together = threading.Barrier(4)
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(take, range(1, 5)))
    assert sorted(id_ for mine, _ in got for id_ in mine) == [f"u{n:04d}" for n in range(300)]
    assert sorted(id_ for _, mine in got for id_ in mine) == [f"m{n:04d}" for n in range(300)]
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
    assert sorted(id_ for mine, _ in got for id_ in mine) == [f"u{n:04d}" for n in range(400)]
    assert sorted(id_ for _, mine in got for id_ in mine) == [f"m{n:04d}" for n in range(400)]


def test_who_claims_does_not_wait_for_another_who_does(state_postgres: str) -> None:
    with (
        closing(Database.open(state_postgres)) as database,
        closing(Database.open(state_postgres, "queue")) as calls,
    ):
        customers(database, 6)
        events(calls, 6)
        with database.write() as first, database.write() as second:
            second.execute(text("SET LOCAL lock_timeout = '2s'"))
            firsts = outbox.claim(first, 1, NOW, 3)
            seconds = outbox.claim(second, 2, NOW, 3)
            assert [row.customer_id for row in firsts + seconds] == [f"u{n:04d}" for n in range(6)]
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
    run = ask(database, lambda c: runs.get(c, mine))
    assert (run.delivered, run.failed) == (80, 60)
    run = ask(database, lambda c: runs.get(c, other))
    assert (run.delivered, run.failed) == (0, 0)
