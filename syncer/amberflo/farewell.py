"""The last write of a customer that is to be erased: nothing personal is to stay at Amberflo.

Its name becomes its id; its email and what identify calls said of it go. The customer itself, its
memberships and what others put there stay: usage is billed to them, and a customer that is deleted
at Amberflo cannot come back.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Collection

from syncer.amberflo.client import AmberfloClient
from syncer.amberflo.customer import merged
from syncer.backoff import full_jitter
from syncer.errors import TryAgain


async def farewell(
    client: AmberfloClient,
    customer_id: str,
    called: Collection[str],
    patience: float,
    protected: tuple[str, ...] = (),
) -> None:
    """Returns when Amberflo has taken it, or does not know the customer; `called` are the traits of
    identify calls (those that are `protected` stay). Raises what Amberflo answered when it was not
    to be had for `patience` seconds, or refuses. The caller has claimed the customer."""
    until, attempts = time.monotonic() + patience, 0
    while True:
        try:
            current = await client.get_customer(customer_id)
            if current is None:
                return
            record = merged(
                current,
                customer_id=customer_id,
                traits={},
                name=customer_id,
                email="",
                owned=called,
                protected=protected,
            )
            await client.put_customer(record)
            return
        except TryAgain as problem:
            attempts += 1
            wait = max(full_jitter(attempts, random.random()), problem.after or 0.0)
            if time.monotonic() + wait > until:
                raise
            await asyncio.sleep(wait)
