"""The delivery of customers: sends where what we know and what Amberflo acknowledged differ.

What is due stands in the database, and so does every outcome; a delivery that dies is simply begun
again. Several processes may deliver side by side: each claims what it has in work, so the writes of
one customer go one after the other, and each takes its part of the configured rate.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from state import failures, memo, runs, snapshot, workers
from state.database import Database
from state.errors import Busy
from state.removable import removable
from state.snapshot import DueRow
from state.workers import Worker
from syncer.amberflo.client import AmberfloClient
from syncer.amberflo.customer import to_put
from syncer.amberflo.pace import Pace
from syncer.backoff import full_jitter
from syncer.errors import KeyRefused, Refused, TryAgain

#: Due customers that are claimed at a time: at most, and seconds' worth of work. What is claimed
#: goes before all that comes later, however urgent, so of a limited rate no more is claimed than
#: keeps it busy.
PAGE, PAGE_SECONDS = 500, 0.5
#: Seconds between two looks at who else delivers, and at how far a run is.
LOOK = 1.0
#: Seconds that an outcome waits for a long commit of a run.
BUSY = 300.0
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


class Claimed(NamedTuple):
    """A customer to send, and the trait names that were ours when it was claimed."""

    row: DueRow
    owned: frozenset[str]


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

    With `for_run` only the customers that this run waits for are delivered, until none is left
    whoever delivers them, and `progress` is told how many of them are finished.
    """

    database: Database
    worker: Worker
    client: AmberfloClient
    concurrency: int = 16
    as_strings: bool = False
    #: the account in the state (`memo.ACCOUNT`) that `client` speaks to: nothing is claimed for
    #: another one; None where nobody looked
    account: str | None = None
    #: names or globs of traits that are never written or removed
    protected: tuple[str, ...] = ()
    patience: float = 300.0
    for_run: int | None = None
    stop: Callable[[], bool] = lambda: False
    progress: Callable[[int], None] = lambda finished: None
    chance: Callable[[], float] = random.random
    result: Delivery = field(default_factory=Delivery)

    async def run(self) -> Delivery:
        """Deliver; see the class."""
        self._queue: asyncio.Queue[Claimed] = asyncio.Queue()
        self._in_work: set[str] = set()
        self._wake = asyncio.Event()
        self._outcomes = Outcomes(self.database)
        self._last_success = self._looked = self._claimed_at = time.monotonic()
        self._page = self._least()
        self._last_problem = "no answer"
        self._finished = -1
        with self.database.write(beside=True) as connection:
            # What a delivery of ours that broke had claimed.
            workers.free_customers(connection, self.worker.number)
        await self._share_the_rate()
        tasks = [asyncio.create_task(self._outcomes.write_all())]
        tasks += [asyncio.create_task(self._work()) for _ in range(self.concurrency)]
        try:
            await self._first_error(tasks, self._feed())
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return self.result

    async def _share_the_rate(self) -> None:
        """Take our part of it; who comes anew waits until the others know."""
        if not self._pace.limited:
            return
        living = await asyncio.to_thread(workers.living, self.database)
        self._pace.divide(living)
        if living > 1:
            await asyncio.sleep(1.5 * LOOK)

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
            low = self._low()
            if low and not await self._take() and not self._in_work and self._nothing_due():
                break
            await self._look()
            await self._moment()
        await self._drain()
        await self._look(again=True)

    def _low(self) -> bool:
        """Whether there is little left of what was claimed."""
        if not self._in_work:
            return True
        if self._queue.qsize() >= min(self.concurrency, self._page):
            return False
        return not self._pace.limited or self._pace.backlog(time.monotonic()) < PAGE_SECONDS

    def _least(self) -> int:
        """The smallest page: work for all, or, of a limited rate, some seconds' worth of it. (A
        customer takes two requests.)"""
        if not self._pace.limited:
            return self.concurrency
        return max(1, min(PAGE, int(self._pace.rate * PAGE_SECONDS / 2)))

    def _next_page(self) -> int:
        """How many to claim: as many as were worked off of late in PAGE_SECONDS."""
        now = time.monotonic()
        lasted, self._claimed_at = now - self._claimed_at, now
        if self._pace.limited:
            return self._least()
        if lasted < PAGE_SECONDS:
            return min(self._page * 2, PAGE)
        return max(self._page // 2, self._least()) if lasted > 2 * PAGE_SECONDS else self._page

    @property
    def _pace(self) -> Pace:
        return self.client.pace

    async def _take(self) -> int:
        """Claim and queue the next due customers; gives how many."""
        claimed = await asyncio.to_thread(self._claim)
        for one in claimed:
            self._in_work.add(one.row.customer_id)
            self._queue.put_nowait(one)
        return len(claimed)

    def _claim(self) -> list[Claimed]:
        """A delivery may last for hours: which traits are ours is read with each claim. Should that
        change after it, the customers concerned are due again."""
        page = self._page = self._next_page()
        try:
            with self.database.write() as connection:
                if self.account not in (None, memo.get(connection, memo.ACCOUNT)):
                    self.result.problem = "the Amberflo account was changed meanwhile"
                    return []
                rows = snapshot.claim(connection, self.worker.number, _now(), page, self.for_run)
                owned = removable(connection, rows) if rows else {}
        except Busy:  # a run commits
            return []
        return [Claimed(row, owned[row.customer_id]) for row in rows]

    def _nothing_due(self) -> bool:
        with self.database.read() as connection:
            return snapshot.oldest_due(connection, self.for_run) is None

    async def _look(self, *, again: bool = False) -> None:
        """Now and then: do we still count as living, who died or lives, how far is the run."""
        if not again and time.monotonic() - self._looked < LOOK:
            return
        self._looked = time.monotonic()
        await asyncio.to_thread(self._look_now)
        self.progress(self._finished)

    def _look_now(self) -> None:
        self.worker.check()
        workers.bury(self.database)  # what a dead one had claimed would wait for ever
        if self._pace.limited:
            self._pace.divide(workers.living(self.database))
        if self.for_run is None:
            return
        with self.database.read() as connection:
            record = runs.get(connection, self.for_run)
        if record is not None and record["delivered"] + record["failed"] > self._finished:
            self._finished = record["delivered"] + record["failed"]
            self._last_success = time.monotonic()  # be it another's

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
        left = []
        while not self._queue.empty():
            left.append(self._queue.get_nowait().row.customer_id)
        self._in_work.difference_update(left)
        if left:
            with contextlib.suppress(Busy), self.database.write(beside=True) as connection:
                snapshot.give_back(connection, left)
        until = time.monotonic() + DRAIN
        while self._in_work and time.monotonic() < until and not self._silent():
            await self._moment()

    async def _work(self) -> None:
        while True:
            claimed = await self._queue.get()
            try:
                outcome = await self._deliver(claimed)
                if outcome is not None:
                    await self._outcomes.write(outcome)
                    self._count(outcome)
            finally:
                self._in_work.discard(claimed.row.customer_id)
                if self._low():
                    self._wake.set()

    async def _deliver(self, claimed: Claimed) -> Outcome | None:
        """Read, merge, write one customer; None when it is not to be begun any more."""
        if self.stop() or self.result.problem is not None:
            return None
        row = claimed.row
        try:
            current = await self.client.get_customer(row.customer_id)
            record = to_put(
                current,
                row,
                claimed.owned,
                as_strings=self.as_strings,
                protected=self.protected,
            )
            try:
                await self.client.put_customer(record)
            except Refused as refused:
                # It says PUT upserts, its SDKs POST what is new (docs/facts/amberflo.md §1.3).
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


class Outcomes:
    """Writes outcomes to the database: all that came in while one commit ran go into the next, so
    the workers share its fsync."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[tuple[Outcome, asyncio.Future[None]]] = []
        self._some = asyncio.Event()

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
            await self._commit([outcome for outcome, _ in batch])
            for _, written in batch:
                if not written.done():
                    written.set_result(None)

    async def _commit(self, outcomes: Sequence[Outcome]) -> None:
        """Write them, also where a long commit of a run goes on: they happened."""
        until = time.monotonic() + BUSY
        while True:
            try:
                return await asyncio.to_thread(self._write, outcomes)
            except Busy:
                if time.monotonic() > until:
                    raise

    def _write(self, outcomes: Sequence[Outcome]) -> None:
        now = _now()
        sent = [one.row for one in outcomes if isinstance(one, Sent)]
        later = [one for one in outcomes if isinstance(one, Later)]
        never = [one for one in outcomes if isinstance(one, Never)]
        with self._database.write(beside=True) as connection:
            if sent:
                for run, finished in sorted(snapshot.acknowledge(connection, sent, now).items()):
                    runs.add_outcomes(connection, run, delivered=finished)
                # Whoever recorded that they were refused: it may be another process.
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
                refused = [one.row for one in never]
                for run, finished in sorted(snapshot.park(connection, refused).items()):
                    runs.add_outcomes(connection, run, failed=finished)
                failures.put(connection, [_failure(one, now) for one in never])


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
