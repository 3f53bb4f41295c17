"""The delivery of meter records: batches are sent until Amberflo has or refuses each record.

A record goes out as the bytes it was accepted as: Amberflo discards a repeat only if every
attribute is equal (docs/facts/amberflo.md §2.4).

A batch that is not taken is halved until the records that cause it are alone. Such a record is
judged when it fails once more by itself, and only if others got through since it failed first: a
problem of all records is no fault of one, and no record is given up for it.
"""

from __future__ import annotations

import asyncio
import gzip
import random
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import orjson

from state import failures, queue
from state.db.database import Database
from state.errors import StateError
from state.failures import FailureRow
from state.queue import DueEvent
from syncer import retry
from syncer.amberflo.answer import NOT_NOW
from syncer.amberflo.client import AmberfloClient
from syncer.amberflo.silence import Silence
from syncer.clock import now_ms
from syncer.errors import AmberfloError, KeyRefused, Refused, TryAgain
from syncer.retry import TRIES

#: Records of a request, as Amberflo's own SDKs send them.
BATCH = 100
#: Batches in flight.
IN_FLIGHT = 4
#: Failed attempts after which a batch is halved that Amberflo neither takes nor refuses. A record
#: by itself is put off after TRIES, if others get through, and a batch that Amberflo does not take
#: "now" is halved after as many: that is about all records, unless others do get through.
HALVE = 2
#: Seconds for which a success shows that others get through.
FRESH = 60.0
#: If this many records of a batch fail by themselves and none gets through, none does.
FAIL_ALONE = 5
#: Seconds that everything waits at least if Amberflo refuses the key.
KEY_REFUSED = 5.0
#: Seconds of the wait for a batch under way, and for a record to come into an empty queue.
PAUSE, EMPTY = 0.05, 2.0


@dataclass
class MeterDelivery:
    """Delivers meter records as they come due, until `stop` returns true."""

    queue_database: Database
    state_database: Database
    worker: int
    client: AmberfloClient
    stop: Callable[[], bool]
    #: gets what goes wrong for all while it does, and None when a request gets through or nothing
    #: waits any more
    trouble: Callable[[str | None], None] = lambda problem: None
    chance: Callable[[], float] = random.random
    #: whether all that is sent was refused before: a second refusal is a verdict at once
    judged: bool = False
    #: set it when a record came: the empty queue is looked at only now and then
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Deliver until stopped; requests under way are finished."""
        # When the newest request that got through began; when each suspect failed first.
        self._through = float("-inf")
        self._suspects: dict[int, float] = {}
        self._silence = Silence(self.client, 0.0, self.client.ingest_pace)
        # Whether trouble was told, by this process or the one before it.
        self._troubled = True
        tasks: set[asyncio.Task[None]] = set()
        while not self.stop():
            self.arrived.clear()
            batch = await self._next() if len(tasks) < IN_FLIGHT else []
            if batch:
                tasks.add(asyncio.create_task(self._deliver(batch)))
            elif tasks:
                await asyncio.wait(tasks, timeout=PAUSE, return_when=asyncio.FIRST_COMPLETED)
            else:
                await self._rest()
            if (trouble := self._silence.trouble()) is not None:
                self._tell(trouble.text)
            for task in [task for task in tasks if task.done()]:
                tasks.discard(task)
                task.result()
        await asyncio.gather(*tasks)

    def _tell(self, trouble: str | None) -> None:
        self._troubled = trouble is not None
        self.trouble(trouble)

    def _fails(self, problem: AmberfloError) -> None:
        """Note what went wrong for all: it is told when it lasts, a refused key at once."""
        self._silence.failed(problem)
        if isinstance(problem, KeyRefused):
            self._tell(str(problem))

    async def _rest(self) -> None:
        """Wait for a record, or for the time of one that is tried again."""
        if self._troubled and not await asyncio.to_thread(self._anything_waits):
            self._tell(None)
        with suppress(TimeoutError):
            await asyncio.wait_for(self.arrived.wait(), EMPTY)

    def _anything_waits(self) -> bool:
        try:
            with self.queue_database.read() as connection:
                return bool(queue.waiting(connection)[1])
        except StateError:
            return True  # nobody knows

    async def _next(self) -> list[DueEvent]:
        """Claim the next due records."""
        try:
            return await asyncio.to_thread(self._claim)
        except StateError as error:
            self._tell(str(error))
            await asyncio.sleep(1.0)
            return []

    def _claim(self) -> list[DueEvent]:
        with self.queue_database.read() as connection:
            if not queue.any_due(connection, now_ms()):
                return []
        with self.queue_database.write() as connection:
            return queue.claim(connection, self.worker, now_ms(), BATCH)

    async def _deliver(self, batch: Sequence[DueEvent]) -> None:
        """Send a batch; records that failed by themselves before go by themselves."""
        suspects = [event for event in batch if event.id in self._suspects]
        rest = [event for event in batch if event.id not in self._suspects]
        for event in suspects:
            await self._send_alone(event)
        if rest:
            await self._send(rest)

    async def _send(self, batch: Sequence[DueEvent]) -> None:
        """Send a batch, or what of it can be sent; the rest is tried again later."""
        began, problem = time.monotonic(), await self._ingest(batch)
        if problem is None:
            return
        if len(batch) == 1:
            await self._judge(batch[0], problem, began)
            return
        remaining, alone = list(batch), list[DueEvent]()
        attempts = max(event.attempts for event in batch)
        if self._may_be_one(problem, attempts):
            remaining, alone, problem = await self._halve(batch, problem, attempts)
        if self._through >= began:
            self._suspects |= dict.fromkeys((event.id for event in alone), began)
        else:
            self._fails(problem)
        await self._put_back([*remaining, *alone], problem)

    async def _halve(
        self, batch: Sequence[DueEvent], problem: AmberfloError, attempts: int
    ) -> tuple[list[DueEvent], list[DueEvent], AmberfloError]:
        """Send the halves of a batch that is not taken, and so on.

        Return the records that are left if the problem cannot be one record's, or if nothing at all
        gets through; the records that failed by themselves; and the last problem.
        """
        began, alone = time.monotonic(), list[DueEvent]()
        # In random order, so that the bad records do not all come first.
        parts = _halves(random.sample(batch, len(batch)))
        while parts and not self.stop():
            if len(alone) >= FAIL_ALONE and self._through < began:
                break
            part = parts.pop()
            failed = await self._ingest(part)
            if failed is None:
                continue
            problem = failed
            if not self._may_be_one(problem, attempts):
                parts.append(part)
                break
            if len(part) == 1:
                alone += part
            else:
                parts += _halves(part)
        return [event for part in parts for event in part], alone, problem

    def _may_be_one(self, problem: AmberfloError, attempts: int) -> bool:
        """Return whether a batch's problem may be about one record of it."""
        if not isinstance(problem, TryAgain):
            return isinstance(problem, Refused)
        if problem.status in NOT_NOW:
            return attempts >= TRIES and time.monotonic() - self._through < FRESH
        return attempts >= HALVE

    async def _send_alone(self, event: DueEvent) -> None:
        began, problem = time.monotonic(), await self._ingest([event])
        if problem is None:
            self._suspects.pop(event.id, None)
        else:
            await self._judge(event, problem, began)

    async def _judge(self, event: DueEvent, problem: AmberfloError, began: float) -> None:
        """Decide what becomes of a record that failed by itself, sent at `began`."""
        if isinstance(problem, KeyRefused):
            self._fails(problem)
            await self._put_back([event], problem)
            return
        first = self._suspects.setdefault(event.id, began)
        fair = self.judged or self._through >= first
        wait = retry.put_off(event.attempts + 1, _after(problem))
        if fair and isinstance(problem, Refused):
            del self._suspects[event.id]
            # A redirect is no verdict: it says where to go, not what is wrong.
            postponed = [event] if problem.elsewhere else []
            await self._write(failed=event, problem=problem, postponed=postponed, wait=wait)
        elif fair and isinstance(problem, TryAgain) and event.attempts + 1 >= TRIES:
            await self._write(failed=event, problem=problem, postponed=[event], wait=wait)
        else:
            if not fair:
                self._fails(problem)
            await self._put_back([event], problem)

    async def _ingest(self, batch: Sequence[DueEvent]) -> AmberfloError | None:
        """Send records in one request; record that Amberflo has them, or return the problem."""
        self._silence.begin()
        began = time.monotonic()
        body = gzip.compress(b"[" + b",".join(event.record for event in batch) + b"]", 1)
        try:
            await self.client.ingest(body, len(batch))
        except (TryAgain, Refused, KeyRefused) as problem:
            return problem
        self._through = max(self._through, began)
        self._silence.succeeded()
        self._tell(None)
        await self._write(delivered=batch)
        return None

    async def _put_back(self, events: Sequence[DueEvent], problem: AmberfloError) -> None:
        if not events:
            return
        attempts = 1 + max(event.attempts for event in events)
        wait = retry.wait(attempts, self.chance(), _after(problem))
        if isinstance(problem, KeyRefused):
            wait = max(wait, KEY_REFUSED)
        await self._write(postponed=events, wait=wait)

    async def _write(
        self,
        *,
        delivered: Sequence[DueEvent] = (),
        postponed: Sequence[DueEvent] = (),
        wait: float = 0.0,
        failed: DueEvent | None = None,
        problem: Refused | TryAgain | None = None,
    ) -> None:
        """Write an outcome to disk as soon as possible; the records stay claimed until then.

        If the process ends before, they are sent again, the same bytes.
        """
        while True:
            try:
                return await asyncio.to_thread(
                    self._write_now, delivered, postponed, wait, failed, problem
                )
            except StateError as error:
                self._tell(str(error))
                if self.stop():
                    return None
                await asyncio.sleep(1.0)

    def _write_now(
        self,
        delivered: Sequence[DueEvent],
        postponed: Sequence[DueEvent],
        wait: float,
        failed: DueEvent | None,
        problem: Refused | TryAgain | None,
    ) -> None:
        if failed is not None and problem is not None:
            # The failure first: if we die between the two, it fails and is recorded once more.
            with self.state_database.write() as connection:
                failures.put(connection, [_failure(failed, problem)])
        self._clear_failures([event for event in delivered if event.attempts])
        with self.queue_database.write() as connection:
            if delivered:
                queue.settle(connection, [event.id for event in delivered])
                queue.count(connection, {("delivered", ""): len(delivered)})
            if failed is not None and failed not in postponed:
                queue.settle(connection, [failed.id])
                queue.count(connection, {("failed", ""): 1})
            if postponed:
                due_at = now_ms() + int(wait * 1000)
                queue.postpone(connection, [event.id for event in postponed], due_at)

    def _clear_failures(self, tried: Collection[DueEvent]) -> None:
        """Remove the failures of records that got through after all."""
        refs = [failures.meter_ref(event.message_id, event.key) for event in tried]
        with self.state_database.read() as connection:
            listed = bool(refs) and failures.count(connection, refs)
        if listed:
            with self.state_database.write() as connection:
                failures.clear(connection, refs)


def _after(problem: AmberfloError) -> float | None:
    """Return the seconds that an answer asks to wait."""
    return problem.after if isinstance(problem, TryAgain) else None


def _halves(part: Sequence[DueEvent]) -> list[list[DueEvent]]:
    middle = len(part) // 2
    return [list(part[middle:]), list(part[:middle])]


def _failure(event: DueEvent, problem: Refused | TryAgain) -> FailureRow:
    record = orjson.loads(event.record)
    return FailureRow(
        ref=failures.meter_ref(event.message_id, event.key),
        kind=failures.METER,
        customer_id=record.get("customerId"),
        message_id=event.message_id,
        reason=str(problem),
        status=problem.status,
        request=event.record.decode(),
        body=problem.body,
        attempts=event.attempts + 1,
        failed_at=now_ms(),
        via=event.key or None,
        event=record.get("meterApiName"),
    )
