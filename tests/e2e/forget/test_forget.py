"""`forget`: nothing is left of a customer, and it does not come back."""

from __future__ import annotations

import signal
import subprocess
from contextlib import closing
from datetime import UTC, datetime

import pytest
from sqlalchemy import create_engine, text

from state.db.database import Database
from state.db.locks import run_lock
from syncer.sandbox.engage import EngageSandbox
from syncer.sandbox.faults import Faults
from tests.e2e.forget.helpers import check_sums, personal, skipped, traces
from tests.support import processes
from tests.support.installation import Installation, expected_records


def test_nothing_is_left_of_a_forgotten_customer(
    synced: Installation, engage: EngageSandbox
) -> None:
    customer, record = personal(synced, engage)
    name, email = record["customerName"], record["customerEmail"]
    synced.amberflo.customers[customer]["traits"]["stripeId"] = "cus_1"
    assert set(traces(synced, customer, name, email)["syncer.db"]) == {customer, name, email}
    others = {
        customer_id: held for customer_id, held in synced.holds().items() if customer_id != customer
    }
    known = synced.json("audit", "seal")

    answer = synced.json("forget", customer, "--yes")
    assert answer["forgotten"]
    assert answer["erased"]["customers"] == 1
    assert answer["erased"]["changes"] >= len(record["traits"])
    assert answer["traces"] is False
    assert traces(synced, customer, name, email) == {}
    # Amberflo: nothing personal, the memberships and what others put there as they were.
    assert synced.holds() == others | {
        customer: {
            "customerName": customer,
            "customerEmail": None,
            "traits": record["traits"] | {"stripeId": "cus_1"},
        }
    }
    sealed = synced.json("audit", "seal", "--expect", known["head"])
    assert (sealed["holds"], sealed["erased"]) == (True, answer["erased"]["changes"])
    assert sealed["changes"] == known["changes"]
    done = synced.run("audit", "customer", customer, exit_code=1)
    assert done.stderr == (
        f"error: the customer {customer!r} was forgotten; `syncer forget --undo` lets it in again\n"
    )
    # The next one, in a file that was written anew.
    other, record = personal(synced, engage, but=customer)
    assert synced.json("forget", other, "--yes")["traces"] is False
    assert traces(synced, other, record["customerEmail"], customer, email) == {}


def test_a_forgotten_customer_does_not_come_back(
    synced: Installation, engage: EngageSandbox
) -> None:
    customer, record = personal(synced, engage)
    synced.run("forget", customer, "--yes")
    blank = synced.holds()[customer]
    synced.amberflo.reset_stats()
    full = synced.json("sync", "--full")
    assert (full["state"], full["due"]) == ("done", 0)
    check_sums(synced, full["run"])
    assert skipped(synced, full["run"]) == len(record["traits"])
    # It changes in Engage, with everybody else.
    engine = create_engine(synced.source_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE user_traits SET uuid_ts = '2030-01-01 00:00:00'"))
    engine.dispose()
    changed = synced.json("sync")
    assert changed["kind"] == "incremental"
    check_sums(synced, changed["run"])
    assert skipped(synced, changed["run"]) == len(record["traits"])
    synced.run("resync", "--yes")
    assert synced.puts().get(customer) is None
    assert synced.holds()[customer] == blank
    assert customer not in str(synced.json("diff", "--full", "--customers"))
    assert traces(synced, customer, record["customerEmail"]) == {}
    done = synced.run("resync", "--customer", customer, "--yes", exit_code=1)
    assert "was forgotten; `syncer forget --undo` lets it in again" in done.stderr
    assert synced.json("audit", "seal")["holds"]

    done = synced.run("forget", "--undo", customer)
    assert "the customer is let in again" in done.stderr
    assert synced.json("sync", "--full")["due"] == 1
    assert synced.holds() == expected_records(engage)
    done = synced.run("forget", "--undo", customer, exit_code=1)
    assert done.stderr == f"error: the customer {customer!r} was not forgotten\n"


def test_one_that_was_never_known_is_kept_out(
    installation: Installation, engage: EngageSandbox
) -> None:
    engage.fill(40, 3)
    wanted = expected_records(engage)
    customer = next(iter(wanted))
    answer = installation.json("forget", customer, "--yes")
    assert answer["erased"] == {"customers": 0, "changes": 0, "failures": 0}
    assert answer["at_amberflo"] is False
    assert installation.amberflo.stats()["requests"] == {"GET /customers": 1}
    run = installation.json("sync")
    check_sums(installation, run["run"])
    del wanted[customer]
    assert installation.holds() == wanted
    assert skipped(installation, run["run"]) > 0


def test_one_that_amberflo_does_not_know_is_not_made_there(
    synced: Installation, engage: EngageSandbox
) -> None:
    customer, _ = personal(synced, engage)
    del synced.amberflo.customers[customer]
    synced.run("forget", customer, "--yes")
    assert customer not in synced.holds()


def test_what_is_due_of_the_customer_goes_with_its_last_write(
    synced: Installation, engage: EngageSandbox
) -> None:
    """An exit that Amberflo did not take yet would never be sent after that."""
    customer, record = personal(synced, engage)
    trait = next(name for name, value in record["traits"].items() if value is True)
    engine = create_engine(synced.source_url)
    with engine.begin() as connection:
        statement = (
            "UPDATE user_traits SET value = 'false', uuid_ts = :now, timestamp = :now WHERE name ="
            " :trait AND canonical_segment_id IN (SELECT canonical_segment_id FROM"
            " user_identifiers WHERE value = :customer)"
        )
        values = {"now": datetime.now(UTC).isoformat(), "trait": trait, "customer": customer}
        connection.execute(text(statement), values)
    engine.dispose()
    synced.configure(patience="1s")
    synced.amberflo.faults = Faults.parse("500=1")
    synced.run("sync", exit_code=1)
    assert synced.holds()[customer]["traits"][trait] is True
    synced.amberflo.faults = Faults()
    assert synced.json("forget", customer, "--yes")["at_amberflo"] is True
    assert synced.holds()[customer] == {
        "customerName": customer,
        "customerEmail": None,
        "traits": record["traits"] | {trait: False},
    }


def test_one_that_only_amberflo_knows_is_redacted_there(synced: Installation) -> None:
    """Such as of a lost state, or of who came by Segment's hosted destination."""
    traits = {"vip": True, "stripeId": "cus_9"}
    synced.amberflo.customers["u9"] = {
        "customerId": "u9", "customerName": "Jane Doe", "customerEmail": "jane@example.com",
        "traits": traits, "description": "kept",
    }  # fmt: skip
    synced.configure(patience="1s")
    synced.amberflo.faults = Faults.parse("500=1")
    done = synced.run("forget", "u9", "--yes", exit_code=1)
    assert done.stderr.startswith("error: nothing was erased, Amberflo did not take the last write")
    assert "was not forgotten" in synced.run("forget", "u9", "--undo", exit_code=1).stderr
    synced.amberflo.faults = Faults()

    done = synced.run("forget", "u9", "--yes")
    assert done.stderr == (
        "the customer was unknown here, Amberflo has only its id as its name; 0 changes and 0 "
        "failures erased\n"
    )
    record = synced.amberflo.customers["u9"]
    assert (record["customerName"], record.get("customerEmail")) == ("u9", None)
    assert (record["traits"], record["description"]) == (traits, "kept")
    done = synced.run("audit", "customer", "u9", exit_code=1)
    assert "was forgotten" in done.stderr


@pytest.mark.parametrize("trouble", ["down", "refused", "key"])
def test_nothing_is_erased_before_amberflo_has_it(
    synced: Installation, engage: EngageSandbox, trouble: str
) -> None:
    synced.configure(patience="1s")
    customer, record = personal(synced, engage)
    before = synced.json("audit", "customer", customer)
    if trouble == "down":
        synced.amberflo.faults = Faults.parse("503=1")
    elif trouble == "refused":
        synced.amberflo.customers[customer]["strange"] = 1
    else:
        synced.configure(api_key="wrong")
    done = synced.run("forget", customer, "--yes", exit_code=1)
    assert done.stderr.startswith("error: nothing was erased, Amberflo did not take the last write")
    assert done.stderr.count("\n") == 1
    assert synced.json("audit", "customer", customer) == before
    assert synced.json("audit", "seal")["erased"] == 0

    synced.amberflo.faults = Faults()
    synced.amberflo.customers[customer].pop("strange", None)
    synced.configure()
    assert synced.holds()[customer] == record
    synced.run("forget", customer, "--yes")
    assert traces(synced, customer, record["customerEmail"]) == {}


def test_it_waits_for_no_run(synced: Installation, engage: EngageSandbox) -> None:
    customer, _ = personal(synced, engage)
    url = f"sqlite:///{synced.folder / 'syncer.db'}"
    with closing(Database.open(url)) as database, run_lock(database):
        done = synced.run("forget", customer, "--yes", exit_code=1)
    assert done.stderr.startswith("error: another run is going on")
    assert synced.json("audit", "customer", customer)["present"]


def test_it_asks_first(synced: Installation, engage: EngageSandbox) -> None:
    customer, _ = personal(synced, engage)
    process = synced.start("forget", customer)
    process.communicate(timeout=30)
    assert process.returncode == 2
    assert synced.json("audit", "customer", customer)["present"]


def test_on_postgresql_too(
    installation: Installation, engage: EngageSandbox, postgres_url: str
) -> None:
    installation.configure(state=postgres_url)
    engage.fill(40, 3)
    installation.run("sync")
    customer, record = personal(installation, engage)
    answer = installation.json("forget", customer, "--yes")
    assert (answer["erased"]["customers"], answer["traces"]) == (1, False)
    assert installation.holds()[customer]["customerEmail"] is None
    assert installation.json("sync", "--full")["due"] == 0
    assert installation.json("audit", "seal")["erased"] == len(record["traits"])


#: The program, that is killed as it calls something, or when that is done.
KILLED = """
import os, signal
from importlib import import_module
module, _, names = {place!r}.partition(":")
owner = import_module(module)
*path, name = names.split(".")
for part in path:
    owner = getattr(owner, part)
real = getattr(owner, name)
def killed(*given, **more):
    if {after}:
        real(*given, **more)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(owner, name, killed)
from syncer.cli import main
main()
"""


@pytest.mark.parametrize(
    ("place", "after", "erased"),
    [
        ("syncer.amberflo.client:AmberfloClient.put_customer", False, False),
        ("state.history.compaction:finish", False, False),  # Amberflo has it
        ("state.erasure:erase", True, False),  # before the commit
        ("syncer.privacy.forget:Forget.scrub", False, True),
        ("state.db.database:Database.scrub", True, True),
    ],
)
def test_forgetting_may_be_killed_at_any_moment(
    synced: Installation, engage: EngageSandbox, place: str, after: bool, erased: bool
) -> None:
    """All of it is there, or nothing; the next time finishes what is left."""
    customer, record = personal(synced, engage)
    before = synced.json("audit", "customer", customer)
    program = KILLED.format(place=place, after=after)
    forgetting = processes.start(
        *("-c", program, "forget", customer, "--yes", "--config", synced.config),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    forgetting.communicate()
    assert forgetting.returncode == -signal.SIGKILL
    assert synced.json("audit", "seal")["holds"]
    if erased:
        synced.run("audit", "customer", customer, exit_code=1)
    else:
        assert synced.json("audit", "customer", customer) == before
    assert synced.json("forget", customer, "--yes")["traces"] is False
    assert traces(synced, customer, record["customerName"], record["customerEmail"]) == {}
    assert synced.json("sync", "--full")["due"] == 0
    document = synced.json("audit", "seal")
    assert (document["holds"], document["erased"]) == (True, len(before["changes"]))


def test_no_run_waits_for_one_that_is_erased(
    installation: Installation, engage: EngageSandbox
) -> None:
    """It was due when the run before broke off; the next one's sums close without it."""
    installation.configure(patience="1s")
    engage.fill(40, 3)
    wanted = expected_records(engage)
    installation.run("sync")
    installation.amberflo.faults = Faults.parse("503=1")
    broken = installation.json("resync", "--yes", exit_code=1)
    assert (broken["due"], broken["delivered"]) == (len(wanted), 0)
    installation.amberflo.faults = Faults()
    customer = next(iter(wanted))
    assert installation.json("forget", customer, "--yes")["erased"]["customers"] == 1
    run = installation.json("sync")
    assert (run["state"], run["due"], run["delivered"]) == (
        "done",
        len(wanted) - 1,
        len(wanted) - 1,
    )
    check_sums(installation, run["run"])
    others = {
        customer_id: record
        for customer_id, record in installation.holds().items()
        if customer_id != customer
    }
    del wanted[customer]
    assert others == wanted
    assert installation.json("status")["backlog"]["customers"] == 0
