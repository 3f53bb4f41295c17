"""The writes of customers that stand near each other in Amberflo's pages.

Before a write the record is looked at once more (amberflo/writer.py). One small page shows it for
several customers: it is read, and they are written at once. So the instant in which a write of
others is lost is as short as after a look at one customer. A record that changed since the first
look, or that the page does not show any more, is read by itself.

Whether pages show records whole and without delay is found out with the first customer of each
shape, that is with the same fields: it is compared with a read by itself, written, and looked for
on its page. So no page that leaves something out makes a write that wipes it. As pages may begin to
lag, a shape is tried anew after TRUST seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf

from syncer.amberflo.client import AmberfloClient
from syncer.amberflo.codec import Record, written
from syncer.amberflo.listing import present
from syncer.amberflo.record import holds_already
from syncer.amberflo.writer import Listed
from syncer.delivery.claims import Claimed
from syncer.delivery.estimate import MOST, SMALL
from syncer.errors import KeyRefused, Refused, TryAgain

#: Of a limited rate, as many customers are written after one look as it allows in so many seconds:
#: with the look a second's requests, which a server that counts by the second takes at once.
BURST_SECONDS = 0.9
#: Customers whose records may differ between a page and a read before pages count as not whole:
#: others write meanwhile.
DOUBTS = 3
#: Seconds for which pages are believed after one customer showed that they are whole.
TRUST = 60.0
#: What a page may answer instead of customers.
_NO_PAGE = (TryAgain, Refused, KeyRefused)


@dataclass
class PageWrites:
    """`merge` returns what a claimed customer's record becomes; `stops` ends what goes before."""

    client: AmberfloClient
    merge: Callable[[Claimed, Record | None], Record]
    stops: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        #: until when pages count as showing records of a shape whole and at once (monotonic), and
        #: of which shapes they do not
        self._trusted, self._half = dict[frozenset[str], float](), set[frozenset[str]]()
        self._doubts = Counter[frozenset[str]]()
        self._finding_out = asyncio.Lock()
        # Two at a time: one page is read while the customers of another are written.
        self._turn = asyncio.Semaphore(2)

    def groups(self, claimed: Iterable[Claimed]) -> list[list[Claimed]]:
        """Part customers into groups that one small page shows.

        One without neighbours is alone, and one of a shape of which no page is believed.
        """
        pages, alone = defaultdict[int, list[Claimed]](list), list[list[Claimed]]()
        for customer in claimed:
            if customer.place is None or _shape(customer) in self._half:
                alone.append([customer])
            else:
                pages[customer.place // SMALL].append(customer)
        most = self._most()
        return alone + [
            page[start : start + most]
            for page in pages.values()
            for start in range(0, len(page), most)
        ]

    def _most(self) -> int:
        pace = self.client.pace
        return max(2, min(MOST, int(pace.rate * BURST_SECONDS))) if pace.rate else MOST

    async def write(
        self, group: Sequence[Claimed], write: Callable[[Claimed], Awaitable[bool]]
    ) -> None:
        """Have the customers of a group written; `write` writes one, and returns whether it did."""
        if len(group) > 1:
            group = await self._find_out(group, write)
        together = [claimed for claimed in group if len(group) > 1 and self._shows(_shape(claimed))]
        for customer in group:
            if customer not in together:
                await write(customer)
        if together:
            async with self._turn:
                looked_at = together if self.stops() else await self._look(together)
                await asyncio.gather(*map(write, looked_at))

    async def _find_out(
        self, group: Sequence[Claimed], write: Callable[[Claimed], Awaitable[bool]]
    ) -> Sequence[Claimed]:
        """Write a customer of each new shape by itself; return the others."""
        while new := [claimed for claimed in group if self._in_doubt(_shape(claimed))]:
            async with self._finding_out:
                if self.stops():
                    return group
                if self._in_doubt(_shape(new[0])):
                    largest = max(
                        (claimed for claimed in new if _shape(claimed) == _shape(new[0])),
                        key=lambda claimed: len(written(claimed.listed[0].record)),
                    )
                    await self._try(largest, write)
                    group = [claimed for claimed in group if claimed is not largest]
        return group

    async def _try(self, customer: Claimed, write: Callable[[Claimed], Awaitable[bool]]) -> None:
        """Write a customer by itself, and see whether its page shows it before and after."""
        listed, at = customer.listed[0].record, time.monotonic()
        alone, page = None, dict[str, Record]()
        with suppress(*_NO_PAGE):
            alone = await self.client.get_customer(customer.row.customer_id, requests=2)
        seen = (*customer.listed, Listed(alone, at)) if alone else ()
        if not await write(customer._replace(listed=seen)):
            return
        with suppress(*_NO_PAGE):
            page = await self._page(customer)
        record = page.get(customer.row.customer_id)
        at_once = record is not None and holds_already(record, self.merge(customer, alone))
        if alone == listed and at_once:
            self._trusted[_shape(customer)] = time.monotonic() + TRUST
            self._doubts.pop(_shape(customer), None)
            return
        self._doubts[_shape(customer)] += 1
        if self._doubts[_shape(customer)] >= DOUBTS:
            self._half.add(_shape(customer))

    def _in_doubt(self, shape: frozenset[str]) -> bool:
        """Return whether it is to be found out if pages show records of a shape whole."""
        return shape not in self._half and time.monotonic() > self._trusted.get(shape, -inf)

    def _shows(self, shape: frozenset[str]) -> bool:
        return shape not in self._half and shape in self._trusted

    async def _look(self, group: Sequence[Claimed]) -> list[Claimed]:
        """Look at the customers of a group right before they are written."""
        try:
            if not all(claimed.listed[0].fresh() for claimed in group):
                began = time.monotonic()
                group = _seen(group, await self._page(group[0]), began, anew=True)
            began = time.monotonic()
            return _seen(group, await self._page(group[0], 1 + len(group)), began)
        except _NO_PAGE:
            return list(group)

    async def _page(self, customer: Claimed, requests: int = 1) -> dict[str, Record]:
        assert customer.place is not None
        number = customer.place // SMALL + 1
        return present(await self.client.page_of_customers(number, SMALL, requests=requests))


def _shape(customer: Claimed) -> frozenset[str]:
    """Return the names of the fields that a page showed of a customer."""
    return frozenset(customer.listed[0].record or ()) if customer.listed else frozenset()


def _seen(
    group: Sequence[Claimed], records: Mapping[str, Record], at: float, *, anew: bool = False
) -> list[Claimed]:
    """Return customers with one look more, that at their records of a page; `anew` with it alone.

    One that the page does not show whole gets none.
    """
    seen = []
    for claimed in group:
        record = records.get(claimed.row.customer_id)
        looks = () if anew else claimed.listed
        if record is not None and isinstance(record.get("traits"), dict):
            looks = (*looks, Listed(record, at))
        seen.append(claimed._replace(listed=looks))
    return seen
