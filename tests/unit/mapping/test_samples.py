"""Documented calls become at Amberflo what the documents say, byte for byte; and anything becomes
one thing (docs/design.md §3.14, §3.16)."""

from __future__ import annotations

import math
import re
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.amberflo.record import merged
from syncer.passthrough.call import Call, Dropped, Rejected, split
from syncer.passthrough.mapping import (
    CustomerUpdate,
    Delete,
    Membership,
    Meter,
    outcome,
)
from tests.support.examples import examples
from tests.support.strategies import EVENT, TRACK
from tests.unit.mapping.helpers import NOW, PAYLOADS, SEED, become, outcomes, record

VALUE = re.compile(r"[ !\-_.*'()&$@=;:+,?0-9a-zA-Z]{1,200}")
FIELDS = ["uniqueId", "customerId", "meterApiName", "meterValue", "meterTimeInMillis", "dimensions"]


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
