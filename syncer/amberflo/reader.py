"""Reads Amberflo's customers: all of them, or one by its id.

A request that fails is repeated, as in a delivery. Nothing is written.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from syncer import retry
from syncer.amberflo.client import AmberfloClient
from syncer.amberflo.codec import Record, written
from syncer.amberflo.json_stream import ArrayReader
from syncer.amberflo.silence import Silence, TellTrouble, ignore
from syncer.errors import AmberfloError, Refused, Stopped, TryAgain
from syncer.pause import sleep

Answer = TypeVar("Answer")

#: Customers of a page: the first number that Amberflo accepts. It documents 10 as the default and
#: no bound (docs/facts/amberflo.md §1.1).
LIMITS = (1000, 100, 10)
#: Expected bytes of JSON of a page at most. Two pages are in memory as objects, which take ten
#: times as much.
PAGE_BYTES = 1 << 20
#: Records of one batch of the list of all customers.
BATCH = 1000
#: Failures after which a request is given up if others succeeded meanwhile.
GIVEN_UP = 6
#: Tries of the list of all customers, which may be too large to arrive at all.
TRIES = 3
#: Seconds between two looks for trouble.
LOOK = 1.0


class ListedPage(NamedTuple):
    """A page of customers: its number (from 1) and size, and when it was asked for (monotonic)."""

    records: list[Record]
    number: int
    limit: int
    read_at: float


@dataclass
class CustomerReader:
    """Reads through `client`.

    Every method raises `AmberfloError` if no request succeeds for `patience` seconds, and `Stopped`
    once `stop` returns true. A request that Amberflo refuses, or that fails while others succeed,
    raises `Refused` or `TryAgain`: the reason is this request.
    """

    client: AmberfloClient
    patience: float = 300.0
    stop: Callable[[], bool] = lambda: False
    chance: Callable[[], float] = random.random
    #: gets trouble while it lasts, and None when a request succeeds; see `watch`
    trouble: TellTrouble = ignore
    #: gets the problem of each request that fails and is repeated
    failed: Callable[[TryAgain], None] = lambda problem: None
    #: when the newest request began that succeeded (seconds, monotonic)
    last_success: float = float("-inf")

    def __post_init__(self) -> None:
        self._silence = Silence(self.client, self.patience)

    async def watch(self) -> None:
        """Tell trouble while it lasts, until cancelled."""
        while True:
            await asyncio.sleep(LOOK)
            self._silence.tell(self.trouble)

    async def one(self, customer_id: str) -> Record | None:
        """Return the customer's record; None if it is missing or deleted.

        Amberflo hides deleted customers in its lists only (docs/facts/amberflo.md §1.6).
        """
        try:
            record = await self._insist(lambda: self.client.get_customer(customer_id))
        except Refused as refused:
            if self.last_success == float("-inf"):  # it concerns more than this customer
                raise AmberfloError(str(refused)) from None
            raise
        return None if record is None or record.get("deleteTime") else record

    async def newest(self, limit: int) -> list[Record]:
        """Return the customers that changed last, the newest first.

        There is one try, which raises `AmberfloError` if it fails.
        """
        return await self.client.newest_customers(limit)

    async def pages(self) -> AsyncGenerator[list[Record]]:
        """Yield all customers, page by page; the next page loads while the caller works on one.

        See `walk`.
        """
        async with aclosing(self.walk()) as walk:
            loading = asyncio.create_task(_next(walk))
            try:
                while (page := await loading) is not None:
                    loading = asyncio.create_task(_next(walk))
                    yield page.records
            finally:
                loading.cancel()
                await asyncio.gather(loading, return_exceptions=True)

    async def walk(self) -> AsyncGenerator[ListedPage]:
        """Yield all pages of customers, each when it is asked for.

        Customers that are created or deleted meanwhile move the pages, so a customer may come twice
        or not at all. Raise `Refused` if Amberflo has no pages.
        """
        page = await self._first_page()
        while page.records:
            yield page
            began = time.monotonic()
            records = await self._page(page.number + 1, page.limit)
            if _ids(records) <= _ids(page.records):  # the server repeats a page for ever
                return
            page = ListedPage(records, page.number + 1, page.limit, began)

    async def _first_page(self) -> ListedPage:
        """Return the first page, of the size that Amberflo accepts and that fits."""
        least, began = LIMITS[-1], time.monotonic()
        few = ListedPage(await self._page(1, least), 1, least, began)
        if len(few.records) < least:
            return few
        size = len(written(few.records)) / len(few.records)
        for limit in LIMITS[:-1]:
            if limit * size <= PAGE_BYTES:
                began = time.monotonic()
                with suppress(Refused):
                    return ListedPage(await self._page(1, limit), 1, limit, began)
        return few

    async def _page(self, number: int, limit: int) -> list[Record]:
        return await self._insist(lambda: self.client.page_of_customers(number, limit))

    async def everybody(self) -> AsyncGenerator[list[Record]]:
        """Yield all customers in batches, out of one array, while it arrives.

        If the array breaks off, it starts again from its beginning. Raise `Refused` or `TryAgain`
        if it does not arrive whole.
        """
        for attempt in range(1, TRIES + 1):
            self._silence.begin()
            try:
                async with aclosing(self._listed()) as batches:
                    async for batch in batches:
                        self._silence.succeeded()
                        yield batch
                return
            except TryAgain as problem:
                self._note(problem)
                if attempt == TRIES:
                    raise
                await self._wait(attempt, problem)

    def _note(self, problem: TryAgain) -> None:
        self._silence.failed(problem)
        self.failed(problem)

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
        """Return the answer, after as many tries as it needs."""
        began = time.monotonic()
        until, attempts = began + self.patience, 0
        while True:
            if self.stop():
                trouble = self._silence.trouble()
                why = "" if trouble is None else f": {trouble.past}"
                raise Stopped(f"stopped before everything was read{why}")
            self._silence.begin()
            now = time.monotonic()
            try:
                answer = await ask()
                self.last_success = max(self.last_success, now)
                self._silence.succeeded()
                return answer
            except TryAgain as problem:
                self._note(problem)
                attempts += 1
                if attempts >= GIVEN_UP and self.last_success > began:
                    raise
                if time.monotonic() > until:
                    raise AmberfloError(
                        f"Amberflo sent no usable answer for {self.patience:g} s: {problem}"
                    ) from None
                await self._wait(attempts, problem)

    async def _wait(self, attempts: int, problem: TryAgain) -> None:
        wait = retry.wait(attempts, self.chance(), problem.after)
        await sleep(min(wait, self.patience), self.stop)


async def _next(pages: AsyncGenerator[ListedPage]) -> ListedPage | None:
    return await anext(pages, None)


def _ids(records: list[Record]) -> set[str]:
    return {str(record.get("customerId")) for record in records}
