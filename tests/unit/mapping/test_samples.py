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
        result = outcome(call)
    else:
        result = become(event | {"type": kind}, route)
    expected = orjson.dumps(SEED[kind]["out"][1])
    assert result == Meter("messageId", "some_user_id", expected)


def test_a_seeds_meter_as_it_is_written() -> None:
    event = SEED["track"]["in"] | {"type": "track", "messageId": "m", "timestamp": 1619445706909}
    meter = become(event)
    assert isinstance(meter, Meter)
    assert meter.record == (
        b'{"uniqueId":"m","customerId":"some_user_id","meterApiName":"ApiCalls","meterValue":2.0,'
        b'"meterTimeInMillis":1619445706909,"dimensions":{"region":"us-west-2"}}'
    )


def test_the_seeds_identify_byte_for_byte() -> None:
    update = become(SEED["identify"]["in"] | {"type": "identify"})
    assert isinstance(update, CustomerUpdate)
    body = merged(
        None,
        customer_id=update.customer_id,
        traits=update.traits,
        name=update.name,
        email=update.email,
        owned=(),
    )
    assert orjson.dumps(body) == orjson.dumps(SEED["identify"]["out"][1])


# The rest of the samples


def test_the_documented_webhook_events() -> None:
    results = outcomes(PAYLOADS["webhook_classic_events"])
    assert [type(result) for result in results] == [
        *(Meter, Meter, CustomerUpdate, Meter, Dropped, Dropped, Delete)
    ]
    assert results[-1] == Delete("019mr8mf4r")
    assert isinstance(results[3], Meter)
    assert orjson.loads(results[3].record) == {
        "uniqueId": "made",
        "customerId": "019mr8mf4r",
        "meterApiName": "Purchased an Item",
        "meterValue": 1.0,
        "meterTimeInMillis": 1_354_408_208_276,
        "dimensions": {"revenue": "39.95", "shippingMethod": "2-day"},
    }


def test_the_documented_batch() -> None:
    results = outcomes(PAYLOADS["tracking_api_batch"]["batch"], "batch")
    assert [type(result) for result in results] == [CustomerUpdate, Meter, CustomerUpdate, Meter]
    assert results[2] == CustomerUpdate(
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
    results = outcomes([TRACK, *events, TRACK], route)
    assert len(results) == len(events) + 2
    assert isinstance(results[0], Meter)
    assert results[0] == results[-1]
    for result in results:
        assert isinstance(result, Meter | CustomerUpdate | Membership | Delete | Dropped | Rejected)
        if isinstance(result, Meter):
            check(result)
        elif isinstance(result, CustomerUpdate):
            orjson.dumps([result.customer_id, result.name, result.email, result.traits])
            assert result.customer_id
            assert result.at_ms >= 1
        elif isinstance(result, Membership):
            orjson.dumps([result.customer_id, result.key, result.value])
            assert result.customer_id
            assert result.key
            assert result.kind == "computed_trait" or isinstance(result.value, bool)
        elif isinstance(result, Rejected):
            result.raw.encode()


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
