"""Claims and acknowledgements go by indexes however many wait, also without statistics of them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, event, insert

from state import outbox, queue
from state.db.database import Database
from state.db.tables import CHANGE
from state.queue import EventRow
from tests.support.state import NOW, put, records, row

WAITING = 2000


def plans(connection: Connection, word: str = "chosen") -> list[str]:
    """Keep how PostgreSQL plans each statement with a word that is executed from now on."""
    kept: list[str] = []

    def explain(*arguments: Any) -> None:
        statement, parameters = arguments[2:4]
        if word in statement and not statement.startswith("EXPLAIN"):
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


def test_an_acknowledgement_reads_the_changes_of_its_customers_alone(database: Database) -> None:
    put(database, *(row(f"u{number:05d}") for number in range(WAITING)))
    with database.write() as connection:
        change = {"run": 1, "rev": 1, "key": "k", "trait": "k", "after": "true", "delta": 1}
        moments = {"observed_at": NOW, "recorded_at": NOW}
        rows = [
            {"customer_id": f"u{number:05d}", "salt": b"", "source": "pull", **change, **moments}
            for number in range(WAITING)
        ]
        connection.execute(insert(CHANGE), [*rows, {**rows[3], "rev": 2}])
    with database.write() as connection:
        claimed = outbox.claim(connection, 1, NOW, 10)
    planned = database.engine.dialect.name == "postgresql"
    with database.write() as connection:
        seen = plans(connection, "UPDATE change") if planned else []
        outbox.acknowledge(connection, claimed, NOW + 5)
    delivered = [it for it in records(database, "change").values() if it["delivered_at"]]
    assert {(it["customer_id"], it["rev"]) for it in delivered} == {
        (it.customer_id, 1) for it in claimed
    }
    assert {it["delivered_at"] for it in delivered} == {NOW + 5}
    assert len(seen) == planned
    for plan in seen:
        assert "Seq Scan" not in plan, plan
        assert "Join" not in plan, plan
