"""A process's share of the configured rate, which all processes that call Amberflo divide."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from state.db import workers
from state.db.database import Database
from state.errors import Busy
from syncer.delivery.outlook import put_rate
from syncer.rate_limit import RateLimiter

#: Seconds between two looks at who else calls Amberflo.
LOOK = 1.0


@dataclass
class Share:
    """Divides a rate among the living workers; a process takes part by registering (workers.py).

    While answers slow the rate down, it is on record for those who estimate (outlook.py).
    """

    database: Database
    pace: RateLimiter
    _on_record: bool = False

    async def begin(self) -> None:
        """Take this worker's share; if others are alive, wait until they know of this worker."""
        if self.pace.limited:
            living = await asyncio.to_thread(self.look)
            if living > 1:
                await asyncio.sleep(1.5 * LOOK)

    def look(self) -> int:
        """Take the share that is this worker's now; return how many workers are alive."""
        slowed = self.pace.slowed
        living = workers.count_alive(self.database) if self.pace.limited or slowed else 1
        self.pace.divide(living)
        if slowed or self._on_record:
            with suppress(Busy), self.database.write(beside=True) as connection:
                put_rate(connection, self.pace.rate * living if slowed else None)
                self._on_record = slowed
        return living

    async def keep(self) -> None:
        """Keep the share right until cancelled."""
        while self.pace.limited:
            await asyncio.sleep(LOOK)
            await asyncio.to_thread(self.look)
