"""Workers side by side on one database: who lives, and what the dead leave behind."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from state.db import workers
from state.db.database import Database
from state.db.locks import lock_file, lock_holder
from state.errors import StateError
from tests.contract.workers.helpers import (
    HOLD,
    Elsewhere,
    claim,
    claims,
    customers,
    events,
    on_record,
    python,
    until,
    worker_elsewhere,
)
from tests.support.postgres import end_others
from tests.support.state import NOW, ask


def test_who_joins_is_on_record_until_it_leaves(database: Database, calls: Database) -> None:
    assert workers.count_alive(database) == 0
    with (
        workers.register(database, "worker", calls) as worker,
        workers.register(database, "run") as run,
    ):
        assert on_record(database) == {worker.number: "worker", run.number: "run"}
        entry = ask(database, workers.all_of)[0]
        assert entry.pid == os.getpid()
        assert abs(entry.started_at - time.time() * 1000) < 60_000
        assert workers.count_alive(database) == 2
        worker.check()
        run.check()
    assert on_record(database) == {}
    assert workers.count_alive(database) == 0
    with workers.register(database, "worker", calls) as another:
        assert another.number > run.number  # a number is never another's


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
        daemons = workers.daemons(database)
        assert [daemon.id for daemon in daemons] == [scheduling.number, idle.number]
        assert [daemon.schedule for daemon in daemons] == [{"next_run": 1}, None]
        with database.write() as connection:
            workers.set_schedule(connection, scheduling.number, None)
        assert [daemon.schedule for daemon in workers.daemons(database)] == [None, None]
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
        assert [other.id for other in workers.daemons(database)] == [daemon.number]
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
        assert sorted(lock.name for lock in tmp_path.glob("*.lock")) == []
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
