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

    answer = why(installation, "m1")
    (row,) = answer["segment"]["rows"]
    assert (row["segment_id"], row["merged_into"], row["value"]) == ("p-old", "p-new", "true")
    change = answer["change"]
    assert (change["before"], change["after"], change["run"]) == (None, True, 1)
    assert change["source"] == "pull"
    assert change["observed_at"] == row["observed_at"]
    assert change["delivered_at"] is not None
    assert (answer["run"]["run"], answer["due"], answer["holds"]) == (1, False, [])
    assert answer["amberflo"] == {"problem": None, "known": True, "value": True, "right": True}
    shown = installation.run("why", "m1", "vip").stdout.splitlines()
    assert shown[0] == (
        f"m1 is in vip: Segment says so since {row['observed_at']}, and run 1 (initial) pulled it."
    )
    assert [line.split()[0] for line in shown[1:]] == [
        *("source", "change", "delivery", "Amberflo")
    ]


def test_a_hold_and_who_decided_are_part_of_the_answer(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    leave(warehouse, members[:EXITS])
    installation.run("sync", exit_code=3)
    held = why(installation, "u00")
    assert held["value"] is True
    assert held["segment"]["value"] is False
    assert [(hold["after"], hold["in_force"], hold["decision"]) for hold in held["holds"]] == [
        (False, True, None)
    ]
    assert re.search(r"held since run 2 \(.*\) until somebody decides", held["answer"])

    who = ("--by", "Ada", "--because", "a campaign ended")
    installation.run("runs", "approve", "--yes", "2", *who)
    answer = why(installation, "u00")
    assert answer["value"] is False
    assert (answer["change"]["run"], answer["amberflo"]["value"]) == (3, False)
    assert "approved by Ada (a campaign ended)" in answer["answer"]
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
    later = {**call, "traits": {"later": True}}
    later["context"] = {"personas": {**personas, "computation_key": "later"}}
    with daemon(installation) as receiver:
        receiver.send("identify", call)
        receiver.send("identify", {"userId": "u03", "traits": {"plan": "gold", "name": "Called"}})
        receiver.send("identify", later)
        receiver.settle()
    answer = why(installation, "u03")
    assert (answer["change"]["source"], answer["run"]) == ("call", None)
    via = answer["change"]["via"]
    assert f"a call by the key {via} said so" in answer["answer"]
    assert re.search(
        r"the source says true, since .*, but a call of .* counts until", answer["answer"]
    )
    plan = why(installation, "u03", "plan")
    assert (plan["kind"], plan["value"], plan["amberflo"]["right"]) == (None, "gold", True)
    assert f'u03 has plan = "gold": an identify call by the key {via}' in plan["answer"]
    assert f"call by the key {via} said true, of " in why(installation, "u03", "later")["answer"]
    assert '"Called": an identify call' in why(installation, "u03", "name")["answer"]


def test_what_cannot_be_asked_is_said(installation: Installation, members: list[str]) -> None:
    (installation.folder / "engage.db").unlink()
    installation.configure(customers_url="http://127.0.0.1:9/customers", patience="0.3s")
    answer = why(installation, "u00", "total_revenue_7")
    assert "does not exist" in answer["segment"]["problem"]
    assert "127.0.0.1:9" in answer["amberflo"]["problem"]
    assert (answer["value"], answer["change"]["run"]) == (12.5, 1)
    shown = installation.run("why", "u00", "total_revenue_7").stdout
    assert re.search("^source +not asked: ", shown, re.MULTILINE)
    assert re.search("^Amberflo +not asked: ", shown, re.MULTILINE)


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


def test_the_answer_is_true_of_each_way_to_a_value(
    installation: Installation, warehouse: Warehouse
) -> None:
    """What it says of Engage, of the run and of Amberflo is so: each line is of another way."""
    ids = warehouse.users(8, ago=40, vip="true", total_revenue_7="12.5", name="N")
    warehouse.user("cannot", ago=40, vip="true")
    record = {"customerId": "u00", "traits": {"vip": "true", "total_revenue_7": 9, "stripeId": "c"}}
    installation.amberflo.customers["u00"] = record
    installation.run("sync")

    def said(customer_id: str, trait: str = "vip") -> str:
        return "\n".join(installation.run("why", customer_id, trait).stdout.splitlines())

    assert re.search(r"Segment says so since .*; run 1 \(initial\) found it at Amb", said("u00"))
    assert "found 9 at Amberflo and corrected it" in said("u00", "total_revenue_7")
    protected = said("u00", "stripeId")
    assert protected.startswith("stripeId of u00 is not ours: amberflo.protected names it")
    assert protected.endswith('Amberflo   has "c" now')
    name = said("u00", "name")
    assert re.match(r'u00 has customerName = "N": Segment says so since .*a run pulled it', name)
    assert said("u00", "customerName") == name

    warehouse.lose("vip", ["u01"])
    warehouse.say("u02", "vip", None)
    warehouse.delete("u03")
    warehouse.say("cannot", "vip", "perhaps")
    warehouse.say("u04", "plan", "gold")
    warehouse.user("late", vip="true")
    assert "has no row of it by now, which only a run that compares everything" in said("u01")
    assert "says absent by now, which no run has taken" in said("u02")
    assert "has no identifier of the customer by now" in said("u03")
    assert 'has "perhaps" by now, which cannot be read (not a boolean)' in said("cannot")
    assert "no run has sent this customer; the source says true by now" in said("late")
    assert said("u04", "plan").startswith("plan of u04 is not ours: the source has it")

    installation.run("sync", "--full")
    vanished = said("u01").splitlines()[0]
    assert vanished.endswith("no longer in vip: run 2 (reconcile) compared everything and had no "
                             "row of it.")  # fmt: skip
    null = said("u02").splitlines()[0]
    assert re.match(r"u02 is no longer in vip: Segment says so since .* pulled it\.", null)
    assert "Segment deleted it" in said("u03")

    installation.run("traits", "release", "vip", "--yes")
    waits = said(ids[5])
    assert waits.startswith("vip of u05 is not ours: it was released at ")
    assert waits.endswith("has true now, and should have absent")
    del installation.amberflo.customers["u06"]
    assert "does not know the customer, and should" in said("u06", "total_revenue_7")


def test_a_trait_that_changed_hands_is_told_of_both_keys(
    installation: Installation, warehouse: Warehouse
) -> None:
    warehouse.user("u1", ago=30, **{"Old Key": "true"})
    installation.run("sync")
    warehouse.rename("Old Key", "old_key")
    installation.run("sync", "--full")
    old, new = (why(installation, "u1", key) for key in ("Old Key", "old_key"))
    assert "another key took the name old_key over in run 2 (reconcile)" in old["answer"]
    assert old["amberflo"]["value"] is True
    assert new["answer"].startswith("u1 is in old_key: the key took the name over from another")


def test_a_failure_is_told_as_it_is(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    """What is put off is tried again; what is discarded is not, and `failures retry` counts it as
    nothing."""
    installation.amberflo.odd = {"u00": "PUT 500", "u01": "PUT 400"}
    leave(warehouse, ["u00", "u01", "u02"])
    installation.run("sync", exit_code=1)
    said = installation.run("why", "u00", "vip").stdout
    assert re.search(r"does not take the customer, failure \d+: .* 500; it is tried again", said)
    said = installation.run("why", "u00", "total_revenue_7").stdout
    assert re.search(r"acknowledged it .*; by now it does not take the customer", said)
    said = installation.run("why", "u01", "vip").stdout
    assert re.search(r"Amberflo refuses the customer, .*`syncer failures retry \d+`", said)
    assert "0 s behind; 1 customers are put off" in installation.run("status").stdout

    installation.run("failures", "discard", "--all")
    status = installation.json("status")
    assert (status["backlog"]["customers"], status["failures"]) == (0, 0)
    said = installation.run("why", "u00", "vip").stdout
    assert "nothing is due: `syncer resync --customer u00` sends it" in said
    assert "0 delivered, 0 refused" in installation.run("failures", "retry", "--all").stderr


def test_what_is_unknown_is_one_line(installation: Installation, members: list[str]) -> None:
    said = installation.run("why", "nobody", "vip", exit_code=1).stderr
    assert said == "error: the customer 'nobody' is unknown\n"
    said = installation.run("why", "u00", "nothing", exit_code=1).stderr
    assert "neither the source nor Amberflo has one of 'u00'" in said
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
