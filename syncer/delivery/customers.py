"""The delivery of customers: sends where what we know and what Amberflo acknowledged differ.

What is due stands in the database, and so does every outcome; a delivery that dies is simply begun
again. Several processes may deliver side by side: each claims what it has in work, so the writes of
one customer go one after the other, and each takes its part of the configured rate.

That Amberflo does not take a customer may be for what is in it, or for what befalls everybody: a
redirect, a wrong URL, a key without rights, a server that is down. Only others tell. So a refusal
is a suspicion first; where another customer got through after it, it is tried once more, and where
yet another got through after that, it is a verdict. A redirect is none: it tells where to go, not
what is wrong. Where nobody is left to send, one that Amberflo has already is sent to see.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from state import outbox, runs
from state.db import metadata, workers
from state.db.database import Database
from state.db.workers import Worker
from state.errors import Busy
from state.removable import removable
from state.snapshot import CustomerRow
from syncer import retry
from syncer.amberflo.client import AmberfloClient
from syncer.amberflo.codec import Record
from syncer.amberflo.writer import write
from syncer.clock import now_ms
from syncer.delivery.desired import to_put
from syncer.delivery.outcomes import Later, Never, Outcome, Outcomes, PutOff, Sent, Settled
from syncer.delivery.page_size import PageSize
from syncer.delivery.rate_share import LOOK, Share
from syncer.errors import KeyRefused, Refused, TryAgain

#: Refusals that are a verdict, where others get through after each.
REFUSALS = 2
#: Requests that the patience lasts for at least: at a low rate few can be made in its time.
PATIENT = 30
#: Seconds after which a pause looks whether to stop.
GLANCE = 0.2
#: Seconds that requests under way get to end after a stop.
DRAIN = 15.0
#: Failed attempts after which a customer is put off where others get through.
TRIES = 6
#: Customers that Amberflo refuses in a row, and nobody gets through: it takes none.
REFUSES_ALL = 50
#: Customers that it has already that are sent to see whether it takes any; one is enough. And the
#: seconds between two times that this is done, or half the patience where that is less.
SENT_TO_SEE, SEE_AGAIN = 3, 1.0


@dataclass
class Delivery:
    """What became of the due customers. `problem` says why some are left, if some are."""

    delivered: int = 0
    failed: int = 0
    problem: str | None = None
    stopped: bool = False


class Claimed(NamedTuple):
    """A customer to send, and the trait names that were ours when it was claimed. One that Amberflo
    has already is sent `to_see` whether it takes anybody."""

    row: CustomerRow
    owned: frozenset[str]
    to_see: bool = False


@dataclass
class Suspect:
    """A customer that was refused so many `times`, the last at a moment (monotonic); `again` when
    it is tried once more."""

    claimed: Claimed
    refused: Refused
    at: float
    times: int = 1
    again: bool = False


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
        self._suspects: dict[str, Suspect] = {}
        # When those failed first that did not get through yet; whether one of them fails for long.
        self._failing: dict[str, float] = {}
        self._stuck = self._draining = False
        # When the newest write began that got through; who was sent to see when, what came of it.
        self._through = self._saw = float("-inf")
        self._sent_to_see: set[str] | None = None
        self._seen: TryAgain | Refused | None = None
        self._wake = asyncio.Event()
        self._outcomes = Outcomes(self.database)
        self._last_success = self._looked = time.monotonic()
        self._page = PageSize(self.client.pace, self.concurrency, self._looked)
        self._last_problem = "no answer"
        self._finished = -1
        with self.database.write(beside=True) as connection:
            # What a delivery of ours that broke had claimed.
            workers.free_customers(connection, self.worker.number)
        self._share = Share(self.database, self.client.pace)
        await self._share.begin()
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
            took = await self._take() if self._low() else 0
            await self._judge_suspects()
            if not took and self._rests():
                if not self._in_work and self._nothing_due():
                    break
                await self._see()
            elif len(self._suspects) >= REFUSES_ALL:
                await self._see()
            await self._look()
            await self._moment()
        await self._drain()
        await self._look(again=True)

    def _rests(self) -> bool:
        """Whether nothing is under way: who is in work waits for a verdict."""
        waiting = sum(not one.again for one in self._suspects.values())
        return self._queue.empty() and len(self._in_work) == waiting

    def _low(self) -> bool:
        """Return whether little is left of what was claimed."""
        return not self._in_work or self._page.is_low(self._queue.qsize(), time.monotonic())

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
        page = self._page.next(time.monotonic())
        try:
            with self.database.write() as connection:
                if self.account not in (None, metadata.get(connection, metadata.ACCOUNT)):
                    self.result.problem = "the Amberflo account was changed meanwhile"
                    return []
                rows = outbox.claim(connection, self.worker.number, now_ms(), page, self.for_run)
                owned = removable(connection, rows) if rows else {}
        except Busy:  # a run commits
            return []
        return [Claimed(row, owned[row.customer_id]) for row in rows]

    def _nothing_due(self) -> bool:
        with self.database.read() as connection:
            return outbox.oldest_due(connection, self.for_run) is None

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
        self._share.look()
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
                f"nothing got through to Amberflo for {self._patient:g} s: {self._last_problem}"
            )
            return True
        return False

    def _silent(self) -> bool:
        return time.monotonic() - self._last_success > self._patient

    @property
    def _patient(self) -> float:
        """Seconds."""
        least = PATIENT / self.client.pace.rate if self.client.pace.limited else 0.0
        return max(self.patience, least)

    async def _moment(self) -> None:
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GLANCE):
                await self._wake.wait()

    async def _drain(self) -> None:
        """Let the requests that are under way end; what has not begun stays due."""
        self._draining = True
        left = []
        while not self._queue.empty():
            one = self._queue.get_nowait()
            self._in_work.discard(one.row.customer_id)
            if one.to_see:
                await self._outcomes.write(Settled(one.row))
            else:
                left.append(one.row.customer_id)
        for suspect in [one for one in self._suspects.values() if not one.again]:
            row = suspect.claimed.row
            await self._outcomes.write(self._later(row, suspect.refused))
            self._in_work.discard(row.customer_id)
        if left:
            with contextlib.suppress(Busy), self.database.write(beside=True) as connection:
                outbox.release(connection, left)
        until = time.monotonic() + DRAIN
        while self._in_work and time.monotonic() < until and not self._silent():
            await self._moment()

    async def _work(self) -> None:
        while True:
            claimed = await self._queue.get()
            row = claimed.row
            try:
                outcome = await self._deliver(claimed)
                if outcome is not None:
                    await self._outcomes.write(outcome)
                    self._count(outcome)
            finally:
                suspect = self._suspects.get(row.customer_id)
                if suspect is None or suspect.again:
                    self._in_work.discard(row.customer_id)
                if self._low():
                    self._wake.set()

    async def _deliver(self, claimed: Claimed) -> Outcome | None:
        """Write one customer; None when it is not to be begun any more, or is a suspect now."""
        if self.stop() or self.result.problem is not None:
            return None
        row = claimed.row
        try:
            await self._write(claimed, always=row.again)
        except (TryAgain, Refused) as problem:
            if claimed.to_see:
                self._seen = problem
                return Settled(row)
            if isinstance(problem, Refused):
                return self._refused(claimed, problem)
            self._suspects.pop(row.customer_id, None)
            return self._not_taken(row, problem)
        except KeyRefused as refused:
            self.result.problem = str(refused)
            return Settled(row) if claimed.to_see else None
        self._failing.pop(row.customer_id, None)
        self._suspects.pop(row.customer_id, None)
        return Sent(row)

    async def _write(self, claimed: Claimed, *, always: bool) -> None:
        row = claimed.row

        def merge(current: Record | None) -> Record:
            return to_put(
                current, row, claimed.owned, as_strings=self.as_strings, protected=self.protected
            )

        began = time.monotonic()
        if await write(self.client, row.customer_id, merge, always=always):
            self._through = max(self._through, began)
        self._last_success = time.monotonic()

    def _not_taken(self, row: CustomerRow, problem: TryAgain) -> Outcome:
        """Try it again soon or, where it fails for long and others get through, now and then."""
        self._last_problem = str(problem)
        first = self._failing.setdefault(row.customer_id, time.monotonic())
        if row.put_off or (row.attempts + 1 >= TRIES and self._through >= first):
            del self._failing[row.customer_id]
            return PutOff(row, problem)
        self._stuck = self._stuck or row.attempts + 1 >= TRIES
        return self._later(row, problem)

    def _later(self, row: CustomerRow, problem: TryAgain | Refused) -> Later:
        after = problem.after if isinstance(problem, TryAgain) else None
        return Later(row, retry.wait(row.attempts + 1, self.chance(), after))

    # Whose fault it is

    def _refused(self, claimed: Claimed, refused: Refused) -> Outcome | None:
        row = claimed.row
        suspect = self._suspects.pop(row.customer_id, None)
        if self._draining:
            return self._later(row, refused)
        times = 1 if suspect is None else suspect.times + 1
        self._suspects[row.customer_id] = Suspect(claimed, refused, time.monotonic(), times)
        return None

    async def _judge_suspects(self) -> None:
        """Of those since whose refusal another customer got through: try them again, or say that it
        was about them."""
        heard = [
            one for one in self._suspects.values() if not one.again and self._through >= one.at
        ]
        for one in heard:
            if one.times < REFUSALS:
                one.again = True
                self._queue.put_nowait(one.claimed)
                continue
            row = one.claimed.row
            kind = PutOff if one.refused.elsewhere else Never
            verdict = kind(row, one.refused)
            await self._outcomes.write(verdict)
            self._count(verdict)
            del self._suspects[row.customer_id]
            self._in_work.discard(row.customer_id)

    async def _see(self) -> None:
        """See whether Amberflo takes anybody, where that is in question and nobody else tells."""
        if self._sent_to_see is not None:
            if not self._sent_to_see & self._in_work:
                self._sent_to_see = None
                self._judge_all()
            return
        silent = time.monotonic() - self._last_success > self._patient / 2
        if not (self._suspects or self._stuck or (self._failing and silent)):
            return
        if time.monotonic() - self._saw < min(SEE_AGAIN, self._patient / 2):
            return
        claimed = await asyncio.to_thread(self._claim_acknowledged)
        if claimed is not None:
            self._saw, self._stuck, self._seen = time.monotonic(), False, None
            self._sent_to_see = {one.row.customer_id for one in claimed}
            self._in_work |= self._sent_to_see
            for one in claimed:
                self._queue.put_nowait(one)

    def _judge_all(self) -> None:
        """Where nobody was taken, not even one that Amberflo has already, or it has none, what the
        suspects were refused for befalls everybody."""
        if self._through >= self._saw or isinstance(self._seen, TryAgain) or not self._suspects:
            return
        newest = max(self._suspects.values(), key=lambda one: one.at)
        self.result.problem = f"Amberflo takes nobody: {self._seen or newest.refused}"

    def _claim_acknowledged(self) -> list[Claimed] | None:
        """Customers to send to see; None where that cannot be done now."""
        try:
            with self.database.write(beside=True) as connection:
                if self.account not in (None, metadata.get(connection, metadata.ACCOUNT)):
                    return None
                rows = outbox.claim_acknowledged(
                    connection, self.worker.number, now_ms(), SENT_TO_SEE
                )
                owned = removable(connection, rows) if rows else {}
        except Busy:  # a run commits
            return None
        return [Claimed(row, owned[row.customer_id], to_see=True) for row in rows]

    def _count(self, outcome: Outcome) -> None:
        if isinstance(outcome, Sent):
            self.result.delivered += 1
        elif isinstance(outcome, Never | PutOff):
            self.result.failed += not outcome.row.put_off
