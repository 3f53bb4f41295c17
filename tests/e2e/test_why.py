"""`syncer why`: one answer, with the evidence from the warehouse to Amberflo."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.support.daemon import daemon
from tests.support.installation import Installation
from tests.support.warehouse import Warehouse

#: Of so many members half may not leave at once.
MANY = 40
EXITS = 20


@pytest.fixture
def members(installation: Installation, warehouse: Warehouse) -> list[str]:
    """Forty customers in `vip`, of whom Amberflo knows it."""
    ids = warehouse.users(MANY, ago=40, vip="true", total_revenue_7="12.5")
    installation.run("sync")
    return ids


def leave(warehouse: Warehouse, customer_ids: list[str]) -> None:
    for customer_id in customer_ids:
        warehouse.say(customer_id, "vip", "false")


def why(installation: Installation, customer_id: str, trait: str = "vip") -> dict[str, Any]:
    document: dict[str, Any] = installation.json("why", customer_id, trait)
    return document


def test_a_pull_is_followed_from_its_row_to_amberflo(
    installation: Installation, warehouse: Warehouse
) -> None:
    warehouse.user("m1", ago=30, profile="p-old", vip="true")
    warehouse.identify("m1", profile="p-new")
    warehouse.merge("p-old", "p-new")
    installation.run("sync")

    found = why(installation, "m1")
    (row,) = found["segment"]["rows"]
    assert (row["segment_id"], row["merged_into"], row["value"]) == ("p-old", "p-new", "true")
    change = found["change"]
    assert (change["before"], change["after"], change["run"]) == (None, True, 1)
    assert change["source"] == "pull"
    assert change["observed_at"] == row["observed_at"]
    assert change["delivered_at"] is not None
    assert (found["run"]["run"], found["due"], found["holds"]) == (1, False, [])
    assert found["amberflo"] == {"problem": None, "known": True, "value": True, "right": True}
    shown = installation.run("why", "m1", "vip").stdout.splitlines()
    assert shown[0] == (
        f"m1 is in vip: Segment says so since {row['observed_at']}, and run 1 (initial) pulled it."
    )
    assert [line.split()[0] for line in shown[1:]] == [
        *("warehouse", "change", "delivery", "Amberflo")
    ]


def test_a_hold_and_who_decided_are_part_of_the_answer(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    leave(warehouse, members[:EXITS])
    installation.run("sync", exit_code=3)
    held = why(installation, "u00")
    assert held["value"] is True
    assert held["segment"]["value"] is False
    assert [(one["after"], one["in_force"], one["decision"]) for one in held["holds"]] == [
        (False, True, None)
    ]
    assert re.search(r"held since run 2 \(.*\) until somebody decides", held["answer"])

    who = ("--by", "Ada", "--because", "a campaign ended")
    installation.run("runs", "approve", "--yes", "2", *who)
    left = why(installation, "u00")
    assert left["value"] is False
    assert (left["change"]["run"], left["amberflo"]["value"]) == (3, False)
    assert "approved by Ada (a campaign ended)" in left["answer"]
    assert "approved" not in why(installation, "u30")["answer"]


def test_a_rejection_is_part_of_the_answer(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    leave(warehouse, members[:EXITS])
    installation.run("sync", exit_code=3)
    installation.run("runs", "reject", "--yes", "2", "--by", "Bob", "--because", "a wrong rule")
    answer = why(installation, "u00")["answer"]
    assert answer.startswith("u00 is in vip: Engage says false, and that is rejected by Bob (a wr")


def test_a_call_is_named_with_its_key(installation: Installation, members: list[str]) -> None:
    personas = {"computation_class": "audience", "computation_key": "vip"}
    call = {"userId": "u03", "traits": {"vip": False}, "context": {"personas": personas}}
    with daemon(installation) as receiver:
        receiver.send("identify", call)
        receiver.send("identify", {"userId": "u03", "traits": {"plan": "gold"}})
        receiver.settle()
    found = why(installation, "u03")
    assert (found["change"]["source"], found["run"]) == ("call", None)
    via = found["change"]["via"]
    assert f"a call by the key {via} said so" in found["answer"]
    assert "the warehouse says true by now" in found["answer"]
    plan = why(installation, "u03", "plan")
    assert (plan["kind"], plan["value"], plan["amberflo"]["right"]) == (None, "gold", True)
    assert f'u03 has plan = "gold": an identify call by the key {via}' in plan["answer"]


def test_what_cannot_be_asked_is_said(installation: Installation, members: list[str]) -> None:
    (installation.folder / "engage.db").unlink()
    installation.configure(customers_url="http://127.0.0.1:9/customers")
    found = why(installation, "u00", "total_revenue_7")
    assert "does not exist" in found["segment"]["problem"]
    assert "127.0.0.1:9" in found["amberflo"]["problem"]
    assert (found["value"], found["change"]["run"]) == (12.5, 1)
    shown = installation.run("why", "u00", "total_revenue_7").stdout
    assert "warehouse  not asked: " in shown
    assert "Amberflo   not asked: " in shown


def test_what_amberflo_refuses_or_others_changed_is_said(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    installation.amberflo.customers["u01"]["traits"]["vip"] = False
    wrong = why(installation, "u01")["amberflo"]
    assert (wrong["value"], wrong["right"]) == (False, False)
    assert "see `syncer verify`" in installation.run("why", "u01", "vip").stdout

    installation.amberflo.odd = {"u02": "PUT 400"}
    leave(warehouse, ["u02", "u03"])
    installation.run("sync", exit_code=1)
    refused = why(installation, "u02")
    assert refused["change"]["delivered_at"] is None
    assert refused["failure"]["status"] == 400
    assert (
        "Amberflo refuses the customer, failure 1" in installation.run("why", "u02", "vip").stdout
    )


def test_a_trait_goes_by_its_key_and_by_its_name(
    installation: Installation, warehouse: Warehouse
) -> None:
    warehouse.user("u1", **{"Big Spender": "true"})
    installation.run("sync")
    by_key, by_name = (why(installation, "u1", name) for name in ("Big Spender", "big_spender"))
    assert by_key == by_name
    assert (by_key["trait"], by_key["key"]) == ("big_spender", "Big Spender")


def test_what_is_unknown_is_one_line(installation: Installation, members: list[str]) -> None:
    said = installation.run("why", "nobody", "vip", exit_code=1).stderr
    assert said == "error: the customer 'nobody' is unknown\n"
    said = installation.run("why", "u00", "nothing", exit_code=1).stderr
    assert said.startswith("error: no audience or computed trait with the key 'nothing'")
    installation.run("why", "u00", exit_code=2)


def test_who_was_never_in_is_told_apart_from_who_left(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    warehouse.user("u99", vip="false", total_revenue_7="1")
    installation.run("sync")
    leave(warehouse, ["u00"])
    assert why(installation, "u00")["answer"].endswith("by now, which no run has taken.")
    installation.run("sync")
    assert why(installation, "u00")["answer"].startswith("u00 is no longer in vip: ")
    assert why(installation, "u99")["answer"].startswith("u99 is not in vip: ")
