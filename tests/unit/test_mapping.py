"""What a call becomes at Amberflo (docs/design.md §3.14, §3.16); documented examples
byte for byte."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.amberflo.record import merged
from syncer.engage import calls
from syncer.passthrough import mapping as module
from syncer.passthrough.call import Call, Dropped, Rejected, rejected, split
from syncer.passthrough.mapping import (
    CustomerUpdate,
    Delete,
    Membership,
    Meter,
    Outcome,
    Value,
    dimension,
    outcome,
)
from syncer.passthrough.parsing import parse
from tests.support.examples import examples
from tests.support.strategies import EVENT, TRACK

PAYLOADS = json.loads(Path(__file__).with_name("segment_payloads.json").read_text("utf-8"))
SEED = PAYLOADS["amberflo_official_segment_destination"]
NOW = 1_714_566_600_000
VALUE = re.compile(r"[ !\-_.*'()&$@=;:+,?0-9a-zA-Z]{1,200}")
FIELDS = ["uniqueId", "customerId", "meterApiName", "meterValue", "meterTimeInMillis", "dimensions"]


def outcomes(events: list[Any], route: str = "webhook") -> list[Outcome | Rejected]:
    body: object = events if route == "webhook" else {"batch": events}
    split_events = split(route, body, received_at=NOW, make_id=lambda: "made")
    return [mapped(event) if isinstance(event, Call) else event for event in split_events]


def mapped(call: Call) -> Outcome | Rejected:
    result = outcome(call)
    return rejected(result, call.source, call.message_id) if isinstance(result, str) else result


def become(event: Any, route: str = "webhook") -> Outcome | Rejected:
    (found,) = outcomes([event], route)
    return found


def record(event: dict[str, Any]) -> dict[str, Any]:
    found = become(event)
    assert isinstance(found, Meter), found
    read = orjson.loads(found.record)
    assert (read["uniqueId"], read["customerId"]) == (found.message_id, found.customer_id)
    assert isinstance(read, dict)
    return read


def dimensions(**properties: Any) -> dict[str, str]:
    found: dict[str, str] = record(TRACK | {"properties": properties})["dimensions"]
    return found


def reason(event: Any) -> str:
    found = become(event)
    assert isinstance(found, Rejected), found
    return found.reason


# The seed


@pytest.mark.parametrize("kind", ["page", "screen", "track"])
@pytest.mark.parametrize("route", ["single", "batch", "webhook"])
def test_the_seeds_meters_byte_for_byte(kind: str, route: str) -> None:
    event = SEED[kind]["in"] | {"messageId": "messageId", "timestamp": "2021-04-26T14:01:46.909Z"}
    if route == "single":
        (call,) = split(kind, event, received_at=NOW, make_id=str)
        assert isinstance(call, Call)
        found = outcome(call)
    else:
        found = become(event | {"type": kind}, route)
    expected = orjson.dumps(SEED[kind]["out"][1])
    assert found == Meter("messageId", "some_user_id", expected)


def test_a_seeds_meter_as_it_is_written() -> None:
    event = SEED["track"]["in"] | {"type": "track", "messageId": "m", "timestamp": 1619445706909}
    found = become(event)
    assert isinstance(found, Meter)
    assert found.record == (
        b'{"uniqueId":"m","customerId":"some_user_id","meterApiName":"ApiCalls","meterValue":2.0,'
        b'"meterTimeInMillis":1619445706909,"dimensions":{"region":"us-west-2"}}'
    )


def test_the_seeds_identify_byte_for_byte() -> None:
    found = become(SEED["identify"]["in"] | {"type": "identify"})
    assert isinstance(found, CustomerUpdate)
    body = merged(
        None,
        customer_id=found.customer_id,
        traits=found.traits,
        name=found.name,
        email=found.email,
        owned=(),
    )
    assert orjson.dumps(body) == orjson.dumps(SEED["identify"]["out"][1])


# Meters


def test_the_customer_is_the_user_else_the_anonymous_id() -> None:
    assert record(TRACK | {"userId": "u", "anonymousId": "a"})["customerId"] == "u"
    assert record(TRACK | {"userId": "", "anonymousId": "a"})["customerId"] == "a"
    assert record(TRACK | {"userId": None, "anonymousId": 7})["customerId"] == "7"


def test_a_tracks_meter_is_its_event_as_it_is() -> None:
    for event in (" Song Played ", "größe/|", "日本", "\0", "a" * 1000):
        assert record(TRACK | {"event": event})["meterApiName"] == event
    assert reason(TRACK | {"event": "half an emoji \ud83d"}) == module.BAD_TEXT


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (2.0, "2.0"),
        (2, "2"),
        (0, "0"),
        (-1.5, "-1.5"),
        (2**53 + 1, "9007199254740993"),
        (2**64 - 1, "18446744073709551615"),
        (2**64, "1.8446744073709552e+19"),
        (-(2**70), "-1.1805916207174113e+21"),
        (1e-7, "1e-7"),
        ("39.95", "39.95"),
        (" 5 ", "5"),
        ("-1e3", "-1000.0"),
    ],
)
def test_a_tracks_value(value: object, written: str) -> None:
    found = become(TRACK | {"properties": {"value": value, "region": "eu"}})
    assert isinstance(found, Meter)
    assert f'"meterValue":{written},"meterTimeInMillis"'.encode() in found.record
    assert found.record.endswith(b'"dimensions":{"region":"eu"}}')


def test_a_track_without_a_value_counts_one() -> None:
    assert record(TRACK)["meterValue"] == 1.0


@pytest.mark.parametrize(
    "value",
    [
        *("abc", "", " ", "NaN", "Infinity", "-inf", "1,000", "5 GB", "0x1F", "1_000", "٣", "+5"),
        *("05", ".5", "1e400", "true", "[1]", '"5"', "\ud83d", True, False, [], [1], {}, {"a": 1}),
        *(float("nan"), float("inf"), -float("inf"), 10**400, "9" * 1001),
        None,  # what JavaScript makes of NaN and Infinity
    ],
)
def test_a_value_that_is_no_finite_number_is_never_billed(value: object) -> None:
    bad = TRACK | {"properties": {"value": value}}
    first, second, third = outcomes([TRACK, bad, TRACK])
    assert isinstance(first, Meter)
    assert isinstance(third, Meter)
    assert isinstance(second, Rejected)
    assert (second.reason, second.message_id) == ("value is not a finite number", "m1")


def test_nan_from_a_real_body() -> None:
    body = b'[{"type":"track","userId":"u","event":"E","properties":{"value":NaN}},' + orjson.dumps(
        TRACK
    )
    first, second = outcomes(parse(body + b"]"))
    assert isinstance(first, Rejected)
    assert first.reason == "value is not a finite number"
    assert isinstance(second, Meter)


def test_a_page_counts_one_whatever_its_value() -> None:
    found = record({"type": "page", "userId": "u", "properties": {"value": 7}})
    assert (found["meterValue"], found["dimensions"]) == (1.0, {"value": "7"})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("us-west-2", "us-west-2"),
        ("a/b|c", "a_b_c"),
        (" !-_.*'()&$@=;:+,?09azAZ", " !-_.*'()&$@=;:+,?09azAZ"),
        ('"#%/<>[\\]^`{|}~\t\n', "_" * 17),
        ("é日🙂\ud83d\0", "_" * 5),
        (" padded ", " padded "),
        ("x" * 201, "x" * 200),
        ("é" * 300, "_" * 200),
        (True, "true"),
        (False, "false"),
        (5, "5"),
        (2.0, "2.0"),
        (1e22, "1e+22"),
        (-0.5, "-0.5"),
        (2**64, "18446744073709551616"),
        (["paper", "comedy"], "paper,comedy"),
        ([1, None, "", True, 2.5], "1,true,2.5"),
        ([{"sku": "a"}, [1, 2]], "__sku_:_a__,_1,2_"),
        (["\ud83d", {"a": "\ud83d"}], "_,__a_:__ud83d__"),
    ],
)
def test_a_dimension_is_text_that_amberflo_takes(value: object, text: str) -> None:
    assert dimension(value) == text
    assert dimensions(a=value) == {"a": text}


@pytest.mark.parametrize(
    "value", [None, "", " ", "\n\t", "\u00a0", [], [None], {}, math.nan, math.inf, " " * 200 + "x"]
)
def test_blank_and_null_are_no_dimension(value: object) -> None:
    assert dimensions(a=value, b=1) == {"b": "1"}


def test_blank_names_are_no_dimension() -> None:
    assert dimensions(**{"": "a", " \t": "b", "c": "d"}) == {"c": "d"}
    assert reason(TRACK | {"properties": {"half \ud83d": 1}}) == module.BAD_TEXT


def test_nested_objects_are_flattened() -> None:
    assert dimensions(a={"b": 1, "c": {"d": "x", "e": None}, "f": [1, 2]}, g=2) == {
        "g": "2",
        "a_b": "1",
        "a_f": "1,2",
        "a_c_d": "x",
    }
    # of two that give one name, the less nested one
    assert dimensions(a={"b_c": 1, "b": {"c": 2}}, a_b={"c": 3}) == {"a_b_c": "1"}
    assert dimensions(a={"b": 1}, a_b=2) == {"a_b": "2"}


def test_a_calls_name_is_a_dimension_and_comes_first() -> None:
    page = {"type": "page", "userId": "u", "name": "Home", "properties": {"a": 1, "name": "Other"}}
    found = record(page)["dimensions"]
    assert list(found.items()) == [("name", "Home"), ("a", "1")]
    for blank in ("", " ", None):
        assert record(page | {"name": blank})["dimensions"]["name"] == "Other"
    assert dimensions(name="Fallin for You") == {"name": "Fallin for You"}


def test_names_that_get_out_of_hand() -> None:
    wide: Any = {f"k{index}": index for index in range(2000)}
    event = TRACK | {"properties": {"p" * 8000: wide}}
    assert reason(event) == module.TOO_WIDE
    assert reason({"type": "identify", "userId": "u", "traits": {"p" * 8000: wide}}) == (
        module.TOO_WIDE
    )


def test_the_same_event_gives_the_same_bytes() -> None:
    event = TRACK | {"timestamp": NOW, "properties": {"b": 1, "a": {"c": 2}, "value": 3}}
    assert become(event) == become(json.loads(json.dumps(event)))


# Customers


def test_an_identifys_name_and_email_are_no_traits() -> None:
    found = become(PAYLOADS["webhook_classic_events"][2])
    assert found == CustomerUpdate(
        "019mr8mf4r",
        "Achilles",
        "achilles@segment.com",
        {"subscriptionPlan": "Premium", "friendCount": 29},
        1_354_408_208_276,
        NOW,
    )


@pytest.mark.parametrize("odd", [None, "", "  ", 5, True, {"first": "A"}, ["A"]])
def test_a_name_or_email_that_is_none(odd: object) -> None:
    found = become(
        {"type": "identify", "userId": "u", "traits": {"name": odd, "email": odd, "a": 1}}
    )
    assert isinstance(found, CustomerUpdate)
    assert (found.name, found.email) == (None, None)
    assert found.traits["a"] == 1
    assert not {"name", "email"} & set(found.traits)


def test_a_trait_whose_name_is_too_long_is_left_out_and_counted() -> None:
    """Names stand in the history's indexes, which have room for so many bytes."""
    good = {"k" * 400: 1, "é" * 200: 2}
    traits = good | {"k" * 401: 3, "é" * 201: 4, "a": {"b" * 399: 5, "b": 6}}
    found = become({"type": "identify", "userId": "u", "traits": traits})
    assert isinstance(found, CustomerUpdate)
    assert found.traits == good | {"a_b": 6}
    assert found.left_out == 3


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
    found = become({"type": "identify", "userId": "u", "traits": traits})
    assert isinstance(found, CustomerUpdate)
    assert found.traits == {
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
    orjson.dumps(found.traits)


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
    found = become(event)
    assert isinstance(found, Membership)
    assert (found.customer_id, found.key, found.value) == expected
    assert found.kind == "audience"
    (call,) = split("webhook", event, received_at=NOW, make_id=str)
    assert isinstance(call, Call)
    assert found.at_ms == call.at_ms


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
    found = become(event | {"context": {"personas": personas}})
    assert isinstance(found, Membership)
    assert (found.customer_id, found.key, found.value) == ("u123", key, value)
    assert found.kind == ("audience" if value is True else "computed_trait")


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


# The rest of the samples


def test_the_documented_webhook_events() -> None:
    found = outcomes(PAYLOADS["webhook_classic_events"])
    assert [type(one) for one in found] == [
        *(Meter, Meter, CustomerUpdate, Meter, Dropped, Dropped, Delete)
    ]
    assert found[-1] == Delete("019mr8mf4r")
    assert isinstance(found[3], Meter)
    assert orjson.loads(found[3].record) == {
        "uniqueId": "made",
        "customerId": "019mr8mf4r",
        "meterApiName": "Purchased an Item",
        "meterValue": 1.0,
        "meterTimeInMillis": 1_354_408_208_276,
        "dimensions": {"revenue": "39.95", "shippingMethod": "2-day"},
    }


def test_the_documented_batch() -> None:
    found = outcomes(PAYLOADS["tracking_api_batch"]["batch"], "batch")
    assert [type(one) for one in found] == [CustomerUpdate, Meter, CustomerUpdate, Meter]
    assert found[2] == CustomerUpdate(
        "971mj8mk7p", "Cindy Gonzalez", "cindy@example.com", {"age": 23}, 1_422_837_008_276, NOW
    )


def test_the_documented_full_events() -> None:
    for name in ("spec_common_fields", "spec_page_full", "spec_screen_full"):
        assert isinstance(become(PAYLOADS[name]), Meter)
    assert record(PAYLOADS["spec_page_full"])["dimensions"] == {
        "name": "Home",
        "title": "Welcome _ Initech",
        "url": "http:__www.example.com",
    }


# Anything


@examples(40)
@given(events=st.lists(EVENT, max_size=6), route=st.sampled_from(["webhook", "batch"]))
def test_every_event_has_one_outcome(events: list[Any], route: str) -> None:
    found = outcomes([TRACK, *events, TRACK], route)
    assert len(found) == len(events) + 2
    assert isinstance(found[0], Meter)
    assert found[0] == found[-1]
    for one in found:
        assert isinstance(one, Meter | CustomerUpdate | Membership | Delete | Dropped | Rejected)
        if isinstance(one, Meter):
            check(one)
        elif isinstance(one, CustomerUpdate):
            orjson.dumps([one.customer_id, one.name, one.email, one.traits])
            assert one.customer_id
            assert one.at_ms >= 1
        elif isinstance(one, Membership):
            orjson.dumps([one.customer_id, one.key, one.value])
            assert one.customer_id
            assert one.key
            assert one.kind == "computed_trait" or isinstance(one.value, bool)
        elif isinstance(one, Rejected):
            one.raw.encode()


def check(meter: Meter) -> None:
    read = orjson.loads(meter.record)
    assert list(read) == FIELDS
    assert read["uniqueId"] == meter.message_id
    assert read["customerId"] == meter.customer_id
    assert all(isinstance(read[name], str) and read[name].strip() for name in FIELDS[:3])
    assert type(read["meterValue"]) in (int, float)
    assert math.isfinite(read["meterValue"])
    assert type(read["meterTimeInMillis"]) is int
    assert read["meterTimeInMillis"] >= 1
    for name, text in read["dimensions"].items():
        assert name.strip()
        assert text.strip()
        assert VALUE.fullmatch(text)
