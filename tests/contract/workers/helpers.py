"""Workers of other processes, and what each has in work."""

from __future__ import annotations

import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from state import outbox, queue
from state.db import workers
from state.db.database import Database
from state.queue import EventRow
from tests.support import processes
from tests.support.state import NOW, ask, put, records, row

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
    customers += [row.customer_id for row in rows]
    events += [event.message_id for event in more]
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
        claimed = outbox.claim(connection, worker, NOW, limit, run)
    return [customer.customer_id for customer in claimed]


def claims(database: Database, table: str = "customer") -> Counter[int]:
    """How many rows each worker has claimed."""
    owners = [record["claimed_by"] for record in records(database, table).values()]
    return Counter(owner for owner in owners if owner is not None)


def on_record(database: Database) -> dict[int, str]:
    return {worker.id: worker.kind for worker in ask(database, workers.all_of)}


def until(condition: Callable[[], bool]) -> float:
    """Seconds until it holds; the server may take a moment to see that a client died."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < 10
        time.sleep(0.02)
    return time.monotonic() - began
