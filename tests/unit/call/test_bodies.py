"""The body as bytes, Segment's own samples, and anything."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from syncer.passthrough import call as module
from syncer.passthrough.call import Call, Dropped, Rejected
from syncer.passthrough.parsing import BadRequest, SlowToRead, parse, parse_quickly
from tests.support.examples import examples
from tests.support.strategies import EVENT, JSON, LIKELY, TRACK
from tests.unit.call.helpers import PAYLOADS, at, call, events, outcome_of

# The body as bytes


def test_parse_reads_what_sdks_really_send() -> None:
    body = (
        b'{"batch":[{"v":NaN},{"v":-Infinity},{"v":1e400},{"v":"\\ud83d"},{"v":"M\xfcnchen"},'
        b'{"v":"a\tb"}]}'
    )
    values = [event["v"] for event in parse(body)["batch"]]
    assert str(values) == r"[nan, -inf, inf, '\ud83d', 'M\udcfcnchen', 'a\tb']"
    assert parse(b'\xef\xbb\xbf{"a":1}') == {"a": 1}


@pytest.mark.parametrize("neighbour", [b"1", b"NaN", b'"\xff"'])
@pytest.mark.parametrize(
    "digits", [b"9" * 19, b"-" + b"9" * 20, b"89014103211118510720", b"7" * 1000]
)
def test_an_integer_has_its_digits_whatever_stands_beside_it(
    digits: bytes, neighbour: bytes
) -> None:
    """Read in one way, exactly: also beyond 64 bits."""
    first, _ = parse(b'{"batch":[{"v":%s},{"v":%s}]}' % (digits, neighbour))["batch"]
    assert first == {"v": int(digits)}
    assert call(TRACK | {"userId": first["v"]} if len(digits) < 1000 else TRACK)


@pytest.mark.parametrize(
    "id_", ["1" * 19, "message-1732449064123456789-1", "-" + "1" * 25, "1.5" * 9]
)
def test_an_id_of_many_digits_costs_nothing(id_: str) -> None:
    """Read by the fast reader; a number of as many digits is not."""
    body = orjson.dumps({"messageId": id_, "a": [id_, {id_: id_}], "n": 0.1234567890123456789})
    assert parse_quickly(body)["messageId"] == id_
    for large in (b"[%s]", b"[1,-%s]", b'{"a":%s}', b'{"a": \n%s}', b"%s", b"-%s"):
        with pytest.raises(SlowToRead):
            parse_quickly(large % (b"9" * 19))


def test_an_integer_of_very_many_digits_stays_text() -> None:
    """To read them as a number takes the longer the more they are."""
    started = time.perf_counter()
    assert parse(b'{"v":%s}' % (b"9" * 500_000)) == {"v": "9" * 500_000}
    assert time.perf_counter() - started < 1


def test_a_large_body_is_read_as_a_small_one() -> None:
    """Value by value: a large one is let in between by other threads."""
    events_ = [TRACK | {"properties": {"n": number, "l": [[], {}, [1]]}} for number in range(9000)]
    for body in (events_, {"sentAt": None, "batch": events_, "e": [], "o": {}, "last": 1}):
        large = json.dumps(body, indent=1).encode()
        assert len(large) > 1024 * 1024
        assert parse(large) == body
        for broken in (large[:-1], large + b",", large.replace(b'"last": 1', b'"last" 1')):
            if broken != large:
                with pytest.raises(BadRequest, match="not JSON"):
                    parse(broken)


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b" ",
            b"{",
            b"{'a':1}",
            b"[1,]",
            b"\xff",
            b"[" * 5000 + b"]" * 5000,
            b"{}x",
            b"NaN,",
        ),
        *(
            b"[NaN",
            b"[NaN,",
            b"[NaN 1]",
            b'{"a":NaN',
            b'{"a" NaN}',
            b"{NaN:1}",
            b'{"a":NaN,}',
            b"}",
        ),
        *(b'{"a":NaN,1:2}', b'{"a":NaN}}', b"[NaN]]", b"NaN\x00"),
    ],
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest, match="not JSON"):
        parse(body)


def test_a_batch_with_odd_values_loses_none_of_the_others() -> None:
    body = orjson.dumps({"batch": [TRACK, TRACK | {"userId": "ODD"}, TRACK]})
    for odd in (b'"a\\ud83d"', b"NaN", b"1e400", b"9" * 1001, b'"M\xfcnchen"', b'"a\x00b"'):
        first, second, third = events("batch", parse(body.replace(b'"ODD"', odd)))
        assert isinstance(first, Call)
        assert isinstance(third, Call)
        assert isinstance(second, Rejected)
        assert second.reason == module.BAD_ID


# Segment's own samples


def test_the_documented_singles() -> None:
    for kind, event in PAYLOADS["tracking_api_singles"].items():
        outcome = outcome_of(event, kind)
        if kind in ("group", "alias"):
            assert outcome == Dropped(f"{kind} is not supported")
        else:
            assert isinstance(outcome, Call)
            assert (outcome.type, outcome.user_id) == (kind, "019mr8mf4r")
            assert outcome.notes == (module.OLD,)


def test_the_documented_batch() -> None:
    taken = [
        event
        for event in events("batch", PAYLOADS["tracking_api_batch"])
        if isinstance(event, Call)
    ]
    assert [(event.type, event.user_id, event.at_ms) for event in taken] == [
        ("identify", "019mr8mf4r", at("2012-12-02T00:30:08.276")),
        ("track", "019mr8mf4r", at("2012-12-02T00:30:12.984")),
        ("identify", "971mj8mk7p", at("2015-02-02T00:30:08.276")),
        ("track", "971mj8mk7p", at("2015-02-02T00:30:12.984")),
    ]


def test_the_documented_webhook_events() -> None:
    outcomes = events("webhook", PAYLOADS["webhook_classic_events"])
    kinds = [outcome.type if isinstance(outcome, Call) else outcome for outcome in outcomes]
    assert kinds == [
        *("page", "screen", "identify", "track"),
        Dropped("alias is not supported"),
        Dropped("group is not supported"),
        "delete",
    ]


@pytest.mark.parametrize("name", ["spec_common_fields", "spec_page_full", "spec_screen_full"])
def test_the_documented_full_events(name: str) -> None:
    event = PAYLOADS[name]
    result = call(event)
    assert (result.type, result.message_id) == (event["type"], event["messageId"])
    assert (result.user_id, result.anonymous_id) == (event["userId"], event["anonymousId"])
    assert result.at_ms == at(event["timestamp"][:-1])


# Anything


@examples(25)
@given(events_=st.lists(EVENT, max_size=6), common=st.fixed_dictionaries({}, optional=LIKELY))
def test_every_event_becomes_exactly_one_thing(events_: list[Any], common: dict[str, Any]) -> None:
    for outcomes in (
        events("batch", {**common, "batch": events_}),
        events("webhook", events_),
    ):
        assert len(outcomes) == len(events_)
        for outcome in outcomes:
            assert isinstance(outcome, Call | Dropped | Rejected)
            if isinstance(outcome, Call):
                assert outcome.at_ms >= 1
                assert 0 < len(outcome.message_id) <= 100
                assert outcome.user_id or outcome.anonymous_id or outcome.personas
            elif isinstance(outcome, Rejected):
                outcome.raw.encode()


@examples(25)
@given(route=st.sampled_from(sorted(module.ROUTES)), body=JSON | EVENT)
def test_every_body_is_taken_or_refused(route: str, body: Any) -> None:
    try:
        outcomes = events(route, body)
    except BadRequest:
        return
    assert all(isinstance(outcome, Call | Dropped | Rejected) for outcome in outcomes)


@examples(25)
@given(body=st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()))
@example(b"[" * 2000)
def test_every_bytes_parse_or_are_refused(body: bytes) -> None:
    with contextlib.suppress(BadRequest):
        parse(body)
