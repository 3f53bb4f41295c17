"""The processes that deliver, side by side on one database.

A worker claims what it has in work, so that the writes of one customer stay serial and no record
is sent twice. It holds a lock under its own number as long as it lives; what a dead one had claimed
is free again as soon as another looks.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, delete, insert, select, update

from state.db.database import Database, sqlite_path
from state.db.locks import Check, living_workers, lock, lock_file
from state.db.tables import CUSTOMER, EVENT, WORKER
from state.errors import Locked, StateError

#: The kind of process that schedules and receives, and delivers nothing itself.
DAEMON = "daemon"


@dataclass(frozen=True)
class Worker:
    """This process as a worker.

    `check()` raises `StateError` when others may take it for dead.
    """

    number: int
    check: Check


class WorkerRow(NamedTuple):
    """A process on record, as the table `worker` has it.

    `schedule` says when a daemon makes its next run, where it makes them.
    """

    id: int
    kind: str
    host: str
    pid: int
    started_at: int
    schedule: Mapping[str, Any] | None


@contextmanager
def register(database: Database, kind: str, queue: Database | None = None) -> Iterator[Worker]:
    """Be a worker of a kind (`DAEMON`, "worker", "run", "retry") for the block.

    With `queue` it delivers meter records too.
    """
    with database.write() as connection:
        # The row is seen by others when the lock is held already: both before the commit.
        result = connection.execute(
            insert(WORKER).values(
                kind=kind,
                host=socket.gethostname(),
                pid=os.getpid(),
                started_at=time.time_ns() // 1_000_000,
            )
        )
        assert result.inserted_primary_key is not None
        number = int(result.inserted_primary_key[0])
        held = lock(database, "worker", number)
        check = held.__enter__()
    try:
        yield Worker(number, check)
    finally:
        # Where the database is what broke, others find us dead and do the same.
        with suppress(StateError):
            _leave(database, queue, number)
        held.__exit__(None, None, None)


def prune_dead(database: Database, queue: Database | None = None) -> None:
    """Release what dead workers had claimed, in the state and in the queue."""
    with database.read() as connection:
        numbers = [row.id for row in all_of(connection)]
    living = living_workers(database, numbers)
    for number in [it for it in numbers if it not in living]:
        with suppress(Locked), lock(database, "worker", number):
            if queue is not None:
                _leave(database, queue, number)
            else:  # its record stays, for who can look there
                with database.write(beside=True) as connection:
                    free_customers(connection, number)
                    if number not in [row.id for row in all_of(connection)]:
                        _remove_lock_file(database, number)  # it left just now: the file is ours


def _leave(database: Database, queue: Database | None, number: int) -> None:
    if queue is not None:
        with queue.write() as connection:
            free_events(connection, number)
    with database.write(beside=True) as connection:
        free_customers(connection, number)
        connection.execute(delete(WORKER).where(WORKER.c.id == number))
        # Before the commit: who dies between the two is found by its record and buried.
        _remove_lock_file(database, number)


def count_alive(database: Database) -> int:
    """Count the living processes that deliver."""
    with database.read() as connection:
        numbers = [row.id for row in all_of(connection) if row.kind != DAEMON]
    return len(living_workers(database, numbers))


def free_customers(connection: Connection, number: int) -> None:
    """Release the customers that a worker has claimed."""
    connection.execute(
        update(CUSTOMER)
        .where(CUSTOMER.c.due_at.is_not(None), CUSTOMER.c.claimed_by == number)
        .values(claimed_by=None)
    )


def free_events(connection: Connection, number: int) -> None:
    """Release the meter records that a worker has claimed."""
    connection.execute(
        update(EVENT)
        .where(EVENT.c.due_at.is_not(None), EVENT.c.claimed_by == number)
        .values(claimed_by=None)
    )


def all_of(connection: Connection) -> list[WorkerRow]:
    """Return every process on record, oldest first; a dead one stays until it is pruned."""
    columns = [WORKER.c[name] for name in WorkerRow._fields]
    rows = connection.execute(select(*columns).order_by(WORKER.c.id))
    return [
        WorkerRow._make(row)._replace(
            schedule=None if row.schedule is None else orjson.loads(row.schedule)
        )
        for row in rows
    ]


def daemons(database: Database) -> list[WorkerRow]:
    """Return the daemons that live, the one that schedules first."""
    with database.read() as connection:
        on_record = [row for row in all_of(connection) if row.kind == DAEMON]
    living = living_workers(database, [row.id for row in on_record])
    alive = [row for row in on_record if row.id in living]
    return sorted(alive, key=lambda row: row.schedule is None)


def set_schedule(connection: Connection, number: int, schedule: Mapping[str, Any] | None) -> None:
    """Write down when a daemon makes its next run, for `status`."""
    text = None if schedule is None else orjson.dumps(schedule).decode()
    connection.execute(update(WORKER).where(WORKER.c.id == number).values(schedule=text))


def _remove_lock_file(database: Database, number: int) -> None:
    path = sqlite_path(database.engine.url)
    if path is not None:
        lock_file(path, "worker", number).unlink(missing_ok=True)
