"""What a part says of its problem: in the log once, and in the state as long as it lasts."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest

from state import problems
from state.db.database import Database
from state.problems import ProblemRow
from syncer import retry
from syncer.clock import now_ms
from syncer.process import problem as module
from syncer.process import supervisor
from syncer.process.problem import ProblemLog, ProblemRecord
from syncer.stop import Stop
from tests.support.processes import wait_until
from tests.support.state import ask

MINUTES = 60.0


class Part:
    """A part whose clock a test sets."""

    def __init__(self, database: Database | None = None) -> None:
        self.now = 0.0
        self.tell = ProblemLog("inbox", database, lambda: self.now)

    def fails(self, after: float = 0.0, text: str = "disk full") -> None:
        self.now += after
        self.tell(text)

    def works(self, after: float = 0.0) -> None:
        self.now += after
        self.tell(None)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The lines that were logged since the last time, without what a time makes of them."""
    caplog.set_level(logging.INFO, "syncer")

    def taken() -> list[str]:
        messages = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return messages

    return taken


def test_it_is_logged_when_it_begins_and_when_it_is_over(lines: Callable[[], list[str]]) -> None:
    part = Part()
    part.works()
    assert lines() == []
    part.fails()
    part.fails(5, "the disk is fuller")
    assert lines() == ["inbox: disk full"]
    part.works(5)
    part.works(5)
    assert lines() == ["inbox: it works again"]


def test_what_comes_and_goes_is_logged_once_in_ten_minutes(lines: Callable[[], list[str]]) -> None:
    part = Part()
    for _ in range(8):
        part.fails(60)
        part.works(10)
    first, again, flaps = lines()
    assert (first, again) == ("inbox: disk full", "inbox: it works again")
    assert flaps.startswith("inbox: it comes and goes, 2 times since ")
    assert flaps.endswith(": disk full")
    for _ in range(3):
        part.fails(60)
        part.works(10)
    (flaps,) = lines()
    assert flaps.startswith("inbox: it comes and goes, 11 times since ")
    part.works(9 * MINUTES)
    assert lines() == []
    part.works(2 * MINUTES)
    assert lines() == ["inbox: it works again, for ten minutes now"]
    part.fails()
    assert lines() == ["inbox: disk full"]


def problem(database: Database) -> ProblemRow | None:
    row: ProblemRow | None = ask(database, lambda connection: problems.get(connection, "inbox"))
    return row


def test_the_state_has_it_while_it_lasts(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RECORD_EVERY", 0.0)
    record = ProblemRecord("inbox", database)
    record("disk full")
    record.settle()
    row = problem(database)
    assert row is not None
    assert (row.text, row.times, row.ended_at) == ("disk full", 1, None)
    record("the disk is fuller")
    record.settle()
    row = problem(database)
    assert row is not None
    assert (row.text, row.times, row.ended_at) == ("the disk is fuller", 1, None)
    record(None)
    record.settle()
    row = problem(database)
    assert row is not None
    assert row.ended_at is not None
    record("disk full")
    record.settle()
    row = problem(database)
    assert row is not None
    assert (row.times, row.ended_at) == (2, None)


def test_it_is_not_written_each_time_that_it_shows(database: Database) -> None:
    record = ProblemRecord("inbox", database)
    record("disk full")
    record.settle()
    record("the disk is fuller")
    record.settle()
    row = problem(database)
    assert row is not None
    assert row.text == "disk full"


def test_the_first_none_of_a_process_ends_what_an_earlier_one_left(database: Database) -> None:
    before = ProblemRecord("inbox", database)
    before("disk full")
    before.settle()
    after = ProblemRecord("inbox", database)
    after(None)
    after.settle()
    row = problem(database)
    assert row is not None
    assert row.ended_at is not None


def test_a_problem_of_another_process_ends_when_that_says_no_more(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY", 0.0)
    record = ProblemRecord("inbox", database)
    record(None)
    record.settle()

    def ends_with(last_at: int) -> bool:
        with database.write() as connection:
            problems.report(connection, "inbox", "disk full", last_at)
        record(None)
        record.settle()
        row = problem(database)
        assert row is not None
        return row.ended_at is not None

    assert not ends_with(now_ms())  # it has it just now
    assert ends_with(now_ms() - 1000 * int(module.STALE) - 1000)


def test_a_state_that_cannot_be_written_keeps_no_part_from_its_work(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_AFTER", 0.01)
    with database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE problem RENAME TO away")
    record = ProblemRecord("inbox", database)
    record("disk full")
    assert threading.active_count() > 1
    with database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE away RENAME TO problem")
    wait_until(lambda: problem(database) is not None, what="the record")
    record.settle()


def test_a_part_that_ends_is_on_record_until_it_works(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what a process of before left there, that was killed."""
    monkeypatch.setattr(retry, "BASE", 0.01)
    with database.write() as connection:
        problems.report(connection, "calls", "the disk is full", now_ms())
    ending, mended = Stop(), threading.Event()

    def work(part: supervisor.Part) -> None:
        if not mended.is_set():
            raise OSError(24, "Too many open files")
        while not part.wait(0.01):
            part.well()

    def recorded() -> dict[str, str]:
        return {row.part: row.text for row in ask(database, problems.active)}

    keeper = supervisor.Supervisor(ending, lambda name: ProblemLog(name, database))
    try:
        keeper.start("delivery", work)
        both = {"calls": "the disk is full", "delivery": "Too many open files"}
        wait_until(lambda: recorded() == both, 5)
        mended.set()
        wait_until(lambda: recorded() == {"calls": "the disk is full"}, 5)
        keeper.start("calls", work)
        wait_until(lambda: recorded() == {}, 5)
    finally:
        ending.set()
        keeper.join(5)


def test_what_is_kept_names_no_customer(database: Database, lines: Callable[[], list[str]]) -> None:
    """An alert may copy it just before that customer is erased."""
    part = Part(database)
    url = "http://a/customers?customerId="
    part.fails(text=f"GET {url}a%2Fb answered 503; GET {url}c, too")
    wait_until(lambda: problem(database))
    row = problem(database)
    assert row is not None
    assert row.text == f"GET {url}… answered 503; GET {url}…, too"
    assert lines() == [f"inbox: GET {url}a%2Fb answered 503; GET {url}c, too"]
