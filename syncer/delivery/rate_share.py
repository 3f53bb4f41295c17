"""A process's share of the configured rate, which all processes that call Amberflo divide."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from state.db import workers
from state.db.database import Database
from syncer.rate_limit import RateLimiter

#: Seconds between two looks at who else calls Amberflo.
LOOK = 1.0


@dataclass(frozen=True)
class Share:
    """Divides a rate among the living workers; a process takes part by registering (workers.py)."""

    database: Database
    pace: RateLimiter

    async def begin(self) -> None:
        """Take this worker's share; if others are alive, wait until they know of this worker."""
        if self.pace.limited:
            living = await asyncio.to_thread(self.look)
            if living > 1:
                await asyncio.sleep(1.5 * LOOK)

    def look(self) -> int:
        """Take the share that is this worker's now; return how many workers are alive."""
        if not self.pace.limited:
            return 1
        living = workers.count_alive(self.database)
        self.pace.divide(living)
        return living

    async def keep(self) -> None:
        """Keep the share right until cancelled."""
        while self.pace.limited:
            await asyncio.sleep(LOOK)
            await asyncio.to_thread(self.look)
