"""Send failures again: customers as they are now, meter records with the same bytes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from functools import partial
from itertools import chain, islice

from state import failures, queue
from state.db import workers
from state.db.database import Database
from state.db.workers import Worker
from state.failures import FailureRow
from syncer.app import App
from syncer.delivery.customers import Delivery
from syncer.delivery.meters import MeterDelivery
from syncer.sync.runs import Runs


def resend(app: App, runs: Runs, ids: Collection[int] | None, until: int) -> Delivery:
    """Send failures up to the number `until` again: those numbered, or all."""
    refused = partial(failures.refused, runs.database, ids=ids, until=until)
    customers = (str(row.customer_id) for row in refused(failures.CUSTOMER))
    delivery = Delivery()
    if (first := next(customers, None)) is not None:
        delivery = runs.send_again(chain([first], customers))
    meters = refused(failures.METER)
    while rows := list(islice(meters, failures.CHUNK)):
        taken, refused_again = _resend_meters(app, runs.database, rows)
        delivery.delivered += taken
        delivery.failed += refused_again
        if (unsettled := len(rows) - taken - refused_again) > 0:
            delivery.problem = delivery.problem or (
                f"Amberflo did not take {unsettled:,} meter records in time: they stay due, and "
                "what was not tried stays a failure"
            )
            break
    return delivery


def _resend_meters(app: App, database: Database, rows: Sequence[FailureRow]) -> tuple[int, int]:
    """Send meter records again; return how many Amberflo took, and how many it refused.

    A daemon may run at the same time.
    """
    now = time.time_ns() // 1_000_000
    records = [(row.message_id or "", row.via or "") for row in rows]
    with app.queue(writes=True) as calls:
        with calls.write() as connection:
            for row, (message_id, key) in zip(rows, records, strict=True):
                queue.send_again(connection, message_id, (row.request or "").encode(), now, key)
        with database.write() as connection:
            failures.remove(connection, [row.id for row in rows])
        workers.prune_dead(database, calls)
        with workers.register(database, "retry", calls) as worker:
            asyncio.run(_deliver_meters(app, calls, database, worker, records))
        with calls.read() as connection:
            unsettled = queue.unsettled(connection, records)
    with database.read() as connection:
        refused = failures.count(connection, [row.ref for row in rows])
    return len(rows) - refused - unsettled, refused


async def _deliver_meters(
    app: App,
    calls: Database,
    database: Database,
    worker: Worker,
    records: Collection[tuple[str, str]],
) -> None:
    """Deliver until these records (each a messageId and its key) are settled.

    It gives up after `amberflo.patience`.
    """
    until = time.monotonic() + app.config.amberflo.patience

    def done() -> bool:
        with calls.read() as connection:
            unsettled = queue.unsettled(connection, records)
        return app.stop() or not unsettled or time.monotonic() > until

    async with app.client() as client:
        await MeterDelivery(calls, database, worker.number, client, done, judged=True).run()
