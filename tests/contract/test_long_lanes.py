"""A claim goes by the index however many wait, also where the server has no statistics of it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, event

from state import outbox, queue
from state.db.database import Database
from state.queue import EventRow
from tests.support.state import NOW, put, row

WAITING = 2000


def plans(connection: Connection) -> list[str]:
    """Keep how PostgreSQL plans each claim that is executed from now on."""
    kept: list[str] = []

    def explain(*arguments: Any) -> None:
        statement, parameters = arguments[2:4]
        if "chosen" in statement and not statement.startswith("EXPLAIN"):
            lines = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars()
            kept.append("\n".join(lines))

    event.listen(connection, "before_cursor_execute", explain)
    return kept


def test_no_batch_sorts_all_that_waits(database: Database, calls: Database) -> None:
    if database.engine.dialect.name != "postgresql":
        return  # SQLite goes by the index whatever it knows
    put(database, *(row(f"u{number:05d}") for number in range(WAITING)))
    with calls.write() as connection:
        rows = [EventRow(f"m{number}", b"{}", NOW, NOW) for number in range(WAITING)]
        queue.store_processed(connection, [], rows)
    with database.write() as connection:
        seen = plans(connection)
        claimed = outbox.claim(connection, 1, NOW, 10)
        assert [it.customer_id for it in claimed] == [f"u{number:05d}" for number in range(10)]
    with calls.write() as connection:
        seen += (of_records := plans(connection))
        assert len(queue.claim(connection, 1, NOW, 10)) == 10
        seen += of_records
    assert len(seen) == 2
    for plan in seen:
        assert "Sort" not in plan, plan
        assert "_due on" in plan, plan
