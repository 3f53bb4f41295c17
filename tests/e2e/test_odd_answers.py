"""One answer that is odd costs the customer that it is about; one that everybody gets, nobody."""

from __future__ import annotations

import itertools

import pytest
from aiohttp import web

from syncer.amberflo.codec import read, written
from syncer.amberflo.record import merged
from syncer.sandbox.amberflo import Call
from tests.support.installation import Installation
from tests.support.warehouse import Warehouse

ODD = {
    "u0003": ("PUT 403", "answered 403: Forbidden"),
    "u0020": ("401", "answered 401: Unauthorized"),
    "u0050": ("403", "answered 403: Forbidden"),
    "u0101": ("500", "answered 500"),
    "u0150": ("413", "answered 413: Request Too Long"),
    "u0200": ("html", "something that is not JSON: "),
    "u0250": ("[1]", "something that is no customer: [1]"),
    "u0300": ("other", "another customer's record"),
    "u0350": ("cut", "payload is not completed"),
    "u0399": ("302", "amberflo.customers_url answers 302 to /moved"),
}


def fill(warehouse: Warehouse, customers: int) -> list[str]:
    ids = [f"u{number:04}" for number in range(customers)]
    for id_ in ids:
        warehouse.user(id_, vip="true")
    return ids


def test_the_odd_ones_cost_themselves(installation: Installation, warehouse: Warehouse) -> None:
    ids = fill(warehouse, 400)
    amberflo = installation.amberflo
    amberflo.odd = {id_: how for id_, (how, _) in ODD.items()}
    run = installation.json("sync", exit_code=1)
    good = set(ids) - ODD.keys()
    assert amberflo.customers.keys() == good
    assert (run["state"], run["delivered"], run["failed"]) == ("done", 400 - len(ODD), len(ODD))
    listed = {
        failure["customer_id"]: failure["reason"] for failure in installation.json("failures")
    }
    assert listed.keys() == ODD.keys()
    for customer_id, (_, said) in ODD.items():
        assert said in listed[customer_id]

    # They are known: runs go well, also such as have others to send, and such that try them again.
    warehouse.say("u0001", "vip", "false")
    warehouse.say("u0101", "vip", "false")
    run = installation.json("sync")
    assert (run["state"], run["due"], run["delivered"], run["failed"]) == ("done", 2, 1, 1)
    assert installation.json("sync", "--full")["due"] == 0
    assert len(installation.json("failures")) == len(ODD)

    # When they are odd no more, those that were not refused come by themselves, also who was sent
    # elsewhere.
    amberflo.odd = {}
    installation.run("sync")
    refused = {"u0003", "u0020", "u0050", "u0150"}
    assert set(ids) - amberflo.customers.keys() == refused
    assert {failure["customer_id"] for failure in installation.json("failures")} == refused
    installation.run("failures", "retry", "--all")
    assert amberflo.customers.keys() == set(ids)
    assert installation.json("failures") == []


def test_patience_that_is_shorter_than_its_attempts_is_not_lost_over_one(
    installation: Installation, warehouse: Warehouse
) -> None:
    """While only one is left that fails, those that Amberflo has already show that it answers."""
    installation.configure(patience="1s")
    fill(warehouse, 20)
    installation.amberflo.odd = {"u0000": "500"}
    run = installation.json("sync", exit_code=1)
    assert (run["state"], run["delivered"], run["failed"]) == ("done", 19, 1)
    warehouse.say("u0005", "vip", "false")
    run = installation.json("sync")
    assert (run["state"], run["delivered"], run["failed"]) == ("done", 1, 0)


@pytest.mark.parametrize("answer", ["302", "400", "404"])
def test_trouble_that_comes_and_goes_is_no_verdict_on_any(
    installation: Installation,
    warehouse: Warehouse,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
) -> None:
    """Who is refused in each of two blips is refused twice, with others getting through between."""
    ids = fill(warehouse, 60)
    amberflo, asked = installation.amberflo, itertools.count()
    as_ever = amberflo._odd_answer

    def blips(request: web.BaseRequest, call: Call) -> web.Response | None:
        of_one = "customerId" in call.query or request.method != "GET"
        number = next(asked) if of_one else 0
        amberflo.odd = {"*": answer} if of_one and (number < 20 or number > 40) else {}
        return as_ever(request, call)

    monkeypatch.setattr(amberflo, "_odd_answer", blips)
    run = installation.json("sync", exit_code=1)
    assert (run["state"], run["failed"]) == ("failed", 0)
    monkeypatch.setattr(amberflo, "_odd_answer", as_ever)
    amberflo.odd = {}
    installation.run("sync")
    assert sorted(amberflo.customers) == ids
    assert installation.json("failures") == []


@pytest.mark.parametrize("answer", ["302", "400", "402", "403", "404", "413", "html", "429"])
def test_what_everybody_is_answered_is_no_verdict_on_any(
    installation: Installation, warehouse: Warehouse, answer: str
) -> None:
    installation.configure(patience="1s")
    installation.amberflo.faults.retry_after = 0
    ids = fill(warehouse, 60)
    installation.amberflo.odd = {"*": answer}
    said = installation.run("sync", exit_code=1)
    assert len([line for line in said.stderr.splitlines() if line.startswith("error:")]) == 1
    assert installation.amberflo.customers == {}
    installation.amberflo.odd = {}
    installation.run("sync")
    assert sorted(installation.amberflo.customers) == ids

    for customer_id in ids[:15]:
        warehouse.say(customer_id, "vip", "false")
    installation.amberflo.odd = {"*": answer}
    run = installation.json("sync", exit_code=1)
    assert (run["due"], run["delivered"], run["failed"]) == (15, 0, 0)
    assert installation.json("failures") == []
    installation.amberflo.odd = {}
    assert installation.json("sync")["delivered"] == 15
    assert installation.members("vip") == set(ids[15:])


def test_writes_alone_that_are_refused_to_everybody(
    installation: Installation, warehouse: Warehouse
) -> None:
    """Such as by a key that may only read."""
    ids = fill(warehouse, 60)
    installation.amberflo.odd = dict.fromkeys(ids, "PUT 403")
    run = installation.run("sync", exit_code=1)
    assert "Amberflo takes nobody: PUT" in run.stderr
    assert installation.json("failures") == []
    installation.amberflo.odd = {}
    assert installation.json("sync")["delivered"] == 60


def test_a_few_that_are_refused_are_told_from_all(
    installation: Installation, warehouse: Warehouse
) -> None:
    """Where nobody else is to be sent, one that is there already tells."""
    fill(warehouse, 20)
    installation.run("sync")
    for customer_id in ("u0000", "u0001"):
        warehouse.say(customer_id, "vip", "false")
    installation.amberflo.odd = {"u0000": "PUT 400", "u0001": "PUT 400"}
    run = installation.json("sync", exit_code=1)
    assert (run["state"], run["due"], run["failed"]) == ("done", 2, 2)
    assert len(installation.json("failures")) == 2
    for number in range(2, 20):
        installation.amberflo.odd[f"u{number:04}"] = "PUT 400"
    warehouse.say("u0002", "vip", "false")
    run = installation.json("sync", exit_code=1)
    assert (run["state"], run["due"], run["failed"]) == ("failed", 1, 0)
    installation.amberflo.odd = {}
    assert installation.json("sync")["delivered"] == 1


@pytest.mark.parametrize("missing", ["empty", "404"])
def test_a_missing_customer_and_a_wrong_url_are_told_apart(
    installation: Installation, warehouse: Warehouse, missing: str
) -> None:
    ids = fill(warehouse, 30)
    installation.amberflo.missing = missing
    good = installation.config.read_text()
    installation.config.write_text(good.replace("/customers", "/customer"))
    assert "FAIL  amberflo: " in installation.run("check", exit_code=1).stdout
    run = installation.run("sync", exit_code=1)
    assert "is amberflo.customers_url right?" in run.stderr
    installation.config.write_text(good)
    assert "ok    amberflo: " in installation.run("check").stdout
    assert installation.json("sync")["delivered"] == 30
    assert sorted(installation.amberflo.customers) == ids


# What others write meanwhile


def test_what_others_write_between_a_read_and_a_write_stays(
    installation: Installation, warehouse: Warehouse
) -> None:
    warehouse.user("u1", vip="true")
    record = {"customerId": "u1", "customerName": "n", "lifecycleStage": "TRIAL", "traits": {}}
    amberflo = installation.amberflo
    amberflo.customers["u1"] = dict(record)
    reads: list[str] = []

    def others(customer_id: str) -> None:
        reads.append(customer_id)
        if len(reads) == 1:
            amberflo.customers["u1"] = {**record, "traits": {"stripeId": "cus_1"}}
        if len(reads) == 2:
            amberflo.customers["u1"] |= {"lifecycleStage": "ACTIVE", "updateTime": 1}

    amberflo.after_read = others
    run = installation.json("sync")
    assert (run["delivered"], run["failed"]) == (1, 0)
    customer = amberflo.customers["u1"]
    assert customer["traits"] == {"stripeId": "cus_1", "vip": True}
    assert customer["lifecycleStage"] == "ACTIVE"


@pytest.mark.parametrize(
    "text",
    [
        '"big":123456789012345678901234567890',
        '"small":-0.00000000000000000001234567890123456789',
        '"price":1.10',
        '"far":1e400',
        '"half":"a\\ud83d"',
        '"none":null',
        '"deep":{"n":[1,2.50,18446744073709551616]}',
    ],
)
def test_what_others_have_put_there_is_written_back_as_it_was(text: str) -> None:
    body = f'{{"customerId":"u1","customerName":"n","traits":{{{text},"vip":true}}}}'
    record = merged(
        read(body),
        customer_id="u1",
        traits={"vip": True},
        name=None,
        email=None,
        owned={"vip"},
    )
    assert written(record).decode() == body


def test_what_has_no_value_stays_where_amberflo_takes_that_and_else_goes(
    installation: Installation, warehouse: Warehouse
) -> None:
    warehouse.user("u1", vip="true")
    installation.amberflo.customers["u1"] = {
        "customerId": "u1",
        "customerName": "n",
        "traits": {"x": None, "stripeId": "c"},
    }
    assert installation.json("sync")["failed"] == 0
    traits = installation.amberflo.customers["u1"]["traits"]
    assert traits == {"stripeId": "c", "vip": True}


# How Amberflo stores values


def test_a_server_that_stores_text_holds_the_same(
    installation: Installation, warehouse: Warehouse
) -> None:
    installation.configure(engage='audiences = ["vip"]\ncomputed_traits = ["score", "list"]')
    warehouse.user("u1", vip="true", score="5.0", list="[1, 2.5]")
    installation.amberflo.stores = "text"
    installation.run("sync")
    stored = installation.amberflo.customers["u1"]["traits"]
    assert stored["vip"] == "true"
    assert installation.json("verify")["drifted"] == []
    installation.amberflo.reset_stats()
    for file in installation.folder.glob("syncer.db*"):
        file.unlink()
    run = installation.json("sync")
    assert (run["delivered"], run["already_right"], installation.puts()) == (1, 1, {})
    assert installation.json("verify")["equal"] == 1


def test_a_server_that_takes_text_only_needs_trait_values(
    installation: Installation, warehouse: Warehouse
) -> None:
    ids = fill(warehouse, 20)
    installation.amberflo.stores = "text only"
    run = installation.run("sync", exit_code=1)
    assert "trait 'vip' must be a string" in run.stderr
    installation.configure(trait_values="string")
    installation.run("sync")
    assert installation.values("vip") == dict.fromkeys(ids, "true")


def test_another_form_of_values_sends_everybody(
    installation: Installation, warehouse: Warehouse
) -> None:
    ids = fill(warehouse, 5)
    installation.run("sync")
    installation.configure(trait_values="string")
    run = installation.json("sync")
    assert (run["due"], run["delivered"]) == (5, 5)
    assert installation.values("vip") == dict.fromkeys(ids, "true")
    assert installation.json("sync")["due"] == 0
