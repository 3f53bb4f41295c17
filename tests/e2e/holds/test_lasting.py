"""A hold holds: what the guard keeps back is not sent before somebody decides, whatever becomes of
the run that found it."""

from __future__ import annotations

import signal
import sqlite3
import time
from contextlib import closing

import pytest

from syncer.sandbox.faults import Faults
from tests.e2e.holds.helpers import DOWN, EVERY_KIND, GOOD, held, hold, holds_of, leave, newest_run
from tests.support.installation import Installation
from tests.support.warehouse import Warehouse

# -- it lasts until it is decided


@pytest.mark.parametrize("full", [True, False], ids=["compared", "by rows"])
def test_it_outlasts_a_delivery_that_fails(
    installation: Installation, warehouse: Warehouse, members: list[str], full: bool
) -> None:
    gone = members[:20]
    if full:
        warehouse.lose("vip", gone)
    else:
        leave(warehouse, gone)
    warehouse.say("u30", "other", "false")  # something is to be delivered
    installation.configure(patience="0.3s")
    installation.amberflo.faults = Faults.parse(DOWN)
    installation.run("sync", *(["--full"] if full else []), exit_code=1)
    assert held(installation) == ["vip"]

    installation.configure()
    installation.amberflo.faults = Faults()
    leave(warehouse, members[:9], "other")
    installation.run("sync", exit_code=GOOD)
    assert installation.members("vip") == set(members)
    assert installation.members("other") == set(members) - set(members[:9]) - {"u30"}
    assert [entry["leaving"] for entry in holds_of(installation, 2)] == [20]

    installation.run("runs", "approve", "--yes", "2")
    assert installation.members("vip") == set(members) - set(gone)
    assert held(installation) == []


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGKILL])
def test_it_outlasts_a_process_that_ends(
    installation: Installation, warehouse: Warehouse, members: list[str], by: signal.Signals
) -> None:
    leave(warehouse, members[:20])
    warehouse.say("u30", "other", "false")
    installation.configure(patience="60s")
    installation.amberflo.faults = Faults.parse("slow=1,slow_seconds=0.7")
    process = installation.start("sync")
    with closing(sqlite3.connect(installation.folder / "syncer.db")) as state:
        asked = "SELECT 1 FROM run WHERE id = 2 AND committed_at IS NOT NULL"
        until = time.monotonic() + 30
        while not state.execute(asked).fetchone() and time.monotonic() < until:
            time.sleep(0.01)
    process.send_signal(by)
    process.communicate(timeout=30)

    installation.amberflo.faults = Faults()
    installation.run("sync", exit_code=3)
    assert installation.members("vip") == set(members)
    assert installation.members("other") == set(members) - {"u30"}
    assert held(installation) == ["vip"]
    installation.run("runs", "approve", "--yes", "2")
    assert installation.members("vip") == set(members[20:])


def test_no_kind_of_run_sends_what_is_held(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    hold(installation, warehouse, members[:20])
    warehouse.say("u00", "other", "false", ago=0.5)
    for command in (*EVERY_KIND, *EVERY_KIND):
        installation.run(*command, exit_code=GOOD)
        assert installation.members("vip") == set(members), command
        assert "u00" not in installation.members("other")


def test_many_runs_that_find_it_have_one_hold(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    first = hold(installation, warehouse, members[:20])
    for number in range(3):
        warehouse.say(f"u{number:02}", "other", "false", ago=0.5)
        installation.run("sync", exit_code=GOOD)
    installation.run("sync", "--full", exit_code=3)
    last = newest_run(installation)
    entries = [entry for run in (first, last) for entry in holds_of(installation, run)]
    assert len({entry["hold"] for entry in entries}) == 1
    assert {entry["since_run"] for entry in entries} == {first}
    assert [entry["run"] for entry in installation.json("status")["held"]] == [first]

    # Any run that found it may be named in the decision.
    installation.run("runs", "reject", "--yes", str(last))
    assert held(installation) == []
    assert {entry["decision"] for entry in holds_of(installation, first)} == {"rejected"}


def test_it_ends_where_engage_takes_it_back(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    run = hold(installation, warehouse, members[:20])
    for customer_id in members[:20]:
        warehouse.say(customer_id, "vip", "true", ago=0.2)
    installation.run("sync", "--full")
    assert held(installation) == []
    assert [entry["decision"] for entry in holds_of(installation, run)] == ["withdrawn"]
    assert installation.members("vip") == set(members)

    # One who leaves from then on leaves.
    warehouse.say("u03", "vip", "false", ago=0.1)
    installation.run("sync")
    assert installation.members("vip") == set(members) - {"u03"}


def test_lost_rows_that_come_back_end_it(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    warehouse.lose("vip", members[:20])
    installation.run("sync", "--full", exit_code=3)
    for customer_id in members[:20]:
        warehouse.say(customer_id, "vip", "true", ago=0.2)
    installation.run("sync", "--full")
    assert held(installation) == []
    assert installation.puts() == dict.fromkeys(members, 1)


def test_one_customer_may_be_taken_back(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    run = hold(installation, warehouse, members[:20])
    warehouse.say("u00", "vip", "true", ago=0.2)
    installation.run("sync", exit_code=3)
    installation.run("runs", "approve", "--yes", str(run))
    assert installation.members("vip") == {"u00", *members[20:]}


# -- what was rejected


def test_what_was_rejected_is_sent_by_no_later_run(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    run = hold(installation, warehouse, members[:20])
    installation.run("runs", "reject", "--yes", str(run))
    assert held(installation) == []
    for number, command in enumerate((*EVERY_KIND, *EVERY_KIND[:4])):
        leave(warehouse, [members[number]], "other", ago=0.5)
        installation.run(*command)
        assert installation.members("vip") == set(members), command
    installation.run("sync")
    assert installation.members("other") == set(members[9:])


def test_a_rejected_loss_of_rows_is_not_sent_bit_by_bit(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    warehouse.lose("vip", members[:25])
    installation.run("sync", "--full", exit_code=3)
    installation.run("runs", "reject", "--yes", "2")
    for number in range(3):
        leave(warehouse, members[number * 4 : number * 4 + 4], "other", ago=0.8 - number / 5)
        installation.run("sync")
    installation.run("sync", "--full")
    assert installation.members("vip") == set(members)


def test_something_new_of_a_customer_ends_its_rejection(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    """The same row says nothing new; a newer one does, and so does a return."""
    run = hold(installation, warehouse, members[:20])
    installation.run("runs", "reject", "--yes", str(run))
    warehouse.say("u00", "vip", "false", ago=0.2)
    warehouse.say("u01", "vip", "true", ago=0.2)
    installation.run("sync")
    assert installation.members("vip") == set(members) - {"u00"}
    warehouse.say("u01", "vip", "false", ago=0.1)
    installation.run("sync")
    assert installation.members("vip") == set(members) - {"u00", "u01"}
    installation.run("sync", "--full")
    assert installation.members("vip") == set(members) - {"u00", "u01"}


def test_a_loaded_again_row_says_nothing_new(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    run = hold(installation, warehouse, members[:20])
    installation.run("runs", "reject", "--yes", str(run))
    warehouse.reload()
    installation.run("sync")
    assert installation.members("vip") == set(members)


def test_a_rejection_that_is_lifted_is_judged_anew(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    run = hold(installation, warehouse, members[:20])
    installation.run("runs", "reject", "--yes", str(run))
    installation.run("sync", "--full")
    installation.run("runs", "lift", str(run))
    assert installation.members("vip") == set(members)
    installation.run("sync", "--full", exit_code=3)
    assert installation.members("vip") == set(members)
    again = newest_run(installation)
    assert [entry["since_run"] for entry in holds_of(installation, again)] == [again]
    installation.run("runs", "approve", "--yes", str(again))
    assert installation.members("vip") == set(members[20:])


def test_a_lifted_rejection_of_few_goes_out(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    """What is left of it is within the bounds."""
    run = hold(installation, warehouse, members[:13])
    installation.run("runs", "reject", "--yes", str(run))
    for customer_id in members[:9]:
        warehouse.say(customer_id, "vip", "true", ago=0.2)
    installation.run("sync")
    installation.run("runs", "lift", str(run))
    installation.run("sync", "--full")
    assert installation.members("vip") == set(members) - set(members[9:13])
