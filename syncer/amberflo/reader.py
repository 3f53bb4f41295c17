"""What Amberflo holds: all customers as it lists them, or one by its id.

A request that does not get through is made again, as a delivery would. Nothing is written.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import TypeVar

from syncer.amberflo.client import AmberfloClient
from syncer.amberflo.codec import Record, written
from syncer.amberflo.json_stream import ArrayReader
from syncer.errors import AmberfloError, Refused, Stopped, TryAgain
from syncer.retry import full_jitter

Answer = TypeVar("Answer")

#: Customers of a page, the first number that Amberflo takes: it documents 10 as the default and no
#: bound (docs/facts/amberflo.md §1.1). Where it gives fewer than asked, the pages are of that many.
LIMITS = (1000, 100, 10)
#: Bytes of JSON that a page may be expected to have. Two are in memory, read, which takes ten times
#: as much.
PAGE_BYTES = 1 << 20
#: Records that a list is handed over in.
BATCH = 1000
#: Seconds after which a pause looks whether to stop.
GLANCE = 0.2
#: Times that a request fails after which it is given up where others got through meanwhile.
GIVEN_UP = 6
#: Times that the list of all is tried: it may be too large to be had at all.
TRIES = 3


@dataclass
class CustomerReader:
    """Reads through `client`. Where nothing gets through for `patience` seconds that ends all with
    the reason, and so does `stop`. A request that Amberflo refuses, or that does not get through
    while others do, raises Refused or TryAgain: it is about what was asked for."""

    client: AmberfloClient
    patience: float = 300.0
    stop: Callable[[], bool] = lambda: False
    chance: Callable[[], float] = random.random
    #: when the newest request began that got through
    through: float = float("-inf")

    async def one(self, customer_id: str) -> Record | None:
        """The customer's record; None where it is not there, or deleted: such a one Amberflo hides
        from its lists only (docs/facts/amberflo.md §1.6)."""
        try:
            record = await self._insist(lambda: self.client.get_customer(customer_id))
        except Refused as refused:
            if self.through == float("-inf"):  # it is about nobody in particular
                raise AmberfloError(str(refused)) from None
            raise
        return None if record is None or record.get("deleteTime") else record

    async def newest(self, limit: int) -> list[Record]:
        """The customers that changed last, the newest first; asked for once. Raises AmberfloError
        where they are not to be had."""
        return await self.client.newest_customers(limit)

    async def pages(self) -> AsyncGenerator[list[Record]]:
        """All customers, page by page. Those made or deleted meanwhile move the pages, so one may
        come twice or not at all. Raises Refused where there are no pages."""
        limit, before = await self._first_page()
        number = 1
        while before:
            number += 1
            # The next page comes while this one is worked on.
            coming = asyncio.create_task(self._page(number, limit))
            try:
                yield before
                found = await coming
            finally:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
            if found == before:  # a server that gives its last page for ever
                return
            before = found

    async def _first_page(self) -> tuple[int, list[Record]]:
        """The first page, of as many customers as Amberflo takes and as have room."""
        least = LIMITS[-1]
        few = await self._page(1, least)
        if len(few) < least:
            return least, few
        size = len(written(few)) / len(few)
        for limit in LIMITS[:-1]:
            if limit * size <= PAGE_BYTES:
                with suppress(Refused):
                    return limit, await self._page(1, limit)
        return least, few

    async def _page(self, number: int, limit: int) -> list[Record]:
        return await self._insist(lambda: self.client.page_of_customers(number, limit))

    async def everybody(self) -> AsyncGenerator[list[Record]]:
        """All customers, out of one array with all of them, read as it comes; from its beginning
        again where it breaks off. Raises Refused or TryAgain where it cannot be had."""
        for attempt in range(1, TRIES + 1):
            try:
                async with aclosing(self._listed()) as batches:
                    async for batch in batches:
                        yield batch
                return
            except TryAgain as problem:
                if attempt == TRIES:
                    raise
                await self._wait(attempt, problem)

    async def _listed(self) -> AsyncGenerator[list[Record]]:
        reader = ArrayReader()
        batch: list[Record] = []
        async with aclosing(self.client.all_customers()) as pieces:
            async for piece in pieces:
                try:
                    batch += reader.feed(piece)
                except ValueError as error:
                    raise TryAgain(f"the list of all customers: {error}") from None
                if len(batch) >= BATCH:
                    yield batch
                    batch = []
        if not reader.whole:
            raise TryAgain("the list of all customers broke off")
        yield batch

    async def _insist(self, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """The answer, however often it takes to get it."""
        began = time.monotonic()
        until, attempts = began + self.patience, 0
        while True:
            if self.stop():
                raise Stopped("stopped before all was looked at")
            now = time.monotonic()
            try:
                found = await ask()
                self.through = max(self.through, now)
                return found
            except TryAgain as problem:
                attempts += 1
                if attempts >= GIVEN_UP and self.through > began:
                    raise
                if time.monotonic() > until:
                    raise AmberfloError(
                        f"Amberflo gave no answer of use for {self.patience:g} s: {problem}"
                    ) from None
                await self._wait(attempts, problem)

    async def _wait(self, attempts: int, problem: TryAgain) -> None:
        wait = max(full_jitter(attempts, self.chance()), problem.after or 0.0)
        until = time.monotonic() + min(wait, self.patience)
        while not self.stop() and (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, GLANCE))
