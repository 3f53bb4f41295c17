"""The queue of a delivery: what was claimed and waits for a worker, one by one or by groups.

What is queued goes before all that comes later. So little of a page is queued at a time, and its
customers take turns with those of lanes: no call waits for a whole page.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from syncer.delivery.claims import Claimed

#: Groups of a page's customers that are queued or written at a time: more would keep the workers
#: from what calls made due.
TOGETHER = 3

Group = Sequence[Claimed]


class WorkQueue:
    """Queues customers; `groups` parts those of a page into groups that are written together."""

    def __init__(self, groups: Callable[[Iterable[Claimed]], Iterable[Group]]) -> None:
        self._groups = groups
        self._queue: asyncio.Queue[Group] = asyncio.Queue()
        #: what pages showed and is not queued
        self._of_pages = deque[Group]()
        #: how many groups are queued or written; how many customers of pages went before those of
        #: lanes
        self._together = self._ahead = 0

    def __len__(self) -> int:
        """How many customers and groups are queued."""
        return self._queue.qsize()

    @property
    def page_at_hand(self) -> bool:
        """Whether customers of a page wait to be queued."""
        return bool(self._of_pages)

    @property
    def wants_page(self) -> bool:
        return len(self._of_pages) < TOGETHER

    def add_page(self, customers: Iterable[Claimed]) -> None:
        """Have customers of a page queued when it is their turn."""
        self._of_pages.extend(self._groups(customers))

    def add(self, customer: Claimed) -> None:
        """Queue a customer."""
        self._queue.put_nowait([customer])

    def turn(self, of_lanes: Sequence[Claimed], limit: int) -> int:
        """Queue customers of lanes, then as many of pages as have their turn; return how many.

        If there are fewer than `limit` of lanes, no other waits there. Of pages about `limit` are
        queued.
        """
        for customer in of_lanes:
            self.add(customer)
        self._ahead = self._ahead - len(of_lanes) if len(of_lanes) >= limit else 0
        queued = 0
        while self._ahead <= 0 and self._of_pages and queued < limit and self._together < TOGETHER:
            for group in self._groups(self._of_pages.popleft()):
                self._queue.put_nowait(group)
                self._together += len(group) > 1
                queued += len(group)
        self._ahead += queued
        return len(of_lanes) + queued

    async def get(self) -> Group:
        """Return the next customer or group; `done` is called after it."""
        return await self._queue.get()

    def done(self, group: Group) -> None:
        self._together -= len(group) > 1

    def clear(self) -> list[Claimed]:
        """Return all that has not begun, and forget it."""
        groups = list(self._of_pages)
        self._of_pages.clear()
        while not self._queue.empty():
            groups.append(self._queue.get_nowait())
        return [customer for group in groups for customer in group]
