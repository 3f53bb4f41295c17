"""What a hold keeps back and what it lets through, and how much is too much."""

from __future__ import annotations

import pytest

from tests.e2e.holds.helpers import MANY, held, hold, holds_of, leave, newest_run
from tests.support.clock import Clock
from tests.support.installation import Installation
from tests.support.warehouse import Warehouse

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
        entry["since_run"]
        for entry in holds_of(installation, newest_run(installation))
        if entry["key"] == "other"
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
    assert sorted(entry["key"] for entry in holds_of(installation, 2)) == ["other", "vip"]
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
