"""What a failing Amberflo leaves behind, and what the next run makes of it."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from syncer.sandbox.engage import EngageSandbox
from syncer.sandbox.faults import Faults
from tests.e2e.crashes.helpers import WORKERS, Traits
from tests.support.installation import Installation, expected_records


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
    return {
        customer_id: record
        for customer_id, record in wanted.items()
        if record != before.get(customer_id)
    }


def check_all_is_sent(installation: Installation, wanted: Traits) -> None:
    run = installation.json("sync")
    assert (run["state"], run["due"], run["delivered"]) == ("done", len(wanted), len(wanted))
    assert installation.puts() == dict.fromkeys(wanted, 1)
    customers = installation.holds()
    assert {customer_id: customers[customer_id] for customer_id in wanted} == wanted
    first = next(iter(wanted))
    changes = installation.json("audit", "customer", first)["changes"]
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
