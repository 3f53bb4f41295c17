"""The supply of a delivery: which due customers come next, by lanes or beside Amberflo's pages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from syncer.amberflo.reader import CustomerReader
from syncer.amberflo.writer import Listed
from syncer.clock import now_ms
from syncer.delivery.claims import Claimed, Claims
from syncer.delivery.estimate import worth_pages
from syncer.delivery.page_walk import PageWalk

#: Seconds between two looks whether so many became due that pages are worth reading.
CONSIDER_EVERY = 5.0


@dataclass
class Supply:
    """Claims customers; those of runs page by page where many are due (page_walk.py).

    What calls made due is claimed by lanes meanwhile, so that it waits for nobody. `arrived` is
    called when a page has come. Close it when done.
    """

    claims: Claims
    reader: CustomerReader
    arrived: Callable[[], None]

    def __post_init__(self) -> None:
        self._walk: PageWalk | None = None
        # When the newest walk began (epoch ms), and when one was considered (monotonic).
        self._walked_at, self._considered = 0, float("-inf")

    async def page(self) -> list[Claimed] | None:
        """Claim the customers of a page that has come, with what it shows of them.

        None: no page has come; one is asked for if there are more. Raise `KeyRefused` if Amberflo
        refuses the key, `AmberfloError` if the account changed.
        """
        await self._consider_walk()
        return None if self._walk is None else await self._walk.take()

    async def lanes(self, limit: int, *, page_at_hand: bool) -> list[Claimed]:
        """Claim the next customers by lanes, at most `limit`.

        Of runs it claims who is tried again, and all where no page comes. With `page_at_hand` it
        may be long until the next one. Raise `AmberfloError` if the account changed.
        """
        walk = self._walk
        walking = walk is not None and not walk.over
        of_runs = not walking or (not page_at_hand and walk is not None and walk.late)
        since = None if of_runs else self._walked_at
        claimed = await asyncio.to_thread(self.claims.next, limit, since)
        return [_unlisted(it) for it in claimed] if walk and walk.complete else claimed

    async def close(self) -> None:
        """Read no more."""
        if self._walk is not None:
            await self._walk.close()

    async def _consider_walk(self) -> None:
        """Begin a page walk if it is worth it for what became due since the last one."""
        now = time.monotonic()
        walking = self._walk is not None and not self._walk.over
        if walking or now - self._considered < CONSIDER_EVERY:
            return
        self._considered, began = now, now_ms()
        due = await asyncio.to_thread(self.claims.untried, self._walked_at)
        if worth_pages(due, None):
            self._walk = PageWalk(self.claims, self.reader, due, self.arrived)
            self._walked_at = began


def _unlisted(claimed: Claimed) -> Claimed:
    """Return a customer that no page showed; one that was sent before may be there, deleted."""
    row = claimed.row
    if row.acked_rev or row.attempts or row.put_off:
        return claimed
    return claimed._replace(listed=(Listed(None, time.monotonic()),))
