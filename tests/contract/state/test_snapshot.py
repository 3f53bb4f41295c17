"""What the state knows of customers, on SQLite and on PostgreSQL."""

from __future__ import annotations

import gc
import random
import tracemalloc
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from state import outbox, snapshot
from state.db.batches import ROWS
from state.db.database import Database
from state.history import listings, past
from state.history.record import add_changes, last_observed
from state.snapshot import TraitRow
from tests.contract.state.helpers import (
    change,
    claimed_rows,
    desired,
    known,
    to_send,
)
from tests.support.state import NOW, as_claimed, ask, due_ids, put, records, row


def test_customers_come_in_utf8_byte_order(database: Database) -> None:
    """Not in the order of a language, nor of UTF-16 (which has 🦊 before ～)."""
    ids = ["a", "B", "b", "A", "Z", "_", "é", "z", "zz", "ß", "10", "9", " 9", "a b", "a-b", "ab"]
    ids += ["用户", "🦊", "～", "ä", "a\u0301", "o'neil", 'say "hi"', "back\\slash", "%", "u/1"]
    mixed = random.Random(1).sample(ids, len(ids))
    put(database, *map(row, mixed))
    with database.write() as connection:
        changes = [change(customer_id, "vip", None, True) for customer_id in mixed]
        add_changes(connection, changes, 1, NOW)
    expected = sorted(ids, key=str.encode)
    assert ask(database, lambda c: [customer[0] for customer in snapshot.customers(c)]) == expected
    assert due_ids(database) == expected
    assert ask(database, lambda c: list(past.members_at(c, "vip", NOW))) == expected


def test_rows_come_back_as_they_went_in(database: Database) -> None:
    rows = [
        row("u1", "Zoë 🦊", "a@b.c", vip=True, tags=["é", 1, False]),
        row("u2", None, None)._replace(identify_traits='{"a": [1, 2]}', event_times='{"vip": 3}'),
        row("u3", "", "", spent=12.5),
    ]
    put(database, *rows)
    assert ask(database, lambda c: list(snapshot.customers(c))) == list(map(known, rows))
    assert desired(database, "u3", "u2", "u1", "u9") == rows
    assert ask(database, lambda c: snapshot.find(c, [])) == []
    assert ask(database, snapshot.size) == 3


def test_find_gives_the_known_ones(database: Database) -> None:
    rows = [row("u1", vip=True), row("U1"), row("🦊")]
    put(database, *rows)
    customers = ask(database, lambda c: snapshot.known(c, ["🦊", "u1", "u9", "' OR 1=1 --"]))
    assert sorted(customers) == [known(rows[0]), known(rows[2])]
    assert ask(database, lambda c: snapshot.known(c, [])) == []


def test_a_new_customer_is_due_at_once(database: Database) -> None:
    new = row("u1", "Name", "a@b.c", vip=True)._replace(identify_traits="{}")
    put(database, new)
    assert claimed_rows(database, NOW) == [to_send(new, 1, 0)]
    (record,) = records(database).values()
    assert (record["acked_rev"], record["acked_at"], record["due_at"]) == (0, None, NOW)


def test_an_update_is_a_new_revision_due_at_once(database: Database) -> None:
    put(database, row("u1", "Name", "a@b.c", vip=True), row("u2"))
    new = row("u1", None, "new@b.c", vip=False)
    with database.write() as connection:
        outbox.acknowledge(connection, [as_claimed("u1", 1), as_claimed("u2", 1)], NOW)
        snapshot.update_customers(connection, [new], NOW + 5)
    assert claimed_rows(database, NOW + 5) == [to_send(new, 2, 0, acked_rev=1)]
    record = records(database)["u1"]
    assert (record["acked_rev"], record["due_at"]) == (1, NOW + 5)
    with database.write() as connection:
        outbox.postpone(connection, [("u1", 3, NOW + 900)])
        snapshot.update_customers(connection, [row("u1", vip=True)], NOW + 6)
    record = records(database)["u1"]
    assert (record["rev"], record["attempts"], record["due_at"]) == (3, 0, NOW + 6)


def test_a_note_changes_what_is_known_and_sends_nothing(database: Database) -> None:
    put(database, row("u1", vip=True), row("u2"), row("u3"))
    noted = row("u1", "Name", "a@b.c", vip=True)._replace(
        identify_traits='{"a": 1}', event_times='{"b": 2}'
    )
    with database.write() as connection:
        outbox.acknowledge(connection, [as_claimed("u1", 1)], NOW + 1)
        outbox.postpone(connection, [("u2", 2, NOW + 50)])
        snapshot.touch_customers(connection, [noted, row("u2")])
    assert desired(database, "u1") == [noted]
    customers = records(database)
    assert (customers["u1"]["rev"], customers["u1"]["due_at"]) == (1, None)
    assert (customers["u2"]["rev"], customers["u2"]["due_at"], customers["u2"]["attempts"]) == (
        1,
        NOW + 50,
        2,
    )


def test_more_rows_than_one_statement_takes(database: Database) -> None:
    ids = [f"u{n:05d}" for n in range(2 * ROWS + 7)]
    put(database, *(row(id_, vip=False) for id_ in ids))
    with database.write() as connection:
        snapshot.update_customers(connection, [row(id_, vip=True) for id_ in ids], NOW)
        changes = [change(id_, "vip", False, True) for id_ in ids]
        add_changes(connection, changes, 1, NOW)
    customers = ask(database, lambda c: list(snapshot.customers(c)))
    assert customers == [known(row(id_, vip=True), rev=2) for id_ in ids]
    assert len(ask(database, lambda c: snapshot.find(c, ids))) == len(ids)
    assert ask(database, lambda c: list(past.members_at(c, "vip", NOW))) == ids
    assert {record["rev"] for record in records(database).values()} == {2}
    with database.write() as connection:
        outbox.acknowledge(connection, [as_claimed(id_, 2) for id_ in ids], NOW + 1)
    assert ask(database, outbox.backlog) == 0


def test_traits_are_recorded_and_members_added(database: Database) -> None:
    with database.write() as connection:
        first = [
            TraitRow("Vip", "vip", "audience", 3),
            TraitRow("spent", "spent", "computed_trait", 1),
        ]
        snapshot.put_traits(connection, first)
        second = [TraitRow("Vip", "vip_2", "computed_trait", -2), TraitRow("a", "a", "audience", 0)]
        snapshot.put_traits(connection, second)
        snapshot.put_traits(connection, [])
    traits = ask(database, snapshot.traits)
    assert sorted(traits) == [
        TraitRow("Vip", "vip_2", "computed_trait", 1),
        TraitRow("a", "a", "audience", 0),
        TraitRow("spent", "spent", "computed_trait", 1),
    ]


def test_what_is_said_of_traits_stays_when_members_are_added(database: Database) -> None:
    rows = [TraitRow("Vip", "vip", "audience", 3), TraitRow("b", "b", "audience", 1)]
    said = rows[0]._replace(name="Very important", status="Live", size=2**40, members=99)
    with database.write() as connection:
        snapshot.put_traits(connection, rows)
        snapshot.describe_traits(connection, [said, TraitRow("no", "no", "audience", 0)])
        snapshot.put_traits(connection, [rows[0]._replace(members=-1)])
    assert ask(database, snapshot.traits) == [said._replace(members=2), rows[1]]
    with database.write() as connection:
        snapshot.describe_traits(connection, [said._replace(status="Unlisted", size=None)])
    assert ask(database, snapshot.traits)[0] == said._replace(
        status="Unlisted", size=None, members=2
    )


def test_a_change_belongs_to_the_revision_it_made(database: Database) -> None:
    put(database, row("u1"), row("u2"))
    with database.write() as connection:
        add_changes(connection, [change("u1", "Vip", None, True, 41)], 1, NOW)
        snapshot.update_customers(connection, [row("u1")], NOW + 1)
        changes = [change("u1", "Vip", True, False, None), change("u1", "spent", None, 2.5)]
        add_changes(connection, [*changes, change("u2", "Vip", None, 1, 9)], None, NOW + 1)
    entries = ask(database, lambda c: [entry._asdict() for entry in listings.of_customer(c, "u1")])
    numbers = [entry.pop("id") for entry in entries]
    assert numbers == sorted(set(numbers))
    assert [entry.pop("delta") for entry in entries] == [1, -1, 0]
    assert {entry.pop("via") for entry in entries} == {None}
    salts = ask(database, lambda c: c.execute(text("SELECT salt FROM change")).scalars().all())
    assert len(set(salts)) == len(salts) == 4
    assert all(salts)
    common = {"customer_id": "u1", "delivered_at": None, "source": None}
    second = common | {"run": None, "rev": 2, "recorded_at": NOW + 1}
    assert entries == [
        common
        | {"run": 1, "rev": 1, "key": "Vip", "trait": "vip", "before": None, "after": "true"}
        | {"observed_at": 41, "recorded_at": NOW},
        second
        | {"key": "Vip", "trait": "vip", "before": "true", "after": "false", "observed_at": None},
        second
        | {"key": "spent", "trait": "spent", "before": None, "after": "2.5", "observed_at": 7},
    ]


def test_the_time_of_the_row_that_told_the_newest_change(database: Database) -> None:
    put(database, row("u1"), row("u2"))

    def last(customer_id: str, key: str) -> Any:
        return ask(database, lambda connection: last_observed(connection, customer_id, key))

    def add(key: str, at: int | None, run: int | None = 1) -> None:
        with database.write() as connection:
            changes = [change("u1", key, None, at, at), change("u2", key, None, at, 99)]
            add_changes(connection, changes, run, NOW)

    for at in (50, 70, 60):
        add("vip", at)
        add("churn", 98)
    assert last("u1", "vip") == 60
    assert last("u1", "no such") is None
    assert last("u3", "vip") is None
    for gone in (None, NOW, NOW + 5):  # a row that vanished, or of the future
        add("vip", gone)
        assert last("u1", "vip") is None
    add("vip", NOW - 1)
    assert last("u1", "vip") == NOW - 1
    add("vip", 80, run=None)  # a call said it
    assert last("u1", "vip") is None


def test_a_change_that_is_no_membership_enters_nobody(database: Database) -> None:
    put(database, row("u1"))
    said = change("u1", "beta", None, True)._replace(source="identify", delta=0)
    with database.write() as connection:
        add_changes(connection, [said, change("u1", "vip", None, True)], None, NOW)
    entries = records(database, "change").values()
    assert [(entry["key"], entry["source"], entry["delta"]) for entry in entries] == [
        ("beta", "identify", 0),
        ("vip", None, 1),
    ]
    assert ask(database, lambda c: past.count_at(c, "beta")) == 0


def test_what_was_given_back(database: Database) -> None:
    with database.write() as connection:
        rows = [TraitRow(key, key.lower(), "audience", 0) for key in ("Vip", "beta")]
        snapshot.put_traits(connection, rows)
        assert snapshot.released(connection) == set()
        connection.execute(text("UPDATE trait SET released_at = 1 WHERE key = 'Vip'"))
        assert snapshot.released(connection) == {"Vip", "vip"}


@pytest.mark.parametrize("engine_name", ["sqlite", "postgresql"])
def test_customers_are_streamed_not_collected(
    request: pytest.FixtureRequest, tmp_path: Path, engine_name: str
) -> None:
    if engine_name == "postgresql":
        url = request.getfixturevalue("state_postgres")
    else:
        url = f"sqlite:///{tmp_path / 'syncer.db'}"
    with closing(Database.open(url)) as database:
        put(database, *(row(f"u{n:05d}", text="x" * 2000) for n in range(6000)))
        with database.read() as connection:
            tracemalloc.start()
            stream = snapshot.customers(connection)
            try:
                first = next(stream)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert first[0] == "u00000"
            # All are 12 MB, and what one fetch brings is 0.4 MB.
            assert 200_000 < peak < 3_000_000
            if engine_name == "postgresql":
                cursors = connection.execute(text("SELECT statement FROM pg_cursors")).all()
                assert any(
                    "FROM customer ORDER" in str(cursor).replace("\\n", "") for cursor in cursors
                )
            assert sum(1 for _ in stream) == 5999


def test_a_stream_that_nobody_reads_to_its_end_is_closed(database: Database) -> None:
    """A cursor left open warns when it is collected, and here a warning is an error."""
    put(database, *(row(f"u{n:05d}") for n in range(3 * ROWS)))
    with database.write() as connection:
        changes = [change(f"u{n:05d}", "vip", None, True) for n in range(3 * ROWS)]
        add_changes(connection, changes, 1, NOW)
    with database.read() as connection:
        streams: list[Any] = [snapshot.customers(connection)]
        streams.append(listings.of_key(connection, "vip", None, None))
        for stream in streams:
            next(stream)
            stream.close()
        del stream, streams
    gc.collect()
