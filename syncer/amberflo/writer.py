"""Writes a customer: read, merge, write. PUT replaces the record (docs/facts/amberflo.md §1.4).

Amberflo has no conditional write. So the record is read once more right before the write, and
merged anew if somebody else wrote it meanwhile. What others write in the instant between these two
requests is lost, and nothing shows it.
"""

from __future__ import annotations

from collections.abc import Callable

from syncer.amberflo.client import AmberfloClient
from syncer.amberflo.codec import Record
from syncer.amberflo.record import holds_already, without_nulls
from syncer.errors import Refused, TryAgain

#: Returns the new record of a customer, given the current one.
Merge = Callable[[Record | None], Record]

#: Statuses that may mean that PUT does not create a customer: Amberflo documents none.
UNKNOWN = frozenset({400, 404, 409, 410, 422})
#: How often a record is merged anew because others write it.
TRIES = 5


async def write(
    client: AmberfloClient,
    customer_id: str,
    merge: Merge,
    *,
    create: bool = True,
    always: bool = True,
) -> bool:
    """Write what `merge` makes of the customer; return whether it was written.

    Without `create` a customer that is missing stays missing. Without `always` a customer is not
    written if Amberflo has this record already, as it may store values. Raise what Amberflo
    answered.
    """
    current = await client.get_customer(customer_id)
    for _ in range(TRIES):
        if current is None:
            if create:
                await _make(client, merge(None))
            return create
        if not always and holds_already(current, merge(current)):
            return False
        before, current = current, await client.get_customer(customer_id, requests=2)
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


async def _make(client: AmberfloClient, record: Record) -> None:
    try:
        await client.put_customer(record)
    except Refused as refused:
        # Amberflo says that PUT upserts; its SDKs POST a new one (docs/facts/amberflo.md §1.3).
        if refused.status not in UNKNOWN:
            raise
        await client.post_customer(record)
