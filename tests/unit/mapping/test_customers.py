"""What an identify and a membership of Engage become (docs/design.md §3.14, §3.16)."""

from __future__ import annotations

import math
from typing import Any

import orjson
import pytest

from syncer.engage import calls
from syncer.passthrough import mapping as module
from syncer.passthrough.call import Call, Dropped, Rejected, split
from syncer.passthrough.mapping import (
    CustomerUpdate,
    Membership,
    Meter,
    Value,
)
from syncer.passthrough.parsing import parse
from tests.unit.mapping.helpers import NOW, PAYLOADS, become, outcomes, reason

# Customers


def test_an_identifys_name_and_email_are_no_traits() -> None:
    update = become(PAYLOADS["webhook_classic_events"][2])
    assert update == CustomerUpdate(
        "019mr8mf4r",
        "Achilles",
        "achilles@segment.com",
        {"subscriptionPlan": "Premium", "friendCount": 29},
        1_354_408_208_276,
        NOW,
    )


@pytest.mark.parametrize("odd", [None, "", "  ", 5, True, {"first": "A"}, ["A"]])
def test_a_name_or_email_that_is_none(odd: object) -> None:
    update = become(
        {"type": "identify", "userId": "u", "traits": {"name": odd, "email": odd, "a": 1}}
    )
    assert isinstance(update, CustomerUpdate)
    assert (update.name, update.email) == (None, None)
    assert update.traits["a"] == 1
    assert not {"name", "email"} & set(update.traits)


def test_a_trait_whose_name_is_too_long_is_left_out_and_counted() -> None:
    """Names stand in the history's indexes, which have room for so many bytes."""
    good = {"k" * 400: 1, "é" * 200: 2}
    traits = good | {"k" * 401: 3, "é" * 201: 4, "a": {"b" * 399: 5, "b": 6}}
    update = become({"type": "identify", "userId": "u", "traits": traits})
    assert isinstance(update, CustomerUpdate)
    assert update.traits == good | {"a_b": 6}
    assert update.left_out == 3


def test_the_bytes_of_another_encoding_are_marked() -> None:
    """The event lives with a mark in their place; where they would name a customer it cannot."""
    body = (
        b'[{"type":"identify","userId":"u","traits":{"city":"M\xfcnchen","\xfc":1}},'
        b'{"type":"track","userId":"u","event":"E","properties":{"city":"M\xfcnchen"}},'
        b'{"type":"track","userId":"M\xfcller","event":"E"}]'
    )
    first, second, third = outcomes(parse(body))
    assert isinstance(first, CustomerUpdate)
    assert first.traits == {"city": "M\ufffdnchen", "\ufffd": 1}
    assert isinstance(second, Meter)
    assert orjson.loads(second.record)["dimensions"] == {"city": "M_nchen"}
    assert isinstance(third, Rejected)


def test_traits_keep_their_types() -> None:
    traits = {
        "text": "a/b|c",
        "empty": "",
        "yes": True,
        "int": 5,
        "float": 2.0,
        "gone": None,
        "list": ["a", 1, None, ["b"], {"c": 1}],
        "address": {"city": "Bonn", "geo": {"lat": 50.7}, "zip": None},
        "nan": math.nan,
        "huge": 2**64,
        "half": "a\ud83d\0",
        "": "blank",
    }
    update = become({"type": "identify", "userId": "u", "traits": traits})
    assert isinstance(update, CustomerUpdate)
    assert update.traits == {
        "text": "a/b|c",
        "empty": "",
        "yes": True,
        "int": 5,
        "float": 2.0,
        "gone": None,
        "list": ["a", 1, None, ["b"], '{"c":1}'],
        "address_city": "Bonn",
        "address_geo_lat": 50.7,
        "address_zip": None,
        "nan": None,
        "huge": "18446744073709551616",
        "half": "a\ufffd\ufffd",
    }
    orjson.dumps(update.traits)


# Engage


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ("engage_identify_audience_exit_real_responsys", ("6789013", "test_key", False)),
        ("engage_identify_audience_real_sendgrid", ("some_user_id", "seg_audience_name_1", True)),
        (
            "engage_track_audience_entered_real_amazon_amc",
            ("test-kochar-01", "amazon_ads_audience_6_may_24", True),
        ),
        ("engage_track_audience_entered_real_livelike", ("900", "test_audience", True)),
    ],
)
def test_real_memberships(payload: str, expected: tuple[str, str, bool]) -> None:
    event = PAYLOADS[payload]
    membership = become(event)
    assert isinstance(membership, Membership)
    assert (membership.customer_id, membership.key, membership.value) == expected
    assert membership.kind == "audience"
    (call,) = split("webhook", event, received_at=NOW, make_id=str)
    assert isinstance(call, Call)
    assert membership.at_ms == call.at_ms


@pytest.mark.parametrize(
    ("payload", "reason_", "key", "value"),
    [
        ("engage_identify_audience_doc", calls.BAD_MEMBERSHIP, "first_time_shopper", True),
        ("engage_track_audience_entered_doc", calls.BAD_MEMBERSHIP, "first_time_shopper", True),
        ("engage_identify_computed_trait_doc", calls.BAD_TRAIT, "total_revenue_180_days", 450.0),
        ("engage_track_trait_computed_doc", calls.BAD_TRAIT, "total_revenue_180_days", 450.0),
    ],
)
def test_the_documents_samples(payload: str, reason_: str, key: str, value: object) -> None:
    """As printed they have `aud_###` for a key; with the key of real payloads they are good."""
    event = PAYLOADS[payload]
    assert reason(event) == reason_
    personas = event["context"]["personas"] | {"computation_key": key}
    membership = become(event | {"context": {"personas": personas}})
    assert isinstance(membership, Membership)
    assert (membership.customer_id, membership.key, membership.value) == ("u123", key, value)
    assert membership.kind == ("audience" if value is True else "computed_trait")


def test_a_journeys_text_is_no_membership() -> None:
    event = PAYLOADS["engage_journey_v1_track_doc"]
    assert reason(event) == "invalid audience membership"
    (key,) = event["properties"]
    personas = event["context"]["personas"] | {"computation_key": key}
    event = event | {"context": {"personas": personas}, "userId": "u"}
    assert reason(event) == "invalid audience membership"
    assert become(event | {"properties": {key: True}}) == Membership(
        "u", key, "audience", True, NOW, NOW
    )


def engage(kind: str, data: Any, **personas: Any) -> dict[str, Any]:
    defaults = {"computation_class": "audience", "computation_key": "k"}
    return {
        "type": kind,
        "userId": "u",
        "event": "Audience Exited",
        ("traits" if kind == "identify" else "properties"): data,
        "context": {"personas": defaults | personas},
    }


def test_the_events_name_says_nothing() -> None:
    assert become(engage("track", {"k": True})) == Membership("u", "k", "audience", True, NOW, NOW)
    step = engage("track", {"k": False}, computation_class="journey_step")
    assert become(step) == Membership("u", "k", "audience", False, NOW, NOW)


@pytest.mark.parametrize("value", ["true", "false", 1, 0, None, [True], {"a": True}])
def test_a_membership_is_a_real_boolean(value: object) -> None:
    for kind in ("identify", "track"):
        assert reason(engage(kind, {"k": value})) == calls.BAD_MEMBERSHIP
        assert reason(engage(kind, {})) == calls.BAD_MEMBERSHIP


@pytest.mark.parametrize("key", [None, "", " ", 5, True, ["k"], "k" * 401, "é" * 201, "a\0"])
def test_a_membership_needs_its_key(key: Any) -> None:
    data = {key if isinstance(key, str) else "k": True}
    assert reason(engage("identify", data, computation_key=key)) == calls.BAD_MEMBERSHIP


def test_a_membership_comes_by_identify_or_track() -> None:
    assert reason(engage("page", {"k": True})) == calls.BAD_MEMBERSHIP
    event = engage("track", {}) | {"traits": {"k": True}}
    assert reason(event) == calls.BAD_MEMBERSHIP


@pytest.mark.parametrize("class_", [None, "", "Audience", "unknown", ["audience"], {}])
def test_an_unknown_class_is_no_meter(class_: object) -> None:
    assert reason(engage("track", {"k": True}, computation_class=class_)) == calls.UNKNOWN_CLASS


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (450.0, 450.0),
        (5, 5),
        ("gold", "gold"),
        ("", ""),
        (True, True),
        (None, None),
        (["a", "b"], ["a", "b"]),
        ({"a": 1}, '{"a":1}'),
        (math.nan, None),
    ],
)
def test_a_computed_trait_has_any_value(value: object, stored: Value) -> None:
    for kind in ("identify", "track"):
        event = engage(kind, {"k": value}, computation_class="trait")
        assert become(event) == Membership("u", "k", "computed_trait", stored, NOW, NOW)
    assert reason(engage("identify", {"j": 1}, computation_class="trait")) == calls.BAD_TRAIT


def test_a_membership_of_nobody_we_know_is_dropped() -> None:
    event = engage("identify", {"k": True}) | {"userId": None, "anonymousId": "a"}
    assert become(event) == Dropped(module.MEMBERSHIP_WITHOUT_USER)


def test_integrations_do_not_stop_engages_webhook() -> None:
    event = engage("identify", {"k": True}) | {"integrations": {"All": False, "Webhooks": True}}
    assert isinstance(become(event), Membership)
    assert become(event, "batch") == Dropped("switched off by integrations")
