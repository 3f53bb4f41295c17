"""A hold holds: what the guard keeps back is not sent before somebody decides, whatever becomes of
the run that found it."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from syncer.sandbox.faults import Faults
from tests.support import calls
from tests.support.clock import Clock, moved
from tests.support.installation import Installation
from tests.support.warehouse import Warehouse

#: Of so many members the guard's bounds for small audiences let nine leave, ten and more of three
#: in ten not.
MANY = 40
DOWN = "500=1"
#: A run that went well, whether it came by what is held or not.
GOOD = (0, 3)

#: The kinds of run that look at something again.
EVERY_KIND = [
    ("sync",),
    ("sync", "--full"),
    ("resync", "--yes"),
    ("resync", "--audience", "vip", "--yes"),
    ("resync", "--customer", "u00", "--yes"),
]


@pytest.fixture
def clock() -> Iterator[Clock]:
    with moved() as found:
        yield found


@pytest.fixture
def members(installation: Installation, warehouse: Warehouse) -> list[str]:
    """Forty customers who are in two audiences, and Amberflo knows it."""
    ids = warehouse.users(MANY, ago=40, vip="true", other="true")
    installation.run("sync")
    assert installation.members("vip") == set(ids)
    return ids


def leave(warehouse: Warehouse, who: list[str], key: str = "vip", *, ago: float = 1.0) -> None:
    for customer_id in who:
        warehouse.say(customer_id, key, "false", ago=ago)


def held(installation: Installation) -> list[str]:
    return [one["key"] for one in installation.json("status")["held"]]


def holds_of(installation: Installation, run: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = installation.json("runs", "show", str(run))["holds"]
    return found


def newest_run(installation: Installation) -> int:
    return int(installation.json("runs", "--limit", "1")[0]["run"])


def hold(installation: Installation, warehouse: Warehouse, who: list[str]) -> int:
    """These leave, all at once; gives the run that holds it."""
    leave(warehouse, who)
    installation.run("sync", exit_code=3)
    assert held(installation) == ["vip"]
    return newest_run(installation)


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
    installation.configure(patience="1s")
    installation.amberflo.faults = Faults.parse(DOWN)
    installation.run("sync", *(["--full"] if full else []), exit_code=1)
    assert held(installation) == ["vip"]

    installation.configure()
    installation.amberflo.faults = Faults()
    leave(warehouse, members[:9], "other")
    installation.run("sync", exit_code=GOOD)
    assert installation.members("vip") == set(members)
    assert installation.members("other") == set(members) - set(members[:9]) - {"u30"}
    assert [one["leaving"] for one in holds_of(installation, 2)] == [20]

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
    installation.amberflo.faults = Faults.parse("slow=1,slow_seconds=2")
    process = installation.start("sync")
    with closing(sqlite3.connect(installation.folder / "syncer.db")) as state:
        asked = "SELECT 1 FROM run WHERE id = 2 AND committed_at IS NOT NULL"
        until = time.monotonic() + 30
        while not state.execute(asked).fetchone() and time.monotonic() < until:
            time.sleep(0.05)
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
    found = [one for run in (first, last) for one in holds_of(installation, run)]
    assert len({one["hold"] for one in found}) == 1
    assert {one["since_run"] for one in found} == {first}
    assert [one["run"] for one in installation.json("status")["held"]] == [first]

    # Any run that found it may be named in the decision.
    installation.run("runs", "reject", "--yes", str(last))
    assert held(installation) == []
    assert {one["decision"] for one in holds_of(installation, first)} == {"rejected"}


def test_it_ends_where_engage_takes_it_back(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    run = hold(installation, warehouse, members[:20])
    for customer_id in members[:20]:
        warehouse.say(customer_id, "vip", "true", ago=0.2)
    installation.run("sync", "--full")
    assert held(installation) == []
    assert [one["decision"] for one in holds_of(installation, run)] == ["withdrawn"]
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
    assert [one["since_run"] for one in holds_of(installation, again)] == [again]
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


# -- nobody else's business


def test_a_hold_touches_no_other_audience(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    leave(warehouse, members[:20])
    warehouse.user("new", ago=1, vip="true", other="false")
    installation.run("sync", exit_code=3)
    warehouse.say("u30", "other", "false", ago=0.5)
    installation.run("sync", exit_code=3)
    assert held(installation) == ["vip"]
    assert "u30" not in installation.members("other")


def test_a_new_customer_goes_out_with_what_is_not_held(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    leave(warehouse, members[:20])
    warehouse.user("both", ago=1, vip="true", other="true")
    warehouse.user("only", ago=1, vip="true", other="false")
    installation.run("sync", exit_code=3)
    assert installation.amberflo.customers["both"]["traits"] == {"other": True}
    # One who would be in nothing but what is held is nobody yet.
    assert "only" not in installation.amberflo.customers

    installation.run("runs", "approve", "--yes", "2")
    assert installation.amberflo.customers["both"]["traits"] == {"vip": True, "other": True}
    assert installation.amberflo.customers["only"]["traits"] == {"vip": True, "other": False}


def test_two_audiences_may_be_held_at_once(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    """In two runs: each decision is of its own."""
    first = hold(installation, warehouse, members[:20])
    leave(warehouse, members[10:30], "other", ago=0.5)
    installation.run("sync", exit_code=3)
    assert sorted(held(installation)) == ["other", "vip"]
    second = next(
        one["since_run"]
        for one in holds_of(installation, newest_run(installation))
        if one["key"] == "other"
    )
    assert second > first
    installation.run("runs", "reject", "--yes", str(first))
    assert held(installation) == ["other"]
    installation.run("runs", "approve", "--yes", str(second))
    assert installation.members("vip") == set(members)
    assert installation.members("other") == {*members[:10], *members[30:]}


def test_a_run_with_two_holds_is_decided_as_one(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    leave(warehouse, members[:20])
    leave(warehouse, members[10:30], "other")
    installation.run("sync", exit_code=3)
    assert sorted(one["key"] for one in holds_of(installation, 2)) == ["other", "vip"]
    installation.run("runs", "approve", "--yes", "2")
    assert installation.members("vip") == set(members[20:])
    assert installation.members("other") == {*members[:10], *members[30:]}


def test_name_and_email_of_a_held_customer_go_out(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    leave(warehouse, members[:20])
    warehouse.say("u00", "name", "Zoë Müller")
    warehouse.say("u00", "email", "zoe@example.com")
    installation.run("sync", exit_code=3)
    record = installation.holds()["u00"]
    assert (record["customerName"], record["customerEmail"]) == ("Zoë Müller", "zoe@example.com")
    assert record["traits"] == {"vip": True, "other": True}


# -- what an approval covers


def test_an_approval_covers_exactly_what_was_seen(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    """By customer, not by number: entries that were held make no room for exits."""
    for number in range(12):
        warehouse.user(f"new{number:02}", ago=1, vip="true", other="true")
    run = hold(installation, warehouse, members[:20])
    for number in range(12):
        warehouse.say(f"new{number:02}", "vip", "false", ago=0.2)
    leave(warehouse, members[20:35], ago=0.2)
    installation.run("runs", "approve", "--yes", str(run), exit_code=3)
    assert installation.members("vip") == set(members[20:])
    assert held(installation) == ["vip"]
    (again,) = holds_of(installation, newest_run(installation))
    assert (again["since_run"], again["decision"]) == (newest_run(installation), None)


def test_an_approved_exit_that_engage_took_back_is_not_sent(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    run = hold(installation, warehouse, members[:20])
    for customer_id in members[:5]:
        warehouse.say(customer_id, "vip", "true", ago=0.2)
    installation.run("runs", "approve", "--yes", str(run))
    assert installation.members("vip") == {*members[:5], *members[20:]}


def test_an_approval_says_who_and_why(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    run = hold(installation, warehouse, members[:20])
    words = ("--by", "Ada Lovelace", "--because", "the trial ended for all of them")
    installation.run("runs", "approve", "--yes", str(run), *words)
    (found,) = holds_of(installation, run)
    assert found["decision"] == "approved"
    assert found["decided_by"] == "Ada Lovelace"
    assert found["because"] == "the trial ended for all of them"
    assert found["decided_at"] is not None
    assert (found["members"], found["leaving"], found["customers"]) == (MANY, 20, 0)
    assert "vip" in installation.run("runs", "show", str(run)).stdout


def test_who_is_concerned_is_on_record_before_and_after_the_decision(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    run = str(hold(installation, warehouse, members[:20]))
    shown = installation.run("runs", "show", run).stdout
    assert "40 → 20 members (−50 %); 20 customers" in shown
    assert f"`syncer runs held {run}` lists the customers" in shown
    expected = [(one, True, False) for one in sorted(members[:20])]
    for decide in (["reject", run, "--yes"], ["lift", run]):
        document = installation.json("runs", "held", run)
        changes = [(it["customer_id"], it["before"], it["after"]) for it in document["changes"]]
        assert changes == expected
        assert {it["observed_at"] is None for it in document["changes"]} == {False}
        installation.run("runs", *decide)
    # Some come back before it is decided: they are no evidence of the decision.
    installation.run("sync", "--full", exit_code=3)
    run = str(newest_run(installation))
    for one in members[:2]:
        warehouse.say(one, "vip", "true", ago=0.2)
    installation.run("sync", "--full", exit_code=GOOD)
    expected = expected[2:]
    for decide in (["approve", run, "--yes"], ["list"]):
        document = installation.json("runs", "held", run)
        changes = [(it["customer_id"], it["before"], it["after"]) for it in document["changes"]]
        assert changes == expected
        installation.run("runs", *decide)
    few = installation.run("runs", "held", run, "--limit", "3").stdout
    assert "and 15 more: --limit shows more" in few
    lines = installation.run("runs", "held", run, "--csv").stdout.splitlines()
    assert len(lines) == 19
    assert lines[1].startswith(f"{expected[0][0]},vip,vip,true,false,20")
    installation.run("runs", "held", "99", exit_code=1)
    installation.run("runs", "held", "9" * 20, exit_code=2)


def test_a_rejection_says_who_and_why(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    run = hold(installation, warehouse, members[:20])
    installation.run(
        "runs", "reject", "--yes", str(run), "--by", "Max", "--because", "a broken load"
    )
    (found,) = holds_of(installation, run)
    assert (found["decision"], found["decided_by"]) == ("rejected", "Max")
    assert found["because"] == "a broken load"


def test_an_approval_whose_delivery_fails_is_delivered_later(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    run = hold(installation, warehouse, members[:20])
    installation.configure(patience="1s")
    installation.amberflo.faults = Faults.parse(DOWN)
    installation.run("runs", "approve", "--yes", str(run), exit_code=1)
    assert installation.members("vip") == set(members)
    installation.configure()
    installation.amberflo.faults = Faults()
    installation.run("sync")
    assert installation.members("vip") == set(members[20:])
    assert held(installation) == []


def test_a_hold_whose_key_gave_its_name_away_can_be_decided(
    installation: Installation, warehouse: Warehouse
) -> None:
    for number in range(MANY):
        warehouse.user(f"u{number:02}", ago=20, **{"Big Spender": "true"})
    installation.run("sync")
    warehouse.lose("Big Spender", [f"u{number:02}" for number in range(25)])
    installation.run("sync", "--full", exit_code=3)
    warehouse.rename("Big Spender", "big_spender")
    for number in range(MANY):
        warehouse.say(f"u{number:02}", "big_spender", "true", ago=0.5)
    installation.run("runs", "approve", "--yes", "2")
    assert len(installation.members("big_spender")) == MANY
    assert held(installation) == []


def test_nothing_is_decided_twice(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    run = hold(installation, warehouse, members[:20])
    installation.run("runs", "approve", "--yes", str(run))
    for word in ("approve", "reject"):
        refused = installation.run("runs", word, str(run), exit_code=(1, 2))
        assert len(refused.stderr.strip().splitlines()) == 1
    refused = installation.run("runs", "lift", str(run), exit_code=(1, 2))
    assert len(refused.stderr.strip().splitlines()) == 1
    installation.run("runs", "approve", "--yes", "1", exit_code=(1, 2))
    installation.run("runs", "approve", "--yes", "99", exit_code=(1, 2))


# -- how much is too much


def test_exits_of_a_day_add_up(
    installation: Installation, warehouse: Warehouse, members: list[str], clock: Clock
) -> None:
    for number in range(2):
        clock.move(2)
        leave(warehouse, members[number * 6 : number * 6 + 6])
        installation.run("sync")
    clock.move(2)
    leave(warehouse, members[12:18])
    installation.run("sync", exit_code=3)
    assert installation.members("vip") == set(members[12:])


def test_exits_of_days_do_not_add_up(
    installation: Installation, warehouse: Warehouse, members: list[str], clock: Clock
) -> None:
    for first, last in ((0, 12), (12, 20), (20, 29)):
        clock.move(25)
        leave(warehouse, members[first:last])
        installation.run("sync")
    assert installation.members("vip") == set(members[29:])


def test_what_was_approved_does_not_count_for_the_day(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    run = hold(installation, warehouse, members[:20])
    installation.run("runs", "approve", "--yes", str(run))
    leave(warehouse, members[20:24], ago=0.2)
    installation.run("sync")
    assert installation.members("vip") == set(members[24:])


@pytest.mark.parametrize(("leaving", "code"), [(9, 0), (12, 0), (13, 3)])
def test_small_audiences_have_a_bound_of_their_own(
    installation: Installation,
    warehouse: Warehouse,
    members: list[str],
    leaving: int,
    code: int,
) -> None:
    """At most three in ten, and ten at least, until the usual bound takes over."""
    leave(warehouse, members[:leaving])
    installation.run("sync", exit_code=code)
    assert len(installation.members("vip")) == (MANY if code else MANY - leaving)


# -- computed traits, states, and forms of values


def test_values_of_a_computed_trait_are_held_too(
    installation: Installation, warehouse: Warehouse
) -> None:
    ids = warehouse.users(MANY, vip="true", total_revenue_90="5")
    installation.run("sync")
    warehouse.lose("total_revenue_90", ids[:20])
    installation.run("sync", "--full", exit_code=3)
    assert held(installation) == ["total_revenue_90"]
    warehouse.say("u30", "total_revenue_90", "7", ago=0.5)
    warehouse.say("u31", "vip", "false", ago=0.5)
    installation.run("sync", exit_code=3)
    assert set(installation.values("total_revenue_90").values()) == {5}
    assert "u31" not in installation.members("vip")
    installation.run("runs", "approve", "--yes", "2")
    assert set(installation.values("total_revenue_90")) == set(ids[20:])
    assert installation.values("total_revenue_90")["u30"] == 7


def test_holds_on_postgresql(
    installation: Installation, warehouse: Warehouse, postgres_url: str
) -> None:
    installation.configure(state=postgres_url)
    ids = warehouse.users(MANY, ago=40, vip="true", other="true")
    installation.run("sync")
    run = hold(installation, warehouse, ids[:20])
    blank = installation.run("runs", "reject", "--yes", str(run), "--by", " ", exit_code=2)
    assert "'--by': it is blank: say it, or leave it out" in blank.stderr
    installation.run("runs", "reject", "--yes", str(run), "--by", "Max")
    installation.run("sync", "--full")
    assert installation.members("vip") == set(ids)
    installation.run("runs", "lift", str(run))
    installation.run("sync", "--full", exit_code=3)
    again = newest_run(installation)
    installation.run("runs", "approve", "--yes", str(again))
    assert installation.members("vip") == set(ids[20:])
    warehouse.say("u30", "vip", "false", ago=0.1)
    installation.run("sync")
    assert installation.members("vip") == set(ids[20:]) - {"u30"}


def test_holds_where_values_go_as_text(installation: Installation, warehouse: Warehouse) -> None:
    installation.configure(trait_values="string")
    ids = warehouse.users(MANY, ago=40, vip="true", other="true")
    installation.run("sync")
    run = hold(installation, warehouse, ids[:20])
    installation.run("sync", "--full", exit_code=3)
    assert set(installation.values("vip").values()) == {"true"}
    installation.run("runs", "reject", "--yes", str(run))
    installation.run("sync", "--full")
    assert set(installation.values("vip").values()) == {"true"}


# -- calls


def test_a_call_does_not_get_around_a_hold(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    hold(installation, warehouse, members[:20])
    told = calls.take(installation.config, calls.membership("u00", "vip", False))
    assert told["dropped: held"] == 1
    installation.run("sync", exit_code=3)
    assert installation.members("vip") == set(members)


def test_a_call_that_says_the_opposite_takes_it_back(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    run = hold(installation, warehouse, members[:20])
    calls.take(installation.config, calls.membership("u00", "vip", True))
    installation.run("runs", "approve", "--yes", str(run))
    assert installation.members("vip") == {"u00", *members[20:]}


def test_a_call_after_a_rejection_is_something_new(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    run = hold(installation, warehouse, members[:20])
    installation.run("runs", "reject", "--yes", str(run))
    calls.take(installation.config, calls.membership("u00", "vip", False))
    installation.run("sync")
    assert installation.members("vip") == set(members) - {"u00"}


def test_a_call_of_another_audience_passes(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    hold(installation, warehouse, members[:20])
    calls.take(installation.config, calls.membership("u00", "other", False))
    installation.run("sync", exit_code=3)
    assert installation.members("other") == set(members) - {"u00"}


def test_an_approval_covers_what_its_run_saw_and_nothing_that_came_since(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    run = hold(installation, warehouse, members[:20])
    warehouse.lose("vip", members[20:])
    installation.run("sync", "--full", exit_code=3)
    installation.run("runs", "approve", "--yes", str(run), exit_code=3)
    assert installation.members("vip") == set(members[20:])
    assert held(installation) == ["vip"]


def test_a_partial_run_ends_a_hold_of_which_engage_takes_everything_back(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    hold(installation, warehouse, members[:20])
    for customer_id in members[:20]:
        warehouse.say(customer_id, "vip", "true", ago=0.01)
    assert installation.json("sync")["kind"] == "incremental"
    assert held(installation) == []
    assert installation.members("vip") == set(members)
