"""What a signal, or a state server that restarts, leaves behind."""

from __future__ import annotations

import signal
import sqlite3
import time
from contextlib import closing

import pytest
from sqlalchemy import create_engine, text

from syncer.sandbox.engage import EngageSandbox
from syncer.sandbox.faults import Faults
from tests.e2e.crashes.helpers import SLOW, WORKERS, State, ended, no_traceback, wait_until, writes
from tests.support.installation import Installation, expected_records


def test_a_run_whose_process_is_gone_is_not_shown_as_running(
    installation: Installation, engage: EngageSandbox
) -> None:
    engage.fill(5, 1)
    installation.run("sync")
    with closing(sqlite3.connect(installation.folder / "syncer.db")) as connection, connection:
        connection.execute("UPDATE run SET state = 'running', ended_at = NULL")
    assert "run 1 (initial) interrupted" in installation.run("status").stdout
    assert installation.json("status")["last_run"]["state"] == "interrupted"
    assert installation.json("runs")[0]["state"] == "interrupted"
    assert "the process ended in the middle" in installation.run("runs", "show", "1").stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_delivery_that_is_asked_to_stop_ends_soon_and_is_taken_up(
    installation: Installation, engage: EngageSandbox, number: signal.Signals
) -> None:
    installation.configure(concurrency=WORKERS)
    installation.amberflo.faults = Faults.parse(SLOW)
    engage.fill(120, 5)
    wanted = expected_records(engage)
    process = installation.start("sync")
    with ended(process):
        wait_until(lambda: writes(installation) >= 30, process)
        process.send_signal(number)
        began = time.monotonic()
        _, said = process.communicate(timeout=20)
    assert time.monotonic() - began < 8
    assert process.returncode == 1, said
    no_traceback(said)
    (error,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "customers are not delivered and stay due" in error
    assert "stopping when the work under way has ended" in said

    (run,) = installation.json("runs")
    assert run["state"] == "interrupted"
    assert run["due"] == len(wanted)
    sent = installation.puts()
    assert 30 <= run["delivered"] == len(sent) < len(wanted)
    assert installation.json("status")["backlog"]["customers"] == len(wanted) - len(sent)
    audited = installation.json("audit", "customer", next(iter(sent)))
    assert all(change["delivered_at"] for change in audited["changes"])

    installation.amberflo.faults = Faults()
    run = installation.json("sync")
    assert (run["state"], run["delivered"]) == ("done", len(wanted) - len(sent))
    assert installation.puts() == dict.fromkeys(wanted, 1)
    assert installation.holds() == wanted


def test_a_second_interrupt_ends_at_once(installation: Installation, engage: EngageSandbox) -> None:
    installation.configure(concurrency=WORKERS)
    installation.amberflo.faults = Faults.parse("slow=1,slow_seconds=9")
    engage.fill(40, 2)
    wanted = expected_records(engage)
    process = installation.start("sync")
    with ended(process):
        wait_until(lambda: installation.amberflo.stats()["requests"], process)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        while "stopping" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, said = process.communicate(timeout=20)
    assert time.monotonic() - began < 6
    assert process.returncode == 1
    no_traceback(said)
    assert said.splitlines()[-1] == "stopped"
    installation.amberflo.faults = Faults()
    assert installation.json("sync")["delivered"] == len(wanted)
    assert [run["state"] for run in installation.json("runs")] == ["done", "interrupted"]
    assert installation.holds() == wanted


def test_a_pull_that_is_asked_to_stop_changes_nothing(
    installation: Installation, engage: EngageSandbox
) -> None:
    engage.fill(100, 3)
    state = State(f"sqlite:///{installation.folder / 'syncer.db'}")
    path = installation.folder / "engage.db"
    with closing(state), closing(sqlite3.connect(path, isolation_level=None)) as source:
        source.execute("BEGIN EXCLUSIVE")  # the pull waits for us
        process = installation.start("sync")
        with ended(process):
            wait_until(state.runs, process)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            source.execute("ROLLBACK")
            _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    no_traceback(said)
    assert "error: stopped before " in said
    assert installation.amberflo.stats()["requests"] == {}
    with closing(state):
        (run,) = state.runs()
        assert (run["state"], run["committed_at"]) == ("interrupted", None)
        assert state.rows("SELECT * FROM customer") == []
    run = installation.json("sync")
    assert (run["kind"], run["state"]) == ("initial", "done")
    assert installation.holds() == expected_records(engage)


def test_a_state_server_that_restarts_breaks_nothing(
    installation: Installation, engage: EngageSandbox, postgres_url: str
) -> None:
    """Whether that run ends well or not, it says so in words, and the next one takes up."""
    installation.configure(state=postgres_url, concurrency=WORKERS)
    installation.amberflo.faults = Faults.parse(SLOW)
    engage.fill(200, 3)
    process = installation.start("sync")
    with ended(process):
        wait_until(lambda: writes(installation) >= 40, process)
        engine = create_engine(postgres_url)
        with engine.connect() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE "
                    "datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
        engine.dispose()
        _, said = process.communicate(timeout=30)
    no_traceback(said)
    assert process.returncode in (0, 1)
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == process.returncode, said
    installation.amberflo.faults = Faults()
    assert installation.json("sync")["state"] == "done"
    assert installation.holds() == expected_records(engage)
    with closing(State(postgres_url)) as state:
        assert state.backlog() == 0
    assert installation.amberflo.stats()["overlapping_writes"] == 0
