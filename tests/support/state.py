"""Short ways to fill a state and to look at it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, event, text

from state import outbox, snapshot
from state.db.database import Database
from state.snapshot import CustomerRow

NOW = 1_790_000_000_000


def row(
    customer_id: str, name: str | None = None, email: str | None = None, **traits: Any
) -> CustomerRow:
    text = json.dumps(traits, sort_keys=True)
    return CustomerRow(customer_id, text, name, email, identify_traits=None, event_times=None)


def put(database: Database, *rows: CustomerRow, now: int = NOW, run: int | None = None) -> None:
    with database.write() as connection:
        snapshot.insert_customers(connection, rows, now, run)


def ask(database: Database, question: Callable[[Connection], Any]) -> Any:
    with database.read() as connection:
        return question(connection)


def due(
    database: Database, now: int = NOW, limit: int = 100, run: int | None = None
) -> list[CustomerRow]:
    """What a delivery would get; it is given back."""
    with database.write() as connection:
        customers = outbox.claim(connection, 1, now, limit, run)
        if customers:
            outbox.release(connection, [customer.customer_id for customer in customers])
    return customers


def due_ids(
    database: Database, now: int = NOW, limit: int = 100, run: int | None = None
) -> list[str]:
    return [customer.customer_id for customer in due(database, now, limit, run)]


def records(database: Database, table: str = "customer") -> dict[Any, dict[str, Any]]:
    """The rows of a table, whole, by their key."""
    with database.read() as connection:
        rows = connection.execute(text(f"SELECT * FROM {table}")).mappings().all()
    key = "customer_id" if table == "customer" else "id"
    return {record[key]: dict(record) for record in rows}


def as_claimed(customer_id: str, rev: int, run: int | None = None) -> CustomerRow:
    """A customer as a worker claimed it."""
    return CustomerRow(customer_id, "{}", rev=rev, run=run)


@contextmanager
def statements(database: Database) -> Iterator[list[str]]:
    """Yield the statements that this process has executed in the block."""
    executed: list[str] = []

    def note(*arguments: object) -> None:
        executed.append(str(arguments[2]))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield executed
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
