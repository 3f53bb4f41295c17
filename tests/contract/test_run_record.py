"""The record of a run whose process could not write one."""

from __future__ import annotations

from state import runs
from state.db.database import Database
from state.db.locks import run_lock
from state.runs import RunRow
from syncer.daemon.run_record import next_record, record_failed, took_nothing
from tests.support.state import NOW, ask

KILLED = "its process was killed by signal 9 (out of memory?)"


def start(database: Database, kind: str = "incremental") -> int:
    with database.write() as connection:
        return runs.start(connection, kind, NOW, "{}")


def on_record(database: Database) -> list[tuple[str, str, str | None]]:
    rows: list[RunRow] = ask(database, runs.newest)
    return [(row.kind, row.state, row.error) for row in reversed(rows)]


def test_a_run_that_left_nothing_is_recorded(database: Database) -> None:
    start(database)
    record = next_record(database, full=True)
    record_failed(database, record, KILLED)
    assert on_record(database) == [
        ("incremental", runs.RUNNING, None),
        ("reconcile", runs.FAILED, KILLED),
    ]
    assert took_nothing(database, record)


def test_a_run_that_was_cut_off_is_marked(database: Database) -> None:
    record = next_record(database, full=False)
    number = start(database)
    record_failed(database, record, KILLED)
    assert on_record(database) == [("incremental", runs.FAILED, KILLED)]
    assert ask(database, lambda c: runs.get(c, number)).ended_at is not None
    assert ask(database, runs.errors_in_a_row) == [KILLED]


def test_a_run_that_recorded_its_own_end_stays_as_it_is(database: Database) -> None:
    record = next_record(database, full=False)
    with database.write() as connection:
        number = runs.start(connection, "incremental", NOW, "{}")
        values = {"state": runs.FAILED, "ended_at": NOW, "error": "its own", "committed_at": NOW}
        runs.set_values(connection, number, values)
    record_failed(database, record, "ended with status 1")
    assert on_record(database) == [("incremental", runs.FAILED, "its own")]
    assert not took_nothing(database, record)  # what it took is due


def test_the_run_of_somebody_else_is_left_alone(database: Database) -> None:
    record = next_record(database, full=False)
    with run_lock(database):
        start(database, "resync")
        record_failed(database, record, KILLED)
    assert on_record(database) == [
        ("resync", runs.RUNNING, None),
        ("incremental", runs.FAILED, KILLED),
    ]


def test_a_run_without_a_process_does_not_run(database: Database) -> None:
    with run_lock(database):
        number = start(database)
        rows = ask(database, runs.newest)
        assert runs.as_they_are(database, rows) == rows
    (row,) = runs.as_they_are(database, rows)
    assert (row.state, row.error, row.ended_at) == (runs.INTERRUPTED, runs.CUT_OFF, None)
    with database.write() as connection:
        runs.set_values(connection, number, {"state": runs.DONE, "ended_at": NOW})
    (row,) = runs.as_they_are(database, rows)  # it ended since it was read
    assert (row.state, row.ended_at) == (runs.DONE, NOW)
