"""Which events of a body are taken, dropped and rejected, and whose they are (docs/design.md §3.9
and docs/facts/segment.md §4)."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from syncer.json_text import printable
from syncer.passthrough import call as module
from syncer.passthrough.call import Call, Dropped, Rejected
from syncer.passthrough.parsing import BadRequest, parse
from tests.support.strategies import TRACK
from tests.unit.call.helpers import call, dropped, events, outcome_of, reason

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
    outcomes = events(
        route, {"batch": [TRACK, {"type": "page", "anonymousId": "a"}], "writeKey": "k"}
    )
    assert [outcome.type for outcome in outcomes if isinstance(outcome, Call)] == ["track", "page"]
    assert events(route, {"batch": []}) == []


def test_the_webhook_route_takes_an_object_and_an_array() -> None:
    assert [type(event) for event in events("webhook", TRACK)] == [Call]
    assert [type(event) for event in events("webhook", [TRACK, TRACK])] == [Call, Call]
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
    outcome = outcome_of(event)
    assert outcome == Rejected("not an object", orjson.dumps(event).decode(), None)


def test_the_size_is_that_of_the_event_alone() -> None:
    room = 32 * 1024 - len(orjson.dumps(TRACK | {"properties": {"a": ""}}))
    fits = TRACK | {"properties": {"a": "x" * room}}
    assert isinstance(outcome_of(fits, context={"large": "x" * 50_000}), Call)
    assert reason(TRACK | {"properties": {"a": "x" * (room + 1)}}) == module.TOO_LARGE


def nested(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


def test_depth_is_bounded() -> None:
    assert isinstance(outcome_of(TRACK | {"properties": {"a": nested(62)}}), Call)
    for levels in (63, 200, 300, 800, 1500):
        assert reason(TRACK | {"properties": {"a": nested(levels)}}) == module.TOO_DEEP
    assert isinstance(outcome_of(TRACK | {"properties": {"a": [{}] * 500}}), Call)
    assert isinstance(outcome_of(TRACK | {"properties": {"a": "{" * 500}}), Call)


def test_a_failure_never_holds_the_write_key() -> None:
    failure = outcome_of({"writeKey": "secret-key", "event": "E"}, "track")
    assert isinstance(failure, Rejected)
    assert failure.raw == '{"event":"E"}'


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
    failure = module.rejected("no", event)
    assert failure.customer_id == whose


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
    outcomes = events("batch", {"batch": [event, TRACK, event]})
    assert [outcome.message_id for outcome in outcomes if isinstance(outcome, Call)] == [
        "made-0",
        "m1",
        "made-1",
    ]


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
    for outcome in (
        outcome_of(event),
        outcome_of(event, "track"),
        outcome_of(TRACK, integrations=integrations),
    ):
        assert isinstance(outcome, Call) if goes else outcome == Dropped(OFF)
    assert isinstance(outcome_of(event, "webhook"), Call)


def test_an_events_own_integrations_win() -> None:
    assert dropped(TRACK, integrations={"All": False}) == OFF
    own = TRACK | {"integrations": {"Amberflo": True}}
    assert isinstance(outcome_of(own, integrations={"All": False}), Call)
    assert isinstance(outcome_of(own, integrations={"Amberflo": False}), Call)
    own = TRACK | {"integrations": {"All": True}}
    assert isinstance(outcome_of(own, integrations={"All": False}), Call)
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
