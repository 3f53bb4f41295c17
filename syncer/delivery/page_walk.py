"""The page walk: a delivery takes its customers in the order of Amberflo's pages.

A page shows many customers in one request. Who has there what it should have needs no request of
its own; who differs is written (page_writes.py); and who is on no page, once all were read, is
probably missing. Where Amberflo has no pages, its list of all customers serves, which arrives as a
stream; where neither shows traits, customers are read one by one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from syncer.amberflo.listing import TraitsShown, present
from syncer.amberflo.reader import CustomerReader, ListedPage
from syncer.amberflo.writer import Listed
from syncer.delivery.claims import Claimed, Claims
from syncer.delivery.estimate import PAGE, most_pages, worth_pages
from syncer.errors import AmberfloError, KeyRefused, Refused, Stopped, TryAgain

#: Seconds without the next page after which customers are taken without it.
LATE = 5.0


@dataclass
class PageWalk:
    """Claims, page by page, the customers of `claims` that Amberflo lists.

    `due` is how many there are, which says how many pages are worth reading. `arrived` is called
    when a page has come. Close it when done.
    """

    claims: Claims
    reader: CustomerReader
    due: int
    arrived: Callable[[], None] = lambda: None
    #: nothing more comes
    over: bool = False
    #: the whole list was read
    complete: bool = False
    _shown: TraitsShown = field(default_factory=TraitsShown)

    def __post_init__(self) -> None:
        self._pages = self._read()
        self._loading: asyncio.Task[ListedPage | None] | None = None
        self._asked = 0.0  # when the page that loads was asked for (monotonic)

    @property
    def late(self) -> bool:
        """Whether the next page does not come: it fails, or takes long."""
        loading = self._loading is not None and not self._loading.done()
        return loading and time.monotonic() - self._asked > LATE

    async def take(self) -> list[Claimed] | None:
        """Claim the customers of the page that has come; if none has, begin to load the next.

        None: no page has come. Raise `KeyRefused` if Amberflo refuses the key.
        """
        if self.over:
            return None
        if self._loading is None:
            self._asked = time.monotonic()
            self._loading = asyncio.create_task(self._next())
            self._loading.add_done_callback(lambda _: self.arrived())
        if not self._loading.done():
            return None
        loading, self._loading = self._loading, None
        try:
            page = loading.result()
        except KeyRefused:
            raise
        except (AmberfloError, Stopped):
            page = None  # each customer shows what is wrong
        if page is None:
            self.over = True
            return None
        return await asyncio.to_thread(self._claim, page)

    async def close(self) -> None:
        """Read no more."""
        self.over = True
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        await self._pages.aclose()

    async def _next(self) -> ListedPage | None:
        return await anext(self._pages, None)

    async def _read(self) -> AsyncGenerator[ListedPage]:
        """Yield pages as long as they are worth it, in the first way that shows traits."""
        at_amberflo = await self._count()
        if not worth_pages(self.due, at_amberflo):
            return
        remaining = most_pages(self.due)
        # A server that shows the same pages again and again shows more than there are.
        records = None if at_amberflo is None else 2 * at_amberflo + PAGE
        for way in (self.reader.walk, self._streamed):
            self._shown = TraitsShown()
            try:
                async with aclosing(way()) as pages:
                    async for page in pages:
                        if remaining <= 0:
                            return
                        remaining -= 1
                        if records is not None:
                            records -= len(page.records)
                            remaining = 0 if records < 0 else remaining
                        yield page
                        if self._shown.none:
                            break
                    else:
                        self.complete = not self._shown.none_at_the_end
                        return
            except (Refused, TryAgain):
                continue

    async def _count(self) -> int | None:
        try:
            return await self.reader.client.count_customers()
        except (Refused, TryAgain):
            return None

    async def _streamed(self) -> AsyncGenerator[ListedPage]:
        """Yield the list of all customers as pages without a number: nobody can read one again."""
        async with aclosing(self.reader.everybody()) as batches:
            async for batch in batches:
                yield ListedPage(batch, 0, len(batch), time.monotonic())

    def _claim(self, page: ListedPage) -> list[Claimed]:
        """Claim the customers of a page that are due, with their records."""
        records = present(page.records)
        places = _places(page)
        claimed, bare = [], 0
        for customer in self.claims.named(records.keys()):
            record = records[customer.row.customer_id]
            place = places[customer.row.customer_id]
            if isinstance(record.get("traits"), dict) and place is not None:
                customer = customer._replace(
                    listed=(Listed(record, page.read_at),), place=place if page.number else None
                )
            bare += "traits" not in record
            claimed.append(customer)
        self._shown.look(page.records, bare)
        return claimed


def _places(page: ListedPage) -> dict[str, int | None]:
    """Return how many customers come before each of a page; None for one that it shows twice."""
    places: dict[str, int | None] = {}
    for place, record in enumerate(page.records, (page.number - 1) * page.limit):
        customer_id = record.get("customerId")
        if isinstance(customer_id, str):
            places[customer_id] = None if customer_id in places else place
    return places
