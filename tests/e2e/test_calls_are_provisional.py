"""What a call says holds until a pull could know better, whatever clock its sender has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.calls import identify, membership, take, told
from tests.support.clock import Clock, moved
from tests.support.installation import Installation
from tests.support.warehouse import Warehouse

#: More hours than Segment takes to load what a call said, by what the product assumes.
LOADED = 4


@pytest.fixture
def clock() -> Iterator[Clock]:
    with moved() as clock:
        yield clock


@pytest.fixture
def known(installation: Installation, warehouse: Warehouse, clock: Clock) -> Installation:
    """Five customers, one of them in no audience."""
    warehouse.users(5, vip="true", other="true", name="Old", email="old@example.com")
    warehouse.say("u04", "vip", "false", ago=20)
    installation.run("sync")
    return installation


def later(warehouse: Warehouse, clock: Clock) -> None:
    """Hours later something else was loaded: the warehouse is up to date."""
    clock.move(LOADED)
    warehouse.say("u03", "other", "true", ago=0.1)


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("full", [True, False])
def test_it_stays_while_the_warehouse_may_lag(
    known: Installation, warehouse: Warehouse, clock: Clock, value: bool, full: bool
) -> None:
    who = "u04" if value else "u00"
    take(known.config, membership(who, "vip", value))
    for _ in range(2):
        known.run("sync", *(["--full"] if full else []))
        assert known.values("vip")[who] is value
        clock.move(1)
        warehouse.say("u03", "other", "true", ago=0.1)


@pytest.mark.parametrize("value", [True, False])
def test_a_pull_that_could_know_better_stands(
    known: Installation, warehouse: Warehouse, clock: Clock, value: bool
) -> None:
    who = "u04" if value else "u00"
    take(known.config, membership(who, "vip", value))
    known.run("sync")
    later(warehouse, clock)
    known.run("sync", "--full")
    assert known.values("vip")[who] is not value


def test_a_new_row_stands_at_once(known: Installation, warehouse: Warehouse, clock: Clock) -> None:
    take(known.config, membership("u00", "vip", False))
    clock.move(0.5)
    warehouse.say("u00", "vip", "true", ago=0.1)
    known.run("sync")
    assert known.values("vip")["u00"] is True


@pytest.mark.parametrize("said", ["2036-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "0001-01-01"])
def test_a_wrong_clock_freezes_nobody(
    known: Installation, warehouse: Warehouse, clock: Clock, said: str
) -> None:
    """Membership, name and email."""
    take(
        known.config,
        {**membership("u00", "vip", False), "timestamp": said},
        {**identify("u00", name="Typo", email="typo@example.com"), "timestamp": said},
    )
    known.run("sync")
    later(warehouse, clock)
    for key, value in (("vip", "true"), ("name", "Right"), ("email", "right@example.com")):
        warehouse.say("u00", key, value, ago=0.1)
    known.run("sync")
    record = known.holds()["u00"]
    assert record == {
        "customerName": "Right",
        "customerEmail": "right@example.com",
        "traits": {"vip": True, "other": True},
    }
    known.run("sync", "--full")
    assert known.holds()["u00"] == record
    known.run("verify")


def test_a_wrong_sent_at_moves_no_time(
    known: Installation, warehouse: Warehouse, clock: Clock
) -> None:
    take(
        known.config,
        {**identify("u00", name="Typo"), "timestamp": told(), "sentAt": "1970-01-01T00:00:00Z"},
    )
    clock.move(1)
    warehouse.say("u00", "name", "Right", ago=0.1)
    known.run("sync")
    assert known.holds()["u00"]["customerName"] == "Right"


def test_an_id_that_moved_long_after_a_call(
    installation: Installation, warehouse: Warehouse, clock: Clock
) -> None:
    """The new profile's row is older than the call; the warehouse knows of both for days."""
    warehouse.user("u0", ago=20, vip="false", other="true", profile="p1")
    warehouse.user("x", ago=19, vip="false", other="true", profile="p2")
    installation.run("sync")
    take(installation.config, membership("u0", "vip", True))
    warehouse.say("u0", "vip", "true", ago=0.0, profile="p1")
    installation.run("sync")
    assert installation.values("vip")["u0"] is True
    clock.move(60)
    warehouse.db.execute("DELETE FROM user_identifiers WHERE value = 'u0'")
    warehouse.identify("u0", ago=0.5, profile="p2")
    installation.run("sync")
    assert installation.values("vip")["u0"] is False
    installation.run("verify")


def test_the_newest_of_several_calls_counts(known: Installation) -> None:
    take(
        known.config,
        membership("u00", "vip", False, ago=0.1),
        membership("u00", "vip", True, ago=0.2),
        membership("u01", "vip", True, ago=0.2),
        membership("u01", "vip", False, ago=0.1),
    )
    known.run("sync")
    assert {customer_id: known.values("vip")[customer_id] for customer_id in ("u00", "u01")} == {
        "u00": False,
        "u01": False,
    }


def test_the_newest_name_counts_wherever_it_comes_from(
    known: Installation, warehouse: Warehouse, clock: Clock
) -> None:
    """A call may be the only one to know it, so days do not end it."""
    take(known.config, identify("u00", name="By call"), identify("u01", name="Older", ago=30))
    clock.move(48)
    warehouse.say("u03", "other", "true", ago=0.1)
    known.run("sync", "--full")
    assert known.holds()["u00"]["customerName"] == "By call"
    assert known.holds()["u01"]["customerName"] == "Old"
    warehouse.say("u00", "name", "By row", ago=0.5)
    known.run("sync")
    assert known.holds()["u00"]["customerName"] == "By row"


def test_engage_wins_where_all_is_sent_again(
    known: Installation, warehouse: Warehouse, clock: Clock
) -> None:
    take(known.config, identify("u00", name="By call"), membership("u00", "vip", False))
    known.run("sync")
    assert known.holds()["u00"]["customerName"] == "By call"
    known.run("resync", "--yes")
    assert known.holds()["u00"]["customerName"] == "Old"
    assert known.values("vip")["u00"] is True


def test_engage_wins_where_one_customer_is_sent_again(
    known: Installation, warehouse: Warehouse
) -> None:
    take(known.config, identify("u00", name="By call"), membership("u00", "vip", False))
    known.run("resync", "--customer", "u00", "--yes")
    assert known.holds()["u00"]["customerName"] == "Old"
    assert known.values("vip")["u00"] is True


def test_what_a_call_changes_is_in_the_history(known: Installation) -> None:
    take(known.config, identify("u00", name="New", email="new@example.com", plan="gold"))
    known.run("sync")
    changes = {
        change["trait"]: (change["before"], change["after"], change["source"], change["run"])
        for change in known.json("audit", "customer", "u00")["changes"]
        if change["source"] == "identify"
    }
    assert changes == {
        "customerName": ("Old", "New", "identify", None),
        "customerEmail": ("old@example.com", "new@example.com", "identify", None),
        "plan": (None, "gold", "identify", None),
    }
    assert all(
        change["delivered_at"] for change in known.json("audit", "customer", "u00")["changes"]
    )


def test_a_computed_trait_by_call_is_provisional_too(
    installation: Installation, warehouse: Warehouse, clock: Clock
) -> None:
    warehouse.users(3, vip="true", total_revenue_90="5")
    installation.run("sync")
    take(installation.config, membership("u00", "total_revenue_90", 7, kind="trait"))
    installation.run("sync", "--full")
    assert installation.values("total_revenue_90")["u00"] == 7
    clock.move(LOADED)
    warehouse.say("u01", "vip", "true", ago=0.1)
    installation.run("sync", "--full")
    assert installation.values("total_revenue_90")["u00"] == 5
