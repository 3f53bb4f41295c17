"""The last write of a customer that is to be erased: nothing personal is to stay at Amberflo.

Its name becomes its id; its email and what identify calls said of it go. The customer itself, its
memberships and what others put there stay: usage is billed to them, and a customer that is deleted
at Amberflo cannot come back. What is still due of the memberships goes with it: nobody sends that
afterwards.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Collection

from syncer import retry
from syncer.amberflo.client import AmberfloClient
from syncer.amberflo.codec import Record
from syncer.amberflo.writer import write
from syncer.delivery.desired import Desired, to_put
from syncer.errors import TryAgain


async def anonymize(
    client: AmberfloClient,
    row: Desired,
    owned: Collection[str],
    patience: float,
    *,
    as_strings: bool = False,
    protected: tuple[str, ...] = (),
) -> bool:
    """Returns when Amberflo has taken the last write, `row` (see `to_put`; what is `protected`
    stays); False where it does not know the customer. Raises what Amberflo answered when it was not
    to be had for `patience` seconds, or refuses. The caller has claimed the customer."""

    def merge(current: Record | None) -> Record:
        return to_put(current, row, owned, as_strings=as_strings, protected=protected)

    until, attempts = time.monotonic() + patience, 0
    while True:
        try:
            return await write(client, row.customer_id, merge, create=False)
        except TryAgain as problem:
            attempts += 1
            wait = retry.wait(attempts, random.random(), problem.after)
            if time.monotonic() + wait > until:
                raise
            await asyncio.sleep(wait)
