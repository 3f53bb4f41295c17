"""What a plan takes from the state: customers, how many change, events, how long a run read."""

from __future__ import annotations

import pytest

from state import outbox, queue, runs
from state.db.database import Database
from state.queue import EventRow
from syncer.capacity.forecast import Reading
from syncer.capacity.seen import HOUR, Figure, seen
from syncer.delivery.outlook import put_rate
from tests.support.state import put, row

DAY = 24 * HOUR
NOW = 1_790_000_000_000


def run(database: Database, kind: str, at: int, **values: object) -> None:
    """A run that began then, read for two seconds and ended well."""
    values = {"state": "done", "committed_at": at + 2000, "watermark": "w", **values}
    with database.write() as connection:
        runs.set_values(connection, runs.start(connection, kind, at, "{}"), values)


def acknowledge(database: Database) -> None:
    with database.write() as connection:
        outbox.acknowledge(connection, outbox.claim(connection, 1, NOW, 100, None), NOW)


def record(calls: Database, start: int, at: int, count: int) -> None:
    rows = [EventRow(f"m{start + n}", b"{}", at, at) for n in range(count)]
    with calls.write() as connection:
        queue.store_processed(connection, set(), rows)


def test_a_new_state_knows_nothing(database: Database, calls: Database) -> None:
    assert seen(database, calls, NOW, 10.0) == seen(database, calls, 0, 10.0)
    assert seen(database, calls, NOW, 10.0).figures == {}
    assert seen(database, calls, NOW, 10.0).reading is None


def test_a_rate_that_answers_slowed_counts(database: Database, calls: Database) -> None:
    with database.write() as connection:
        put_rate(connection, 4.0)
    slowed = {"rate": Figure(4.0, "Amberflo's answers 429")}
    assert seen(database, calls, NOW, 10.0).figures == slowed
    assert seen(database, calls, NOW, 0.0).figures == slowed
    assert seen(database, calls, NOW, 3.0).figures == {}


def test_what_the_last_runs_saw(database: Database, calls: Database) -> None:
    put(database, *(row(f"u{n}", vip=True) for n in range(10)))
    acknowledge(database)
    put(database, row("new", vip=True))
    run(database, "initial", NOW - 40 * DAY, pulled=90, delivered=10, due=10)
    known = seen(database, calls, NOW, 10.0)
    assert known.figures == {
        "customers": Figure(11, "the state"),
        "values": Figure(90 / 11, "run 1"),
    }
    assert known.reading == Reading(1, True, 11, 90, 10, 2.0)

    run(database, "reconcile", NOW - 3 * DAY, pulled=110, delivered=9, due=9)
    run(database, "resync", NOW - 2 * DAY, pulled=110, delivered=11, due=11)
    run(database, "incremental", NOW - DAY, pulled=5, delivered=4, due=4)
    run(database, "incremental", NOW - HOUR, pulled=5, committed_at=None, state="failed")
    known = seen(database, calls, NOW, 10.0)
    # What the first of a week brought is older; a resync sends all; one that failed brings nothing.
    change = known.figures["change"]
    assert (change.value, change.source) == (pytest.approx(4 / 11 / 2), "runs 4 to 4")
    assert known.figures["values"] == Figure(10.0, "run 2")
    assert known.reading == Reading(2, False, 11, 110, 9, 2.0)


def test_less_than_an_hour_says_nothing(database: Database, calls: Database) -> None:
    put(database, row("u", vip=True))
    acknowledge(database)
    run(database, "initial", NOW - HOUR, delivered=1)
    run(database, "incremental", NOW - 1000, delivered=1)
    record(calls, 0, NOW - HOUR + 1, 100)
    assert seen(database, calls, NOW, 10.0).figures.keys() == {"customers"}


def test_the_events_of_a_day(database: Database, calls: Database) -> None:
    record(calls, 0, NOW - 30 * HOUR, 50)
    record(calls, 100, NOW - 10 * HOUR, 300)
    record(calls, 500, NOW - HOUR, 60)
    assert seen(database, calls, NOW, 10.0).figures == {"events": Figure(0.01, "the last day")}
