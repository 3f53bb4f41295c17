"""That a row is missing means something only where everything is compared."""

from __future__ import annotations

import pytest

from tests.support.installation import Installation
from tests.support.warehouse import Warehouse


@pytest.mark.parametrize("number", [3, 90])
def test_runs_that_look_at_changes_infer_nothing_from_lost_rows(
    installation: Installation, warehouse: Warehouse, number: int
) -> None:
    """Nine runs that touch those whose rows are lost, each with few of them."""
    ids = warehouse.users(number, ago=40, vip="true", other="true")
    installation.run("sync")
    warehouse.lose("vip", ids[: number - 1])
    share = max(number // 9, 1)
    for turn in range(9):
        for customer_id in ids[turn * share : (turn + 1) * share]:
            warehouse.say(customer_id, "name", f"Name {turn}", ago=32 - turn * 3.5)
        assert installation.json("sync")["exited"] == 0
        assert installation.members("vip") == set(ids)


def test_the_comparison_of_all_holds_a_loss(
    installation: Installation, warehouse: Warehouse
) -> None:
    ids = warehouse.users(90, ago=40, vip="true")
    installation.run("sync")
    warehouse.lose("vip", ids[:80])
    run = installation.json("sync", "--full", exit_code=3)
    assert installation.members("vip") == set(ids)
    assert run["held"] == 80


def test_the_comparison_of_all_finds_who_vanished(
    installation: Installation, warehouse: Warehouse
) -> None:
    """Few of them left without a word: they did leave."""
    ids = warehouse.users(30, ago=40, vip="true", total_revenue_90="5")
    installation.run("sync")
    warehouse.lose("vip", ids[:3])
    warehouse.lose("total_revenue_90", ids[:2])
    installation.run("sync")
    assert installation.members("vip") == set(ids)
    installation.run("sync", "--full")
    assert installation.members("vip") == set(ids[3:])
    assert set(installation.values("total_revenue_90")) == set(ids[2:])


@pytest.mark.parametrize("value", ["false", None])
def test_what_a_row_says_is_no_absence(
    installation: Installation, warehouse: Warehouse, value: str | None
) -> None:
    """An explicit NULL of an audience ends a membership in any run, that of a computed trait takes
    its value away."""
    warehouse.users(5, ago=40, vip="true", total_revenue_90="5")
    installation.run("sync")
    warehouse.say("u00", "vip", value)
    warehouse.say("u01", "total_revenue_90", None)
    installation.run("sync")
    assert installation.members("vip") == {"u01", "u02", "u03", "u04"}
    assert installation.values("vip")["u00"] is False
    assert "u01" not in installation.values("total_revenue_90")


def test_a_customer_who_is_sent_again_keeps_what_is_missing(
    installation: Installation, warehouse: Warehouse
) -> None:
    warehouse.users(5, ago=40, vip="true", other="true")
    installation.run("sync")
    warehouse.lose("vip", ["u00"])
    installation.run("resync", "--customer", "u00", "--yes")
    assert "u00" in installation.members("vip")
    installation.run("resync", "--audience", "vip", "--yes")
    assert "u00" not in installation.members("vip")  # it pulls everybody


def test_a_merge_that_is_half_loaded_is_no_exit(
    installation: Installation, warehouse: Warehouse
) -> None:
    """The old profile's rows are gone, the new profile's row comes an hour later."""
    warehouse.user("u1", ago=80, vip="true", profile="p1")
    warehouse.user("x", ago=80, gold="true", profile="p2")
    for number in range(10, 20):
        warehouse.user(f"u{number}", ago=80, vip="true")
    installation.run("sync")
    warehouse.lose_profile("p1")
    warehouse.merge("p1", "p2", ago=0.4)
    warehouse.identify("u1", ago=0.4, profile="p2")
    installation.run("sync")
    assert installation.values("vip")["u1"] is True

    warehouse.say("u1", "vip", "true", ago=0.1, at=80, profile="p2")
    installation.run("sync")
    assert installation.values("vip")["u1"] is True
    history = installation.json("audit", "customer", "u1")["changes"]
    assert [change["after"] for change in history if change["trait"] == "vip"] == [True]


@pytest.mark.parametrize("missing", ["merge", "identifier", "traits"])
def test_a_merge_may_be_loaded_in_any_order(
    installation: Installation, warehouse: Warehouse, missing: str
) -> None:
    warehouse.user("u1", ago=80, vip="true", profile="p1")
    warehouse.user("u2", ago=80, gold="true", profile="p2")
    installation.run("sync")
    warehouse.lose_profile("p1")
    if missing != "merge":
        warehouse.merge("p1", "p2", ago=0.4)
    if missing != "identifier":
        warehouse.identify("u1", ago=0.4, profile="p2")
    if missing != "traits":
        warehouse.say("u1", "vip", "true", ago=0.4, at=70, profile="p2")
    installation.run("sync")
    assert "u1" in installation.members("vip")

    load = {
        "merge": lambda: warehouse.merge("p1", "p2", ago=0.2),
        "identifier": lambda: warehouse.identify("u1", ago=0.2, profile="p2"),
        "traits": lambda: warehouse.say("u1", "vip", "true", ago=0.2, at=70, profile="p2"),
    }
    load[missing]()
    for command in (("sync",), ("sync", "--full")):
        installation.run(*command)
        assert installation.members("vip") == {"u1", "u2"}
    history = installation.json("audit", "customer", "u1")["changes"]
    assert [change["after"] for change in history if change["trait"] == "vip"] == [True]


def test_a_table_that_is_half_reloaded_is_no_exit(
    installation: Installation, warehouse: Warehouse
) -> None:
    ids = warehouse.users(90, ago=50, vip="true", gold="true")
    installation.run("sync")
    warehouse.lose("vip", ids[60:])
    warehouse.reload()
    run = installation.json("sync")
    assert (run["state"], run["exited"]) == ("done", 0)
    assert installation.members("vip") == set(ids)


def test_a_name_that_is_taken_away(installation: Installation, warehouse: Warehouse) -> None:
    """An explicit NULL is a statement; a row that is missing is none, in any run."""
    warehouse.users(2, ago=40, vip="true", name="Ada", email="ada@example.com")
    installation.run("sync")
    warehouse.say("u00", "name", None)
    warehouse.say("u00", "email", None)
    warehouse.lose("name", ["u01"])
    warehouse.lose("email", ["u01"])
    warehouse.say("u01", "vip", "false")
    installation.run("sync")
    installation.run("sync", "--full")
    gone, kept = (installation.holds()[customer_id] for customer_id in ("u00", "u01"))
    assert (gone["customerName"], gone["customerEmail"]) == ("u00", None)
    assert (kept["customerName"], kept["customerEmail"]) == ("Ada", "ada@example.com")


def test_an_id_that_moves_to_another_profile_takes_what_is_said_there(
    installation: Installation, warehouse: Warehouse
) -> None:
    warehouse.user("u0", ago=72, vip="true", other="true", profile="p1")
    warehouse.user("x", ago=71, vip="false", other="true", profile="p2")
    installation.run("sync")
    warehouse.db.execute("DELETE FROM user_identifiers WHERE value = 'u0'")
    warehouse.identify("u0", ago=12, profile="p2")
    installation.run("sync", "--full")
    assert installation.values("vip")["u0"] is False
