"""The delivery of customers: sends where what we know and what Amberflo acknowledged differ.

What is due stands in the database, and so does every outcome; a delivery that dies is simply begun
again. Customers go side by side, the writes of one customer one after the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field

from state import failures, snapshot
from state.database import Database
from state.snapshot import DueRow
from syncer.amberflo.backoff import full_jitter
from syncer.amberflo.client import AmberfloClient
from syncer.amberflo.customer import to_put
from syncer.errors import KeyRefused, Refused, TryAgain

#: Due customers that are read from the database at a time.
PAGE = 500
#: Seconds after which a pause looks whether to stop.
GLANCE = 0.2
#: Seconds that requests under way get to end after a stop.
DRAIN = 15.0


@dataclass
class Delivery:
    """What became of the due customers. `problem` says why some are left, if some are."""

    delivered: int = 0
    failed: int = 0
    problem: str | None = None
    stopped: bool = False


@dataclass(frozen=True)
class Sent:
    """Amberflo has the customer as of `rev`."""

    row: DueRow


@dataclass(frozen=True)
class Later:
    """It did not get through; `wait` seconds until the next attempt."""

    row: DueRow
    wait: float


@dataclass(frozen=True)
class Never:
    """Refused for good."""

    row: DueRow
    refused: Refused


Outcome = Sent | Later | Never


@dataclass
class CustomerDelivery:
    """Delivers until nothing is due, nothing gets through for `patience` seconds, the key is
    refused, or `stop` says so; what is left then stays due.

    `owned` are the trait names that are ours; `until` (epoch milliseconds) leaves out customers
    that became due later; `progress` is told how many customers are finished.
    """

    database: Database
    client: AmberfloClient
    owned: frozenset[str]
    concurrency: int = 16
    as_strings: bool = False
    patience: float = 300.0
    until: int | None = None
    stop: Callable[[], bool] = lambda: False
    progress: Callable[[int], None] = lambda finished: None
    chance: Callable[[], float] = random.random
    result: Delivery = field(default_factory=Delivery)

    async def run(self) -> Delivery:
        """Deliver; see the class."""
        self._queue: asyncio.Queue[DueRow] = asyncio.Queue()
        self._in_work: set[str] = set()
        self._wake = asyncio.Event()
        self._outcomes = Outcomes(self.database)
        self._last_success = time.monotonic()
        self._last_problem = "no answer"
        tasks = [asyncio.create_task(self._outcomes.write_all())]
        tasks += [asyncio.create_task(self._work()) for _ in range(self.concurrency)]
        try:
            await self._first_error(tasks, self._feed())
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return self.result

    async def _first_error(
        self, tasks: Sequence[asyncio.Task[None]], feed: Coroutine[None, None, None]
    ) -> None:
        """Wait for the feed; where a task breaks before (the database is full), raise that."""
        feeding = asyncio.create_task(feed)
        try:
            await asyncio.wait([feeding, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in [*tasks, feeding]:
                if task.done():
                    task.result()
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)

    async def _feed(self) -> None:
        """Keep the queue filled from the database until there is no more to do."""
        while not self._over():
            low = self._queue.qsize() < self.concurrency
            if low and not self._take() and not self._in_work and self._nothing_due():
                return
            await self._moment()
        await self._drain()

    def _take(self) -> int:
        """Queue the next page of due customers; gives how many."""
        # Read in the loop's own thread: between the look at the database and the look at
        # `_in_work` no outcome can come in, so no customer is sent twice.
        with self.database.read() as connection:
            rows = snapshot.due(connection, _now(), PAGE, self.until)
        fresh = [row for row in rows if row.customer_id not in self._in_work]
        for row in fresh:
            self._in_work.add(row.customer_id)
            self._queue.put_nowait(row)
        return len(fresh)

    def _nothing_due(self) -> bool:
        with self.database.read() as connection:
            return snapshot.oldest_due(connection, self.until) is None

    def _over(self) -> bool:
        if self.stop():
            self.result.stopped = True
            return True
        if self.result.problem is not None:
            return True
        if self._silent():
            self.result.problem = (
                f"nothing got through to Amberflo for {self.patience:g} s: {self._last_problem}"
            )
            return True
        return False

    def _silent(self) -> bool:
        return time.monotonic() - self._last_success > self.patience

    async def _moment(self) -> None:
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GLANCE):
                await self._wake.wait()

    async def _drain(self) -> None:
        """Let the requests that are under way end; what has not begun stays due."""
        while not self._queue.empty():
            self._in_work.discard(self._queue.get_nowait().customer_id)
        until = time.monotonic() + DRAIN
        while self._in_work and time.monotonic() < until and not self._silent():
            await self._moment()

    async def _work(self) -> None:
        while True:
            row = await self._queue.get()
            try:
                outcome = await self._deliver(row)
                if outcome is not None:
                    await self._outcomes.write(outcome)
                    self._count(outcome)
            finally:
                self._in_work.discard(row.customer_id)
                if self._queue.qsize() < self.concurrency:
                    self._wake.set()

    async def _deliver(self, row: DueRow) -> Outcome | None:
        """Read, merge, write one customer; None when it is not to be begun any more."""
        if self.stop() or self.result.problem is not None:
            return None
        try:
            current = await self.client.get_customer(row.customer_id)
            record = to_put(current, row, self.owned, as_strings=self.as_strings)
            try:
                await self.client.put_customer(record)
            except Refused as refused:
                # Amberflo says PUT upserts, its SDKs POST what is new (facts/amberflo.md §1).
                if current is not None and refused.status != 404:
                    raise
                await self.client.post_customer(record)
        except TryAgain as problem:
            self._last_problem = str(problem)
            wait = full_jitter(row.attempts + 1, self.chance())
            return Later(row, max(wait, problem.after or 0.0))
        except Refused as refused:
            self._last_success = time.monotonic()
            return Never(row, refused)
        except KeyRefused as refused:
            self.result.problem = str(refused)
            return None
        self._last_success = time.monotonic()
        return Sent(row)

    def _count(self, outcome: Outcome) -> None:
        if isinstance(outcome, Sent):
            self.result.delivered += 1
        elif isinstance(outcome, Never):
            self.result.failed += 1
        self.progress(self.result.delivered + self.result.failed)


class Outcomes:
    """Writes outcomes to the database: all that came in while one commit ran go into the next, so
    the workers share its fsync."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[tuple[Outcome, asyncio.Future[None]]] = []
        self._some = asyncio.Event()
        with database.read() as connection:
            self._any_failure = failures.count(connection) > 0

    async def write(self, outcome: Outcome) -> None:
        """Returns when the outcome is on disk."""
        written = asyncio.get_running_loop().create_future()
        self._waiting.append((outcome, written))
        self._some.set()
        await written

    async def write_all(self) -> None:
        while True:
            await self._some.wait()
            self._some.clear()
            batch, self._waiting = self._waiting, []
            await asyncio.to_thread(self._commit, [outcome for outcome, _ in batch])
            for _, written in batch:
                if not written.done():
                    written.set_result(None)

    def _commit(self, outcomes: Sequence[Outcome]) -> None:
        now = _now()
        sent = [one.row for one in outcomes if isinstance(one, Sent)]
        later = [one for one in outcomes if isinstance(one, Later)]
        never = [one for one in outcomes if isinstance(one, Never)]
        with self._database.write() as connection:
            if sent:
                snapshot.acknowledge(connection, [(row.customer_id, row.rev, now) for row in sent])
                if self._any_failure:
                    refs = [failures.customer_ref(row.customer_id) for row in sent]
                    failures.clear(connection, refs)
            if later:
                snapshot.postpone(
                    connection,
                    [
                        (one.row.customer_id, one.row.attempts + 1, now + int(one.wait * 1000))
                        for one in later
                    ],
                )
            if never:
                snapshot.park(connection, [(one.row.customer_id, one.row.rev) for one in never])
                failures.put(connection, [_failure(one, now) for one in never])
                self._any_failure = True


def _failure(never: Never, now: int) -> dict[str, object]:
    return {
        "ref": failures.customer_ref(never.row.customer_id),
        "kind": failures.CUSTOMER,
        "customer_id": never.row.customer_id,
        "reason": str(never.refused),
        "status": never.refused.status,
        "request": never.refused.request,
        "body": never.refused.body,
        "attempts": never.row.attempts + 1,
        "failed_at": now,
    }


def _now() -> int:
    """Epoch milliseconds."""
    return time.time_ns() // 1_000_000
