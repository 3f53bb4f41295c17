"""What a verification asks of the state, on SQLite and on PostgreSQL."""

from __future__ import annotations

import random

from state import outbox, snapshot
from state.db.batches import ROWS
from state.db.database import Database
from state.snapshot import CustomerRow
from tests.support.state import as_claimed

NOW = 1_790_000_000_000
#: Ids whose order differs between UTF-8 bytes, UTF-16 and a dictionary.
IDS = ["A", "B", "a", "b", "a-1", "a_1", "ä", "é", "z", "\uffee", "😀", "10", "9", "a/b", " x", "'"]


def put(database: Database, ids: list[str]) -> None:
    rows = [CustomerRow(id_, "{}", None, None, None, None) for id_ in ids]
    with database.write() as connection:
        snapshot.insert_customers(connection, rows, NOW)


def acknowledge(database: Database, ids: list[str], at: int = NOW + 1) -> None:
    with database.write() as connection:
        outbox.acknowledge(connection, [as_claimed(id_, 1) for id_ in ids], at)


def test_the_sent_ones_come_page_by_page_in_byte_order(database: Database) -> None:
    put(database, random.Random(1).sample(IDS, len(IDS)))
    sent = IDS[2:]
    acknowledge(database, sent)
    with database.read() as connection:
        assert outbox.acknowledged_count(connection) == len(sent)
        for size in (1, 3, 100):
            listed: list[str] = []
            while page := outbox.acknowledged(connection, listed[-1] if listed else "", size):
                assert len(page) <= size
                listed += page
            assert listed == sorted(sent, key=lambda id_: id_.encode())


def test_what_is_held_of_many(database: Database) -> None:
    """More than one statement takes."""
    ids = [f"u{number:05}" for number in range(2 * ROWS + 10)]
    put(database, ids)
    acknowledge(database, ids[:-1])
    state = CustomerRow(ids[0], '{"vip":true}', "Ada", "a@b.c", '{"plan":["x",1]}', '{"vip":1}')
    with database.write() as connection:
        snapshot.update_customers(connection, [state], NOW + 2)
    with database.read() as connection:
        customers = {row.customer_id: row for row in snapshot.find(connection, [*ids, "nobody"])}
        assert snapshot.find(connection, []) == []
    assert sorted(customers) == ids
    assert customers[ids[0]] == CustomerRow(
        *(ids[0], '{"vip":true}', "Ada", "a@b.c", '{"plan":["x",1]}'),
        '{"vip":1}',
        rev=2,
        acked_rev=1,
        acked_at=NOW + 1,
        due_at=NOW + 2,
    )
    assert customers[ids[1]] == CustomerRow(ids[1], "{}", rev=1, acked_rev=1, acked_at=NOW + 1)
    assert customers[ids[-1]] == CustomerRow(ids[-1], "{}", rev=1, due_at=NOW)


def test_named_customers_are_sent_again_and_no_others(database: Database) -> None:
    ids = [f"u{number:05}" for number in range(2 * ROWS + 10)]
    put(database, ids)
    acknowledge(database, ids)
    with database.write() as connection:
        assert outbox.send_again(connection, NOW + 5, customer_ids=[]) == 0
        chosen = [*ids[::2], "nobody"]
        assert outbox.send_again(connection, NOW + 5, customer_ids=chosen) == len(ids[::2])
    with database.write() as connection:
        rows = snapshot.find(connection, ids)
        assert {row.customer_id for row in rows if row.due_at == NOW + 5} == set(ids[::2])
        assert {row.customer_id for row in rows if row.due_at is None} == set(ids[1::2])
        due = outbox.claim(connection, 1, NOW + 5, 5000)
    assert sorted(row.customer_id for row in due) == ids[::2]
