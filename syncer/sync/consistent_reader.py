"""Looking at what Amberflo holds, beside a run and deliveries that may go on meanwhile.

Amberflo is read the quickest way that shows traits: by pages, else as one list of all, else a
customer at a time. Pages move while customers are made and deleted, and lists may lag. So a listing
is a first look; who seems wrong by it is read once more alone, with the state before and after, and
counts only when nothing was on its way to it.
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
from syncer.amberflo.reader import CustomerReader
from syncer.errors import Refused, Stopped, TryAgain
from syncer.progress import Progress

Item = TypeVar("Item")

NO_TRAITS = "customers come without their traits"
#: So many listed without a trait that should have some, and none with: the listing leaves them out.
ENOUGH = 10
#: Times that a customer is read anew because a run or a delivery changed it meanwhile.
TRIES = 5


class ListingResult(Enum):
    """What a listing showed: all customers with their traits, without them, or nobody."""

    WITH_TRAITS = "with traits"
    WITHOUT_TRAITS = "without traits"
    NOBODY = "nobody"


class SingleRead(NamedTuple):
    """A customer read by itself: its row of the state, the same before and after, and its record
    (None: it is not there). Without a row it was erased meanwhile; without `settled` something is
    on its way to it, and the record says nothing."""

    row: CustomerRow | None
    record: Record | None = None
    settled: bool = False


@dataclass
class ConsistentReader:
    """Looks through `holdings` with a state database beside; `at_a_time` customers are read by
    themselves at a time."""

    database: Database
    holdings: CustomerReader
    progress: Progress
    at_a_time: int = 16
    stop: Callable[[], bool] = lambda: False

    async def read_all(self, look: Callable[[list[Record]], int], total: int) -> ListingResult:
        """Hand all that Amberflo lists to `look`, a batch at a time, some perhaps twice; it gives
        how many of these came without a trait though they should have some. `total` is about how
        many there are."""
        ways = (
            ("paging", self.holdings.pages, "its list of all customers"),
            ("list", self.holdings.everybody, "every customer by itself"),
        )
        bare = []
        for name, way, instead in ways:
            reason = await self._read(way(), look, total)
            if reason is None:
                return ListingResult.WITH_TRAITS
            self.progress.say(f"Amberflo's {name} is of no use ({reason}): reading {instead}")
            if reason is NO_TRAITS:
                bare.append(way)
        if bare and await self._read(bare[0](), look, total, whole=True) is None:
            return ListingResult.WITHOUT_TRAITS
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
        """Look at everybody in a listing. Gives why it cannot be used, if so: it is not to be had
        or, unless it is wanted `whole` all the same, it leaves traits out."""
        bare = done = 0
        self.progress.begin("reading", total)
        try:
            async with aclosing(listing) as batches:
                async for batch in batches:
                    self.check_stop()
                    bare += look(batch)
                    whole = whole or any("traits" in record for record in batch)
                    if bare >= ENOUGH and not whole:
                        return NO_TRAITS
                    done += len(batch)
                    self.progress.at(min(done, total))
            if bare and not whole:
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
            record = await self.holdings.one(row.customer_id)
            now = self.state_row(row.customer_id)
            if now == row:
                return SingleRead(row, record, settled=True)
            if now is None:
                return SingleRead(None)
            row = now
        return SingleRead(row)

    def state_row(self, customer_id: str) -> CustomerRow | None:
        """The customer in the state."""
        with self.database.read() as connection:
            return next(iter(snapshot.find(connection, [customer_id])), None)

    async def for_each(
        self, items: Iterator[Item], work: Callable[[Item], Awaitable[None]]
    ) -> None:
        """Do the work for each, some at a time; the first error ends all."""

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


def present(batch: list[Record]) -> dict[str, Record]:
    """The customers of a listing that are there, by id: Amberflo hides the deleted ones, and a
    list that does not is not believed."""
    return {
        one["customerId"]: one
        for one in batch
        if isinstance(one.get("customerId"), str) and not one.get("deleteTime")
    }
