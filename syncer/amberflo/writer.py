"""Writing a customer: read, merge, write, as PUT replaces the whole record (docs/facts/amberflo.md
§1.4).

Amberflo has no conditional write. So a record is read once more right before it is written, and is
merged anew where somebody else wrote it meanwhile; what they write in the instant between the two
requests is lost, and nothing shows it.
"""

from __future__ import annotations

from collections.abc import Callable

from syncer.amberflo.client import AmberfloClient
from syncer.amberflo.codec import Record
from syncer.amberflo.record import holds_already, without_nulls
from syncer.errors import Refused, TryAgain

#: What a record is to be, given the one that is there.
Merge = Callable[[Record | None], Record]

#: Statuses of a PUT that may say that it makes no customer: which one Amberflo has is open.
UNKNOWN = frozenset({400, 404, 409, 410, 422})
#: Times that a record is merged anew because others write it.
TRIES = 5


async def write(
    client: AmberfloClient,
    customer_id: str,
    merge: Merge,
    *,
    create: bool = True,
    always: bool = True,
) -> bool:
    """Write what `merge` makes of the customer; gives whether it was written. It is not where it
    is not there and not to be made (`create`), nor, unless `always`, where Amberflo holds it so
    already, as it may store values. Raises what Amberflo answered."""
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
            if current != before:  # such as a stage that moved on: Amberflo takes no older one
                continue
            if merge(before) == (bare := without_nulls(merge(before))):
                raise
        await client.put_customer(bare)
        return True
    raise TryAgain(f"the customer {customer_id!r} is written by others all the time")


async def _make(client: AmberfloClient, record: Record) -> None:
    try:
        await client.put_customer(record)
    except Refused as refused:
        # Amberflo says PUT upserts, its SDKs POST what is new (docs/facts/amberflo.md §1.3).
        if refused.status not in UNKNOWN:
            raise
        await client.post_customer(record)
