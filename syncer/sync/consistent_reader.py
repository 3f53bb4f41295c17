"""Reads what Amberflo holds while runs and deliveries may go on.

Amberflo is read the quickest way that shows traits: by pages, else as one list of all, else a
customer at a time. Pages move while customers are created and deleted, and lists may lag. So a
listing is a first look only. A customer that seems wrong by it is read once more by itself, with
the state before and after, and counts only if nothing was on its way to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, TypeVar

from state import snapshot
from state.db.database import Database
from state.snapshot import CustomerRow
from syncer.amberflo.codec import Record
from syncer.amberflo.listing import NO_TRAITS, TraitsShown
from syncer.amberflo.reader import CustomerReader
from syncer.errors import AmberfloError, Refused, Stopped, TryAgain
from syncer.progress import Progress

Item = TypeVar("Item")

#: Times that a customer is read again because a run or a delivery changed it meanwhile.
TRIES = 5


class ListingResult(Enum):
    """What a listing showed: all customers with their traits, without them, or no customers."""

    WITH_TRAITS = "with traits"
    WITHOUT_TRAITS = "without traits"
    NOBODY = "nobody"


class SingleRead(NamedTuple):
    """A customer that was read by itself: its row of the state, and its record at Amberflo.

    The row was the same before and after the read; it is None if the customer was erased meanwhile.
    The record is None if Amberflo does not have the customer. Unless `settled`, something is on its
    way to the customer, and the record says nothing.
    """

    row: CustomerRow | None
    record: Record | None = None
    settled: bool = False


@dataclass
class ConsistentReader:
    """Reads through `customers` beside a state database.

    `at_a_time` customers are read by themselves at a time.
    """

    database: Database
    customers: CustomerReader
    progress: Progress
    at_a_time: int = 16
    stop: Callable[[], bool] = lambda: False

    async def read_all(
        self, look: Callable[[list[Record]], int], total: int, *, must: bool = False
    ) -> ListingResult:
        """Hand all that Amberflo lists to `look`, a batch at a time; some customers may come twice.

        `look` returns how many customers of the batch lack traits that they should have. `total` is
        about how many customers there are. With `must`, it raises `AmberfloError` where nobody is
        listed: whether there are lists at all or a proxy refuses everything looks the same.
        """
        ways = (
            ("paging", self.customers.pages, "its list of all customers"),
            ("list", self.customers.everybody, "every customer by itself"),
        )
        bare, reason = [], None
        for name, way, instead in ways:
            reason = await self._read(way(), look, total)
            if reason is None:
                return ListingResult.WITH_TRAITS
            self.progress.say(f"Amberflo's {name} is of no use ({reason}): reading {instead}")
            if reason is NO_TRAITS:
                bare.append(way)
        if bare and await self._read(bare[0](), look, total, whole=True) is None:
            return ListingResult.WITHOUT_TRAITS
        if must:
            raise AmberfloError(f"Amberflo lists no customers: {reason}")
        self.progress.say("Amberflo lists no customers: what it has besides ours is not known")
        return ListingResult.NOBODY

    async def _read(
        self,
        listing: AsyncGenerator[list[Record]],
        look: Callable[[list[Record]], int],
        total: int,
        *,
        whole: bool = False,
    ) -> str | None:
        """Look at all customers of a listing; return why it cannot be used, if it cannot.

        It cannot be read, or it leaves traits out, unless it is wanted `whole` all the same.
        """
        shown, done = TraitsShown(some=whole), 0
        self.progress.begin("reading", total)
        try:
            async with aclosing(listing) as batches:
                async for batch in batches:
                    self.check_stop()
                    shown.look(batch, look(batch))
                    if shown.none:
                        return NO_TRAITS
                    done += len(batch)
                    self.progress.at(min(done, total))
            if shown.none_at_the_end:
                return NO_TRAITS
        except (Refused, TryAgain) as problem:
            return str(problem)
        finally:
            self.progress.end()
        return None

    async def read_one(self, row: CustomerRow) -> SingleRead:
        """Read one customer while nothing of it changes or is on its way."""
        for _ in range(TRIES):
            if row.due_at is not None:
                break
            record = await self.customers.one(row.customer_id)
            now = self.state_row(row.customer_id)
            if now == row:
                return SingleRead(row, record, settled=True)
            if now is None:
                return SingleRead(None)
            row = now
        return SingleRead(row)

    def state_row(self, customer_id: str) -> CustomerRow | None:
        """Return the customer's row of the state."""
        with self.database.read() as connection:
            return next(iter(snapshot.find(connection, [customer_id])), None)

    async def for_each(
        self, items: Iterator[Item], work: Callable[[Item], Awaitable[None]]
    ) -> None:
        """Do the work for each item, some at a time; the first error ends all."""

        async def take_the_next() -> None:
            for item in items:
                await work(item)

        tasks = [asyncio.create_task(take_the_next()) for _ in range(self.at_a_time)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def check_stop(self) -> None:
        if self.stop():
            raise Stopped("stopped before everything was read")
