"""What a page, a screen or a track becomes: a meter record (docs/design.md §3.14, §3.16)."""

from __future__ import annotations

import json
import math
from typing import Any

import orjson
import pytest

from syncer.passthrough import mapping as module
from syncer.passthrough.call import Rejected
from syncer.passthrough.mapping import (
    Meter,
    dimension,
)
from syncer.passthrough.parsing import parse
from tests.support.strategies import TRACK
from tests.unit.mapping.helpers import NOW, become, dimensions, outcomes, reason, record


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
    meter = become(TRACK | {"properties": {"value": value, "region": "eu"}})
    assert isinstance(meter, Meter)
    assert f'"meterValue":{written},"meterTimeInMillis"'.encode() in meter.record
    assert meter.record.endswith(b'"dimensions":{"region":"eu"}}')


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
    meter = record({"type": "page", "userId": "u", "properties": {"value": 7}})
    assert (meter["meterValue"], meter["dimensions"]) == (1.0, {"value": "7"})


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
    by_name = record(page)["dimensions"]
    assert list(by_name.items()) == [("name", "Home"), ("a", "1")]
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
