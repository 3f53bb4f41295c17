"""What a kill, a signal or a failing Amberflo leaves behind, and what the next run makes of it.

Real processes that die at real moments. Whatever happens, in the end Amberflo holds what Engage
says, every change has its delivery, and the history tells nothing that did not happen.
"""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from syncer.sandbox.engage import EngageSandbox
from syncer.sandbox.faults import Faults
from tests.support.installation import Installation, expected_records

WORKERS = 8
#: So a customer takes 0.1 s (a read and a write), and eight go side by side.
SLOW = "slow=1,slow_seconds=0.05"

Traits = dict[str, dict[str, Any]]


class State:
    """The state database past the product, also before it is there."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url)
        self._path = self._engine.url.database if url.startswith("sqlite") else None

    def close(self) -> None:
        self._engine.dispose()

    def rows(self, statement: str) -> list[dict[str, Any]]:
        if self._path is not None and not Path(self._path).exists():
            return []
        try:
            with self._engine.connect() as connection:
                return [dict(row) for row in connection.execute(text(statement)).mappings()]
        except DBAPIError as error:
            if "no such table" in str(error.orig) or "does not exist" in str(error.orig):
                return []
            raise

    def runs(self) -> list[dict[str, Any]]:
        return self.rows("SELECT * FROM run ORDER BY id")

    def backlog(self) -> int:
        return len(self.rows("SELECT 1 FROM customer WHERE due_at IS NOT NULL"))


def traits_of(engage: EngageSandbox) -> Traits:
    return {one.customer_id: one.traits for one in engage.expected()}


def differences(before: Traits, after: Traits) -> set[tuple[str, str, str, str]]:
    """(customer, trait, before, after) of each trait that differs, values as JSON."""
    return {
        (customer, trait, json.dumps(was), json.dumps(now))
        for customer, traits in after.items()
        for trait in traits.keys() | before.get(customer, {}).keys()
        if (was := before.get(customer, {}).get(trait)) != (now := traits.get(trait))
        or type(was) is not type(now)
    }


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """Nothing of a test stays behind."""
    try:
        yield
    finally:
        process.kill()
        process.communicate()


def wait_until(true: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Until it is so or the process ended; a process that does neither fails the test."""
    end = time.monotonic() + 30
    while not true() and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.01)


def writes(installation: Installation) -> int:
    return int(installation.amberflo.stats()["requests"].get("PUT /customers", 0))


def no_traceback(said: str) -> None:
    assert "Traceback" not in said, said


# -- killed


@dataclass
class Killing:
    """Rounds of a changing source and a `sync` that is killed, with what must have come of it."""

    installation: Installation
    engage: EngageSandbox
    state: State
    rng: random.Random
    #: what the last committed pull saw
    known: Traits = field(default_factory=dict)
    #: by run, what its history must be
    histories: dict[int, set[tuple[str, str, str, str]]] = field(default_factory=dict)
    #: customers that committed runs changed, and kills while one was at work
    changed: int = 0
    killed: int = 0
    killed_in: set[str] = field(default_factory=set)

    def round(self, moment: str) -> None:
        """One `sync`, killed at a moment of this kind."""
        before = len(self.state.runs())
        with self._source_locked(moment == "pull"):
            process = self.installation.start("sync")
            with ended(process):
                self._wait(moment, process, before)
                process.kill()
                _, said = process.communicate(timeout=30)
        no_traceback(said)
        if process.returncode == -signal.SIGKILL:
            self.killed += 1
            self.killed_in.add(self._phase(before))
        self._look(before)
        self._check_acknowledged()

    @contextmanager
    def _source_locked(self, lock: bool) -> Iterator[None]:
        """A pull waits while it is."""
        path = self.installation.folder / "engage.db"
        with closing(sqlite3.connect(path, isolation_level=None)) as source:
            if lock:
                source.execute("BEGIN EXCLUSIVE")
            yield

    def _wait(self, moment: str, process: subprocess.Popen[str], before: int) -> None:
        if moment == "start":
            time.sleep(self.rng.uniform(0.1, 0.9))
        elif moment in ("pull", "commit"):
            wait_until(lambda: len(self.state.runs()) > before, process)
            time.sleep(self.rng.uniform(0.0, 0.15))
        else:
            enough = writes(self.installation) + self.rng.randrange(1, 40)
            wait_until(lambda: writes(self.installation) >= enough, process)

    def _phase(self, before: int) -> str:
        if len(self.state.runs()) == before:
            return "before"
        return "delivery" if self.state.runs()[-1]["committed_at"] else "pull"

    def _look(self, before: int) -> None:
        """A run that committed has taken the whole pull; one that did not has taken nothing."""
        for run in self.state.runs()[before:]:
            now = traits_of(self.engage)
            if run["committed_at"]:
                self.histories[run["id"]] = differences(self.known, now)
                self.changed += int(run["due"])
                self.known = now
                self.engage.observe()
        found = self.state.rows("SELECT customer_id, traits FROM customer")
        assert {row["customer_id"]: json.loads(row["traits"]) for row in found} == self.known

    def _check_acknowledged(self) -> None:
        """What the state says Amberflo has is there."""
        there = self.installation.amberflo.customers
        for row in self.state.rows("SELECT * FROM customer WHERE acked_rev = rev"):
            assert there[row["customer_id"]]["traits"] == at_amberflo(json.loads(row["traits"]))

    def finish(self) -> None:
        """The next run ends it all."""
        self.installation.amberflo.faults = Faults()
        before = len(self.state.runs())
        assert self.installation.json("sync")["state"] == "done"
        self._look(before)
        assert self.installation.holds() == expected_records(self.engage)
        assert self.installation.json("sync", "--full")["due"] == 0
        assert self.installation.amberflo.stats()["overlapping_writes"] == 0

        *killed, _last, _full = self.state.runs()
        unfinished = [run for run in killed if run["state"] != "done"]
        assert {run["state"] for run in unfinished} <= {"interrupted"}
        assert all(run["ended_at"] and run["error"] for run in unfinished)
        assert 0 < len(unfinished) <= self.killed

        changes = self.state.rows("SELECT * FROM change ORDER BY id")
        assert all(change["delivered_at"] for change in changes)
        told: dict[int, list[tuple[str, str, str, str]]] = {}
        replayed: Traits = {}
        for change in changes:
            traits = replayed.setdefault(change["customer_id"], {})
            values = [json.loads(change[side] or "null") for side in ("before", "after")]
            assert traits.get(change["trait"]) == values[0], change
            traits[change["trait"]] = values[1]
            told.setdefault(change["run"], []).append(
                (change["customer_id"], change["trait"], *map(json.dumps, values))
            )
        assert replayed == self.known
        assert {run: set(lines) for run, lines in told.items()} == {
            run: lines for run, lines in self.histories.items() if lines
        }
        assert all(len(set(lines)) == len(lines) for lines in told.values())

        # Only what was under way at a kill is sent twice.
        sent = sum(self.installation.puts().values())
        assert sent <= self.changed + self.killed * WORKERS


def at_amberflo(traits: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.replace("/", "_").replace("|", "_") if isinstance(value, str) else value
        for name, value in traits.items()
    }


def test_a_run_may_be_killed_at_any_moment(
    installation: Installation, engage: EngageSandbox
) -> None:
    kill_often(installation, engage, f"sqlite:///{installation.folder / 'syncer.db'}", 10, seed=1)


def test_a_run_may_be_killed_at_any_moment_on_postgresql(
    installation: Installation, engage: EngageSandbox, postgres_url: str
) -> None:
    kill_often(installation, engage, postgres_url, 4, seed=2)


def kill_often(
    installation: Installation, engage: EngageSandbox, url: str, rounds: int, *, seed: int
) -> None:
    installation.configure(state=url, concurrency=WORKERS)
    installation.amberflo.faults = Faults.parse(SLOW)
    engage.fill(120, 5)
    moments = ["delivery", "pull", "commit", "commit", "start"]
    with closing(State(url)) as state:
        killing = Killing(installation, engage, state, random.Random(seed))
        for number in range(rounds):
            killing.round(moments[number % len(moments)])
            if number % 3 != 1:
                engage.evolve(fraction=0.15)
        assert {"pull", "delivery"} <= killing.killed_in
        killing.finish()


# -- asked to stop


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


# -- an Amberflo that fails


@pytest.mark.parametrize(
    "faults", ["drop_after=0.3", "drop=0.1,500=0.05,503=0.05,slow=0.1,slow_seconds=0.05"]
)
def test_what_fails_now_and_then_is_sent_until_it_is_there(
    installation: Installation, engage: EngageSandbox, faults: str
) -> None:
    """`drop_after`: Amberflo has taken it and nobody learned of it."""
    engage.fill(120, 4)
    wanted = expected_records(engage)
    installation.amberflo.faults = Faults.parse(faults, seed=3)
    run = installation.json("sync")
    assert (run["state"], run["delivered"], run["failed"]) == ("done", len(wanted), 0)
    assert installation.holds() == wanted
    stats = installation.amberflo.stats()
    assert stats["overlapping_writes"] == 0
    assert stats["faults"]["drop_after"] > 3
    assert sum(stats["puts"].values()) > len(wanted)
    assert installation.json("sync")["due"] == 0


def check_all_waits(
    installation: Installation, engage: EngageSandbox, trouble: Callable[[], None], said: str
) -> Traits:
    """Of a first run that cannot look at Amberflo nothing is kept; a later one fails with one clear
    line, and everything stays due. Gives what is to be sent."""
    trouble()
    done = installation.run("sync", exit_code=1)
    assert done.stderr.count("error: ") == 1, done.stderr
    assert said in done.stderr
    assert installation.json("status")["backlog"]["customers"] == 0
    assert installation.holds() == {}
    installation.configure()
    installation.amberflo.faults = Faults()
    installation.run("sync")
    engage.observe()
    before = installation.holds()
    engage.evolve(hours=48, fraction=0.5)
    installation.amberflo.reset_stats()
    trouble()
    due = installation.json("diff")["customers"]
    done = installation.run("sync", exit_code=1)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    count = due["new"] + due["changed"]
    assert count > 10
    assert len(errors) == 1, done.stderr
    assert errors[0].startswith(f"error: {count} of {count} customers are not delivered")
    assert said in errors[0]
    run = installation.json("runs")[0]
    assert (run["state"], run["delivered"], run["failed"]) == ("failed", 0, 0)
    assert said in run["error"]
    status = installation.json("status")
    assert (status["backlog"]["customers"], status["failures"]) == (count, 0)
    assert installation.holds() == before
    wanted = expected_records(engage)
    return {one: record for one, record in wanted.items() if record != before.get(one)}


def check_all_is_sent(installation: Installation, wanted: Traits) -> None:
    run = installation.json("sync")
    assert (run["state"], run["due"], run["delivered"]) == ("done", len(wanted), len(wanted))
    assert installation.puts() == dict.fromkeys(wanted, 1)
    found = installation.holds()
    assert {one: found[one] for one in wanted} == wanted
    one = next(iter(wanted))
    changes = installation.json("audit", "customer", one)["changes"]
    assert changes
    assert all(change["delivered_at"] for change in changes)


def test_an_amberflo_that_always_fails_ends_the_run_and_loses_nothing(
    installation: Installation, engage: EngageSandbox
) -> None:
    engage.fill(80, 3)

    def trouble() -> None:
        installation.configure(patience="1s")
        installation.amberflo.faults = Faults.parse("500=1")

    wanted = check_all_waits(installation, engage, trouble, " for 1 s: ")
    installation.amberflo.faults = Faults()
    check_all_is_sent(installation, wanted)


def test_an_amberflo_that_is_not_there_ends_the_run_and_loses_nothing(
    installation: Installation, engage: EngageSandbox
) -> None:
    engage.fill(80, 3)

    def trouble() -> None:
        installation.configure(patience="1s")
        installation.amberflo.faults = Faults.parse("drop_before=1")

    wanted = check_all_waits(installation, engage, trouble, installation.amberflo_url)
    installation.amberflo.faults = Faults()
    check_all_is_sent(installation, wanted)


def test_a_wrong_key_is_said_at_once_and_loses_nothing(
    installation: Installation, engage: EngageSandbox
) -> None:
    engage.fill(80, 3)

    def trouble() -> None:
        installation.configure(api_key="hunter2", concurrency=WORKERS)

    said = "Amberflo refuses the API key (status 401): set amberflo"
    began = time.monotonic()
    trouble()
    done = installation.run("sync", exit_code=1)
    assert time.monotonic() - began < 5
    assert said in done.stderr
    assert all("hunter2" not in str(run) for run in installation.json("runs"))
    assert installation.holds() == {}
    installation.configure()
    check_all_is_sent(installation, expected_records(engage))


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


# -- what Amberflo refuses


def put_trait(installation: Installation, customer_id: str, value: str) -> None:
    """Give a customer a computed trait; at Segment it is there from now on."""
    engine = create_engine(installation.source_url)
    with engine.begin() as connection:
        (profile,) = connection.execute(
            text("SELECT canonical_segment_id FROM user_identifiers WHERE value = :id"),
            {"id": customer_id},
        ).one()
        where = "WHERE canonical_segment_id = :profile AND name = 'total_revenue_items'"
        connection.execute(text(f"DELETE FROM user_traits {where}"), {"profile": profile})
        connection.execute(
            text(
                "INSERT INTO user_traits VALUES (:profile, 'total_revenue_items', :value, 1, "
                "datetime('now'), datetime('now'), datetime('now'))"
            ),
            {"profile": profile, "value": value},
        )
    engine.dispose()


def alone(installation: Installation, engage: EngageSandbox) -> list[str]:
    """Customers that are the only ones of their profile, which never merged."""
    merged = "FROM profile_merges WHERE segment_id <> canonical_segment_id"
    with closing(sqlite3.connect(installation.folder / "engage.db")) as source:
        found = source.execute(
            "SELECT max(value) FROM user_identifiers WHERE type = 'user_id' "
            f"AND canonical_segment_id NOT IN (SELECT segment_id {merged}) "
            f"AND canonical_segment_id NOT IN (SELECT canonical_segment_id {merged}) "
            "GROUP BY canonical_segment_id HAVING count(*) = 1"
        ).fetchall()
    return sorted({one for (one,) in found} & expected_records(engage).keys())


@pytest.fixture
def refusing(installation: Installation, engage: EngageSandbox) -> tuple[str, str]:
    """Two customers of a synced installation that changed, of whom Amberflo will refuse the first:
    its record there has a field that Amberflo itself does not take back."""
    engage.fill(60, 3)
    installation.run("sync")
    bad, good = alone(installation, engage)[:2]
    put_trait(installation, bad, "7")
    put_trait(installation, good, '["a"]')
    installation.amberflo.customers[bad]["strange"] = 1
    installation.amberflo.reset_stats()
    return bad, good


def test_what_is_refused_for_good_is_kept_and_listed(
    installation: Installation, refusing: tuple[str, str]
) -> None:
    bad, good = refusing
    had = installation.holds()[bad]
    done = installation.run("sync", exit_code=1)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == ["error: Amberflo does not take 1 customers: `syncer failures` lists them"]

    run = installation.json("runs")[0]
    assert (run["due"], run["delivered"], run["failed"], run["held"]) == (2, 1, 1, 0)
    assert run["state"] == "done"
    assert installation.holds()[bad] == had
    assert installation.holds()[good]["traits"]["total_revenue_items"] == ["a"]
    (failure,) = installation.json("failures")
    assert (failure["kind"], failure["customer_id"], failure["status"]) == ("customer", bad, 400)
    assert (failure["attempts"], failure["message_id"]) == (1, None)
    assert "unknown field 'strange'" in failure["reason"]
    assert '"total_revenue_items":7' in failure["request"]
    assert "errorMessage" in failure["body"]
    assert failure["failed_at"].endswith("Z")
    assert bad in installation.run("failures", "list").stdout
    assert installation.json("status")["failures"] == 1
    changes = installation.json("audit", "customer", bad)["changes"]
    assert [change["delivered_at"] for change in changes if change["run"] == 2] == [None]

    # It waits: nothing is sent again by itself.
    installation.amberflo.reset_stats()
    assert installation.json("sync")["due"] == 0
    assert installation.amberflo.stats()["requests"].keys() == {"GET /customers/paging"}
    assert len(installation.json("failures")) == 1


def test_a_refused_customer_is_retried_when_asked(
    installation: Installation, refusing: tuple[str, str]
) -> None:
    bad, _ = refusing
    installation.run("sync", exit_code=1)
    (failure,) = installation.json("failures")
    done = installation.run("failures", "retry", str(failure["id"]), exit_code=1)
    assert "0 delivered, 1 refused again" in done.stderr
    assert "delivering: 1 of 1 in " in done.stderr
    (failure,) = installation.json("failures")
    assert failure["customer_id"] == bad

    for arguments, code in ((["999"], 1), ([], 2), (["--all", "1"], 2)):
        installation.run("failures", "retry", *arguments, exit_code=code)
        installation.run("failures", "discard", *arguments, exit_code=code)
    assert installation.json("failures") == [failure]

    # Mended there, the next change goes through, and the failure is gone.
    del installation.amberflo.customers[bad]["strange"]
    put_trait(installation, bad, "12.5")
    assert installation.json("sync")["delivered"] == 1
    assert installation.holds()[bad]["traits"]["total_revenue_items"] == 12.5
    assert installation.json("failures") == []
    changes = installation.json("audit", "customer", bad)["changes"]
    assert all(change["delivered_at"] for change in changes)


def test_a_retry_gets_through_when_amberflo_was_mended(
    installation: Installation, engage: EngageSandbox
) -> None:
    engage.fill(60, 3)
    wanted = expected_records(engage)
    customers = installation.amberflo.customers
    for bad in list(wanted)[:3]:
        customers[bad] = {"customerId": bad, "customerName": bad, "strange": 1, "traits": {}}
    run = installation.json("sync", exit_code=1)
    assert (run["delivered"], run["failed"]) == (len(wanted) - 3, 3)
    found = installation.json("failures")
    assert [one["status"] for one in found] == [400] * 3
    for bad in list(wanted)[:2]:
        del customers[bad]["strange"]

    chosen = [str(one["id"]) for one in found if one["customer_id"] == next(iter(wanted))]
    assert installation.json("failures", "retry", *chosen) == {"delivered": 1, "failed": 0}
    assert len(installation.json("failures")) == 2
    document = installation.json("failures", "retry", "--all", exit_code=1)
    assert document == {"delivered": 1, "failed": 1}
    (left,) = installation.json("failures")
    del customers[left["customer_id"]]["strange"]
    installation.run("failures", "retry", "--all")
    assert installation.json("failures") == []
    assert installation.holds() == wanted
    assert installation.json("sync")["due"] == 0


def test_a_discarded_failure_is_forgotten_until_somebody_sends_it_again(
    installation: Installation, refusing: tuple[str, str]
) -> None:
    bad, _ = refusing
    installation.run("sync", exit_code=1)
    (failure,) = installation.json("failures")
    assert installation.json("failures", "discard", str(failure["id"])) == {"discarded": 1}
    assert installation.json("failures") == []
    installation.amberflo.reset_stats()
    assert installation.json("sync", "--full")["due"] == 0
    assert installation.amberflo.stats()["requests"].keys() == {"GET /customers/paging"}
    installation.run("resync", "--customer", bad, "--yes", exit_code=1)
    (failure,) = installation.json("failures")
    assert failure["customer_id"] == bad


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
def test_what_is_too_large_is_refused_not_tried_for_ever(
    installation: Installation, engage: EngageSandbox
) -> None:
    engage.fill(20, 2)
    wanted = expected_records(engage)
    big = alone(installation, engage)[0]
    put_trait(installation, big, "x" * 1_100_000)
    run = installation.json("sync", exit_code=1)
    assert (run["delivered"], run["failed"]) == (len(wanted) - 1, 1)
    (failure,) = installation.json("failures")
    assert (failure["customer_id"], failure["status"]) == (big, 413)
