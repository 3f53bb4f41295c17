"""Several daemons on one PostgreSQL: one schedules, all receive and deliver, any may die."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, closing

import pytest
from sqlalchemy import Connection

from state import outbox, runs
from state.db import workers
from state.db.database import Database
from syncer.sandbox.engage import EngageSandbox
from syncer.sandbox.faults import Faults
from syncer.sync.run_result import Result
from syncer.sync.runs import Runs
from tests.support.caller import Caller
from tests.support.daemon import daemon
from tests.support.installation import Installation, expected_records
from tests.support.processes import wait_until

RATE = 80.0
#: Seconds within which another daemon must schedule when the one that did is gone.
TAKEOVER = 30.0


def schedulers(database: Database) -> list[int]:
    return [row.pid for row in workers.daemons(database) if row.schedule]


def test_three_daemons_one_of_them_killed(
    installation: Installation,
    engage: EngageSandbox,
    postgres_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SYNCER_AMBERFLO__RATE", str(RATE))
    engage.fill(240, 4)
    installation.amberflo.faults = Faults.parse("slow=0.3,slow_seconds=0.05")
    more = '[schedule]\nevery = "2s"\njitter = "0.5s"\n'
    with ExitStack() as all_of, closing(Database.open(postgres_url)) as database:
        daemons = [
            all_of.enter_context(daemon(installation, state=postgres_url, more=more))
            for _ in range(3)
        ]
        with Caller(*daemons, event="ApiCalls", trait="plan") as caller:
            wait_until(lambda: len(installation.puts()) > 60, what="a part of the delivery")
            assert len(workers.daemons(database)) == 3
            (first,) = schedulers(database)
            victim = next(service for service in daemons if service.process.pid == first)
            began, before = time.monotonic(), sum(installation.puts().values())
            requests = installation.customer_requests()
            victim.kill()
            wait_until(
                lambda: any(pid != first for pid in schedulers(database)),
                TAKEOVER,
                what="another that schedules",
            )
            took = time.monotonic() - began
            wait_until(lambda: sum(installation.puts().values()) > before + 50, TAKEOVER)
            rate = (installation.customer_requests() - requests) / (time.monotonic() - began)
            assert rate < 1.1 * RATE  # the one for all of them
        living = [service for service in daemons if service is not victim]
        engage.evolve(hours=2.5, fraction=0.05)
        run = installation.json("status")["last_run"]["run"]

        def caught_up() -> bool:
            status = installation.json("status")
            newest = status["last_run"]
            done = newest["run"] > run + 1 and newest["state"] == "done"
            return bool(done and not any(status["backlog"].values()))

        wait_until(caught_up, 60, what="the end of the backlog")
        assert took < TAKEOVER
        stats = installation.amberflo.stats()
        assert stats["overlapping_writes"] == 0
        records = [record["uniqueId"] for record in installation.amberflo.records]
        assert len(records) == len(set(records))
        assert caller.accepted.keys() <= set(records)
        holds = installation.holds()
        callers = {user: holds.pop(user) for user in sorted(caller.values)}
        wanted = expected_records(engage)
        assert holds == wanted
        assert {user: record["traits"]["plan"] for user, record in callers.items()} == caller.values
        for service in living:
            assert "Traceback" not in "\n".join(service.log)
        assert not installation.json("failures")


@pytest.mark.parametrize("moment", ["before it looks", "while it looks"])
def test_what_another_delivers_while_a_run_ends_counts_once(
    moment: str,
    installation: Installation,
    engage: EngageSandbox,
    postgres_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run says the same of it everywhere: in its error, in its line, in its state."""
    installation.configure(state=postgres_url, patience="1s")
    engage.fill(20, 3)
    installation.run("sync")
    engage.evolve(hours=2.5, fraction=0.2)
    backlog, finish = outbox.backlog, Runs._finish
    given = list[int]()

    def deliver(run: int) -> None:
        with closing(Database.open(postgres_url)) as other, other.write(beside=True) as theirs:
            rows = outbox.claim(theirs, 1, time.time_ns() // 1_000_000 + 10**6, 100, run)
            given.append(len(rows))
            for of_run, number in outbox.acknowledge(theirs, rows, 1).items():
                runs.add_outcomes(theirs, of_run, delivered=number)

    def finished(self: Runs, result: Result) -> Result:
        other = threading.Thread(target=deliver, args=(result.run,))

        def crossed(connection: Connection, run: int | None = None) -> int:
            if run == result.run and not given:
                other.start()
                wait_until(lambda: given)  # it has them, and cannot commit what became of them
                other.join(0.3)
            return backlog(connection, run)

        if moment == "before it looks":
            deliver(result.run)
        else:
            monkeypatch.setattr(outbox, "backlog", crossed)
        result = finish(self, result)
        if moment != "before it looks":
            other.join()
        return result

    monkeypatch.setattr(Runs, "_finish", finished)
    installation.amberflo.faults = Faults.parse("500=1")  # this one itself delivers nothing
    good = moment == "before it looks"
    said = installation.json("sync", exit_code=0 if good else 1)
    assert given[0] > 0
    assert said["due"] == given[0]
    if good:
        assert (said["state"], said["delivered"], said["error"]) == ("done", given[0], None)
    else:
        begins = f"{given[0]} of {given[0]} customers are not delivered and stay due"
        assert (said["state"], said["delivered"]) == ("failed", 0)
        assert said["error"].startswith(begins)
    newest = installation.json("runs")[0]
    assert (newest["state"], newest["delivered"]) == (said["state"], given[0])
