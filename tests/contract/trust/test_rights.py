"""What calls may not do to others: whose a trait is, and whose a messageId is."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import text

from state import erasure, pending_calls, queue, snapshot, suppression
from state.queue import EventRow
from syncer.passthrough.customer_calls import (
    ENGAGES,
    NOT_OURS,
    OLDER,
    OTHER_KIND,
    PROTECTED,
    WAITS,
)
from syncer.passthrough.mapping import RESERVED_NAME
from syncer.passthrough.pending import PATIENCE, TOO_MANY, UNKNOWN
from syncer.passthrough.scopes import DEFAULT_SCOPES, DELETE, NOT_ALLOWED, SCOPES, SIGNED
from tests.contract.trust.helpers import HOUR, Desk, membership
from tests.support.state import NOW, ask, records

# Who may say what


@pytest.mark.parametrize("what", ["page", "screen", "track", "identify", "memberships", "delete"])
def test_a_call_counts_only_where_its_key_may(desk: Desk, what: str) -> None:
    event = {"type": what, "event": "E", "properties": {}, "traits": {"name": "Ada"}}
    if what == "memberships":
        event = membership("vip", True)
    others = set(SIGNED.may) - {what}
    assert desk.say(event, may=others)["dropped", NOT_ALLOWED[what]] == 1
    assert records(desk.state) == {}
    assert records(desk.calls, "event") == {}
    assert ask(desk.state, suppression.asked) == []
    assert ("dropped", NOT_ALLOWED[what]) not in desk.say(event, may={what})


def test_a_public_key_cannot_erase_anybody(desk: Desk) -> None:
    desk.identify(name="Ada")
    for may in (DEFAULT_SCOPES, SCOPES):
        assert desk.say({"type": "delete"}, may=may)["dropped", NOT_ALLOWED[DELETE]] == 1
    assert "u1" in records(desk.state)


def test_every_call_keeps_the_name_of_its_key(desk: Desk) -> None:
    counts = desk.say(
        {"type": "identify", "traits": {"name": "Ada", "plan": "pro"}},
        membership("vip", True),
        {"type": "track", "event": "E"},
        {"type": "track"},
        key="browser",
    )
    assert counts["key", "browser"] == 4
    changes = records(desk.state, "change").values()
    assert [(change["key"], change["via"]) for change in changes] == [
        *(("name", "browser"), ("plan", "browser"), ("vip", "browser"))
    ]
    (failure,) = records(desk.state, "failure").values()
    assert failure["via"] == "browser"
    (event,) = records(desk.calls, "event").values()
    assert event["key"] == "browser"


def test_a_message_id_is_its_keys_own(desk: Desk) -> None:
    sent = {"type": "track", "event": "Ordered", "messageId": "order-1"}
    assert ("repeated", "") not in desk.say(sent | {"properties": {"value": 0}}, key="browser")
    assert ("repeated", "") not in desk.say(sent | {"properties": {"value": 900}})
    assert desk.say(sent)["repeated", ""] == 1
    meters = [json.loads(row["record"]) for row in records(desk.calls, "event").values()]
    assert [meter["meterValue"] for meter in meters] == [0, 900]


def test_a_message_id_of_before_there_were_keys_is_known_still(desk: Desk) -> None:
    with desk.calls.write() as connection:
        queue.store_processed(connection, [], [EventRow("order-1", None, NOW, None)])
    sent = {"type": "track", "event": "Ordered", "messageId": "order-1"}
    assert desk.say(sent)["repeated", ""] == 1


def test_what_is_amberflos_own_is_no_dimension(desk: Desk) -> None:
    properties = {"aflo.cancel_previous_resource_event": True, "Aflo.x": 1, "aflow": 2}
    counts = desk.say({"type": "track", "event": "E", "properties": properties})
    assert counts["dropped", RESERVED_NAME] == 2
    (event,) = records(desk.calls, "event").values()
    assert json.loads(event["record"])["dimensions"] == {"aflow": "2"}


# Whose a trait is


def test_a_call_makes_no_trait_ours(desk: Desk) -> None:
    counts = desk.engage("salesforce_id", True)
    assert counts["waiting", WAITS] == 1
    assert ask(desk.state, snapshot.owned) == {"vip", "spent"}
    assert records(desk.state) == {}
    assert desk.settle() == {}


def test_an_early_call_counts_when_a_pull_knows_its_key(desk: Desk) -> None:
    desk.engage("gold", False)
    desk.engage("gold", True)
    desk.engage("gold", True, "u2")
    desk.know("gold")
    assert desk.settle()["customer", "engage"] == 2
    assert desk.customer()["traits"] == {"gold": True}
    assert desk.customer("u2")["traits"] == {"gold": True}
    (change, _) = records(desk.state, "change").values()
    assert (change["key"], change["after"], change["via"]) == ("gold", "true", "server")
    assert (ask(desk.state, pending_calls.count), desk.settle()) == (0, {})


def test_a_call_of_a_released_trait_waits_for_the_pull_that_takes_it_again(desk: Desk) -> None:
    """It is looked at once, and keeps no other call waiting."""
    desk.know("gold")
    with desk.state.write() as connection:
        connection.execute(text("UPDATE trait SET released_at = 1 WHERE key = 'gold'"))
    desk.audiences = ["gold", "*"]
    assert desk.engage("gold", True)["waiting", WAITS] == 1
    assert desk.settle() == {}
    with desk.state.write() as connection:
        connection.execute(text("UPDATE trait SET released_at = NULL WHERE key = 'gold'"))
    assert desk.settle()["customer", "engage"] == 1
    assert desk.customer()["traits"] == {"gold": True}


def test_an_older_call_does_not_replace_what_waits(desk: Desk) -> None:
    desk.say(membership("gold", True) | {"timestamp": NOW - 5})
    desk.say(membership("gold", False) | {"timestamp": NOW - 9})
    desk.know("gold")
    desk.settle()
    assert desk.customer()["traits"] == {"gold": True}


def test_a_pull_that_could_know_an_early_call_stands(desk: Desk) -> None:
    desk.engage("gold", True)
    watermark = "2030-01-01T00:00:00Z"
    with desk.state.write() as connection:
        connection.execute(
            text(
                "INSERT INTO run (kind, state, started_at, committed_at, watermark) "
                "VALUES ('initial', 'done', 1, 1, :watermark)"
            ),
            {"watermark": watermark},
        )
    desk.now = NOW + 4 * HOUR
    desk.know("gold")
    assert desk.settle()["dropped", OLDER] == 1
    assert records(desk.state) == {}


def test_an_early_call_waits_a_day(desk: Desk) -> None:
    desk.engage("gold", True)
    desk.now = NOW + PATIENCE
    assert desk.settle() == {}
    desk.now += 1
    assert desk.settle() == {("dropped", UNKNOWN): 1}
    assert ask(desk.state, pending_calls.count) == 0


def test_early_calls_have_a_bound(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending_calls, "MOST", 3)
    counts = desk.say(*(membership(f"key_{number}", True) for number in range(5)))
    assert (counts["waiting", WAITS], counts["dropped", TOO_MANY]) == (3, 2)
    assert desk.engage("vip", True)["customer", "engage"] == 1


def test_early_calls_of_who_is_forgotten_go(desk: Desk) -> None:
    desk.engage("gold", True)
    with desk.state.write(alone=True) as connection:
        erasure.erase(connection, "u1", NOW)
    assert ask(desk.state, pending_calls.count) == 0


def test_call_and_trait_are_of_one_kind(desk: Desk) -> None:
    for key, value, what in (("vip", 99999, "trait"), ("spent", True, "audience")):
        assert desk.say(membership(key, value, what=what))["dropped", OTHER_KIND] == 1
    assert records(desk.state) == {}
    assert desk.say(membership("score", 5, what="trait"))["dropped", NOT_OURS] == 1


@pytest.mark.parametrize("name", ["stripeId", "awsm.customerIdentifier"])
def test_nobody_writes_or_removes_what_is_protected(desk: Desk, name: str) -> None:
    for value in ("cus_other", None):
        assert desk.identify(**{name: value, "plan": "pro"})["dropped", PROTECTED] == 1
    assert desk.customer()["identify_traits"].keys() == {"plan"}


def test_an_audience_cannot_have_a_protected_name(desk: Desk) -> None:
    desk.know("stripe_id")
    assert desk.engage("stripe_id", True)["dropped", PROTECTED] == 1


def test_a_name_is_engages_alone_also_when_it_becomes_so(desk: Desk) -> None:
    desk.identify(gold=True, plan="pro")
    desk.deliver()
    desk.now += 1
    desk.know("gold")
    called = {"plan": ["pro", NOW], "gold": [None, NOW + 1, [True]]}
    assert desk.customer() == {"traits": {}, "identify_traits": called}
    assert desk.claimed() == ["u1"]  # Amberflo is told
    change = list(records(desk.state, "change").values())[-1]
    assert (change["key"], change["before"], change["after"]) == ("gold", "true", None)
    assert (change["source"], change["delta"], change["run"]) == ("identify", 0, 1)
    assert desk.identify(gold=True)["dropped", ENGAGES] == 1
