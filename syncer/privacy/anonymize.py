"""The last write of a customer before its erasure: nothing personal stays at Amberflo.

The name becomes the id. The email, and what identify calls said, are removed. The customer itself,
its memberships and what others put there stay: usage is billed to them, and a customer that is
deleted at Amberflo cannot come back. Memberships that are still due go with this write: nothing
sends them afterwards.
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
    """Send the last write, `row` (see `to_put`), and return whether Amberflo knows the customer.

    What is `protected` stays. Raises Amberflo's answer if it does not take the write for `patience`
    seconds, or refuses it. The caller has claimed the customer.
    """

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
