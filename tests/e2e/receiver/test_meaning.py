"""What a call becomes: meter records."""

from __future__ import annotations

import json
import time
from typing import Any

import orjson
import pytest

from syncer.clock import FUTURE, TOO_EARLY, UNREADABLE
from syncer.passthrough.call import (
    BAD_DATA,
    BAD_ID,
    BAD_MESSAGE_ID,
    NO_EVENT,
    NO_ID,
    NO_OBJECT,
    OLD,
    SWITCHED_OFF,
    TOO_DEEP,
    UNKNOWN_TYPE,
)
from syncer.passthrough.mapping import BAD_TEXT, BAD_VALUE
from tests.e2e.receiver.helpers import PAYLOADS, SEED_TIME, Json
from tests.support.daemon import KEY, Daemon
from tests.support.events import sign, track, unique, written

SEED = PAYLOADS["amberflo_official_segment_destination"]


@pytest.mark.parametrize("kind", ["page", "screen", "track"])
def test_the_seeds_meters_byte_for_byte(receiver: Daemon, kind: str) -> None:
    names = {"single": unique(), "batch": unique(), "webhook": unique()}
    events = {
        way: SEED[kind]["in"] | {"messageId": name, "timestamp": SEED_TIME}
        for way, name in names.items()
    }
    receiver.send(kind, events["single"])
    receiver.batch(events["batch"] | {"type": kind})
    body = orjson.dumps(events["webhook"] | {"type": kind})
    receiver.send("webhook", body, x_signature=sign(body))
    for record in receiver.records(*names.values()):
        wanted = SEED[kind]["out"][1] | {"uniqueId": record["uniqueId"]}
        assert orjson.dumps(record) == orjson.dumps(wanted)


def test_the_seeds_identify(receiver: Daemon) -> None:
    user = unique("user")
    receiver.send("identify", SEED["identify"]["in"] | {"userId": user})
    wanted = SEED["identify"]["out"][1]
    customer = receiver.customer(user)
    assert orjson.dumps(customer["traits"], option=orjson.OPT_SORT_KEYS) == orjson.dumps(
        wanted["traits"], option=orjson.OPT_SORT_KEYS
    )
    assert (customer["customerName"], customer["customerEmail"]) == (
        wanted["customerName"],
        wanted["customerEmail"],
    )


def test_segments_own_tracking_examples(receiver: Daemon) -> None:
    user, other = unique("user"), unique("user")
    for kind, example_ in PAYLOADS["tracking_api_singles"].items():
        receiver.send(kind, example_ | {"userId": user, "writeKey": KEY}, key=None)
    batch = PAYLOADS["tracking_api_batch"]
    events = [event | {"userId": other} for event in batch["batch"]]
    receiver.send("batch", batch | {"batch": events})
    by_meter = {record["meterApiName"]: record for record in receiver.by_customer(user)}
    assert by_meter.keys() == {"Item Purchased", "page", "screen"}
    assert by_meter["Item Purchased"]["dimensions"] == {
        "name": "Leap to Conclusions Mat",
        "revenue": "14.99",
    }
    assert by_meter["page"]["dimensions"] == {"name": "Tracking HTTP API"}
    assert by_meter["page"]["meterTimeInMillis"] == 1354408289738
    songs = receiver.by_customer(other)
    assert [song["meterTimeInMillis"] for song in songs] == [1354408212984, 1422837012984]
    assert receiver.customer(user)["traits"] == {"industry": "Technology"}
    assert receiver.customer(other)["customerName"] == "Cindy Gonzalez"
    assert receiver.customer(other)["traits"] == {"age": 23}


def test_the_clients_clock_is_corrected(receiver: Daemon) -> None:
    """`receivedAt - (sentAt - timestamp)`: a clock that is ten minutes off does no harm."""
    first, second, third = track(), track(), track()
    for event, minutes in ((first, 10), (second, -10)):
        sent = time.time() + minutes * 60
        event["timestamp"] = written(sent - 5)
        event["sentAt"] = written(sent)
    now = time.time() * 1000
    receiver.send("track", first)
    receiver.send("batch", {"batch": [{**second, "sentAt": None}], "sentAt": second["sentAt"]})
    receiver.send("track", third)
    times = [
        record["meterTimeInMillis"]
        for record in receiver.records(*(event["messageId"] for event in (first, second, third)))
    ]
    assert now - 5001 <= times[0] <= now
    assert now - 5001 <= times[1] <= now
    assert now - 1 <= times[2] <= time.time() * 1000


def test_times_that_cannot_be_are_the_receipts(receiver: Daemon) -> None:
    """Zero, as Go, .NET and PHP write it, and clocks of other calendars: nothing is billed in 1970,
    nor in 4052."""
    then = "2026-01-27T02:30:00Z"
    wrong = [
        ({"timestamp": "1970-01-01T00:00:00+00:00"}, {"sentAt": written(time.time())}),
        ({"timestamp": "1970-01-01T00:00:00+00:00"}, {}),
        ({"timestamp": "2569-11-27T02:30:00.000Z"}, {}),
        ({"timestamp": written(time.time() + 3600)}, {}),
    ]
    right = [
        *(({"timestamp": then}, {"sentAt": zero}) for zero in ("0001-01-01T00:00:00Z", 0, "1970")),
        ({"timestamp": then}, {"sentAt": "1970-01-01T00:00:00Z"}),
        ({"timestamp": then}, {"sentAt": written(time.time() + 5.5 * 3600).removesuffix("Z")}),
        *(
            ({"timestamp": text}, {})
            for text in (
                *("20260127023000", "Tue, 27 Jan 2026 02:30:00 GMT", "2026-01-27T02:30:00+00:00Z"),
                *("2026-01-27 02:30:00 +0000 UTC", "٢٠٢٦-٠١-٢٧T٠٢:٣٠:٠٠.٠٠٠Z"),
                "Tue Jan 27 2026 02:30:00 GMT+0000 (Coordinated Universal Time)",
            )
        ),
    ]
    began, names = int(time.time() * 1000), []
    for event, batch in [*wrong, *right]:
        event = track() | event
        names.append(event["messageId"])
        receiver.send("batch", {"batch": [event], **batch})
    times = [record["meterTimeInMillis"] for record in receiver.records(*names)]
    assert all(began <= at <= time.time() * 1000 for at in times[: len(wrong)])
    assert times[len(wrong) :] == [1769481000000] * len(right)


def test_duplicates_are_dropped(receiver: Daemon) -> None:
    """By messageId: across requests, routes and kinds, and within a batch; the first one counts.
    Who calls with another key has other messageIds, and cannot keep ours from counting."""
    before = receiver.calls("repeated")
    user, name = unique("user"), unique()
    event = track(userId=user, messageId=name, properties={"value": 1})
    receiver.send("track", event)
    receiver.send("track", event)
    receiver.batch(event, event | {"properties": {"value": 2}}, track(userId=user, event="Other"))
    receiver.batch(event | {"type": "page"})
    receiver.settle()
    receiver.send("import", {"batch": [event | {"userId": "somebody else"}]})
    receiver.settle()
    assert receiver.records(name)[0]["meterValue"] == 1
    assert len(receiver.by_customer(user)) == 2
    assert receiver.calls("repeated") - before == 5
    for key in ("another-key", "another-key"):
        receiver.send("track", event | {"properties": {"value": 7}}, key=key)
    body = orjson.dumps(event | {"properties": {"value": 8}})
    receiver.send("webhook", body, x_signature=sign(body))
    receiver.settle()
    values = [
        record["meterValue"] for record in receiver.by_customer(user) if record["uniqueId"] == name
    ]
    assert sorted(values) == [1, 7, 8]
    assert receiver.calls("repeated") - before == 6


def test_calls_may_be_switched_off(receiver: Daemon) -> None:
    before = receiver.calls("dropped", SWITCHED_OFF)
    user = unique("user")
    flags: list[tuple[Json, Json, bool]] = [
        ({}, {}, True),
        ({"All": False}, {}, False),
        ({"Amberflo": False}, {}, False),
        ({"All": False, "Amberflo": True}, {}, True),
        ({"All": False, "Amberflo": {"setting": 1}}, {}, True),
        ({}, {"All": False}, False),
        ({"Amberflo": True}, {"All": False}, True),
        ({"Mixpanel": False}, {}, True),
    ]
    for own, common, _ in flags:
        event = track(userId=user, integrations=own)
        receiver.send("batch", {"batch": [event], "integrations": common})
    assert len(receiver.by_customer(user)) == sum(on for _, _, on in flags)
    assert receiver.calls("dropped", SWITCHED_OFF) - before == sum(not on for _, _, on in flags)


def odd(text: str, **expected: Any) -> tuple[str, str, Json]:
    """A track call with this in it, and what must come of it: a `reason`, or a record's fields.
    `*` in the text stands for the event's own mark."""
    mark = unique("odd")
    full = (
        text
        if text[:1] != ","
        else (f'{{"type":"track","userId":"u1","event":"E","messageId":"{mark}"{text}}}')
    )
    return mark, full.replace("*", mark), expected


def odd_events() -> list[tuple[str, str, Json]]:
    past, bad = {"noted": OLD}, {"reason": BAD_VALUE}
    deep = '{"a":' * 61 + "[1]" + "}" * 61
    return [
        *(
            odd(f',"properties":{{"value":{value}}}', **bad)
            for value in (
                *("NaN", "Infinity", "-Infinity", "1e999", "-1e400", "9" * 400),
                *('"abc"', '"NaN"', '"1,000"', '""', "true", "[]", "[1]", "{}", '"0x1F"'),
            )
        ),
        odd(',"properties":{"value":null}', **bad),
        odd(
            ',"properties":{"a":89014103211118510720,"b":-9223372036854775809}',
            dimensions={"a": "89014103211118510720", "b": "-9223372036854775809"},
        ),
        odd(',"properties":{"value":0}', meterValue=0),
        odd(',"properties":{"value":-2.5}', meterValue=-2.5),
        odd(',"properties":{"value":"39.95"}', meterValue=39.95),
        odd(',"properties":{"value":1e308}', meterValue=1e308),
        odd(',"properties":{"value":18446744073709551616}', meterValue=2.0**64),
        odd(',"properties":{"a":NaN,"b":Infinity,"c":1e999,"d":"ok"}', dimensions={"d": "ok"}),
        odd(f',"properties":{{"a":{"7" * 300}}}', dimensions={"a": "7" * 200}),
        odd(',"properties":{"a":"\\ud83d","b":"\\ud83d\\ude00"}', dimensions={"a": "_", "b": "_"}),
        odd(',"properties":{"\\ud83d":"a"}', reason=BAD_TEXT),
        odd(
            ',"properties":{"a":"\\u0000\\n<é/|>","b":" ","c":"","d":null,"":"x"," ":"y"}',
            dimensions={"a": "_______"},
        ),
        odd(
            ',"properties":{"a":true,"b":5,"c":5.0,"d":[1,"x",null],"e":{"f":{"g":false}}}',
            dimensions={"a": "true", "b": "5", "c": "5.0", "d": "1,x", "e_f_g": "false"},
        ),
        odd(',"properties":[]', dimensions={}),
        odd(',"properties":"text"', reason=BAD_DATA),
        odd(
            f',"properties":{{"a":"*","b":{deep}}}',
            dimensions={"a": "*", "b" + "_a" * 61: "1"},
        ),
        odd(f',"properties":{{"a":"*","b":{{"b":{deep}}}}}', reason=TOO_DEEP),
        odd(',"timestamp":"2000-01-01T00:00:01Z"', meterTimeInMillis=946684801000, **past),
        odd(',"timestamp":"1970-01-01T00:00:01Z"', received=True, noted=TOO_EARLY),
        odd(',"timestamp":"0001-01-01T00:00:00Z"', received=True, noted=TOO_EARLY),
        odd(',"timestamp":"2100-01-01T00:00:00Z"', received=True, noted=FUTURE),
        odd(',"timestamp":"9999-12-31T23:59:59.999Z"', received=True, noted=FUTURE),
        odd(
            ',"timestamp":"Fri, 27 Nov 2015 00:05:47 GMT"',
            meterTimeInMillis=1448582747000,
            **past,
        ),
        odd(',"timestamp":"yesterday"', received=True, noted=UNREADABLE),
        odd(',"timestamp":{"a":1}', received=True, noted=UNREADABLE),
        odd(',"timestamp":1e400', received=True, noted=UNREADABLE),
        odd(',"timestamp":"2015-2-02T00:30:08.276Z"', meterTimeInMillis=1422837008276, **past),
        odd(',"userId":"","anonymousId":"anon"', customerId="anon"),
        odd(',"userId":42', customerId="42"),
        odd(',"userId":12345678901234567890123', customerId="12345678901234567890123"),
        odd(',"userId":"a/b|c é"', customerId="a/b|c é"),
        odd(',"userId":1e400,"properties":{"m":"*"}', reason=BAD_ID),
        odd(',"userId":true', reason=BAD_ID),
        odd(',"userId":"\\ud800"', reason=BAD_ID),
        odd(',"userId":"a\\u0000b"', reason=BAD_ID),
        odd(',"userId":null', reason=NO_ID),
        odd(',"event":null', reason=NO_EVENT),
        odd(',"event":"\\ud800"', reason=BAD_TEXT),
        odd(',"event":"ünï • 🦊"', meterApiName="ünï • 🦊"),
        odd(',"type":"purchase"', reason=UNKNOWN_TYPE),
        odd(',"type":["track"]', reason=UNKNOWN_TYPE),
        odd(',"type":"delete"', reason=UNKNOWN_TYPE),
        odd(',"messageId":"*\\ud800"', reason=BAD_MESSAGE_ID),
        odd(',"messageId":["*"]', reason=BAD_MESSAGE_ID),
        odd('"*"', reason=NO_OBJECT),
        odd('["*"]', reason=NO_OBJECT),
    ]


def test_odd_events_get_the_right_answer_and_cost_no_other(receiver: Daemon) -> None:
    """All in one batch; what each must come to stands beside it."""
    events = odd_events()
    good = [track(), track()]
    parts = [orjson.dumps(good[0]).decode(), *(text for _, text, _ in events)]
    parts += ["null", "17", "{}", orjson.dumps(good[1]).decode()]
    notes = {
        reason: receiver.calls("noted", reason) for reason in (OLD, FUTURE, TOO_EARLY, UNREADABLE)
    }
    now = int(time.time() * 1000)
    body = '{"batch":[' + ",".join(parts) + "]}"
    receiver.send("batch", body.encode())
    receiver.records(*(event["messageId"] for event in good))
    failures = receiver.failures("odd-")
    records = {record["uniqueId"]: record for record in receiver.installation.amberflo.records}
    for mark, text, expected in events:
        if "reason" in expected:
            failed = [failure for failure in failures if mark in failure["request"]]
            assert [failure["reason"] for failure in failed] == [expected["reason"]], text
            assert failed[0]["kind"] == "meter"
            assert mark not in records, text
            json.loads(failed[0]["request"])
            continue
        assert not [failure for failure in failures if mark in failure["request"]], text
        record = records[mark]
        if expected.pop("received", False):
            assert now <= record["meterTimeInMillis"] <= time.time() * 1000, text
        if note := expected.pop("noted", None):
            notes[note] += 1
        if expected.get("dimensions", {}).get("a") == "*":
            expected["dimensions"]["a"] = mark
        assert {name: record[name] for name in expected} == expected, text
        if "meterValue" in expected:
            assert type(record["meterValue"]) is type(expected["meterValue"]), text
    assert {reason: receiver.calls("noted", reason) for reason in notes} == notes


def test_what_has_no_id_of_its_own_gets_one(receiver: Daemon) -> None:
    user = unique("user")
    bare = {"type": "track", "userId": user, "event": "E"}
    receiver.batch(bare, bare, bare | {"messageId": None}, bare | {"messageId": ""})
    receiver.send("track", bare)
    records = receiver.by_customer(user)
    assert len(records) == len({record["uniqueId"] for record in records}) == 5
    assert all(record["uniqueId"] for record in records)
