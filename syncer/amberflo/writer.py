"""Writes a customer: read, merge, write. PUT replaces the record (docs/facts/amberflo.md §1.4).

Amberflo has no conditional write. So the record is read once more right before the write, and
merged anew if somebody else wrote it meanwhile. What others write in the instant between these two
requests is lost, and nothing shows it.

A list may have shown the record already, and one page the last look at several customers. Such
reads take the place of requests before a write, as long as they are not too old. As lists may lag,
only a read of the customer by itself says that nothing is to be written.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from syncer.amberflo.client import AmberfloClient
from syncer.amberflo.codec import Record
from syncer.amberflo.record import holds_already, without_nulls
from syncer.errors import Refused, TryAgain

#: Returns the new record of a customer, given the current one.
Merge = Callable[[Record | None], Record]

#: Statuses that may mean that PUT does not create a customer, or that POST finds it there: Amberflo
#: documents none.
UNKNOWN = frozenset({400, 404, 409, 410, 422})
#: How often a record is merged anew because others write it.
TRIES = 5
#: Tries to find out whether POST refuses a customer that is there.
POST_TRIES = 10
#: Seconds after which a record that a list showed is read again, and after which the last look
#: before a write is.
OLDEST, LAST_LOOK = 60.0, 5.0


class Listed(NamedTuple):
    """What a list showed of a customer that was asked for at `at` (seconds, monotonic).

    The record is None if the whole list does not have the customer.
    """

    record: Record | None
    at: float

    def fresh(self, oldest: float = OLDEST) -> bool:
        """Return whether it is not older than this."""
        return time.monotonic() - self.at <= oldest


async def write(
    client: AmberfloClient,
    customer_id: str,
    merge: Merge,
    *,
    create: bool = True,
    always: bool = True,
    listed: Iterable[Listed] = (),
) -> bool:
    """Write what `merge` makes of the customer; return whether it was written.

    Without `create` a customer that is missing stays missing. Without `always` a customer is not
    written if Amberflo has this record already, as it may store values. `listed` are reads of it,
    in their order, that lists made; with two of them the rate limiter has admitted the write. Raise
    what Amberflo answered.
    """
    right = _never if always else partial(_is_right, merge)
    reads = _Reads(client, customer_id, listed)
    if create and reads.unlisted and await _make_unlisted(client, merge(None)):
        return True
    current = await reads.first(right)
    for _ in range(TRIES):
        if current is None:
            if create:
                await _make(client, merge(None))
            return create
        if right(current):
            return False
        before, current = current, await reads.last(current)
        if current is None or current != before:
            continue
        try:
            await client.put_customer(merge(current), paced=True)
            return True
        except Refused:
            current = await client.get_customer(customer_id)
            if current != before:  # others wrote it, such as a lifecycle stage that moved on
                continue
            if merge(before) == (cleaned := without_nulls(merge(before))):
                raise
        await client.put_customer(cleaned)
        return True
    raise TryAgain(f"others write the customer {customer_id!r} all the time")


def _never(record: Record) -> bool:
    return False


def _is_right(merge: Merge, record: Record) -> bool:
    return holds_already(record, merge(record))


class _Reads:
    """The reads of a customer: those that lists made, then requests of its own."""

    def __init__(self, client: AmberfloClient, customer_id: str, listed: Iterable[Listed]) -> None:
        self._client, self._customer_id = client, customer_id
        self._listed = deque(listed)
        self.unlisted = bool(self._listed) and self._listed[0].record is None

    async def first(self, right: Callable[[Record], bool]) -> Record | None:
        """Return the record, at most OLDEST seconds old; one of a list only if it is not right."""
        record = self._of_lists(OLDEST)
        if record is not None and not right(record):
            return record
        self._listed.clear()  # this read is newer
        return await self._client.get_customer(self._customer_id)

    async def last(self, before: Record) -> Record | None:
        """Return the record as it is right before a write; one of a list only if it is as before.

        Where a list lags, another one may show what is older still.
        """
        if (record := self._of_lists(LAST_LOOK)) == before:
            return record
        return await self._client.get_customer(self._customer_id, requests=2)

    def _of_lists(self, oldest: float) -> Record | None:
        while self._listed:
            listed = self._listed.popleft()
            if listed.record is not None and listed.fresh(oldest):
                return listed.record
        return None


async def _make(client: AmberfloClient, record: Record) -> None:
    try:
        await client.put_customer(record)
    except Refused as refused:
        # Amberflo says that PUT upserts; its SDKs POST a new one (docs/facts/amberflo.md §1.3).
        if refused.status not in UNKNOWN:
            raise
        await client.post_customer(record)


async def _make_unlisted(client: AmberfloClient, record: Record) -> bool:
    """Make a customer that no list shows, without a read; return whether it was made.

    It may be there all the same: deleted, or made meanwhile. POST refuses one that is there
    (docs/facts/amberflo.md §1.1). Whether this Amberflo does is tried: one that is missing is made,
    and made again. Unless that is refused, each customer is read first.
    """
    if client.post_refuses_existing is None:
        async with client.trying_post:
            if client.post_refuses_existing is None:
                return await _try_post(client, record)
    return bool(client.post_refuses_existing) and await _posted(client, record)


async def _try_post(client: AmberfloClient, record: Record) -> bool:
    client.post_tries += 1
    if client.post_tries > POST_TRIES:
        client.post_refuses_existing = False
        return False
    if await client.get_customer(record["customerId"]) is not None:
        return False
    if not await _posted(client, record):
        return False
    with suppress(TryAgain):
        client.post_refuses_existing = not await _posted(client, record)
    return True


async def _posted(client: AmberfloClient, record: Record) -> bool:
    """Return whether POST made the customer; where it may not, a PUT shows what is wrong."""
    try:
        await client.post_customer(record)
    except Refused:
        return False
    return True
