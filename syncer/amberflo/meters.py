"""The delivery of meter records: batches of frozen records, sent until Amberflo has each or has
refused it for good.

A record goes out as the bytes it was accepted as: Amberflo discards a repeat only when every
attribute is equal (docs/facts/amberflo.md §2.4).
"""

from __future__ import annotations

import asyncio
import gzip
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import orjson

from state import failures, queue
from state.database import Database
from state.errors import StateError
from state.queue import DueEvent
from syncer.amberflo.client import AmberfloClient
from syncer.backoff import full_jitter
from syncer.errors import KeyRefused, Refused, TryAgain

#: Records of a request, as Amberflo's own SDKs send them.
BATCH = 100
#: Batches in flight.
IN_FLIGHT = 4
#: Seconds that it waits for a batch under way, and for something to come into an empty queue.
PAUSE, EMPTY = 0.05, 2.0


@dataclass
class MeterDelivery:
    """Delivers meter records as they come due, until `stop` says so."""

    queue_database: Database
    state_database: Database
    worker: int
    client: AmberfloClient
    stop: Callable[[], bool]
    #: told what went wrong for all, such as a refused key; None when a request got through
    trouble: Callable[[str | None], None] = lambda problem: None
    chance: Callable[[], float] = random.random
    #: set it when something came: the empty queue is looked at only now and then
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Deliver until stopped; batches under way are finished."""
        tasks: set[asyncio.Task[None]] = set()
        while not self.stop():
            self.arrived.clear()
            batch = await self._next() if len(tasks) < IN_FLIGHT else []
            if batch:
                tasks.add(asyncio.create_task(self._deliver(batch)))
            elif tasks:
                await asyncio.wait(tasks, timeout=PAUSE, return_when=asyncio.FIRST_COMPLETED)
            else:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.arrived.wait(), EMPTY)
            for task in [task for task in tasks if task.done()]:
                tasks.discard(task)
                task.result()
        await asyncio.gather(*tasks)

    async def _next(self) -> list[DueEvent]:
        """Claim the next due records."""
        try:
            return await asyncio.to_thread(self._claim)
        except StateError as error:
            self.trouble(str(error))
            await asyncio.sleep(1.0)
            return []

    def _claim(self) -> list[DueEvent]:
        with self.queue_database.read() as connection:
            if not queue.any_due(connection, _now()):
                return []
        with self.queue_database.write() as connection:
            return queue.claim(connection, self.worker, _now(), BATCH)

    async def _deliver(self, batch: Sequence[DueEvent]) -> None:
        try:
            await self._send(batch)
        except (TryAgain, KeyRefused) as problem:
            self.trouble(str(problem))
            attempts = 1 + max(event.attempts for event in batch)
            after = problem.after if isinstance(problem, TryAgain) else None
            wait = max(full_jitter(attempts, self.chance()), after or 0.0)
            if isinstance(problem, KeyRefused):
                wait = max(wait, 5.0)
            await self._write(postponed=batch, wait=wait)

    async def _send(self, batch: Sequence[DueEvent]) -> None:
        """Send a batch; where Amberflo refuses it, halve it until the bad record stands alone."""
        body = gzip.compress(b"[" + b",".join(event.record for event in batch) + b"]", 1)
        try:
            await self.client.ingest(body)
        except Refused as refused:
            self.trouble(None)
            if len(batch) == 1:
                await self._write(failed=batch[0], refused=refused)
                return
            middle = len(batch) // 2
            await self._send(batch[:middle])
            await self._send(batch[middle:])
            return
        self.trouble(None)
        await self._write(delivered=batch)

    async def _write(
        self,
        *,
        delivered: Sequence[DueEvent] = (),
        postponed: Sequence[DueEvent] = (),
        wait: float = 0.0,
        failed: DueEvent | None = None,
        refused: Refused | None = None,
    ) -> None:
        """Put an outcome on disk, as soon as that can be done: the records stay claimed till then.
        (Where we end before, they are sent again, the same bytes.)"""
        while True:
            try:
                return await asyncio.to_thread(
                    self._write_now, delivered, postponed, wait, failed, refused
                )
            except StateError as error:
                self.trouble(str(error))
                if self.stop():
                    return None
                await asyncio.sleep(1.0)

    def _write_now(
        self,
        delivered: Sequence[DueEvent],
        postponed: Sequence[DueEvent],
        wait: float,
        failed: DueEvent | None,
        refused: Refused | None,
    ) -> None:
        if failed is not None and refused is not None:
            # The failure first: if we die between the two, it is refused and recorded once more.
            with self.state_database.write() as connection:
                failures.put(connection, [_failure(failed, refused)])
        with self.queue_database.write() as connection:
            if delivered:
                queue.settle(connection, [event.id for event in delivered])
                queue.count(connection, {("delivered", ""): len(delivered)})
            if failed is not None:
                queue.settle(connection, [failed.id])
                queue.count(connection, {("failed", ""): 1})
            if postponed:
                due_at = _now() + int(wait * 1000)
                # Only what is still due: halves of a batch may be delivered already.
                queue.postpone(connection, [event.id for event in postponed], due_at)


def _failure(event: DueEvent, refused: Refused) -> dict[str, object]:
    return {
        "ref": failures.meter_ref(event.message_id, event.key),
        "kind": failures.METER,
        "customer_id": orjson.loads(event.record).get("customerId"),
        "message_id": event.message_id,
        "reason": str(refused),
        "status": refused.status,
        "request": event.record.decode(),
        "body": refused.body,
        "attempts": event.attempts + 1,
        "failed_at": _now(),
        "via": event.key or None,
    }


def _now() -> int:
    """Epoch milliseconds."""
    return time.time_ns() // 1_000_000
