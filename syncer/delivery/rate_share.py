"""A process's share of the configured rate: all that speak to Amberflo at the same time have it
together."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from state.db import workers
from state.db.database import Database
from syncer.amberflo.rate_limit import RateLimiter

#: Seconds between two looks at who else speaks to Amberflo.
LOOK = 1.0


@dataclass(frozen=True)
class Share:
    """Divides a pace among the living workers; who takes part has joined them (workers.py)."""

    database: Database
    pace: RateLimiter

    async def begin(self) -> None:
        """Take our part of it; who comes anew waits until the others know."""
        if self.pace.limited:
            living = await asyncio.to_thread(self.look)
            if living > 1:
                await asyncio.sleep(1.5 * LOOK)

    def look(self) -> int:
        """Look who lives, and take the part that is ours then; gives how many live."""
        if not self.pace.limited:
            return 1
        living = workers.living(self.database)
        self.pace.divide(living)
        return living

    async def keep(self) -> None:
        """Look again and again, until cancelled."""
        while self.pace.limited:
            await asyncio.sleep(LOOK)
            await asyncio.to_thread(self.look)
