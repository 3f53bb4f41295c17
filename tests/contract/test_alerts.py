"""Alerts from when they show until it was told that they are over, and the facts they follow
from."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest

import syncer.daemon.alerts
from state import alerts, failures, holds, outbox, problems, queue, runs
from state.alerts import News
from state.db.database import Database
from state.failures import FailureRow
from state.history.record import ChangeRow, add_changes
from state.queue import Accepted, EventRow
from syncer.config import AlertsConfig
from syncer.daemon.alerts import Alerts, Facts, gather
from tests.support.state import NOW, ask, put, row

NONE = News({}, {})


class Watch:
    """Looks at a database one second after the other."""

    def __init__(self, database: Database) -> None:
        self._database, self._seconds = database, itertools.count(1)

    def sees(self, **present: str) -> News:
        with self._database.write() as connection:
            self.now = NOW + 1000 * next(self._seconds)
            return alerts.see(connection, present, self.now)

    def tells(self, name: str) -> None:
        with self._database.write() as connection:
            self.now = NOW + 1000 * next(self._seconds)
            alerts.notified(connection, name, self.now)

    @property
    def active(self) -> list[str]:
        return [alert.name for alert in ask(self._database, alerts.active)]

    @property
    def untold(self) -> list[tuple[str, bool]]:
        """Names, and whether it is that they are over that is to be told."""
        waiting = ask(self._database, alerts.unnotified)
        return [(alert.name, alert.ended_at is not None) for alert in waiting]

    @property
    def since(self) -> list[int]:
        return [alert.since for alert in ask(self._database, alerts.active)]


@pytest.fixture
def watch(database: Database) -> Watch:
    return Watch(database)


def test_nothing_to_see(watch: Watch) -> None:
    assert watch.sees() == NONE
    assert (watch.active, watch.untold) == ([], [])


def test_an_alert_is_told_when_it_begins_and_when_it_is_over(watch: Watch) -> None:
    assert watch.sees(lag="slow") == News({"lag": "slow"}, {})
    began = watch.now
    assert (watch.active, watch.untold) == (["lag"], [("lag", False)])
    assert watch.sees(lag="slow") == NONE
    watch.tells("lag")
    assert (watch.active, watch.untold) == (["lag"], [])
    assert watch.sees(lag="slow") == NONE
    assert watch.since == [began]

    assert watch.sees() == News({}, {"lag": "slow"})
    assert (watch.active, watch.untold) == ([], [("lag", True)])
    assert watch.sees() == NONE
    watch.tells("lag")
    assert (watch.active, watch.untold) == ([], [])

    assert watch.sees(lag="again") == News({"lag": "again"}, {})
    assert watch.since == [watch.now]
    assert watch.untold == [("lag", False)]


def test_one_that_is_over_before_it_was_told_is_not_told(watch: Watch) -> None:
    watch.sees(lag="slow")
    assert watch.sees() == News({}, {"lag": "slow"})
    assert (watch.active, watch.untold) == ([], [])
    assert watch.sees() == NONE


def test_one_that_comes_back_before_its_end_was_told_goes_on(watch: Watch) -> None:
    watch.sees(lag="slow")
    began = watch.now
    watch.tells("lag")
    watch.sees()
    assert watch.sees(lag="slow again") == News({"lag": "slow again"}, {})
    assert (watch.active, watch.untold, watch.since) == (["lag"], [], [began])
    assert watch.sees(lag="slow again") == NONE
    assert watch.sees() == News({}, {"lag": "slow again"})
    assert watch.untold == [("lag", True)]
    watch.tells("lag")
    assert (watch.active, watch.untold) == ([], [])


def test_a_new_text_is_no_news(watch: Watch, database: Database) -> None:
    watch.sees(lag="30 minutes")
    watch.tells("lag")
    assert watch.sees(lag="31 minutes") == NONE
    assert watch.untold == []
    assert [alert.text for alert in ask(database, alerts.active)] == ["31 minutes"]
    assert watch.sees() == News({}, {"lag": "31 minutes"})


def test_each_goes_its_own_way(watch: Watch) -> None:
    assert watch.sees(b="1", a="2").began == {"b": "1", "a": "2"}
    watch.tells("a")
    assert watch.sees(a="2", c="3") == News({"c": "3"}, {"b": "1"})
    assert (watch.active, watch.untold) == (["a", "c"], [("c", False)])
    assert watch.sees(c="3") == News({}, {"a": "2"})
    assert (watch.active, watch.untold) == (["c"], [("a", True), ("c", False)])
    watch.tells("a")
    watch.tells("nothing")
    assert watch.untold == [("c", False)]


# -- problems of parts, seen again and again


def test_how_long_a_problem_lasts_is_since_it_came_last(
    database: Database, calls: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds, moved = NOW / 1000, 0.0
    alarm = Alerts(database, calls, AlertsConfig(), clock=lambda: seconds)
    monkeypatch.setattr(time, "time", lambda: seconds + moved)
    monkeypatch.setattr(syncer.daemon.alerts, "LASTS", 60.0)

    def names(after: float) -> list[str]:
        nonlocal seconds
        seconds += after
        alarm.check()
        return [alert.name for alert in ask(database, alerts.active)]

    def say(text: str | None) -> None:
        with database.write() as connection:
            now = int((seconds + moved) * 1000)
            if text is None:
                problems.over(connection, "meters", now)
            else:
                problems.report(connection, "meters", text, now)

    say("no answer")
    assert names(50) == []
    assert names(10) == ["problem:meters"]
    say(None)
    assert names(10) == []
    say("no answer")  # soon: the same problem, but it may be over in a moment
    assert names(10) == []
    assert names(50) == []
    assert names(10) == ["problem:meters"]
    say(None)
    assert names(10) == []
    say("no answer")  # the third time: it comes and goes
    assert names(1) == ["problem:meters"]
    say(None)
    assert names(9 * 60) == ["problem:meters"]
    assert names(2 * 60) == []
    say("no answer")  # the clock is set meanwhile
    assert names(10) == []
    moved = -86_400.0
    assert names(40) == []
    assert names(10) == ["problem:meters"]
    say(None)
    moved = 0.0
    for _ in range(3):
        say("no answer")
        assert names(1) in ([], ["problem:meters"])
        say(None)
    assert names(1) == ["problem:meters"]
    moved = -86_400.0  # nor is it a day until what came and went is over
    assert names(10) == []


def test_what_ended_in_another_daemon_is_told_at_once(
    database: Database, calls: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = NOW / 1000
    monkeypatch.setattr(time, "time", lambda: seconds)
    with database.write() as connection:
        problems.report(connection, "page", "killed, before we began", NOW - 1)
    alarm = Alerts(database, calls, AlertsConfig())

    def texts(after: float) -> list[str]:
        nonlocal seconds
        seconds += after
        alarm.check()
        return [alert.text for alert in ask(database, alerts.active)]

    with database.write() as connection:
        problems.report(connection, "worker", "its process was killed", NOW)
        problems.report(connection, "meters", "no answer", NOW)
        problems.over(connection, "page", NOW)
        problems.over(connection, "meters", NOW)
    assert texts(1) == ["worker: its process was killed"]
    with database.write() as connection:
        problems.over(connection, "worker", NOW + 2000)
    assert texts(50) == ["worker: its process was killed"]
    assert texts(20) == []


# -- the facts: what the runs say


def run(database: Database, state: str, *, kind: str = "incremental", **values: Any) -> int:
    """A run that ended so; good ones committed."""
    good = state not in (runs.RUNNING, runs.FAILED, runs.INTERRUPTED)
    committed = {"committed_at": NOW, "watermark": "w"} if good else {}
    with database.write() as connection:
        number = runs.start(connection, kind, values.pop("started_at", NOW), "{}")
        runs.set_values(connection, number, {**committed, "state": state, **values})
    return number


def test_errors_are_those_since_the_last_run_that_did_not_fail(database: Database) -> None:
    assert ask(database, runs.errors_in_a_row) == []
    run(database, runs.FAILED, error="long ago")
    run(database, runs.DONE)
    assert ask(database, runs.errors_in_a_row) == []
    run(database, runs.FAILED, error="first")
    run(database, runs.INTERRUPTED, error="a stop says nothing of the others")
    run(database, runs.FAILED, error="second")
    run(database, runs.RUNNING)
    assert ask(database, runs.errors_in_a_row) == ["second", "first"]


@pytest.mark.parametrize("state", [runs.DONE, runs.HELD, runs.SUPERSEDED])
def test_what_did_not_fail_ends_the_row(database: Database, state: str) -> None:
    run(database, runs.FAILED, error="first")
    run(database, state)
    assert ask(database, runs.errors_in_a_row) == []


def test_since_when_the_source_brings_nothing_new(database: Database) -> None:
    assert ask(database, runs.unchanged_since) is None
    for at, watermark in ((1, "a"), (2, "b"), (3, "b"), (4, None), (5, "b")):
        run(database, runs.DONE, started_at=NOW + at, watermark=watermark)
    assert ask(database, runs.unchanged_since) == NOW + 2
    run(database, runs.FAILED, started_at=NOW + 6)
    assert ask(database, runs.unchanged_since) == NOW + 2
    run(database, runs.DONE, started_at=NOW + 7, watermark="c")
    assert ask(database, runs.unchanged_since) == NOW + 7
    run(database, runs.DONE, started_at=NOW + 8, watermark="")  # a source that has none
    assert ask(database, runs.unchanged_since) is None


def test_what_cut_off_runs_had_done(database: Database) -> None:
    run(database, runs.INTERRUPTED, delivered=100, failed=1)
    run(database, runs.DONE, delivered=50)
    first = run(database, runs.INTERRUPTED, delivered=20, failed=2)
    second = run(database, runs.INTERRUPTED, delivered=3)
    third = run(database, runs.RUNNING, delivered=7)
    assert [ask(database, lambda c, n=n: runs.done_before(c, n)) for n in (first, second)] == [
        0, 22,
    ]  # fmt: skip
    assert ask(database, lambda c: runs.done_before(c, third)) == 25


def test_the_last_good_run_is_the_newest_that_pulled_for_all(database: Database) -> None:
    def last(*kinds: str) -> int | None:
        run_id: int | None = ask(database, lambda c: runs.last_good(c, kinds))
        return run_id

    assert last() is None
    run(database, runs.DONE, kind="initial", started_at=NOW + 1)
    run(database, runs.HELD, kind="reconcile", started_at=NOW + 2)
    run(database, runs.DONE, started_at=NOW + 3)
    assert (last(), last(*runs.FULL), last("initial")) == (NOW + 3, NOW + 2, NOW + 1)
    for state in (runs.FAILED, runs.INTERRUPTED, runs.RUNNING):
        committed = {"committed_at": NOW, "watermark": "w"}
        run(database, state, kind="reconcile", started_at=NOW + 9, **committed)
    run(database, runs.DONE, kind="resync", started_at=NOW + 9, watermark=None)  # of one customer
    run(database, runs.DONE, kind="resync", started_at=NOW + 9, committed_at=None)
    assert (last(), last(*runs.FULL), last("nothing")) == (NOW + 3, NOW + 2, None)
    run(database, runs.DONE, started_at=NOW - 99)  # the clock was set back before it
    assert last() == NOW - 99


def test_how_many_runs_there_were_and_what_they_did(database: Database) -> None:
    names = (
        *("pulled", "entered", "exited", "changed", "skipped"),
        *("delivered", "already_right", "failed", "held"),
    )
    assert ask(database, runs.counts) == {}
    assert ask(database, runs.totals) == dict.fromkeys(names, 0)
    run(database, runs.DONE, pulled=1 << 40, entered=2, exited=3, changed=4, skipped=5)
    run(database, runs.DONE, pulled=1 << 40, delivered=6, already_right=2, failed=7, held=8)
    run(database, runs.FAILED, kind="reconcile", entered=10)
    assert ask(database, runs.counts) == {
        ("incremental", "done"): 2,
        ("reconcile", "failed"): 1,
    }
    expected = dict(zip(names, (1 << 41, 12, 3, 4, 5, 6, 2, 7, 8), strict=True))
    assert ask(database, runs.totals) == expected


def test_how_far_a_run_is_is_told_while_it_goes_on(database: Database) -> None:
    done, going_on = run(database, runs.DONE), run(database, runs.RUNNING)
    with database.write() as connection:
        runs.set_progress(connection, {"done": 5})
    told = [ask(database, lambda c, n=n: runs.get(c, n).progress) for n in (done, going_on)]
    assert told == [None, {"done": 5}]
    with database.write() as connection:
        runs.set_progress(connection, None)
    assert ask(database, lambda c: runs.get(c, going_on).progress) is None


# -- and all of them together


def test_facts_of_nothing(database: Database, calls: Database) -> None:
    assert gather(database, calls, NOW / 1000) == Facts({}, 0, [], 0.0, 0.0)


def test_facts_are_gathered_from_all_over(database: Database, calls: Database) -> None:
    held = run(database, runs.HELD, started_at=NOW - 90_000)
    for error in ("older", "newer"):
        run(database, runs.FAILED, error=error)
    put(database, row("u1"), now=NOW - 20_000)
    with database.write() as connection:
        sizes = {"members": 9, "leaving": 3}
        holds.hold(connection, "vip", "vip", "too many", run=held, now=NOW, **sizes)
        failures.put(
            connection,
            [
                FailureRow("customer:u2", failures.CUSTOMER, "no", NOW, customer_id="u2")
            ],
        )  # fmt: skip
        failures.put(connection, [failures.call(f"{n}", None, "no", "{}", NOW) for n in range(2)])
    expected = Facts({"vip": held}, 1, ["newer", "older"], 20.0, 90.0, calls=2)
    assert gather(database, calls, NOW / 1000) == expected

    with calls.write() as connection:  # a call that waits longer
        queue.accept(connection, [Accepted("track", b"{}", 1, NOW - 30_000)])
    assert gather(database, calls, NOW / 1000).lag == 30.0
    with calls.write() as connection:  # and a meter record that was tried before
        queue.store_processed(connection, [], [EventRow("m1", b"{}", NOW - 40_000, NOW + 9_000)])
    assert gather(database, calls, NOW / 1000).lag == 40.0
    with database.write() as connection:  # and a customer that was
        change = ChangeRow("u1", "vip", "vip", None, "true", 1)
        add_changes(connection, [change], held, NOW - 50_000)
        outbox.postpone(connection, [("u1", 2, NOW + 60_000)])
    assert gather(database, calls, NOW / 1000).lag == 50.0
    # A clock that was set back makes no time that is less than none.
    assert gather(database, calls, NOW / 1000 - 600).lag == 0.0
