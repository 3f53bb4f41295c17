"""The Segment call: what is taken, dropped and rejected, and when it happened (docs/design.md §3.9
and docs/facts/segment.md §4)."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from syncer.clock import FUTURE, TOO_EARLY, UNREADABLE
from syncer.json_text import printable
from syncer.passthrough import call as module
from syncer.passthrough.call import Call, Dropped, Rejected, split
from syncer.passthrough.parsing import BadRequest, SlowToRead, parse, parse_quickly
from tests.support.examples import examples
from tests.support.strategies import EVENT, JSON, LIKELY, TRACK

PAYLOADS = json.loads(Path(__file__).with_name("segment_payloads.json").read_text("utf-8"))


def at(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


NOW = at("2024-05-01T12:30:00")


def ids() -> Callable[[], str]:
    made = iter(range(10**6))
    return lambda: f"made-{next(made)}"


def events(route: str, body: object, now: int = NOW) -> list[Call | Dropped | Rejected]:
    return split(route, body, received_at=now, make_id=ids())


def one(event: object, route: str = "batch", **common: object) -> Call | Dropped | Rejected:
    body: object = event
    if route == "batch":
        body = {"batch": [event], **common}
    (found,) = events(route, body)
    return found


def call(event: object, route: str = "batch", **common: object) -> Call:
    found = one(event, route, **common)
    assert isinstance(found, Call), found
    return found


def reason(event: object, route: str = "batch", **common: object) -> str:
    found = one(event, route, **common)
    assert isinstance(found, Rejected), found
    return found.reason


def dropped(event: object, route: str = "batch", **common: object) -> str:
    found = one(event, route, **common)
    assert isinstance(found, Dropped), found
    return found.reason


# Routes


@pytest.mark.parametrize("kind", ["page", "screen", "track", "identify"])
def test_a_single_route_says_the_type(kind: str) -> None:
    event = {"userId": "u1", "event": "E", "type": "alias"}
    assert call(event, kind).type == kind
    assert call(event, kind[0]).type == kind


@pytest.mark.parametrize("kind", ["group", "alias"])
def test_group_and_alias_are_accepted_and_dropped(kind: str) -> None:
    for route in (kind, kind[0]):
        assert dropped({}, route) == f"{kind} is not supported"
    assert dropped({"type": kind}) == f"{kind} is not supported"
    assert dropped({"type": kind}, "webhook") == f"{kind} is not supported"


@pytest.mark.parametrize("route", ["batch", "import", "b"])
def test_batch_routes(route: str) -> None:
    found = events(route, {"batch": [TRACK, {"type": "page", "anonymousId": "a"}], "writeKey": "k"})
    assert [one.type for one in found if isinstance(one, Call)] == ["track", "page"]
    assert events(route, {"batch": []}) == []


def test_the_webhook_route_takes_an_object_and_an_array() -> None:
    assert [type(one) for one in events("webhook", TRACK)] == [Call]
    assert [type(one) for one in events("webhook", [TRACK, TRACK])] == [Call, Call]
    assert events("webhook", []) == []


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("track", []),
        ("track", None),
        ("page", "text"),
        ("batch", TRACK),
        ("batch", [TRACK]),
        ("batch", {"batch": {}}),
        ("batch", {"batch": None}),
        ("webhook", "text"),
        ("webhook", 5),
        ("webhook", None),
    ],
)
def test_a_body_of_the_wrong_shape_is_refused_whole(route: str, body: object) -> None:
    with pytest.raises(BadRequest) as caught:
        events(route, body)
    assert (caught.value.status, caught.value.code) == (400, "malformed")


def test_too_many_events_are_refused_whole() -> None:
    assert len(events("batch", {"batch": [TRACK] * 2500})) == 2500
    assert len(events("webhook", [TRACK] * 4000)) == 4000
    for route, body in (("batch", {"batch": [TRACK] * 2501}), ("webhook", [TRACK] * 4001)):
        with pytest.raises(BadRequest) as caught:
            events(route, body)
        assert (caught.value.status, caught.value.code) == (413, "too_large")


def test_a_route_that_is_none() -> None:
    with pytest.raises(ValueError, match="no such route"):
        events("tracks", TRACK)


# One bad event


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"type": "trak"}, module.UNKNOWN_TYPE),
        ({"type": None}, module.UNKNOWN_TYPE),
        ({"type": ["track"]}, module.UNKNOWN_TYPE),
        ({"type": "Track"}, module.UNKNOWN_TYPE),
        ({"type": "delete"}, module.UNKNOWN_TYPE),
        ({"messageId": "m" * 101}, module.BAD_MESSAGE_ID),
        ({"messageId": True}, module.BAD_MESSAGE_ID),
        ({"messageId": {}}, module.BAD_MESSAGE_ID),
        ({"messageId": "a\0b"}, module.BAD_MESSAGE_ID),
        ({"userId": True}, module.BAD_ID),
        ({"userId": {"id": 1}}, module.BAD_ID),
        ({"userId": ["u1"]}, module.BAD_ID),
        ({"anonymousId": False}, module.BAD_ID),
        ({"userId": "u" * 1001}, module.BAD_ID),
        ({"userId": "u" * 999 + "ü"}, module.BAD_ID),
        ({"anonymousId": "\U00020000" * 251}, module.BAD_ID),
        ({"userId": "a\0b"}, module.BAD_ID),
        ({"userId": "a\ud83d"}, module.BAD_ID),
        ({"userId": 1.5e300}, module.BAD_ID),
        ({"userId": 2.0**53}, module.BAD_ID),
        ({"userId": float("nan")}, module.BAD_ID),
        ({"userId": ""}, module.NO_ID),
        ({"userId": " \t"}, module.NO_ID),
        ({"userId": None, "anonymousId": ""}, module.NO_ID),
        ({"event": None}, module.NO_EVENT),
        ({"event": "  "}, module.NO_EVENT),
        ({"event": 5}, module.NO_EVENT),
        ({"properties": "text"}, module.BAD_DATA),
        ({"properties": [1]}, module.BAD_DATA),
        ({"properties": 0}, module.BAD_DATA),
        ({"properties": {"a": "x" * 33_000}}, module.TOO_LARGE),
    ],
)
def test_a_bad_event_is_rejected_and_the_others_are_taken(
    change: dict[str, object], why: str
) -> None:
    bad = TRACK | change
    first, second, third = events("batch", {"batch": [TRACK, bad, TRACK | {"messageId": "m3"}]})
    assert isinstance(first, Call)
    assert isinstance(third, Call)
    assert third.message_id == "m3"
    assert isinstance(second, Rejected)
    assert second.reason == why
    assert second.raw[:1] == "{"
    assert len(second.raw) <= 32 * 1024
    second.raw.encode()
    if why not in (module.TOO_LARGE, module.BAD_MESSAGE_ID):
        assert second.message_id == "m1"


@pytest.mark.parametrize("event", [None, 5, "text", [], [TRACK], True])
def test_an_event_that_is_no_object(event: object) -> None:
    found = one(event)
    assert found == Rejected("not an object", orjson.dumps(event).decode(), None)


def test_the_size_is_that_of_the_event_alone() -> None:
    room = 32 * 1024 - len(orjson.dumps(TRACK | {"properties": {"a": ""}}))
    fits = TRACK | {"properties": {"a": "x" * room}}
    assert isinstance(one(fits, context={"large": "x" * 50_000}), Call)
    assert reason(TRACK | {"properties": {"a": "x" * (room + 1)}}) == module.TOO_LARGE


def nested(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


def test_depth_is_bounded() -> None:
    assert isinstance(one(TRACK | {"properties": {"a": nested(62)}}), Call)
    for levels in (63, 200, 300, 800, 1500):
        assert reason(TRACK | {"properties": {"a": nested(levels)}}) == module.TOO_DEEP
    assert isinstance(one(TRACK | {"properties": {"a": [{}] * 500}}), Call)
    assert isinstance(one(TRACK | {"properties": {"a": "{" * 500}}), Call)


def test_a_failure_never_holds_the_write_key() -> None:
    found = one({"writeKey": "secret-key", "event": "E"}, "track")
    assert isinstance(found, Rejected)
    assert found.raw == '{"event":"E"}'


@pytest.mark.parametrize(
    ("event", "whose"),
    [
        ({"userId": "u1", "anonymousId": "a1"}, "u1"),
        ({"userId": 12}, "12"),
        ({"userId": "", "anonymousId": "a1"}, "a1"),
        ({"userId": ["u1"], "anonymousId": "a1"}, "a1"),
        ({"userId": "u\0"}, None),
        ({}, None),
        (7, None),
    ],
)
def test_a_failure_says_whose_call_it_was(event: object, whose: str | None) -> None:
    found = module.rejected("no", event)
    assert found.customer_id == whose


@pytest.mark.parametrize(
    ("event", "kind", "name"),
    [
        ({"type": "track", "event": "ApiCalls"}, None, "ApiCalls"),
        ({"event": "ApiCalls"}, "track", "ApiCalls"),
        ({"type": "page", "name": "Home"}, None, "page"),
        ({"traits": {}}, "identify", "identify"),
        ({"event": "E\0", "type": "track"}, None, "track"),
        ({"event": "x" * 2000}, "track", "track"),
        ({"event": {}}, None, None),
        (7, "track", None),
    ],
)
def test_a_failure_says_which_event_it_was(
    event: object, kind: str | None, name: str | None
) -> None:
    assert module.rejected("no", event, kind=kind).name == name


@pytest.mark.parametrize(
    "text",
    [
        '"é\\u0001\\"\\/ / 日"',
        "[1.5,1e25,1E-7,-0.0,true,false,null]",
        '{"k é":[{}],"":[[]]}',
        "NaN",
    ],
)
@pytest.mark.parametrize("odd", ["89014103211118510720", '"\\ud83d"'])
def test_a_value_is_written_alike_whatever_stands_beside_it(text: str, odd: str) -> None:
    """What one writer cannot write changes nothing of the rest."""
    alone = printable(parse(f'[{text},"x"]'.encode()))
    beside = printable(parse(f"[{text},{odd}]".encode()))
    assert beside == alone.replace('"x"', odd)


# Ids


@pytest.mark.parametrize(
    ("given_id", "text"),
    [
        ("u1", "u1"),
        (" u1 ", " u1 "),
        ("ü", "ü"),
        (5, "5"),
        (5.0, "5"),
        (2**53 - 1.0, "9007199254740991"),
        (2**64 - 1, "18446744073709551615"),
        (10**30, "1000000000000000000000000000000"),
        (1.5, "1.5"),
        (-0.0, "0"),
    ],
)
def test_numbers_become_their_text(given_id: object, text: str) -> None:
    assert call(TRACK | {"userId": given_id}).user_id == text
    assert call(TRACK | {"messageId": given_id}).message_id == text
    anonymous = call({"type": "page", "anonymousId": given_id})
    assert (anonymous.user_id, anonymous.anonymous_id) == ("", text)


def test_the_longest_ids() -> None:
    """What counts are bytes: indexes have room for so many."""
    assert call(TRACK | {"messageId": "m" * 100}).message_id == "m" * 100
    for longest in ("u" * 1000, "ü" * 500, "\U00020000" * 250):
        assert call(TRACK | {"userId": longest}).user_id == longest


@pytest.mark.parametrize("missing", [None, "", "  "])
def test_a_missing_message_id_is_made_once(missing: str | None) -> None:
    event = TRACK | {"messageId": missing}
    found = events("batch", {"batch": [event, TRACK, event]})
    assert [one.message_id for one in found if isinstance(one, Call)] == ["made-0", "m1", "made-1"]


def test_an_identify_without_user_id_is_dropped() -> None:
    for event in ({"type": "identify"}, {"type": "identify", "anonymousId": "a"}):
        assert dropped(event) == "identify without userId"
        assert dropped(event, "webhook") == "identify without userId"
    assert dropped({"userId": " "}, "identify") == "identify without userId"
    assert reason({"type": "identify", "userId": True}) == module.BAD_ID


def test_delete_is_taken_from_the_webhook_only() -> None:
    event = {"type": "delete", "userId": "u1"}
    assert call(event, "webhook").type == "delete"
    assert reason(event) == module.UNKNOWN_TYPE
    assert reason({"type": "delete", "anonymousId": "a"}, "webhook") == module.DELETE_WITHOUT_USER
    forged = {"type": "delete", "context": {"personas": {"computation_class": "audience"}}}
    assert reason(forged, "webhook") == module.DELETE_WITHOUT_USER


@pytest.mark.parametrize("empty", [None, [], {}])
def test_empty_properties(empty: object) -> None:
    assert call(TRACK | {"properties": empty}).data == {}
    assert call({"type": "identify", "userId": "u", "traits": empty}).data == {}


# Integrations and context


OFF = "switched off by integrations"


@pytest.mark.parametrize(
    ("integrations", "goes"),
    [
        (None, True),
        ({}, True),
        ({"All": True}, True),
        ({"All": False}, False),
        ({"All": False, "Amberflo": True}, True),
        ({"All": False, "Amberflo": {"any": "thing"}}, True),
        ({"All": False, "Amberflo": {}}, True),
        ({"All": False, "Amberflo": None}, False),
        ({"All": False, "Mixpanel": True}, False),
        ({"All": True, "Amberflo": False}, False),
        ({"Amberflo": False}, False),
        ({"All": "false"}, True),
        ("All", True),
        ([False], True),
    ],
)
def test_integrations_route_on_sdk_paths(integrations: object, goes: bool) -> None:
    event = TRACK | {"integrations": integrations}
    for found in (one(event), one(event, "track"), one(TRACK, integrations=integrations)):
        assert isinstance(found, Call) if goes else found == Dropped(OFF)
    assert isinstance(one(event, "webhook"), Call)


def test_an_events_own_integrations_win() -> None:
    assert dropped(TRACK, integrations={"All": False}) == OFF
    own = TRACK | {"integrations": {"Amberflo": True}}
    assert isinstance(one(own, integrations={"All": False}), Call)
    assert isinstance(one(own, integrations={"Amberflo": False}), Call)
    own = TRACK | {"integrations": {"All": True}}
    assert isinstance(one(own, integrations={"All": False}), Call)
    assert dropped(own, integrations={"Amberflo": False}) == OFF


def test_context_is_merged() -> None:
    personas = {"computation_class": "audience", "computation_key": "k1"}
    assert call(TRACK, context={"device": {}}).personas is None
    assert call(TRACK, context={"personas": personas}).personas == ("audience", "k1")
    own = TRACK | {"context": {"ip": "1.1.1.1", "personas": {"computation_key": "k2"}}}
    assert call(own, context={"personas": personas}).personas == ("audience", "k2")
    empty: list[Any] = [None, "text", {}, {"personas": None}, {"personas": {}}, {"personas": "x"}]
    for context in empty:
        assert call(TRACK | {"context": context}, context=context).personas is None


# Time


@pytest.mark.parametrize(
    ("event", "sent_at", "when"),
    [
        # nothing said: received
        ({}, None, "2024-05-01T12:30:00"),
        ({}, "2024-05-01T09:00:00Z", "2024-05-01T12:30:00"),
        # no sentAt: the client's own
        ({"timestamp": "2024-05-01T10:00:00Z"}, None, "2024-05-01T10:00:00"),
        ({"originalTimestamp": "2024-05-01T10:00:00Z"}, None, "2024-05-01T10:00:00"),
        # a clock three hours slow, sent two seconds after it happened
        ({"timestamp": "2024-05-01T09:29:58Z"}, "2024-05-01T09:30:00Z", "2024-05-01T12:29:58"),
        (
            {"timestamp": "2024-05-01T09:29:58Z", "sentAt": "2024-05-01T09:30:00Z"},
            "2024-05-01T09:40:00Z",
            "2024-05-01T12:29:58",
        ),
        ({"timestamp": 1714555798, "sentAt": "nonsense"}, 1714555800, "2024-05-01T12:29:58"),
        # originalTimestamp before timestamp
        (
            {"originalTimestamp": "2024-05-01T09:29:50Z", "timestamp": "2024-05-01T09:29:58Z"},
            "2024-05-01T09:30:00Z",
            "2024-05-01T12:29:50",
        ),
        # been through Segment already
        (
            {"timestamp": "2024-05-01T12:00:00Z", "receivedAt": "2024-05-01T12:00:05Z"},
            "2024-05-01T09:30:00Z",
            "2024-05-01T12:00:00",
        ),
    ],
)
def test_the_clients_clock_is_corrected(
    event: dict[str, object], sent_at: object, when: str
) -> None:
    found = call(TRACK | event, sentAt=sent_at)
    assert (found.at_ms, found.notes) == (at(when), ())


def test_a_webhooks_timestamp_is_corrected_already() -> None:
    event = TRACK | {
        "originalTimestamp": "2024-05-01T09:29:58Z",
        "sentAt": "2024-05-01T09:30:00Z",
        "timestamp": "2024-05-01T12:29:50Z",
    }
    assert call(event, "webhook").at_ms == at("2024-05-01T12:29:50")
    assert call(event | {"receivedAt": "x"}).at_ms == at("2024-05-01T12:29:50")
    assert call(event).at_ms == at("2024-05-01T12:29:58")


@pytest.mark.parametrize(
    ("timestamp", "sent_at", "when"),
    [
        # zero, as programs write it who do not know
        ("2024-05-01T12:00:00Z", "0001-01-01T00:00:00Z", "2024-05-01T12:00:00"),
        ("2024-05-01T12:00:00Z", "0001-01-01T00:00:00", "2024-05-01T12:00:00"),
        ("2024-05-01T12:00:00Z", 0, "2024-05-01T12:00:00"),
        ("2024-05-01T12:00:00Z", "1970-01-01T00:00:00Z", "2024-05-01T12:00:00"),
        ("2024-05-01T12:00:00Z", "1999-12-31T23:59:59.999Z", "2024-05-01T12:00:00"),
        # a clock that is a year ahead, or is of another calendar
        ("2024-05-01T12:00:00Z", "2025-05-01T12:00:00Z", "2024-05-01T12:00:00"),
        ("2024-05-01T12:00:00Z", "2567-05-01T12:00:00Z", "2024-05-01T12:00:00"),
        # one that is an hour ahead
        ("2024-05-01T13:29:50Z", "2024-05-01T13:30:00Z", "2024-05-01T12:29:50"),
        # local time without a zone beside UTC says nothing
        ("2024-05-01T12:29:50Z", "2024-05-01T18:00:00", "2024-05-01T12:29:50"),
        ("2024-05-01T12:29:50Z", "2024-05-01 07:30:00", "2024-05-01T12:29:50"),
        (1714566590, "2024-05-01 07:30:00", "2024-05-01T12:29:50"),
        # two without a zone are of one
        ("2024-05-01T17:59:50", "2024-05-01T18:00:00", "2024-05-01T12:29:50"),
        ("2024-05-01T17:59:50", "2024-05-01T18:00:00Z", "2024-05-01T12:29:50"),
    ],
)
def test_a_sent_at_corrects_where_it_says_how_wrong_the_clock_is(
    timestamp: object, sent_at: object, when: str
) -> None:
    event = TRACK | {"timestamp": timestamp}
    for found in (call(event, sentAt=sent_at), call(event | {"sentAt": sent_at})):
        assert (found.at_ms, found.notes) == (at(when), ())


def test_a_batch_corrects_where_its_events_own_time_does_not() -> None:
    event = TRACK | {"timestamp": "2024-05-01T09:29:58Z", "sentAt": "0001-01-01T00:00:00Z"}
    assert call(event, sentAt="2024-05-01T09:30:00Z").at_ms == at("2024-05-01T12:29:58")


@pytest.mark.parametrize(
    ("timestamp", "when", "note"),
    [
        ("1970-01-01T00:00:00Z", "2024-05-01T12:30:00", TOO_EARLY),
        ("1999-12-31T23:59:59.999Z", "2024-05-01T12:30:00", TOO_EARLY),
        ("2000-01-01T00:00:00Z", "2000-01-01T00:00:00", module.OLD),
        ("1969-07-20T20:17:40Z", "2024-05-01T12:30:00", TOO_EARLY),
        (-5, "2024-05-01T12:30:00", TOO_EARLY),
        ("0001-01-01T00:00:00+14:00", "2024-05-01T12:30:00", UNREADABLE),
        ("2024-03-02T12:29:59Z", "2024-03-02T12:29:59", module.OLD),
        ("2024-03-02T12:30:00Z", "2024-03-02T12:30:00", None),
        ("2024-05-01T12:30:00.001Z", "2024-05-01T12:30:00", None),
        ("2024-05-01T12:35:00Z", "2024-05-01T12:30:00", None),
        ("2024-05-01T12:35:00.001Z", "2024-05-01T12:30:00", FUTURE),
        ("2100-01-01T00:00:00Z", "2024-05-01T12:30:00", FUTURE),
        ("2567-05-01T12:30:00Z", "2024-05-01T12:30:00", FUTURE),
        ("soon", "2024-05-01T12:30:00", UNREADABLE),
        ({}, "2024-05-01T12:30:00", UNREADABLE),
    ],
)
def test_odd_times_are_taken_and_noted(timestamp: object, when: str, note: str | None) -> None:
    for route in ("track", "webhook"):
        found = call(TRACK | {"timestamp": timestamp}, route)
        assert (found.at_ms, found.notes) == (at(when), (note,) if note else ())
        assert found.received_at == at("2024-05-01T12:30:00")


def test_what_the_correction_comes_to_is_believed_or_not_as_well() -> None:
    """PHP's 1970 with a good sentAt, and a phone that was set back two weeks after the event."""
    for timestamp, note in (("1970-01-01T00:00:00Z", TOO_EARLY), ("2024-05-15T12:30:00Z", FUTURE)):
        found = call(TRACK | {"timestamp": timestamp}, sentAt="2024-05-01T12:29:59Z")
        assert (found.at_ms, found.notes) == (at("2024-05-01T12:30:00"), (note,))


def test_an_unreadable_original_falls_back_to_the_timestamp() -> None:
    event = TRACK | {"originalTimestamp": "x", "timestamp": "2024-05-01T12:00:00Z"}
    assert call(event).at_ms == at("2024-05-01T12:00:00")


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
        found = one(event, kind)
        if kind in ("group", "alias"):
            assert found == Dropped(f"{kind} is not supported")
        else:
            assert isinstance(found, Call)
            assert (found.type, found.user_id) == (kind, "019mr8mf4r")
            assert found.notes == (module.OLD,)


def test_the_documented_batch() -> None:
    found = [
        one for one in events("batch", PAYLOADS["tracking_api_batch"]) if isinstance(one, Call)
    ]
    assert [(one.type, one.user_id, one.at_ms) for one in found] == [
        ("identify", "019mr8mf4r", at("2012-12-02T00:30:08.276")),
        ("track", "019mr8mf4r", at("2012-12-02T00:30:12.984")),
        ("identify", "971mj8mk7p", at("2015-02-02T00:30:08.276")),
        ("track", "971mj8mk7p", at("2015-02-02T00:30:12.984")),
    ]


def test_the_documented_webhook_events() -> None:
    found = events("webhook", PAYLOADS["webhook_classic_events"])
    kinds = [one.type if isinstance(one, Call) else one for one in found]
    assert kinds == [
        *("page", "screen", "identify", "track"),
        Dropped("alias is not supported"),
        Dropped("group is not supported"),
        "delete",
    ]


@pytest.mark.parametrize("name", ["spec_common_fields", "spec_page_full", "spec_screen_full"])
def test_the_documented_full_events(name: str) -> None:
    event = PAYLOADS[name]
    found = call(event)
    assert (found.type, found.message_id) == (event["type"], event["messageId"])
    assert (found.user_id, found.anonymous_id) == (event["userId"], event["anonymousId"])
    assert found.at_ms == at(event["timestamp"][:-1])


# Anything


@examples(25)
@given(events_=st.lists(EVENT, max_size=6), common=st.fixed_dictionaries({}, optional=LIKELY))
def test_every_event_becomes_exactly_one_thing(events_: list[Any], common: dict[str, Any]) -> None:
    for found in (
        events("batch", {**common, "batch": events_}),
        events("webhook", events_),
    ):
        assert len(found) == len(events_)
        for one in found:
            assert isinstance(one, Call | Dropped | Rejected)
            if isinstance(one, Call):
                assert one.at_ms >= 1
                assert 0 < len(one.message_id) <= 100
                assert one.user_id or one.anonymous_id or one.personas
            elif isinstance(one, Rejected):
                one.raw.encode()


@examples(25)
@given(route=st.sampled_from(sorted(module.ROUTES)), body=JSON | EVENT)
def test_every_body_is_taken_or_refused(route: str, body: Any) -> None:
    try:
        found = events(route, body)
    except BadRequest:
        return
    assert all(isinstance(one, Call | Dropped | Rejected) for one in found)


@examples(25)
@given(body=st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()))
@example(b"[" * 2000)
def test_every_bytes_parse_or_are_refused(body: bytes) -> None:
    with contextlib.suppress(BadRequest):
        parse(body)
