"""Short ways into the state for these tests."""

from __future__ import annotations

import json
from typing import Any

from state import failures, queue, runs, snapshot
from state.db.database import Database
from state.db.schema import PARTS
from state.failures import FailureRow
from state.history import listings
from state.history.record import ChangeRow
from state.queue import EventRow
from state.snapshot import CustomerRow
from tests.support.state import NOW, ask, due, records


def known(state: CustomerRow, rev: int = 1) -> snapshot.Known:
    """What a comparison reads of it."""
    return (state.customer_id, state.traits, state.name, state.email, state.event_times, rev, None)


def change(customer_id: str, key: str, before: Any, after: Any, at: int | None = 7) -> ChangeRow:
    texts = [None if value is None else json.dumps(value) for value in (before, after)]
    return ChangeRow(customer_id, key, key.lower(), texts[0], texts[1], at)


def names(part: str) -> set[str]:
    """The tables of a part, with the one that records its migrations."""
    return {table.name for table in PARTS[part]} | {record_of(part)}


def record_of(part: str) -> str:
    return "schema_version" if part == "state" else f"{part}_schema_version"


def queued(calls: Database, *message_ids: str, at: int | None = NOW) -> None:
    """Meter records that are due at a time; None: calls that are no meter, or settled."""
    with calls.write() as connection:
        rows = [
            EventRow(message_id, None if at is None else message_id.encode(), at or NOW, at)
            for message_id in message_ids
        ]
        assert queue.store_processed(connection, [], rows) == len(rows)


def claimed(calls: Database, worker: int, now: int = NOW, limit: int = 100) -> list[str]:
    with calls.write() as connection:
        return [event.message_id for event in queue.claim(connection, worker, now, limit)]


def numbers(calls: Database) -> dict[str, int]:
    return {record["message_id"]: record["id"] for record in records(calls, "event").values()}


def start(database: Database, kind: str = "initial", **values: Any) -> int:
    with database.write() as connection:
        run = runs.start(connection, kind, NOW, '{"a": 1}')
        if values:
            runs.set_values(connection, run, values)
    return run


def failure(customer_id: str, reason: str = "no", **more: Any) -> FailureRow:
    return FailureRow(
        ref=failures.customer_ref(customer_id),
        kind=failures.CUSTOMER,
        reason=reason,
        failed_at=NOW,
        customer_id=customer_id,
        status=400,
        request="PUT …",
        body='{"errorMessage": "no 🦊"}',
        attempts=3,
    )._replace(**more)


def to_send(
    state: CustomerRow, rev: int, attempts: int, run: int | None = None, acked_rev: int = 0
) -> CustomerRow:
    """The row that a delivery claims, less when it became due and who claims it."""
    return state._replace(rev=rev, attempts=attempts, run=run, acked_rev=acked_rev)


def claimed_rows(database: Database, now: int) -> list[CustomerRow]:
    return [
        customer._replace(due_at=None, claimed_by=None, acked_at=None)
        for customer in due(database, now)
    ]


def desired(database: Database, *ids: str) -> list[CustomerRow]:
    """The desired states of customers."""
    rows = ask(database, lambda c: snapshot.find(c, ids))
    return sorted(CustomerRow(*row[:6]) for row in rows)


def delivered(database: Database, customer_id: str) -> list[int | None]:
    """`delivered_at` of the customer's history, oldest first."""
    entries = ask(database, lambda c: list(listings.of_customer(c, customer_id)))
    return [change.delivered_at for change in entries]
