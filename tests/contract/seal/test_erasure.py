"""Erasure takes out a customer and keeps the seals."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from hashlib import sha256
from urllib.parse import quote

import pytest
from sqlalchemy import insert, text

from state import alerts, erasure, failures, outbox, snapshot, suppression
from state.db import workers
from state.db.database import Database
from state.db.schema import PARTS
from state.db.tables import HELD_CHANGE, HOLD, RUN
from state.errors import Locked
from state.failures import FailureRow
from state.history import seal
from state.snapshot import CustomerRow, TraitRow
from tests.contract.seal.helpers import (
    NOW,
    Maker,
    broken,
    everything,
    first_id,
    proof,
    rows,
    run_sql,
    some,
    told,
)


def fail(database: Database, customer_id: str | None, request: str, ref: str) -> None:
    failure = FailureRow(
        ref, failures.METER, "?", NOW, customer_id=customer_id, status=400, request=request
    )
    with database.write() as connection:
        failures.put(connection, [failure])


@pytest.mark.parametrize("customer_id", ["secret-7f3a", 'it\'s "so" 50% é_', "12345678901"])
def test_nothing_of_an_erased_customer_is_left(maker: Maker, customer_id: str) -> None:
    database, value = maker.database, "a value of theirs"
    with database.write() as connection:
        snapshot.put_traits(
            connection,
            [TraitRow("vip", "vip", "audience", 2), TraitRow("city", "city", "computed_trait", 1)],
        )
    maker.sync(("other", "vip", True), (customer_id, "vip", True), (customer_id, "city", value))
    maker.call((customer_id, "vip", False), ("other", "city", "London"))
    maker.call((customer_id, "vip", True))
    quoted = json.dumps(customer_id)
    fail(database, customer_id, "{}", "customer:1")
    fail(database, None, f'{{"userId": {quoted}, "deep": [{{}}]}}', "call:1")
    fail(database, None, f'{{"deep": [{{"a": {quoted}}}]}}', "call:2")
    fail(database, None, f'{{"userId": {quoted}, cut', "call:3")
    fail(database, None, f'{{"userId": {json.dumps(customer_id + "0")}}}', "call:4")
    fail(database, customer_id[:-1], "{}", "customer:2")
    url = f"GET http://a/customers?customerId={quote(customer_id, safe='')}"
    error = f"{customer_id!r} came after 'other'; {url} answered 503, {url}0 too"
    run_sql(database, "UPDATE run SET error = :error", error=error)
    with database.write() as connection:
        alerts.see(connection, {"runs": f"2 runs in a row failed: {error}"}, NOW)
    with database.write() as connection:
        for number in (1, 2):
            values = {"trait": f"t{number}", "key": "k", "reason": "r", "since_run": 1, "since": 1}
            values |= {"last_run": 1, "members": 2, "leaving": 2}
            connection.execute(insert(HOLD).values(id=number, **values))
            kept = {"hold": number, "trait": "t", "after": f'"{value}"', "run": 1, "since_run": 1}
            of_theirs = {"customer_id": customer_id, "ended_at": None if number == 1 else 5}
            connection.execute(insert(HELD_CHANGE).values(**kept, **of_theirs))
        connection.execute(
            insert(HELD_CHANGE).values(hold=1, customer_id="other", trait="t", run=1, since_run=1)
        )
    before = proof(database)
    assert before.unsealed == 3

    erased = maker.erase(customer_id)
    assert [row["customer_id"] for row in rows(database, "SELECT * FROM held_change")] == ["other"]
    assert erased == (True, 4, 4)
    contents = everything(database)
    assert value not in contents
    other = json.dumps(customer_id + "0")
    for form in (customer_id, json.dumps(customer_id)[1:-1]):
        assert form not in contents.replace(other, "").replace(repr(other)[1:-1], "").replace(
            url, ""
        )
    told_now = "GET http://a/customers?customerId=(forgotten)"
    (alert,) = rows(database, "SELECT text FROM alert")
    assert alert["text"].startswith("2 runs in a row failed: '(forgotten)' came after 'other'; GET")
    (run,) = rows(database, "SELECT error FROM run")
    assert run["error"] == f"'(forgotten)' came after 'other'; {told_now} answered 503, {url}0 too"
    assert [row["ref"] for row in rows(database, "SELECT ref FROM failure ORDER BY ref")] == [
        "call:4",
        "customer:2",
    ]
    assert rows(database, "SELECT key, members FROM trait ORDER BY key") == [
        {"key": "city", "members": 0},
        {"key": "vip", "members": 1},
    ]
    report = proof(database)
    assert (report.broken, report.changes, report.erased, report.erasures) == (None, 6, 4, 1)
    assert report.unsealed == 0
    with database.read() as connection:
        gone = suppression.load(connection)
        assert (customer_id in gone, "other" in gone) == (True, False)
        assert suppression.forgotten_at(connection, customer_id) == maker.now
    # The hash that stands for it is not one of the id alone.
    (hashed,) = rows(database, "SELECT hash FROM forgotten")
    assert hashed["hash"] != sha256(customer_id.encode()).hexdigest()
    assert erased_again(maker, customer_id) == (False, 0, 0)


def erased_again(maker: Maker, customer_id: str) -> erasure.Erased:
    erased = maker.erase(customer_id)
    assert proof(maker.database).broken is None
    assert len(rows(maker.database, "SELECT * FROM forgotten")) == 1
    return erased


def test_every_table_with_a_customers_id_is_erased_from() -> None:
    """Whoever adds a table that names customers adds it to state/erasure.py, and here."""
    naming = {
        table.name
        for tables in PARTS.values()
        for table in tables
        if any("customer" in column.name for column in table.columns)
    }
    assert naming == {"customer", "change", "held_change", "failure", "erasure", "run"} | {
        "early_call",
        "early_exit",
        "fingerprint_table",  # a count
        "revisit",
    }
    assert "without_customer_id" in RUN.c  # a count


def test_an_erasure_that_no_seal_is_about_is_found(sealed: Maker) -> None:
    """A change cannot be made to look erased."""
    this = first_id(sealed) + 7
    with sealed.database.write() as connection:
        for (row,) in seal.read(connection, this - 1, this):
            values = {"id": this, "leaf": seal.leaf(row[:-1]).hex()}
        connection.execute(text("DELETE FROM change WHERE id = :id"), values)
        connection.execute(text("INSERT INTO erased VALUES (:id, :leaf, 3)"), values)
    assert broken(sealed.database)[0] == "there are erased changes that no seal is about"


def test_a_customer_is_taken_from_delivery_until_it_is_erased_or_given_back(maker: Maker) -> None:
    database = maker.database
    maker.sync(*some("u1", "u2"))
    with database.write() as connection:
        (claimed,) = outbox.claim(connection, 7, maker.now, 1)
    assert claimed.customer_id == "u1"
    with (
        pytest.raises(Locked, match="'u1' is just being sent"),
        database.write(alone=True) as connection,
    ):
        erasure.take(connection, "u1", 8, maker.now)
    with database.write() as connection:
        outbox.acknowledge(connection, [claimed], maker.now)
    with database.write(alone=True) as connection:
        taken = erasure.take(connection, "u1", 8, maker.now)
        last = claimed._replace(
            name="u1", email="", acked_rev=claimed.rev, acked_at=maker.now,
            due_at=None, claimed_by=None,
        )  # fmt: skip
        assert taken == erasure.Taken(last, snapshot.owned(connection))
        # Nobody else gets it; but should this worker die, it is free like any other.
        assert [customer.customer_id for customer in outbox.claim(connection, 7, maker.now, 9)] == [
            "u2"
        ]
        workers.free_customers(connection, 8)
        assert erasure.take(connection, "u1", 9, maker.now) == taken._replace(
            row=last._replace(due_at=maker.now)
        )
        erasure.release(connection, taken)
    columns = "customer_id, claimed_by, due_at"
    where = "WHERE customer_id = 'u1'"
    assert rows(database, f"SELECT {columns} FROM customer {where}") == [
        {"customer_id": "u1", "claimed_by": None, "due_at": None}
    ]
    with database.write(alone=True) as connection:
        taken = erasure.take(connection, "u1", 8, maker.now)
    maker.call(("u1", "vip", False))
    with database.write(alone=True) as connection:
        erasure.release(connection, taken)
        # A call made it due meanwhile.
        assert [customer.customer_id for customer in outbox.claim(connection, 7, maker.now, 9)] == [
            "u1"
        ]


def test_who_is_not_known_cannot_come_in_while_it_is_taken(maker: Maker) -> None:
    database = maker.database
    with database.write(alone=True) as connection:
        suppression.ask(connection, "asked", 5)
        for who, new in (("nobody", True), ("asked", False)):
            taken = erasure.take(connection, who, 8, maker.now)
            assert (taken.known, taken.asked, taken.row.name) == (False, new, who)
            assert who in suppression.load(connection)
            erasure.release(connection, taken)
        # As it was: what was asked for before still is.
        assert suppression.asked(connection) == ["asked"]


def test_the_last_write_has_the_traits_of_engage_and_nothing_personal(maker: Maker) -> None:
    said = '{"city": ["Rome", 5], "vip": ["no", 6]}'
    state = CustomerRow("u1", '{"vip": false}', "Ada", "ada@x.com", said, None)
    with maker.database.write(alone=True) as connection:
        snapshot.insert_customers(connection, [state], NOW)
        snapshot.put_traits(connection, [TraitRow("vip", "vip", "audience", 0)])
        snapshot.mark_compared(connection, ["u1"], 1)
        row, owned, *_ = erasure.take(connection, "u1", 8, NOW)
    assert (row.customer_id, row.name, row.email) == ("u1", "u1", "")
    assert (json.loads(row.traits), owned) == ({"vip": False}, {"vip"})
    assert json.loads(row.identify_traits or "") == {
        "city": [None, 5, True],
        "vip": [None, 6, True],
    }


@pytest.mark.parametrize("first", ["erase", "compact"])
def test_erasure_and_compaction_go_together(sealed: Maker, first: str) -> None:
    sealed.sync()
    steps: list[Callable[[], object]] = [lambda: sealed.erase("u1"), sealed.compact]
    for step in steps if first == "erase" else reversed(steps):
        step()
        assert proof(sealed.database).broken is None
    sealed.sync(*some("u2", "u4", value=7))
    sealed.erase("u2")
    sealed.deliver()
    sealed.sync()
    assert proof(sealed.database).broken is None
    done = sealed.compact()
    assert proof(sealed.database).broken is None
    assert done.kept == len(told(sealed.database)) == 4


def test_what_was_asked_for_is_remembered_until_it_is_done(maker: Maker) -> None:
    maker.sync(("u1", "vip", True))
    with maker.database.write() as connection:
        for customer_id, at in (("u2", 7), ("u1", 5), ("u2", 9)):
            suppression.ask(connection, customer_id, at)
        assert suppression.asked(connection) == ["u1", "u2"]
        gone = suppression.load(connection)
        assert ("u1" in gone, "u3" in gone, bool(gone)) == (True, False, True)
        erasure.erase(connection, "u1", NOW)
        assert suppression.asked(connection) == ["u2"]
        suppression.ask(connection, "u1", NOW)
        assert suppression.asked(connection) == ["u2"]
        assert [suppression.lift(connection, id_) for id_ in ("u1", "u2", "u3")] == [
            True,
            True,
            False,
        ]
        assert not suppression.load(connection)


def test_nobody_comes_in_while_an_erasure_waits(maker: Maker) -> None:
    """A call that looked before the erasure must not bring the customer back after it."""
    maker.sync(("u1", "vip", True))
    looked, may_commit = threading.Event(), threading.Event()

    def call() -> None:
        with maker.database.write(alone=True) as connection:
            assert "u1" not in suppression.load(connection)
            looked.set()
            may_commit.wait(10)
            maker.changes(connection, [("u1", "vip", False)], None, NOW)

    calling = threading.Thread(target=call)
    calling.start()
    assert looked.wait(10)
    erasing = threading.Thread(target=lambda: maker.erase("u1"))
    erasing.start()
    time.sleep(0.3)
    assert erasing.is_alive()
    may_commit.set()
    for thread in (calling, erasing):
        thread.join(10)
        assert not thread.is_alive()
    assert told(maker.database) == rows(maker.database, "SELECT * FROM customer") == []
    report = proof(maker.database)
    assert (report.broken, report.erased) == (None, 2)
