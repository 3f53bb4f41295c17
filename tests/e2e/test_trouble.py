"""Trouble is visible while it lasts: on the screen, in `status`, in the metrics, as an alert."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

import syncer.progress
from state import problems
from state.db import workers
from state.db.database import Database
from syncer import status
from syncer.sandbox.faults import Faults
from tests.support.daemon import daemon
from tests.support.installation import Installation
from tests.support.processes import free_port, wait_until
from tests.support.warehouse import Warehouse

HTML = "answered 200 with something that is not JSON: <html>"


@contextmanager
def interrupted_when_known(installation: Installation, cause: str) -> Iterator[None]:
    """Press Ctrl-C as soon as the state has a problem with this cause."""
    ended = threading.Event()

    def known() -> bool:
        with closing(Database.peek(installation.state_url)) as state, state.read() as connection:
            texts = [row.text for row in problems.active(connection)]
        return ended.is_set() or any(re.search(cause, text) for text in texts)

    def interrupt() -> None:
        wait_until(known, 120, what="the problem")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def customers_problem(installation: Installation) -> dict[str, Any]:
    (problem,) = installation.json("status")["problems"]
    assert problem["part"] == "customers"
    assert isinstance(problem, dict)
    return problem


@pytest.mark.parametrize(
    ("fault", "cause", "helps"),
    [
        ("unreachable", r"connection refused by 127\.0\.0\.1:\d+", "DNS, proxy, firewall"),
        ("html", rf"GET \S+/customers/paging {HTML}", "a proxy or a page to log in"),
        ("500", r"GET \S+/customers/paging answered 500", "its support knows more"),
        ("PUT html", rf"PUT \S+/customers {HTML}", "a proxy or a page to log in"),
        ("PUT 500", r"PUT \S+/customers answered 500", "its support knows more"),
    ],
)
def test_trouble_is_known_while_it_lasts(
    installation: Installation,
    warehouse: Warehouse,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    cause: str,
    helps: str,
) -> None:
    monkeypatch.setattr(syncer.progress, "LINE_EVERY", 0.0)
    amberflo = installation.amberflo
    for number in range(20):
        warehouse.user(f"u{number}", vip="true")
    if fault == "unreachable":
        installation.configure(customers_url=f"http://127.0.0.1:{free_port()}/customers")
    else:
        amberflo.odd = {"*": fault}
    with interrupted_when_known(installation, cause):
        screen = installation.run("sync", exit_code=1).stderr.splitlines()

    shown = rf"nothing gets through to Amberflo for \d+ s: {cause}.*; trying on until 5m"
    assert any(re.fullmatch(shown, line) for line in screen), screen
    last = rf"error: .*: nothing got through to Amberflo for \d+ s: {cause}.*"
    assert re.fullmatch(last, screen[-1]), screen
    problem = customers_problem(installation)
    assert re.match(rf"nothing gets through to Amberflo: {cause}", problem["text"])
    assert helps in problem["text"]
    assert re.search(
        rf"problem since \S+Z: customers: .*{cause}", installation.run("status").stdout
    )

    amberflo.odd = {}
    installation.configure()
    installation.run("sync")
    assert len(amberflo.customers) == 20
    assert installation.json("status")["problems"] == []


def test_an_answer_that_does_not_come_is_trouble_until_it_comes(
    installation: Installation, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syncer.progress, "LINE_EVERY", 0.0)
    warehouse.user("u1", vip="true")
    installation.amberflo.faults = Faults.parse("slow=1,slow_seconds=0.9")
    screen = installation.run("sync").stderr.splitlines()
    shown = r"nothing gets through to Amberflo for \d+ s: no answer comes; trying on until 5m"
    assert any(re.fullmatch(shown, line) for line in screen), screen
    assert installation.json("status")["problems"] == []


def test_a_refused_key_is_known_at_once(installation: Installation, warehouse: Warehouse) -> None:
    warehouse.user("u1", vip="true")
    installation.configure(api_key="not-the-key")
    refused = "Amberflo refuses the API key (status 401): set amberflo.api_key to a valid key"
    assert (
        installation.run("sync", exit_code=1)
        .stderr.splitlines()[-1]
        .startswith(f"error: {refused}")
    )
    assert customers_problem(installation)["text"].startswith(refused)
    installation.configure()
    installation.run("sync")
    assert installation.json("status")["problems"] == []


def test_a_source_that_fails_is_a_problem_until_a_pull_succeeds(
    installation: Installation, warehouse: Warehouse
) -> None:
    warehouse.user("u1", vip="true")
    empty = installation.folder / "empty.db"
    empty.touch()
    installation.configure(source=f"sqlite:///{empty}")
    error = installation.run("sync", exit_code=1).stderr.splitlines()[-1]
    (problem,) = installation.json("status")["problems"]
    assert (problem["part"], f"error: {problem['text']}") == ("source", error)
    installation.configure()
    installation.run("sync")
    assert installation.json("status")["problems"] == []


def test_verify_says_what_it_waits_for(installation: Installation, warehouse: Warehouse) -> None:
    warehouse.user("u1", vip="true")
    installation.run("sync")
    installation.configure(patience="1s")
    installation.amberflo.odd = {"*": "503"}
    screen = installation.run("verify", exit_code=1).stderr
    assert re.search(r"nothing gets through to Amberflo for \d+ s: GET \S+ answered 503", screen)
    assert installation.json("status")["problems"] == []  # it only reads


def test_a_daemon_shows_and_alerts_what_lasts(
    installation: Installation, warehouse: Warehouse
) -> None:
    warehouse.user("u1", vip="true")
    installation.amberflo.odd = {"*": "500"}
    with daemon(installation) as running:
        running.send("track", {"userId": "u1", "event": "Tested", "messageId": "m1"})

        def alerts() -> set[str]:
            return {alert["name"] for alert in installation.json("status")["alerts"]}

        wait_until(lambda: alerts() >= {"problem:meters", "problem:customers"}, 90, what="alerts")
        metrics = running.metrics()
        assert metrics['syncer_problem{part="meters"}'] == 1
        assert 'syncer_problem_since_timestamp_seconds{part="customers"}' in metrics
        assert metrics["syncer_lag_seconds"] > 0
        installation.amberflo.odd = {}
        wait_until(lambda: not installation.json("status")["problems"], 90, what="the end")
        assert running.records("m1")
        assert not [name for name in running.metrics() if name.startswith("syncer_problem{")]
    begins = [line for line in running.log if "ERROR" in line and "meters: nothing gets" in line]
    assert len(begins) == 2  # the problem and its alert


def test_a_time_that_is_over_is_not_told_as_that_of_the_next_run(
    installation: Installation, warehouse: Warehouse
) -> None:
    warehouse.user("u1", vip="true")
    installation.run("sync")
    future = 4_000_000_000_000
    with (
        closing(Database.open(installation.state_url)) as state,
        workers.register(state, workers.DAEMON) as me,
    ):
        for at, told in ((1, "the next run is due"), (future, "the next run starts at 2096-")):
            with state.write() as connection:
                workers.set_schedule(connection, me.number, {"next_run": at, "full": False})
            assert told in installation.run("status").stdout


def test_a_full_disk_shows_although_nothing_can_be_recorded(
    installation: Installation, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation.run("sync")
    assert installation.json("status")["problems"] == []
    monkeypatch.setattr(status, "LEAST_ROOM", 1 << 62)
    (problem,) = installation.json("status")["problems"]
    assert (problem["part"], problem["times"]) == ("state", 1)
    assert re.search(r"the disk of sqlite:\S+ has [\d,]+ bytes left: make room", problem["text"])
    assert "bytes left: make room" in installation.run("status").stdout
