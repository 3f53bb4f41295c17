"""What an identify and a delete make of customers."""

from __future__ import annotations

import json

import orjson
import pytest

from tests.e2e.receiver.helpers import Json
from tests.support.daemon import Daemon, refused
from tests.support.events import ago, sign, unique


def test_an_identify_is_merged_into_what_is_there(receiver: Daemon) -> None:
    user = unique("user")
    receiver.installation.amberflo.customers[user] = {
        "customerId": user,
        "customerName": "before us",
        "customerEmail": "before@example.com",
        "description": "kept",
        "traits": {"stripeId": "cus_1", "plan": "old", "awsm.customerIdentifier": "a/b|c"},
    }
    receiver.send("identify", {"userId": user, "traits": {"plan": "pro", "seats": 5}})
    customer = receiver.customer(user)
    foreign = {"stripeId": "cus_1", "awsm.customerIdentifier": "a/b|c"}
    assert customer == {
        "customerName": "before us",
        "customerEmail": "before@example.com",
        "traits": foreign | {"plan": "pro", "seats": 5},
    }
    traits = {
        "name": "Ada Lovelace",
        "email": "ada@example.com",
        "seats": None,
        "ratio": 0.5,
        "active": True,
        "tags": ["a/b", 1],
        "address": {"city": "London", "geo": {"lat": 51.5}},
        "site": "https://example.com|x",
    }
    receiver.send("identify", {"userId": user, "traits": traits})
    assert receiver.customer(user) == {
        "customerName": "Ada Lovelace",
        "customerEmail": "ada@example.com",
        "traits": foreign
        | {
            "plan": "pro",
            "ratio": 0.5,
            "active": True,
            "tags": ["a_b", 1],
            "address_city": "London",
            "address_geo_lat": 51.5,
            "site": "https:__example.com_x",
        },
    }
    assert receiver.installation.amberflo.customers[user]["description"] == "kept"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("together", [True, False])
def test_the_newest_identify_wins_whenever_it_arrives(
    receiver: Daemon, order: tuple[int, int], together: bool
) -> None:
    user = unique("user")
    events = [
        {
            "type": "identify",
            "userId": user,
            "timestamp": ago(2),
            "traits": {"name": "Old", "email": "old@example.com", "plan": "free", "only_old": 1},
        },
        {
            "type": "identify",
            "userId": user,
            "timestamp": ago(1),
            "traits": {"name": "New", "plan": "pro", "only_new": 2},
        },
    ]
    if together:
        receiver.batch(*(events[number] for number in order))
    else:
        for number in order:
            receiver.batch(events[number])
            receiver.settle()
    assert receiver.customer(user) == {
        "customerName": "New",
        "customerEmail": "old@example.com",
        "traits": {"plan": "pro", "only_old": 1, "only_new": 2},
    }


@pytest.mark.parametrize(
    "traits",
    [
        {"company": ""},
        {"company": "  "},
        {"tags": []},
        {"tags": [None, "a"]},
        {"tags": [["a"], {"b": 1}]},
        {"address": {}},
        {"": "x", " ": "y"},
        {"name": "", "email": " "},
        {"name": 5, "email": ["x"]},
        {"name": {"first": "Ada"}},
        {"a": float("nan"), "b": 10**30, "c": 1e300},
        {"a": "\ud800", "\ud800": "b", "c": "x\0y"},
        {"id": "7", "createTime": 1, "customerId": "x"},
        {"text": "x" * 20_000},
    ],
    ids=str,
)
def test_no_trait_keeps_a_customer_from_amberflo(receiver: Daemon, traits: Json) -> None:
    user = unique("user")
    body = json.dumps({"userId": user, "traits": traits | {"plan": "pro"}}).encode()
    receiver.send("identify", body)
    assert receiver.failures(user) == []
    customer = receiver.customer(user)
    assert customer["traits"]["plan"] == "pro"
    assert customer["customerName"]


def test_a_phone_in_the_future_does_not_win_for_ever(receiver: Daemon) -> None:
    user = unique("user")
    for at, name, plan in (("2569-11-27T02:30:00Z", "Old", "free"), (None, "New", "pro")):
        traits = {"name": name, "plan": plan}
        receiver.send("identify", {"userId": user, "timestamp": at, "traits": traits})
        receiver.settle()
    customer = receiver.customer(user)
    assert (customer["customerName"], customer["traits"]) == ("New", {"plan": "pro"})


def test_what_an_identify_changes_is_in_the_audit(receiver: Daemon) -> None:
    user = unique("user")
    for plan in ("free", "pro"):
        receiver.send("identify", {"userId": user, "traits": {"name": "Ada", "plan": plan}})
        receiver.settle()
    audited = receiver.installation.json("audit", "customer", user)
    assert audited["present"] == {}  # of Engage
    told = [
        (change["trait"], change["key"], change["before"], change["after"])
        for change in audited["changes"]
    ]
    assert told == [
        ("customerName", "name", None, "Ada"),
        ("plan", "plan", None, "free"),
        ("plan", "plan", "free", "pro"),
    ]
    assert all(change["run"] is None and change["delivered_at"] for change in audited["changes"])


def test_an_identify_that_says_nothing_new_is_not_sent(receiver: Daemon) -> None:
    user = unique("user")
    event = {"userId": user, "traits": {"name": "Ada", "plan": "pro"}}
    for _ in range(3):
        receiver.send("identify", event | {"messageId": unique()})
        receiver.settle()
    assert receiver.installation.puts()[user] == 1


def test_a_delete_is_honoured(receiver: Daemon) -> None:
    """Segment's GDPR call: what calls have said of the customer is gone; what others put there
    stays. It comes by a webhook only."""
    user = unique("user")
    receiver.installation.amberflo.customers[user] = {
        "customerId": user,
        "customerName": user,
        "traits": {"stripeId": "cus_1"},
    }
    traits = {"name": "Ada", "email": "ada@example.com", "phone": "555-0100"}
    receiver.send("identify", {"userId": user, "traits": traits})
    assert receiver.customer(user)["traits"] == {"stripeId": "cus_1", "phone": "555-0100"}
    body = orjson.dumps({"type": "delete", "userId": user, "timestamp": ago(0)})
    receiver.send("webhook", body, key=None, x_signature=sign(body))
    assert receiver.customer(user) == {
        "customerName": user,
        "customerEmail": None,
        "traits": {"stripeId": "cus_1"},
    }
    unknown = unique("user")
    body = orjson.dumps({"type": "delete", "userId": unknown})
    receiver.send("webhook", body, key=None, x_signature=sign(body))
    receiver.settle()
    assert unknown not in receiver.installation.amberflo.customers
    refused(receiver.post("webhook", body, x_signature=sign(b"x")), 401, "invalid_signature")
