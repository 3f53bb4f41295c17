"""The queue of calls, runs and failures, on SQLite and on PostgreSQL."""

from __future__ import annotations

from sqlalchemy import text

from state import failures, queue, runs
from state.db.database import Database
from state.queue import DueEvent, EventRow
from state.runs import RunTraitRow
from tests.contract.state.helpers import claimed, failure, numbers, queued, start
from tests.support.state import NOW, ask, records

# the queue of calls


def test_meter_records_are_claimed_those_that_wait_longest_first(calls: Database) -> None:
    queued(calls, "later", at=NOW + 5)
    queued(calls, "b", "a", "c")
    queued(calls, "first", at=NOW - 5)
    queued(calls, "no meter", at=None)
    assert ask(calls, lambda c: queue.any_due(c, NOW))
    assert not ask(calls, lambda c: queue.any_due(c, NOW - 6))
    assert claimed(calls, 1, NOW - 6) == []
    assert sorted(claimed(calls, 1, limit=3)) == ["a", "b", "first"]
    assert claimed(calls, 2) == ["c"]
    assert claimed(calls, 3) == []
    assert not ask(calls, lambda c: queue.any_due(c, NOW))
    assert claimed(calls, 3, NOW + 5) == ["later"]
    assert {record["claimed_by"] for record in records(calls, "event").values()} == {1, 2, 3, None}
    assert ask(calls, queue.waiting) == (0, 5)  # claimed is not delivered


def test_a_claimed_record_comes_as_it_was_accepted(calls: Database) -> None:
    queued(calls, "m1")
    with calls.write() as connection:
        queue.postpone(connection, numbers(calls).values(), NOW + 5)
        (event,) = queue.claim(connection, 1, NOW + 5, 10)
    assert event == DueEvent(numbers(calls)["m1"], "m1", b"m1", 1)


def test_records_that_are_given_back_settled_or_postponed_are_claimed_no_more(
    calls: Database,
) -> None:
    queued(calls, "back", "sent", "later", "kept")
    claimed(calls, 1)
    ids = numbers(calls)
    with calls.write() as connection:
        queue.release(connection, [ids["back"]])
        queue.release(connection, [])
        queue.settle(connection, [ids["sent"]])
        queue.postpone(connection, [ids["later"], ids["sent"]], NOW + 5)
    events = {record["message_id"]: record for record in records(calls, "event").values()}
    assert {
        message_id: row["claimed_by"] for message_id, row in events.items() if row["claimed_by"]
    } == {"kept": 1}
    assert (events["sent"]["due_at"], events["sent"]["record"]) == (None, None)
    assert (events["later"]["due_at"], events["later"]["attempts"]) == (NOW + 5, 1)
    assert (events["back"]["due_at"], events["back"]["attempts"]) == (NOW, 0)
    assert claimed(calls, 2, NOW + 9) == ["back", "later"]


def test_records_are_unsettled_until_amberflo_has_them_or_refused_them(calls: Database) -> None:
    queued(calls, "m1", "m2", "m3")
    names = [("m1", ""), ("m2", ""), ("m3", "another"), ("unknown", "")]
    assert ask(calls, lambda c: queue.unsettled(c, names)) == 2
    assert ask(calls, lambda c: queue.unsettled(c, [])) == 0
    claimed(calls, 1)
    assert ask(calls, lambda c: queue.unsettled(c, names)) == 2
    with calls.write() as connection:
        queue.settle(connection, [numbers(calls)["m1"]])
    assert ask(calls, lambda c: queue.unsettled(c, names)) == 1
    with calls.write() as connection:
        queue.send_again(connection, "m1", b"m1", NOW + 7)
    assert ask(calls, lambda c: queue.unsettled(c, names)) == 2
    assert claimed(calls, 2, NOW + 9) == ["m1"]


def test_a_repeat_changes_nothing_of_a_claimed_record(calls: Database) -> None:
    queued(calls, "m1")
    claimed(calls, 1)
    before = records(calls, "event")
    with calls.write() as connection:
        again = [EventRow("m1", b"other", NOW + 9, NOW + 9), EventRow("m2", None, NOW, None)]
        assert queue.store_processed(connection, [], again) == 1
    after = records(calls, "event")
    assert [after[number] for number in before] == list(before.values())


# runs


def states(database: Database) -> dict[int, str]:
    return {run.id: run.state for run in ask(database, runs.newest)}


def test_a_run_is_recorded(database: Database) -> None:
    first, second = start(database), start(database, "incremental", pulled=7, error="x")
    assert second > first
    run = ask(database, lambda c: runs.get(c, first))
    assert (run.kind, run.state, run.started_at) == ("initial", "running", NOW)
    assert (run.settings, run.ended_at, run.watermark) == ('{"a": 1}', None, None)
    assert {getattr(run, name) for name in ("pulled", "entered", "due", "delivered", "held")} == {0}
    assert ask(database, lambda c: runs.get(c, second)).pulled == 7
    assert ask(database, lambda c: runs.get(c, second + 1)) is None
    assert [run.id for run in ask(database, runs.newest)] == [second, first]
    assert [run.id for run in ask(database, lambda c: runs.newest(c, 1))] == [second]


def test_numbers_of_runs_are_not_given_twice(database: Database) -> None:
    first = start(database)
    with database.write() as connection:
        connection.execute(text("DELETE FROM run"))
    assert start(database) > first


def test_runs_that_were_cut_off_are_found(database: Database) -> None:
    done, first, second = start(database, state="done"), start(database), start(database)
    with database.write() as connection:
        assert sorted(runs.take_up(connection, NOW + 5)) == [first, second]
        assert runs.take_up(connection, NOW + 6) == []
    assert states(database) == {done: "done", first: "interrupted", second: "interrupted"}
    run = ask(database, lambda c: runs.get(c, first))
    assert run.ended_at == NOW + 5
    assert "in the middle" in run.error
    assert ask(database, lambda c: runs.get(c, done)).ended_at is None


def sums(key: str, held: int, waiting: int = 0) -> RunTraitRow:
    return RunTraitRow(key, key.lower(), "audience", *[3] * 6, held, {"odd": 1}, waiting)


def test_the_sums_of_a_run_by_trait(database: Database) -> None:
    run, other = start(database), start(database)
    with database.write() as connection:
        runs.add_traits(connection, run, [sums("b", 0), sums("A", 2)])
        runs.add_traits(connection, other, [sums("b", 1)])
        runs.add_traits(connection, other, [])
    entries = ask(database, lambda c: runs.traits(c, run))
    assert [(entry.key, entry.trait, entry.held) for entry in entries] == [
        ("A", "a", 2),
        ("b", "b", 0),
    ]
    assert entries[0] == sums("A", 2)._replace(run=run)


def test_the_last_whole_run_is_the_newest_committed_one_with_a_watermark(
    database: Database,
) -> None:
    assert ask(database, runs.last_whole) is None
    start(database, watermark="1")
    assert ask(database, runs.last_whole) is None
    start(database, watermark="2", committed_at=NOW, state="failed")
    expected = start(database, watermark="", committed_at=NOW, state="interrupted")
    start(database, watermark=None, committed_at=NOW, state="done")
    start(database, watermark="5", state="failed")
    run = ask(database, runs.last_whole)
    assert (run.id, run.watermark, run.settings) == (expected, "", '{"a": 1}')


# failures


def test_what_fails_again_is_one_failure_the_newest(database: Database) -> None:
    with database.write() as connection:
        failures.put(connection, [failure("u1", "first"), failure("u2")])
        failures.put(connection, [failure("u1", "second", status=None)])
    entries = ask(database, failures.find)
    assert [(entry.customer_id, entry.reason) for entry in entries] == [
        ("u2", "no"),
        ("u1", "second"),
    ]
    assert entries[0]._replace(id=0) == failure("u2")
    assert (entries[0].message_id, entries[1].status) == (None, None)
    assert ask(database, failures.count) == 2


def test_failures_are_found_cleared_and_removed(database: Database) -> None:
    meter = failure("u1", ref="message:m1", kind=failures.METER, message_id="m1")
    with database.write() as connection:
        failures.put(connection, [failure(customer_id) for customer_id in ("u1", "u2", "u3")])
        failures.put(connection, [meter])
    ids = {(entry.kind, entry.customer_id): entry.id for entry in ask(database, failures.find)}
    chosen = [ids["customer", "u3"], ids["customer", "u1"], 999]
    entries = ask(database, lambda c: failures.find(c, chosen))
    assert [entry.customer_id for entry in entries] == ["u1", "u3"]
    assert ask(database, lambda c: failures.find(c, [])) == []

    with database.write() as connection:
        refs = [failures.customer_ref(customer_id) for customer_id in ("u1", "u9")]
        failures.clear(connection, refs)
        assert failures.remove(connection, [ids["customer", "u2"], 999]) == 1
        assert failures.remove(connection, []) == 0
    remaining = [(entry.kind, entry.customer_id) for entry in ask(database, failures.find)]
    assert remaining == [("customer", "u3"), ("meter", "u1")]
    assert ask(database, failures.count) == 2
