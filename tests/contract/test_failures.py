"""Failures by the million: those of calls are bounded, and whoever looks at them stays small."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from state import discard, erasure, failures, outbox, queue
from state.db.database import Database
from state.failures import CALLS, CHUNK, RAW, FailureRow
from state.queue import EventRow
from syncer import status
from tests.support.state import NOW, ask, due_ids, row
from tests.support.state import put as put_customers

RANGE = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) ",
    "postgresql": "WITH n(i) AS (SELECT * FROM generate_series(1, {})) ",
}


def fill(database: Database, count: int) -> None:
    """So many customers that Amberflo refused, with a request each."""
    with database.write() as connection:
        connection.exec_driver_sql(
            "INSERT INTO failure (ref, kind, customer_id, reason, status, request, attempts, "
            "failed_at) "
            + RANGE[database.engine.dialect.name].format(count)
            + "SELECT 'customer:c' || i, 'customer', 'c' || i, 'no', 400, '{"
            + "x" * 1000
            + f"}}', 1, {NOW} FROM n"
        )


def invalid(first: int, count: int, raw: str = "{}") -> list[FailureRow]:
    return [failures.call(str(n), f"m{n}", "no userId", raw, NOW) for n in range(first, count)]


def put(database: Database, rows: list[FailureRow]) -> int:
    with database.write() as connection:
        return failures.put(connection, rows)


def test_the_newest_calls_are_kept_and_all_that_amberflo_refused(database: Database) -> None:
    fill(database, 3)
    assert put(database, invalid(0, CALLS - 1)) == 0
    fill_more = invalid(0, 1)[0]._replace(ref="meter:m1", attempts=1)
    assert put(database, [fill_more, *invalid(CALLS, CALLS + 1)]) == 0
    assert put(database, invalid(CALLS + 1, CALLS + 701)) == 700
    assert ask(database, failures.count_calls) == CALLS
    assert ask(database, failures.count) == CALLS + 4
    kept = [row for row in ask(database, failures.find) if row.only_discarded]
    assert [kept[0].ref, kept[-1].ref] == ["call:700", f"call:{CALLS + 700}"]
    # The same ones again are the same failures.
    assert put(database, invalid(CALLS + 1, CALLS + 701)) == 0
    assert ask(database, failures.count_calls) == CALLS


@pytest.mark.parametrize("character", ["x", "é", "漢", "🦊"])
def test_of_a_long_call_the_beginning_is_kept(database: Database, character: str) -> None:
    short, long = character * (RAW // len(character.encode())), character * RAW * 2
    put(database, [failures.call("1", None, "no", short, NOW)])
    put(database, [failures.call("2", None, "no", long, NOW)])
    requests = [str(row.request) for row in ask(database, failures.find)]
    assert requests[0] == short
    beginning, _, size = requests[1].partition(" … (")
    assert long.startswith(beginning)
    assert size == f"{len(long.encode()):,} bytes)"
    assert RAW - 8 < len(requests[1].encode()) <= RAW


def test_each_is_read_in_parts(database: Database) -> None:
    fill(database, 2 * CHUNK + 1)
    every = [row.customer_id for row in ask(database, failures.find)]
    assert every == [f"c{n}" for n in range(1, 2 * CHUNK + 2)]

    def each(**scope: Any) -> list[Any]:
        with database.read() as connection:
            return [row.customer_id for row in failures.each(connection, **scope)]

    assert each() == every
    assert each(limit=3) == every[-3:]
    assert each(limit=10**6) == every
    assert each(customer_id="c7") == each(customer_id="c7", limit=1) == ["c7"]
    assert each(customer_id="nobody", limit=2) == []
    assert ask(database, lambda c: failures.count_of(c, "c7")) == 1

    newest = ask(database, failures.newest)
    put(database, invalid(0, 5))

    def refused(kind: str, ids: list[int] | None, until: int) -> list[Any]:
        return [row.customer_id for row in failures.refused(database, kind, ids, until)]

    assert refused(failures.CUSTOMER, None, newest) == every
    assert refused(failures.CUSTOMER, None, newest - 1) == every[:-1]
    assert refused(failures.CUSTOMER, [newest, newest - 2, 9**9], newest) == [every[-3], every[-1]]
    assert refused(failures.METER, None, 9**9) == []  # what was never sent is not sent again


def test_all_are_discarded_up_to_the_newest_that_was_seen(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discard, "_SENT", discard._SENT.limit(40))
    fill(database, 100)
    newest = ask(database, failures.newest)
    put(database, invalid(0, 2))
    assert discard.discard(database, database, None, newest) == 100
    assert discard.discard(database, database, None, newest) == 0
    assert ask(database, failures.count) == 2


def test_what_was_put_off_is_no_lag_and_is_sent_no_more_once_discarded(
    database: Database, calls: Database
) -> None:
    """Customers and meter records alike: while they are failures they are tried by themselves."""
    put_customers(database, row("u1", vip=True), row("u2"), now=NOW - 9)
    with calls.write() as connection:
        records = [EventRow(message_id, b"{}", NOW - 8, NOW - 8) for message_id in ("m1", "m2")]
        queue.store_processed(connection, [], records)
        events = {event.message_id: event.id for event in queue.claim(connection, 1, NOW, 9)}
    with database.write() as connection:
        claimed = outbox.claim(connection, 1, NOW, 9)

    def lag() -> int | None:
        with database.read() as connection, calls.read() as of_calls:
            return status.oldest_waiting(connection, of_calls)

    assert lag() == NOW - 9
    with database.write() as connection:
        outbox.put_off(connection, [(event, NOW + 9) for event in claimed])
    with calls.write() as connection:
        queue.postpone(connection, events.values(), NOW + 9)
    assert lag() == NOW - 8  # sent before, but no failure: Amberflo takes nobody
    refused = [
        FailureRow(failures.customer_ref(customer_id), failures.CUSTOMER, "no", NOW, customer_id)
        for customer_id in ("u1", "u2")
    ] + [
        FailureRow(
            failures.meter_ref(message_id, ""), failures.METER, "no", NOW, message_id=message_id
        )
        for message_id in ("m1", "m2")
    ]
    put(database, refused)
    assert lag() is None

    ids = {entry.ref: entry.id for entry in ask(database, failures.find)}
    chosen = [ids["customer:u1"], ids["meter:m1"]]
    assert discard.discard(database, calls, chosen, max(chosen)) == 2
    later = NOW + 10
    assert due_ids(database, later) == ["u2"]
    with calls.write() as connection:
        assert [event.message_id for event in queue.claim(connection, 2, later, 9)] == ["m2"]
    now = status.gather(database, calls)
    assert (now.waiting_customers, now.put_off, now.waiting_since) == (1, 1, None)


@pytest.fixture
def peak() -> Iterator[Any]:
    """Bytes that Python has at most since it was asked last."""
    tracemalloc.start()

    def since() -> int:
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        return highest

    yield since
    tracemalloc.stop()


def test_reading_many_takes_the_memory_of_a_few(database: Database, peak: Any) -> None:
    """The rows of this test have 6 MB."""
    fill(database, 5_000)
    peak()
    with database.read() as connection:
        assert sum(1 for _ in failures.each(connection)) == 5_000
    assert sum(1 for _ in failures.refused(database, failures.CUSTOMER, None, 9**9)) == 5_000
    assert discard.discard(database, database, None, 9**9) == 5_000
    assert peak() < 4_000_000


@pytest.mark.parametrize(
    ("raw", "named"),
    [
        ('{"userId":"ann@example.com","properties":{"a":"' + "x" * 2000, True),
        ('{"properties":{"a":"' + "x" * 972 + '","userId":"ann@example.com"}}' + " " * 99, True),
        ('{"userId":"anna","a":"' + "x" * 2000, False),
        ('{"userId":42,"a":"' + "x" * 2000, False),
    ],
)
def test_a_call_that_was_cut_is_erased_with_its_customer(
    database: Database, raw: str, named: bool
) -> None:
    put(database, [failures.call("1", None, "no", raw, NOW, customer_id="somebody")])
    with database.write(alone=True) as connection:
        done = erasure.erase(connection, "ann@example.com", NOW)
        numbered = erasure.erase(connection, "42", NOW)
    assert done.failures == named
    assert numbered.failures == ('"userId":42,' in raw)
