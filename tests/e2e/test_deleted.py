"""Deleted is not left: who has no identifier row any more was deleted in Segment."""

from __future__ import annotations

import pytest

from syncer.sandbox.faults import Faults
from tests.support.calls import identify, membership, take
from tests.support.installation import Installation
from tests.support.warehouse import Warehouse


def last_run(installation: Installation) -> int:
    return int(installation.json("runs", "--limit", "1")[0]["run"])


def test_a_deleted_customer_leaves_as_deleted(
    installation: Installation, warehouse: Warehouse
) -> None:
    warehouse.users(20, ago=40, vip="true", name="Ada")
    installation.run("sync")
    warehouse.delete("u00")
    installation.run("sync")
    assert "u00" in installation.members("vip")  # only a comparison of all tells

    run = installation.json("sync", "--full")
    assert run["deleted"] == 1
    assert installation.values("vip")["u00"] is False
    assert installation.holds()["u00"]["customerName"] == "Ada"
    last = installation.json("audit", "customer", "u00")["changes"][-1]
    assert (last["after"], last["source"]) == (False, "deleted")
    installation.run("sync", "--full")
    assert installation.json("runs", "--limit", "1")[0]["due"] == 0


def test_one_whose_traits_are_lost_is_not_deleted(
    installation: Installation, warehouse: Warehouse
) -> None:
    warehouse.users(20, ago=40, vip="true")
    installation.run("sync")
    warehouse.lose("vip", ["u00"])
    assert installation.json("sync", "--full")["deleted"] == 0
    assert installation.json("audit", "customer", "u00")["changes"][-1]["source"] != "deleted"


def test_one_who_goes_by_another_profile_is_not_deleted(
    installation: Installation, warehouse: Warehouse
) -> None:
    warehouse.users(20, ago=40, vip="true")
    installation.run("sync")
    warehouse.delete("u00")
    warehouse.identify("u00", ago=1, profile="another")
    run = installation.json("sync", "--full")
    assert run["deleted"] == 0
    assert installation.values("vip")["u00"] is False


@pytest.mark.parametrize("command", [("sync", "--full"), ("resync", "--yes")])
def test_many_deletions_are_held(
    installation: Installation, warehouse: Warehouse, command: tuple[str, ...]
) -> None:
    """More than one in twenty, and ten at least. The other customers go on."""
    ids = warehouse.users(40, ago=40, vip="true", other="true")
    installation.run("sync")
    for customer_id in ids[:11]:
        warehouse.delete(customer_id)
    warehouse.say("u30", "vip", "false")
    installation.run(*command, exit_code=3)
    assert installation.members("vip") == set(ids) - {"u30"}
    assert installation.members("other") == set(ids)
    held = installation.json("status")["held"]
    assert [hold["key"] for hold in held] == ["*deleted*"]

    run = last_run(installation)
    installation.run("sync", exit_code=(0, 3))
    installation.run("sync", "--full", exit_code=3)
    assert installation.members("vip") == set(ids) - {"u30"}
    installation.run("runs", "approve", "--yes", str(run))
    assert installation.members("vip") == set(ids[11:]) - {"u30"}
    assert installation.members("other") == set(ids[11:])


def test_rejected_deletions_stay(installation: Installation, warehouse: Warehouse) -> None:
    ids = warehouse.users(40, ago=40, vip="true")
    installation.run("sync")
    for customer_id in ids[:11]:
        warehouse.delete(customer_id)
    installation.run("sync", "--full", exit_code=3)
    installation.run("runs", "reject", "--yes", str(last_run(installation)))
    for _ in range(2):
        installation.run("sync", "--full")
        assert installation.members("vip") == set(ids)
    # One of them comes back, and leaves: that is said of him.
    warehouse.user("u00", ago=0.5, vip="false")
    installation.run("sync", "--full")
    assert installation.members("vip") == set(ids[1:])


def test_deletions_of_a_day_add_up(installation: Installation, warehouse: Warehouse) -> None:
    ids = warehouse.users(40, ago=40, vip="true")
    installation.run("sync")
    for customer_id in ids[:6]:
        warehouse.delete(customer_id)
    installation.run("sync", "--full")
    for customer_id in ids[6:12]:
        warehouse.delete(customer_id)
    installation.run("sync", "--full", exit_code=3)
    assert installation.members("vip") == set(ids[6:])


def test_deleted_customers_may_be_forgotten(
    installation: Installation, warehouse: Warehouse
) -> None:
    installation.configure(engage='deleted = "forget"')
    warehouse.users(20, ago=40, vip="true", name="Ada", email="ada@example.com")
    installation.run("sync")
    warehouse.delete("u00")
    installation.run("sync", "--full")
    installation.run("sync")  # what is left of it, where it is done by the next one
    record = installation.holds()["u00"]
    assert (record["customerName"], record["customerEmail"]) == ("u00", None)
    assert record["traits"]["vip"] is False
    text = installation.run("audit", "customer", "u00", exit_code=(0, 1, 2))
    assert "Ada" not in text.stdout


def test_one_whom_only_calls_know_was_not_deleted(
    installation: Installation, warehouse: Warehouse
) -> None:
    """The warehouse has not loaded them yet."""
    installation.configure(engage='deleted = "forget"')
    warehouse.users(20, ago=40, vip="true")
    installation.run("sync")
    take(installation.config, membership("new", "vip", True), identify("newer", plan="pro"))
    installation.run("sync")
    assert installation.json("sync", "--full")["deleted"] == 0
    for customer_id in ("new", "newer"):
        warehouse.user(customer_id, ago=0.01, vip="true")
    installation.run("sync")
    assert {"new", "newer"} <= installation.members("vip")
    assert installation.values("plan")["newer"] == "pro"


def test_one_whom_segment_has_again_is_not_forgotten(
    installation: Installation, warehouse: Warehouse
) -> None:
    installation.configure(engage='deleted = "forget"', patience="1s")
    warehouse.users(5, ago=40, vip="true", name="Ada")
    installation.run("sync")
    warehouse.delete("u00")
    installation.amberflo.faults = Faults.parse("500=1")
    installation.run("sync", "--full", exit_code=1)
    installation.amberflo.faults = Faults()
    warehouse.user("u00", ago=0.01, vip="true", name="Ada")
    installation.run("sync", "--full")
    assert "u00" in installation.members("vip")
    assert installation.holds()["u00"]["customerName"] == "Ada"


@pytest.mark.parametrize("mode", ["exit", "forget"])
@pytest.mark.parametrize("tables", [("user_identifiers",), ("user_identifiers", "user_traits")])
def test_an_empty_source_deletes_nobody_however_few_there_are(
    installation: Installation, warehouse: Warehouse, mode: str, tables: tuple[str, ...]
) -> None:
    installation.configure(engage=f'deleted = "{mode}"')
    ids = warehouse.users(4, ago=40, vip="true")
    installation.run("sync")
    for table in tables:
        warehouse.db.execute(f"DELETE FROM {table}")
    installation.run("sync", "--full", exit_code=3)
    assert installation.members("vip") == set(ids)


def test_one_with_something_held_is_not_forgotten_yet(
    installation: Installation, warehouse: Warehouse
) -> None:
    installation.configure(engage='deleted = "forget"')
    ids = warehouse.users(40, ago=40, vip="true", gold="true")
    installation.run("sync")
    for customer_id in ids[:20]:
        warehouse.say(customer_id, "vip", "false")
    installation.run("sync", exit_code=3)
    run = last_run(installation)
    warehouse.delete("u00")
    installation.run("sync", "--full", exit_code=3)
    assert "u00" in installation.members("vip")
    installation.run("runs", "approve", "--yes", str(run))
    installation.run("sync", "--full")
    assert "u00" not in installation.members("vip")
    assert installation.members("vip") == set(ids[20:])
