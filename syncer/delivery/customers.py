"""The delivery of customers: sends each customer that Amberflo does not have as the state has it.

The database holds what is due, and every outcome, so a delivery that dies is simply started again.
Several processes may deliver side by side. Each claims the customers that it sends, so the writes
of one customer go one after the other, and each takes its part of the configured rate.

Amberflo may refuse a customer for what is in it, or for something that affects all customers: a
redirect, a wrong URL, a key without rights, a server that is down. Only other customers show which.
So a refusal is a suspicion first. If another customer gets through after it, the suspect is tried
once more; if yet another gets through after that, the refusal is a verdict. A redirect is no
verdict: it says where to go, not what is wrong. If no other customer is left to send, the delivery
sends a probe: a customer that Amberflo has already.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from state import outbox, runs
from state.db import workers
from state.db.database import Database
from state.db.workers import Worker
from state.snapshot import CustomerRow
from syncer import retry
from syncer.amberflo.client import AmberfloClient
from syncer.amberflo.codec import Record
from syncer.amberflo.reader import CustomerReader
from syncer.amberflo.record import holds_already
from syncer.amberflo.silence import Silence, TellTrouble, Trouble, ignore
from syncer.amberflo.writer import write
from syncer.delivery.claims import Claimed, Claims
from syncer.delivery.desired import to_put
from syncer.delivery.outcomes import Later, Never, Outcome, Outcomes, PutOff, Sent, Settled
from syncer.delivery.page_size import PageSize
from syncer.delivery.page_writes import PageWrites
from syncer.delivery.rate_share import LOOK, Share
from syncer.delivery.supply import Supply
from syncer.delivery.work_queue import WorkQueue
from syncer.errors import AmberfloError, KeyRefused, Refused, TryAgain

REFUSALS = 2  # make a verdict, if others get through after each
#: Seconds after which the feed looks whether to stop, and that requests get to end after a stop.
WAKE_AFTER, DRAIN = 0.2, 15.0
#: If Amberflo refuses this many customers in a row, and none gets through, it takes none.
REFUSES_ALL = 50
#: Customers that are sent as probes (one is enough), and the seconds between two such times, or
#: half the patience if that is less.
PROBES, PROBE_AFTER = 3, 1.0


@dataclass
class Delivery:
    """What became of the due customers. `problem` says why some are still due, if some are.

    Of the `delivered` ones, Amberflo held `already_right` as they should be: nothing was written.
    `trouble` is what lasted at the end, where nothing got through.
    """

    delivered: int = 0
    already_right: int = 0
    failed: int = 0
    problem: str | None = None
    stopped: bool = False
    trouble: Trouble | None = None

    @property
    def on_record(self) -> str | None:
        """The problem as the state has it."""
        return self.problem if self.trouble is None else self.trouble.text


@dataclass
class Suspect:
    """A customer that was refused `times` times, the last time `at` a moment (monotonic).

    `retrying` says that it is tried once more.
    """

    claimed: Claimed
    refused: Refused
    at: float
    times: int = 1
    retrying: bool = False


@dataclass
class CustomerDelivery:
    """Delivers the customers that are due.

    It ends when nothing is due, when nothing gets through for `patience` seconds, when Amberflo
    refuses the key, or when `stop` returns true. Customers that are left stay due.

    With `for_run`, only the customers that this run waits for are delivered, until none is left,
    whichever process delivers them; `progress` gets the number of those that are finished.
    """

    database: Database
    worker: Worker
    client: AmberfloClient
    concurrency: int = 16
    as_strings: bool = False
    #: the account in the state (`metadata.ACCOUNT`) that `client` speaks to: nothing is claimed
    #: for another one; None if it was not checked
    account: str | None = None
    #: names or globs of traits that are never written or removed
    protected: tuple[str, ...] = ()
    patience: float = 300.0
    for_run: int | None = None
    stop: Callable[[], bool] = lambda: False
    progress: Callable[[int], None] = lambda finished: None
    #: gets trouble while it lasts, and None when something gets through
    trouble: TellTrouble = ignore
    chance: Callable[[], float] = random.random
    result: Delivery = field(default_factory=Delivery)

    async def run(self) -> Delivery:
        """Deliver; see the class."""
        self._claims = Claims(self.database, self.worker.number, self.for_run, self.account)
        self._page_writes = PageWrites(self.client, self._merged, self._stops)
        self._queue = WorkQueue(self._page_writes.groups)
        self._in_work: set[str] = set()
        self._put_off: set[str] = set()
        self._suspects: dict[str, Suspect] = {}
        # When the customers that did not get through failed first; whether one fails for long.
        # How many attempts failed of customers that got through later, and how many these are.
        self._failing: dict[str, float] = {}
        self._failed_before = self._got_through = 0
        self._stuck = self._draining = False
        # When the newest write that got through began; the last probes, when, and what came of it.
        self._through = self._probed_at = float("-inf")
        self._probed: set[str] | None = None
        self._probe_problem: TryAgain | Refused | None = None
        self._wake = asyncio.Event()
        self._silence = Silence(self.client, self.patience)
        reader = CustomerReader(self.client, self.patience, self.stop, self.chance)
        reader.failed = self._silence.failed  # why no page comes says why nothing gets through
        self._supply = Supply(self._claims, reader, self._wake.set)
        self._outcomes = Outcomes(self.database, self._written)
        self._looked = time.monotonic()
        self._page = PageSize(self.client.pace, self.concurrency, self._looked)
        self._finished = -1
        self._due = 0 if self.for_run is None else self._claims.backlog()
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
            await self._supply.close()
        return self.result

    async def _first_error(
        self, tasks: Sequence[asyncio.Task[None]], feed: Coroutine[None, None, None]
    ) -> None:
        """Wait for the feed; if a task fails before (the database is full), raise its error."""
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
        """Keep the queue filled until nothing is left; what wakes it while it claims counts."""
        while not self._over():
            self._wake.clear()
            took = await self._take() if self._low() else 0
            await self._judge_suspects()
            if not took and self._is_idle():
                if not self._in_work and self._claims.nothing_due():
                    break
                await self._probe()
            elif len(self._suspects) >= REFUSES_ALL:
                await self._probe()
            await self._look_around()
            await self._wait_for_wake()
        await self._drain()
        await self._look_around(at_once=True)

    def _is_idle(self) -> bool:
        """Return whether no request is under way: all that is in work waits for a verdict."""
        waiting = sum(not suspect.retrying for suspect in self._suspects.values())
        return not self._queue and len(self._in_work) == waiting

    def _low(self) -> bool:
        """Return whether little is left of what was claimed."""
        return not self._in_work or self._page.is_low(len(self._queue), time.monotonic())

    async def _take(self) -> int:
        """Claim and queue the next due customers; return how many."""
        limit = self._page.next(time.monotonic())
        try:
            # After a page that shows nobody due the next one is asked for at once.
            while self._queue.wants_page and (page := await self._supply.page()) is not None:
                self._queue.add_page(await self._differing(self._took(page)))
            at_hand = self._queue.page_at_hand
            of_lanes = self._took(await self._supply.lanes(limit, page_at_hand=at_hand))
        except AmberfloError as problem:
            self.result.problem = str(problem)
            return 0
        return self._queue.turn(of_lanes, limit)

    def _took(self, claimed: list[Claimed]) -> list[Claimed]:
        self._in_work |= {it.row.customer_id for it in claimed}
        self._put_off |= {it.row.customer_id for it in claimed if it.row.put_off}
        return claimed

    async def _differing(self, due: Sequence[Claimed]) -> list[Claimed]:
        """Return the customers that are to be written; acknowledge who is right by a page.

        A page may lag and show what was there before a write of ours. So it alone acknowledges
        only who was never written in another state; others that it shows as right are read.
        """
        differing = []
        for claimed in due:
            row, record = claimed.row, claimed.listed[0].record if claimed.listed else None
            if row.again or not (record and holds_already(record, self._merged(claimed, record))):
                differing.append(claimed)
            elif not row.only_state:
                differing.append(claimed.alone())
            else:
                self._silence.succeeded()
                await self._outcomes.put(Sent(row, written=False))
        return differing

    async def _look_around(self, *, at_once: bool = False) -> None:
        """Look now and then who is alive, this worker too, and how far the run is."""
        if not at_once and time.monotonic() - self._looked < LOOK:
            return
        self._looked = time.monotonic()
        await asyncio.to_thread(self._look_now)
        self.progress(self._finished)
        if not self._in_work or self._in_work - self._put_off:
            self._silence.tell(self.trouble)

    def _look_now(self) -> None:
        self.worker.check()
        workers.prune_dead(self.database)  # what a dead worker claimed would wait for ever
        self._share.look()
        if self.for_run is None:
            return
        with self.database.read() as connection:
            record = runs.get(connection, self.for_run)
            if record is None:  # sent by hand: no run counts them
                finished = self._due - outbox.backlog(connection, self.for_run)
            else:
                finished = record.delivered + record.failed
        if finished > self._finished >= 0:
            self._silence.succeeded()  # whichever process delivered
        self._finished = max(finished, self._finished)

    def _over(self) -> bool:
        self.result.stopped = self.stop()
        if self.result.problem is None:
            too_long = self._silence.too_long
            if not self.result.stopped and not too_long:
                return False
            if (trouble := self._silence.trouble(in_any_case=too_long)) is not None:
                self.result.trouble, self.result.problem = trouble, trouble.past
        return True

    async def _wait_for_wake(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WAKE_AFTER):
                await self._wake.wait()

    async def _drain(self) -> None:
        """Let the requests that are under way end; what has not begun stays due."""
        self._draining = True
        not_begun = []
        for claimed in self._queue.clear():
            if claimed.probe:
                await self._outcomes.put(Settled(claimed.row))
            else:
                self._in_work.discard(claimed.row.customer_id)
                not_begun.append(claimed.row.customer_id)
        for suspect in [it for it in self._suspects.values() if not it.retrying]:
            await self._outcomes.put(self._later(suspect.claimed.row, suspect.refused))
        self._claims.release(not_begun)
        until = time.monotonic() + DRAIN
        while self._in_work and time.monotonic() < until and not self._silence.too_long:
            self._wake.clear()
            await self._wait_for_wake()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN):
                await self._outcomes.flush()

    async def _work(self) -> None:
        while True:
            group = await self._queue.get()
            await self._page_writes.write(group, self._send)
            self._queue.done(group)
            if self._low():
                self._wake.set()

    async def _send(self, claimed: Claimed) -> bool:
        """Deliver one customer; return whether it was written."""
        outcome = await self._deliver(claimed)
        if outcome is not None:
            await self._outcomes.put(outcome)
        else:
            suspect = self._suspects.get(claimed.row.customer_id)
            if suspect is None or suspect.retrying:
                self._in_work.discard(claimed.row.customer_id)
        return isinstance(outcome, Sent) and outcome.written

    def _written(self, outcome: Outcome) -> None:
        """Take a customer whose outcome is on disk out of work."""
        if isinstance(outcome, Sent):
            self.result.delivered += 1
            self.result.already_right += not outcome.written
        elif isinstance(outcome, Never | PutOff):
            self.result.failed += not outcome.row.put_off
        self._in_work.discard(outcome.row.customer_id)
        if self._low():
            self._wake.set()

    async def _deliver(self, claimed: Claimed) -> Outcome | None:
        """Write one customer; return None if it must not begin any more, or is a suspect now."""
        if self._stops():
            return None
        row = claimed.row
        try:
            written = await self._write(claimed, always=row.again)
        except (TryAgain, Refused) as problem:
            if claimed.probe:
                self._probe_problem = problem
                return Settled(row)
            if isinstance(problem, Refused):
                return self._refused(claimed, problem)
            self._suspects.pop(row.customer_id, None)
            return self._not_taken(row, problem)
        except KeyRefused as refused:
            self.result.problem = str(refused)
            return Settled(row) if claimed.probe else None
        self._failing.pop(row.customer_id, None)
        self._suspects.pop(row.customer_id, None)
        self._failed_before += 0 if row.put_off else row.attempts
        self._got_through += 1
        return Sent(row, written)

    def _stops(self) -> bool:
        return self.stop() or self.result.problem is not None

    async def _write(self, claimed: Claimed, *, always: bool) -> bool:
        """Write one customer; return whether it was written and not right already."""
        merge, listed = partial(self._merged, claimed), claimed.listed
        began = time.monotonic()
        written = await write(
            self.client, claimed.row.customer_id, merge, always=always, listed=listed
        )
        if written:
            self._through = max(self._through, began)
        self._silence.succeeded()
        return written

    def _merged(self, claimed: Claimed, current: Record | None) -> Record:
        """Return what becomes of a customer's record."""
        how: Any = {"as_strings": self.as_strings, "protected": self.protected}
        return to_put(current, claimed.row, claimed.owned, **how)

    def _not_taken(self, row: CustomerRow, problem: TryAgain) -> Outcome:
        """Try it again soon or, if it fails for long and others get through, now and then."""
        if not row.put_off:
            self._silence.failed(problem)
        first = self._failing.setdefault(row.customer_id, time.monotonic())
        long = row.attempts + 1 >= retry.tries_to_blame(self._failed_before, self._got_through)
        if row.put_off or (long and self._through >= first):
            del self._failing[row.customer_id]
            return PutOff(row, problem)
        self._stuck = self._stuck or long
        return self._later(row, problem)

    def _later(self, row: CustomerRow, problem: TryAgain | Refused) -> Later:
        after = problem.after if isinstance(problem, TryAgain) else None
        return Later(row, retry.wait(row.attempts + 1, self.chance(), after))

    # Is a refusal about the customer, or about all?

    def _refused(self, claimed: Claimed, refused: Refused) -> Outcome | None:
        row, suspect = claimed.row, self._suspects.pop(claimed.row.customer_id, None)
        if self._draining:
            return self._later(row, refused)
        self._silence.failed(refused)
        times = 1 if suspect is None else suspect.times + 1
        suspect = Suspect(claimed.alone(), refused, time.monotonic(), times)
        self._suspects[row.customer_id] = suspect
        return None

    async def _judge_suspects(self) -> None:
        """Try suspects again, or make their refusal a verdict, if others got through since."""
        waiting = [suspect for suspect in self._suspects.values() if not suspect.retrying]
        for suspect in [suspect for suspect in waiting if self._through >= suspect.at]:
            if suspect.times < REFUSALS:
                suspect.retrying = True
                self._queue.add(suspect.claimed)
                continue
            row = suspect.claimed.row
            verdict = PutOff if suspect.refused.elsewhere else Never
            await self._outcomes.put(verdict(row, suspect.refused))
            del self._suspects[row.customer_id]

    async def _probe(self) -> None:
        """Send probes if it is in doubt whether Amberflo takes any customer."""
        if self._probed is not None:
            if not self._probed & self._in_work:
                self._probed = None
                self._judge_all()
            return
        silent = self._silence.seconds > self._silence.patience / 2
        if not (self._suspects or self._stuck or (self._failing and silent)):
            return
        if time.monotonic() - self._probed_at < min(PROBE_AFTER, self._silence.patience / 2):
            return
        try:
            claimed = await asyncio.to_thread(self._claims.acknowledged, PROBES)
        except AmberfloError:
            return  # the next claim says so
        if claimed is not None:
            self._probed_at, self._stuck, self._probe_problem = time.monotonic(), False, None
            self._probed = {probe.row.customer_id for probe in claimed}
            self._in_work |= self._probed
            for probe in claimed:
                self._queue.add(probe)

    def _judge_all(self) -> None:
        """End the delivery if all customers are refused, and the probes too, if there are any."""
        if (
            self._through >= self._probed_at
            or isinstance(self._probe_problem, TryAgain)
            or not self._suspects
        ):
            return
        newest = max(self._suspects.values(), key=lambda suspect: suspect.at)
        why = self._probe_problem or newest.refused
        self.result.problem = f"Amberflo takes nobody: {why.cause}"
