"""The receiver from end to end: a real daemon, real HTTP in and out, the strict stand-in behind."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import os
import signal
import socket
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import event as engine_event

from state import failures, outbox, queue
from state.db.database import Database
from syncer.amberflo.record import merged
from syncer.clock import FUTURE, TOO_EARLY, UNREADABLE
from syncer.passthrough.call import (
    ALIAS,
    BAD_DATA,
    BAD_ID,
    BAD_MESSAGE_ID,
    BATCH,
    GROUP,
    IDENTIFY_WITHOUT_USER,
    NO_EVENT,
    NO_ID,
    NO_OBJECT,
    OLD,
    ROUTES,
    SINGLE,
    SWITCHED_OFF,
    TOO_DEEP,
    TOO_LARGE,
    UNKNOWN_TYPE,
)
from syncer.passthrough.inbox import Inbox
from syncer.passthrough.mapping import (
    BAD_MEMBERSHIP,
    BAD_TEXT,
    BAD_VALUE,
    MEMBERSHIP_WITHOUT_USER,
    UNKNOWN_CLASS,
)
from syncer.passthrough.processor import Processor
from syncer.passthrough.receiver import Receiver
from syncer.passthrough.scopes import SCOPES, Caller
from syncer.sandbox.amberflo import AmberfloSandbox, running
from syncer.sandbox.engage import EngageSandbox
from syncer.sandbox.faults import Faults
from tests.support.daemon import GOOD, KEY, Daemon, daemon, holds_secret, know, refused, taken
from tests.support.events import SECRET, ago, engage_call, sign, track, unique, written
from tests.support.installation import API_KEY, Installation, expected_records, installed
from tests.support.processes import wait_until
from tests.support.warehouse import Warehouse

PAYLOADS = json.loads(
    (Path(__file__).parents[1] / "unit" / "segment_payloads.json").read_text(encoding="utf-8")
)
SEED = PAYLOADS["amberflo_official_segment_destination"]
SEED_TIME = "2021-04-26T14:01:46.909Z"

Json = dict[str, Any]


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for all tests that need no other; each uses ids of its own."""
    with installed(tmp_path_factory.mktemp("receiver")) as installation:
        Warehouse(installation.folder / "engage.db").close()
        engage = [name for name in PAYLOADS if name.startswith("engage_")]
        personas = [PAYLOADS[name].get("context", {}).get("personas", {}) for name in engage]
        keys = {one["computation_key"] for one in personas if "computation_key" in one}
        know(f"sqlite:///{installation.folder / 'syncer.db'}", *sorted(keys))
        with daemon(installation, public_url="https://calls.example.com/segment") as found:
            yield found
            keeps_no_secret(found)


def keeps_no_secret(found: Daemon) -> None:
    files = [file for file in found.installation.folder.iterdir() if file.name != "config.toml"]
    assert {"syncer.db", "syncer-queue.db"} <= {file.name for file in files}
    assert [file.name for file in files if holds_secret(file.read_bytes())] == []
    assert not holds_secret("\n".join(found.log).encode())


# Routes, keys and answers


@pytest.mark.parametrize("route", sorted(SINGLE))
def test_every_single_route(receiver: Daemon, route: str) -> None:
    kind, user = SINGLE[route], unique("user")
    event = track(userId=user) | {"type": "anything", "name": "Home", "traits": {"plan": "pro"}}
    dropped = {"group": GROUP, "alias": ALIAS}.get(kind, "")
    before = receiver.calls("dropped", dropped)
    receiver.send(route, event)
    if kind == "identify":
        assert receiver.customer(user)["traits"] == {"plan": "pro"}
    elif dropped:
        wait_until(lambda: receiver.calls("dropped", dropped) == before + 1)
    else:
        (record,) = receiver.records(event["messageId"])
        assert record["customerId"] == user
        assert record["meterApiName"] == ("Tested" if kind == "track" else kind)


@pytest.mark.parametrize("route", sorted(BATCH))
def test_every_batch_route(receiver: Daemon, route: str) -> None:
    user = unique("user")
    events: list[Json] = [
        track(userId=user, event="A", properties={"value": 3}),
        track(userId=user, type="page", name="B"),
        track(userId=user, type="screen", name="C"),
        {"type": "identify", "userId": user, "traits": {"email": f"{user}@example.com"}},
        {"type": "group", "userId": user, "groupId": "g"},
        {"type": "alias", "userId": user, "previousId": "p"},
        {"type": "identify", "anonymousId": "a"},
    ]
    reasons = (GROUP, ALIAS, IDENTIFY_WITHOUT_USER)
    before = [receiver.calls("dropped", reason) for reason in reasons]
    receiver.send(route, {"batch": events, "context": {"library": {"name": "x"}}})
    records = receiver.records(*(event["messageId"] for event in events[:3]))
    assert [(one["meterApiName"], one["meterValue"], one["dimensions"]) for one in records] == [
        ("A", 3, {}),
        ("page", 1.0, {"name": "B"}),
        ("screen", 1.0, {"name": "C"}),
    ]
    assert receiver.customer(user)["customerEmail"] == f"{user}@example.com"
    after = [receiver.calls("dropped", reason) for reason in reasons]
    assert after == [count + 1 for count in before]


def basic(text: str) -> Json:
    return {"authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


@pytest.mark.parametrize(
    ("in_body", "headers"),
    [
        (KEY, {}),
        (KEY, {"authorization": "Bearer some.oauth.token"}),
        (KEY, basic("what SDKs send beside it:")),
        ("", basic(f"{KEY}:")),
        (" \t", basic(f"{KEY}:")),
        (None, basic(f"{KEY}:")),
        (None, basic(KEY)),
        (None, basic("another-key:")),
        (KEY, {"content-type": "text/plain"}),
        (KEY, {"content-type": "text/plain;charset=UTF-8", "x-retry-count": "1"}),
        (KEY, {"content-type": "application/json; charset=utf-8"}),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_where_a_write_key_may_stand(
    receiver: Daemon, in_body: str | None, headers: Json, zipped: bool
) -> None:
    one, two = track(), track()
    with_key = {} if in_body is None else {"writeKey": in_body}
    receiver.send("track", one | with_key, key=None, zipped=zipped, **headers)
    receiver.send("batch", {"batch": [two]} | with_key, key=None, zipped=zipped, **headers)
    receiver.records(one["messageId"], two["messageId"])


@pytest.mark.parametrize(
    ("in_body", "headers"),
    [
        (None, {}),
        ("", {}),
        ("wrong", {}),
        (KEY + " ", {}),
        (7, {}),
        ([KEY], {}),
        ("wrong", basic(f"{KEY}:")),
        (None, basic("wrong:")),
        (None, basic(f":{KEY}")),
        (None, {"authorization": f"Bearer {KEY}"}),
        (None, {"authorization": KEY}),
        (None, {"authorization": "Basic"}),
        (None, {"authorization": "Basic ===="}),
        (None, {"authorization": "Basic \u00e9\u00ff"}),
        (None, {"authorization": b"Basic /////w=="}),
        ("w\u00ef", {}),
    ],
)
def test_a_wrong_write_key(receiver: Daemon, in_body: object, headers: Json) -> None:
    received = receiver.metrics()["syncer_calls_received_total"]
    with_key = {} if in_body is None else {"writeKey": in_body}
    for route, body in (("track", track()), ("batch", {"batch": [track()]}), ("b", {"batch": []})):
        headers = {
            name: value.encode("latin-1") if isinstance(value, str) else value
            for name, value in headers.items()
        }
        answer = receiver.post(route, body | with_key, key=None, **headers)
        refused(answer, 401, "invalid_write_key")
    assert receiver.metrics()["syncer_calls_received_total"] == received


def test_an_answer_is_given_once_it_is_durable(receiver: Daemon) -> None:
    """With its worker stopped, what was answered with 200 stands in the queue's file."""
    event = track()
    with stopped_worker(receiver):
        taken(receiver.post("track", event))
        (row,) = inbox_of(receiver)
        assert row.path == "track"
        assert orjson.loads(row.body) == event
        assert receiver.metrics()["syncer_calls_unprocessed"] == 1
        assert receiver.metrics()["syncer_lag_seconds"] > 0
    receiver.records(event["messageId"])


def inbox_of(found: Daemon) -> list[queue.InboxRow]:
    """What is accepted and not sorted yet, as it stands in the queue's file."""
    url = f"sqlite:///{found.installation.folder / 'syncer.db'}"
    with closing(Database.peek(url, "queue")) as database, database.read() as connection:
        return queue.unprocessed(connection, 1000)


@contextmanager
def stopped_worker(found: Daemon) -> Iterator[None]:
    """The worker process does nothing for this block."""
    found.settle()
    os.kill(found.worker, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(found.worker, signal.SIGCONT)


def test_preflight(receiver: Daemon) -> None:
    asked = {
        "origin": "https://shop.example.com",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-retry-count",
    }
    routes = [*sorted(ROUTES), "m", f"projects/{KEY}/settings"]
    for route in routes:
        answer = receiver.client.options(f"{receiver.url}/v1/{route}", headers=asked)
        assert (answer.status_code, answer.content) == (204, b""), route
        assert answer.headers["access-control-allow-origin"] == "*"
        allowed = answer.headers["access-control-allow-headers"].lower()
        assert allowed == asked["access-control-request-headers"]
        assert "POST" in answer.headers["access-control-allow-methods"]


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        ("content-type,x-api-key", "content-type,x-api-key"),
        ("X-Custom.1, x_2 , a", "X-Custom.1, x_2 , a"),
        *(
            (wrong, "Authorization, Content-Type, X-Retry-Count")
            for wrong in ("", "a b", "a,,b", "a;b", "a,", "x" * 5000, "h\u00e9")
        ),
    ],
)
def test_a_browser_may_send_the_headers_that_it_asks_for(
    receiver: Daemon, asked: str, allowed: str
) -> None:
    """analytics.js takes further headers in its settings, for a proxy on the way."""
    headers = {"access-control-request-headers": asked.encode("latin-1")}
    answer = receiver.client.options(f"{receiver.url}/v1/t", headers=headers)
    assert (answer.status_code, answer.headers["access-control-allow-headers"]) == (204, allowed)


def test_the_sdks_own_metrics_are_dropped(receiver: Daemon) -> None:
    received = receiver.metrics()["syncer_calls_received_total"]
    for body in ({"series": [{"type": "Counter", "metric": "x", "value": 1}]}, b"", b"\xff"):
        receiver.send("m", body, key=None)
    refused(receiver.post("m", b"x" * 600_000, key=None), 413, "too_large")
    assert receiver.metrics()["syncer_calls_received_total"] == received


def test_settings(receiver: Daemon) -> None:
    """Whatever name it is asked by: behind a proxy that is seldom the one that callers know."""
    path = f"{receiver.url}/v1/projects/{KEY}/settings"
    for headers in ({}, {"host": "syncer_upstream"}, {"x-forwarded-host": "other.example"}):
        answer = receiver.client.get(path, headers=headers)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "*"
        found = answer.json()["integrations"]["Segment.io"]
        assert found == {"apiKey": KEY, "apiHost": "calls.example.com/segment/v1"}
        answer = receiver.client.head(path, headers=headers)
        assert (answer.status_code, answer.content) == (200, b"")
    for key in ("wrong", "%20", "a%2Fb"):
        answer = receiver.client.get(f"{receiver.url}/v1/projects/{key}/settings")
        assert answer.status_code == 404
        assert not holds_secret(answer.content)


def test_without_a_public_url_an_sdk_keeps_the_host_that_its_app_has_set(tmp_path: Path) -> None:
    with closing(Workbench(tmp_path)) as bench:
        answer = bench.request("GET", f"/v1/projects/{KEY}/settings", b"", {})
        assert answer.json()["integrations"]["Segment.io"] == {"apiKey": KEY}


def test_the_operators_paths(receiver: Daemon) -> None:
    """They are on a listener of their own: who may call is not told who is a member of what."""
    client = receiver.client
    for path, text in (("healthz", "alive\n"), ("readyz", "ready\n")):
        assert client.get(f"{receiver.ops}/{path}").text == text
        assert client.head(f"{receiver.ops}/{path}").status_code == 200
        assert client.post(f"{receiver.ops}/{path}").status_code == 405
    assert client.get(f"{receiver.ops}/v1/track").status_code == 404
    for path in ("healthz", "readyz", "metrics"):
        refused(client.get(f"{receiver.url}/{path}"), 404, "unknown_path")
    before = receiver.metrics()
    receiver.batch(track(), track(), track(properties={"value": "abc"}))
    receiver.post("track", b"{", key=KEY)
    receiver.settle()
    after = receiver.metrics()
    gone = {
        "syncer_calls_received_total": 3,
        'syncer_requests_refused_total{code="malformed"}': 1,
        "syncer_request_seconds_count": 2,
        'syncer_calls_total{outcome="call",reason="track"}': 3,
        'syncer_calls_total{outcome="delivered",reason=""}': 2,
        f'syncer_calls_total{{outcome="rejected",reason="{BAD_VALUE}"}}': 1,
        "syncer_failures": 1,
    }
    assert {name: after[name] - before.get(name, 0) for name in gone} == gone
    assert after["syncer_lag_seconds"] == 0


# What is refused


MALFORMED = [
    b"",
    b" ",
    b"{",
    b"[]",
    b"null",
    b"5",
    b'"text"',
    b"\xff\xfe",
    b"\x00",
    '{"userId": "u", "event": "E"}'.encode("utf-16"),
    b"{'userId': 'u'}",
    b"writeKey=x&type=track",
    b"[" * 5000 + b"]" * 5000,
    b'{"batch":' * 3000,
]


@pytest.mark.parametrize("body", MALFORMED, ids=lambda body: repr(body[:20]))
def test_what_is_no_request(receiver: Daemon, body: bytes) -> None:
    received = receiver.metrics()["syncer_calls_received_total"]
    for route in ("track", "batch", "b", "i"):
        refused(receiver.post(route, body), 400, "malformed")
        refused(receiver.post(route, body, zipped=True), 400, "malformed")
    if body != b"[]":  # nothing of an empty array is signed
        answer = receiver.post("webhook", body, x_signature=sign(body))
        assert answer.status_code in (400, 401)
    assert receiver.metrics()["syncer_calls_received_total"] == received


def test_what_is_no_batch(receiver: Daemon) -> None:
    bodies: list[Json] = [{}, {"batch": None}, {"batch": {}}, {"batch": "x"}, {"events": []}]
    for body in bodies:
        refused(receiver.post("batch", body), 400, "malformed")
    receiver.send("batch", {"batch": []})


@pytest.mark.parametrize(
    "event",
    [
        {"userId": "u"},
        {"event": "E"},
        {"event": "E", "userId": "  ", "anonymousId": ""},
        {"event": "E", "userId": ["u"]},
        {"event": "E", "userId": "u" * 1001},
        {"event": "E", "userId": "u", "properties": "text"},
        {"event": " ", "userId": "u"},
        {"event": 7, "userId": "u"},
        {"event": "E", "userId": "u", "messageId": "m" * 101},
        {"event": "E", "userId": "u", "properties": json.loads("[" * 70 + "]" * 70)},
    ],
    ids=lambda event: str(event)[:40],
)
def test_a_bad_single_event_is_the_callers_to_mend(receiver: Daemon, event: Json) -> None:
    before = receiver.metrics()["syncer_failures"]
    refused(receiver.post("track", event), 400, "invalid_event")
    assert receiver.metrics()["syncer_failures"] == before


def test_other_methods_paths_and_encodings(receiver: Daemon) -> None:
    client, url = receiver.client, receiver.url
    before = receiver.metrics()
    for route in ("track", "batch", "webhook", "m"):
        for method in ("GET", "PUT", "PATCH", "DELETE"):
            answer = client.request(method, f"{url}/v1/{route}", content=b"{}")
            refused(answer, 405, "unknown_method")
            assert answer.headers["allow"] == "POST, OPTIONS"
    answer = client.post(f"{url}/v1/projects/{KEY}/settings")
    assert "takes GET only" in refused(answer, 405, "unknown_method")
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS"
    paths = ["/", "/v1", "/v1/nothing", "/v2/track", "/v1/track/x", "/docs", "/openapi.json"]
    for path in [*paths, "/v1/v1/batch", "/batch", "/v1/track%2Fx"]:
        refused(client.post(f"{url}{path}", content=b"{}"), 404, "unknown_path")
    after = receiver.metrics()
    counted = {
        code: f'syncer_requests_refused_total{{code="unknown_{code}"}}'
        for code in ("method", "path")
    }
    more = {code: after[name] - before.get(name, 0) for code, name in counted.items()}
    assert more == {"method": 17, "path": 10}
    body = orjson.dumps(track())
    for encoding in ("br", "deflate", "gzip, gzip"):
        refused(receiver.post("track", body, content_encoding=encoding), 415, "unknown_encoding")
    receiver.send("track", body, content_encoding="identity")
    for broken in (body, gzip.compress(body)[:-9], gzip.compress(body)[:20], zlib.compress(body)):
        refused(receiver.post("track", broken, content_encoding="gzip"), 400, "malformed")


@pytest.mark.parametrize("path", ["/v1/track/", "//v1/track", "/v1//track//", "///v1/track"])
def test_slashes_too_many_are_no_other_path(receiver: Daemon, path: str) -> None:
    """Never a redirect: its address would be http://, also where the caller came by TLS."""
    event = track(writeKey=KEY)
    taken(receiver.client.post(f"{receiver.url}{path}", content=orjson.dumps(event)))
    receiver.records(event["messageId"])
    assert receiver.client.options(f"{receiver.url}{path}").status_code == 204
    settings_ = receiver.client.get(f"{receiver.url}//v1/projects//{KEY}/settings/")
    assert settings_.json()["integrations"]["Segment.io"]["apiKey"] == KEY


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP", "X-GZip"])
@pytest.mark.parametrize("members", [1, 2, 5])
def test_gzip_may_have_several_members(receiver: Daemon, encoding: str, members: int) -> None:
    event = track(properties={"text": "x" * 100})
    body = orjson.dumps(event)
    cuts = [len(body) * number // members for number in range(members + 1)]
    parts = [gzip.compress(body[a:b]) for a, b in pairwise(cuts)]
    zipped = b"".join(parts) + b"\0" * 7  # as tools that write whole blocks leave it
    receiver.send("track", zipped, content_encoding=encoding)
    assert receiver.records(event["messageId"])[0]["dimensions"]["text"] == "x" * 100
    for wrong in (zipped + b"x", b"".join(parts)[:-9], zipped[:-7] + gzip.compress(b"x")[:12]):
        refused(receiver.post("track", wrong, content_encoding=encoding), 400, "malformed")


def test_a_body_of_countless_gzip_members_is_refused(receiver: Daemon) -> None:
    body = gzip.compress(b"") * 20_000
    started = time.perf_counter()
    refused(receiver.post("batch", body, content_encoding="gzip"), 400, "malformed")
    assert time.perf_counter() - started < 0.5


# Limits


def padded(size: int) -> bytes:
    """A track call of exactly so many bytes."""
    event = track(properties={"pad": ""})
    event["properties"]["pad"] = "x" * (size - len(orjson.dumps(event)))
    return orjson.dumps(event)


def test_the_limit_of_an_event(receiver: Daemon) -> None:
    limit = 32 * 1024
    most, over = padded(limit), padded(limit + 1)
    receiver.send("track", most)
    refused(receiver.post("track", over), 413, "too_large")
    refused(receiver.post("track", over, zipped=True), 413, "too_large")
    inside, outside, other = padded(limit), padded(limit + 1), track()
    receiver.send(
        "batch", b'{"batch":[' + b",".join([inside, outside, orjson.dumps(other)]) + b"]}"
    )
    ids = [orjson.loads(event)["messageId"] for event in (most, inside)]
    records = receiver.records(*ids, other["messageId"])
    assert [len(record["dimensions"].get("pad", "")) for record in records] == [200, 200, 0]
    (failure,) = receiver.failures(orjson.loads(outside)["messageId"])
    assert failure["reason"] == TOO_LARGE


def test_the_limit_of_a_request(receiver: Daemon) -> None:
    limit = 500 * 1024
    many = [padded(30_000) for _ in range(17)]
    rest = limit - len(b'{"batch":[') - sum(map(len, many)) - len(many) - len(b"]}")
    body = b'{"batch":[' + b",".join([*many, padded(rest)]) + b"]}"
    assert len(body) == limit
    receiver.send("batch", body)
    refused(receiver.post("batch", body + b" "), 413, "too_large")
    refused(receiver.post("batch", body + b" ", zipped=True), 413, "too_large")
    ids = [one["messageId"] for one in orjson.loads(body)["batch"]]
    assert len(receiver.records(*ids)) == 18


def test_the_limit_of_events(receiver: Daemon) -> None:
    user = unique("user")
    events = [{"type": "track", "userId": user, "event": "E"} for _ in range(2500)]
    refused(receiver.post("batch", {"batch": [*events, events[0]]}), 413, "too_large")
    receiver.send("batch", {"batch": events})
    records = receiver.by_customer(user)
    assert len(records) == len({record["uniqueId"] for record in records}) == 2500


def test_the_limit_of_a_message_id(receiver: Daemon) -> None:
    good, long = unique() + "m" * 79, unique() + "m" * 80
    assert (len(good), len(long)) == (98, 99)
    good, long = f"{good}é•", f"{long}é•"
    receiver.batch(track(messageId=good), track(messageId=long))
    assert receiver.records(good)[0]["uniqueId"] == good
    (failure,) = receiver.failures(long)
    assert failure["reason"] == BAD_MESSAGE_ID


def test_a_gzip_bomb_is_refused_cheaply(receiver: Daemon) -> None:
    bomb = gzip.compress(b" " * 200_000_000, 9)
    assert len(bomb) < 400 * 1024
    nested = gzip.compress(gzip.compress(b" " * 50_000_000))
    before = memory_peak(receiver.process.pid)
    for route in ("batch", "webhook", "track"):
        answers = [
            receiver.post(route, body, content_encoding="gzip", x_signature=sign(body))
            for body in (bomb, bomb[:200_000])
        ]
        assert {answer.status_code for answer in answers} == {413}
    refused(receiver.post("batch", nested, content_encoding="gzip"), 400, "malformed")
    assert memory_peak(receiver.process.pid) - before < 16 * 1024


def memory_peak(process: int) -> int:
    """The most memory that a process had so far, in KiB."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise AssertionError("no VmHWM")


def test_a_full_queue_says_so_and_takes_again_later(installation: Installation) -> None:
    """What waits for a failing Amberflo fills the queue; when it was worked off there is room."""
    installation.amberflo.faults = Faults.parse("503=1")
    with daemon(installation, queue_limit=5, queue_share=1, webhook_secret=None) as found:
        first = [track() for _ in range(4)]
        found.batch(*first)
        answer = found.post("batch", {"batch": [track(), track()]})
        refused(answer, 429, "queue_full")
        assert int(answer.headers["retry-after"]) > 0
        last = track()
        found.send("track", last)
        for route, body in (("track", track()), ("batch", {"batch": [track()]})):
            refused(found.post(route, body), 429, "queue_full")
        found.send("batch", {"batch": []})
        assert found.waiting() == 5
        installation.amberflo.faults = Faults()
        assert len(found.records(*(event["messageId"] for event in [*first, last]))) == 5
        again = track()
        wait_until(lambda: found.post("track", again).status_code == 200, 10, what="room")
        found.records(again["messageId"])

        # Without a secret there are no webhooks.
        for route in ("webhook", "webhook?key=" + KEY):
            refused(found.post(route, track()), 404, "unknown_path")
        refused(found.client.options(f"{found.url}/v1/webhook"), 404, "unknown_path")


# Webhooks


def test_a_signed_webhook(receiver: Daemon) -> None:
    """The signature is of the bytes as they came, whatever JSON writer made them."""
    one, two, three = unique(), unique(), unique()
    bodies = [
        b'{"type":"track","userId":"u1","event":"E","messageId":"%s"}' % one.encode(),
        b' {"messageId" : "%s", "properties":{"value":1.0,"a":"\\u00e9\\/"},\n'
        b'"event":"E", "type":"track" ,"userId":"u1"}\r\n' % two.encode(),
        b'{"messageId":"%s","type":"track","userId":"u1","event":"E","properties":{"a":"caf\xc3\xa9"'
        b',"a":"last"},"integrations":{"All":false}}' % three.encode(),
    ]
    for body in bodies:
        signature = sign(body)
        receiver.send("webhook", body, key=None, x_signature=signature)
        receiver.send("webhook", body, key=None, x_signature=signature.upper())
        for wrong in (sign(body, "other"), sign(body + b" "), signature[:-1], "", "\u00e9"):
            answer = receiver.post("webhook", body, x_signature=wrong.encode("latin-1"))
            refused(answer, 401, "invalid_signature")
        refused(receiver.post("webhook", body), 401, "invalid_signature")
        tampered = body.replace(b"u1", b"u2")
        refused(receiver.post("webhook", tampered, x_signature=signature), 401, "invalid_signature")
    records = receiver.records(one, two, three)
    assert [record["dimensions"] for record in records] == [{}, {"a": "__"}, {"a": "last"}]


def test_a_signed_batch_of_a_webhook(receiver: Daemon) -> None:
    """Where the signature covers the first element only, a write key must be there too."""
    events = [track(properties={"deep": [[{"a": ']"}'}]]}) for _ in range(3)]
    first = orjson.dumps(events[0]).replace(b":", b" : ")
    rest = b" ,\n".join(map(orjson.dumps, events[1:]))
    body = b" [ " + first + b" ,\n" + rest + b" ] "
    refused(receiver.post("webhook", body, x_signature=sign(rest)), 401, "invalid_signature")
    for headers in ({}, basic("wrong"), {"authorization": f"Bearer {KEY}"}):
        answer = receiver.post("webhook", body, key=None, x_signature=sign(first), **headers)
        refused(answer, 401, "invalid_write_key")
    refused(
        receiver.post("webhook?key=wrong", body, key=None, x_signature=sign(first)),
        401,
        "invalid_write_key",
    )
    receiver.send("webhook", body, x_signature=sign(first))
    receiver.send(f"webhook?key={KEY}", body, key=None, x_signature=sign(first))
    receiver.records(*(event["messageId"] for event in events))
    refused(receiver.post("webhook", b"[]", x_signature=sign(b"")), 401, "invalid_signature")


def test_a_batch_of_a_webhook_that_is_signed_whole(receiver: Daemon) -> None:
    """That says more than a key does, so none is needed."""
    events = [track() for _ in range(3)]
    body = orjson.dumps(events)
    receiver.send("webhook", body, key=None, x_signature=sign(body))
    receiver.records(*(event["messageId"] for event in events))
    longer = orjson.dumps([*events, track()])
    answer = receiver.post("webhook", longer, x_signature=sign(body))
    refused(answer, 401, "invalid_signature")


def test_a_webhook_of_as_many_events_as_segment_sends(receiver: Daemon) -> None:
    """4,000 events and 8 MB, if the caller has a key; without, as from anybody else."""
    user = unique("user")
    pad = {"text": "x" * 1800}
    events = [
        {"type": "track", "userId": user, "event": "E", "messageId": unique(), "properties": pad}
        for _ in range(4001)
    ]
    first, most = orjson.dumps(events[0]), orjson.dumps(events[:4000])
    assert 7_500_000 < len(most) < 8 * 1024 * 1024
    refused(receiver.post("webhook", events, x_signature=sign(first)), 413, "too_large")
    padding = b" " * (8 * 1024 * 1024 - len(most))
    answer = receiver.post("webhook", most + padding + b" ", x_signature=sign(first))
    refused(answer, 413, "too_large")
    answer = receiver.post("webhook", most, key=None, x_signature=sign(most))
    refused(answer, 413, "too_large")
    receiver.send(f"webhook?key={KEY}", most + padding, key=None, x_signature=sign(first))
    assert len(receiver.by_customer(user)) == 4000
    receiver.send("webhook", most, zipped=True, x_signature=sign(first))


def test_large_webhooks_keep_nobody_waiting(receiver: Daemon) -> None:
    """They are unzipped, checked and read beside the loop that takes calls."""
    events = [track(properties={"text": "x" * 1000}) for _ in range(4000)]
    body = gzip.compress(orjson.dumps(events), 1)
    first, longest, over = orjson.dumps(events[0]), 0.0, threading.Event()

    def send() -> None:
        with httpx.Client(trust_env=False, timeout=30) as client:
            for _ in range(3):
                client.post(
                    f"{receiver.url}/v1/webhook?key={KEY}",
                    content=body,
                    headers={"x-signature": sign(first), "content-encoding": "gzip"},
                )
        over.set()

    sender = threading.Thread(target=send)
    sender.start()
    while not over.is_set():
        began = time.perf_counter()
        refused(receiver.post("track", {}, key=None), 401, "invalid_write_key")
        longest = max(longest, time.perf_counter() - began)
    sender.join()
    assert longest < 0.25
    receiver.settle()


def test_segments_own_webhook_events(receiver: Daemon) -> None:
    """The documents' samples, with a user of this test."""
    user = unique("user")
    for event in PAYLOADS["webhook_classic_events"]:
        if event["type"] == "delete":
            continue
        body = orjson.dumps(event | ({"userId": user} if "userId" in event else {}))
        receiver.send("webhook", body, key=None, x_signature=sign(body))
    records = receiver.by_customer(user)
    assert sorted(record["meterApiName"] for record in records) == [
        "Purchased an Item",
        "page",
        "screen",
    ]
    assert {record["meterTimeInMillis"] for record in records} == {1354408208276}
    assert receiver.customer(user) == {
        "customerName": "Achilles",
        "customerEmail": "achilles@segment.com",
        "traits": {"subscriptionPlan": "Premium", "friendCount": 29},
    }


# What a call becomes


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
    found = receiver.customer(user)
    assert orjson.dumps(found["traits"], option=orjson.OPT_SORT_KEYS) == orjson.dumps(
        wanted["traits"], option=orjson.OPT_SORT_KEYS
    )
    assert (found["customerName"], found["customerEmail"]) == (
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
    found = {record["meterApiName"]: record for record in receiver.by_customer(user)}
    assert found.keys() == {"Item Purchased", "page", "screen"}
    assert found["Item Purchased"]["dimensions"] == {
        "name": "Leap to Conclusions Mat",
        "revenue": "14.99",
    }
    assert found["page"]["dimensions"] == {"name": "Tracking HTTP API"}
    assert found["page"]["meterTimeInMillis"] == 1354408289738
    songs = receiver.by_customer(other)
    assert [song["meterTimeInMillis"] for song in songs] == [1354408212984, 1422837012984]
    assert receiver.customer(user)["traits"] == {"industry": "Technology"}
    assert receiver.customer(other)["customerName"] == "Cindy Gonzalez"
    assert receiver.customer(other)["traits"] == {"age": 23}


def test_the_clients_clock_is_corrected(receiver: Daemon) -> None:
    """`receivedAt - (sentAt - timestamp)`: a clock that is ten minutes off does no harm."""
    one, two, three = track(), track(), track()
    for event, minutes in ((one, 10), (two, -10)):
        sent = time.time() + minutes * 60
        event["timestamp"] = written(sent - 5)
        event["sentAt"] = written(sent)
    now = time.time() * 1000
    receiver.send("track", one)
    receiver.send("batch", {"batch": [{**two, "sentAt": None}], "sentAt": two["sentAt"]})
    receiver.send("track", three)
    found = [
        record["meterTimeInMillis"]
        for record in receiver.records(*(event["messageId"] for event in (one, two, three)))
    ]
    assert now - 5001 <= found[0] <= now
    assert now - 5001 <= found[1] <= now
    assert now - 1 <= found[2] <= time.time() * 1000


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
    found = [record["meterTimeInMillis"] for record in receiver.records(*names)]
    assert all(began <= at <= time.time() * 1000 for at in found[: len(wrong)])
    assert found[len(wrong) :] == [1769481000000] * len(right)


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
    found = [one["meterValue"] for one in receiver.by_customer(user) if one["uniqueId"] == name]
    assert sorted(found) == [1, 7, 8]
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
            found = [one for one in failures if mark in one["request"]]
            assert [one["reason"] for one in found] == [expected["reason"]], text
            assert found[0]["kind"] == "meter"
            assert mark not in records, text
            json.loads(found[0]["request"])
            continue
        assert not [one for one in failures if mark in one["request"]], text
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


# Customers


def test_an_identify_is_merged_into_what_is_there(receiver: Daemon) -> None:
    user = unique("user")
    receiver.installation.amberflo.customers[user] = {
        "customerId": user,
        "customerName": "before us",
        "customerEmail": "before@example.com",
        "description": "kept",
        "traits": {"stripeId": "cus_1", "plan": "old", "awsm.customerIdentifier": "a/b|c"},
    }
    receiver.send("identify", {"userId": user, "traits": {"plan": "pro", "seats": 5}})
    found = receiver.customer(user)
    foreign = {"stripeId": "cus_1", "awsm.customerIdentifier": "a/b|c"}
    assert found == {
        "customerName": "before us",
        "customerEmail": "before@example.com",
        "traits": foreign | {"plan": "pro", "seats": 5},
    }
    traits = {
        "name": "Ada Lovelace",
        "email": "ada@example.com",
        "seats": None,
        "ratio": 0.5,
        "active": True,
        "tags": ["a/b", 1],
        "address": {"city": "London", "geo": {"lat": 51.5}},
        "site": "https://example.com|x",
    }
    receiver.send("identify", {"userId": user, "traits": traits})
    assert receiver.customer(user) == {
        "customerName": "Ada Lovelace",
        "customerEmail": "ada@example.com",
        "traits": foreign
        | {
            "plan": "pro",
            "ratio": 0.5,
            "active": True,
            "tags": ["a_b", 1],
            "address_city": "London",
            "address_geo_lat": 51.5,
            "site": "https:__example.com_x",
        },
    }
    assert receiver.installation.amberflo.customers[user]["description"] == "kept"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("together", [True, False])
def test_the_newest_identify_wins_whenever_it_arrives(
    receiver: Daemon, order: tuple[int, int], together: bool
) -> None:
    user = unique("user")
    events = [
        {
            "type": "identify",
            "userId": user,
            "timestamp": ago(2),
            "traits": {"name": "Old", "email": "old@example.com", "plan": "free", "only_old": 1},
        },
        {
            "type": "identify",
            "userId": user,
            "timestamp": ago(1),
            "traits": {"name": "New", "plan": "pro", "only_new": 2},
        },
    ]
    if together:
        receiver.batch(*(events[number] for number in order))
    else:
        for number in order:
            receiver.batch(events[number])
            receiver.settle()
    assert receiver.customer(user) == {
        "customerName": "New",
        "customerEmail": "old@example.com",
        "traits": {"plan": "pro", "only_old": 1, "only_new": 2},
    }


@pytest.mark.parametrize(
    "traits",
    [
        {"company": ""},
        {"company": "  "},
        {"tags": []},
        {"tags": [None, "a"]},
        {"tags": [["a"], {"b": 1}]},
        {"address": {}},
        {"": "x", " ": "y"},
        {"name": "", "email": " "},
        {"name": 5, "email": ["x"]},
        {"name": {"first": "Ada"}},
        {"a": float("nan"), "b": 10**30, "c": 1e300},
        {"a": "\ud800", "\ud800": "b", "c": "x\0y"},
        {"id": "7", "createTime": 1, "customerId": "x"},
        {"text": "x" * 20_000},
    ],
    ids=str,
)
def test_no_trait_keeps_a_customer_from_amberflo(receiver: Daemon, traits: Json) -> None:
    user = unique("user")
    body = json.dumps({"userId": user, "traits": traits | {"plan": "pro"}}).encode()
    receiver.send("identify", body)
    assert receiver.failures(user) == []
    found = receiver.customer(user)
    assert found["traits"]["plan"] == "pro"
    assert found["customerName"]


def test_a_phone_in_the_future_does_not_win_for_ever(receiver: Daemon) -> None:
    user = unique("user")
    for at, name, plan in (("2569-11-27T02:30:00Z", "Old", "free"), (None, "New", "pro")):
        traits = {"name": name, "plan": plan}
        receiver.send("identify", {"userId": user, "timestamp": at, "traits": traits})
        receiver.settle()
    found = receiver.customer(user)
    assert (found["customerName"], found["traits"]) == ("New", {"plan": "pro"})


def test_what_an_identify_changes_is_in_the_audit(receiver: Daemon) -> None:
    user = unique("user")
    for plan in ("free", "pro"):
        receiver.send("identify", {"userId": user, "traits": {"name": "Ada", "plan": plan}})
        receiver.settle()
    audited = receiver.installation.json("audit", "customer", user)
    assert audited["present"] == {}  # of Engage
    told = [(one["trait"], one["key"], one["before"], one["after"]) for one in audited["changes"]]
    assert told == [
        ("customerName", "name", None, "Ada"),
        ("plan", "plan", None, "free"),
        ("plan", "plan", "free", "pro"),
    ]
    assert all(one["run"] is None and one["delivered_at"] for one in audited["changes"])


def test_an_identify_that_says_nothing_new_is_not_sent(receiver: Daemon) -> None:
    user = unique("user")
    event = {"userId": user, "traits": {"name": "Ada", "plan": "pro"}}
    for _ in range(3):
        receiver.send("identify", event | {"messageId": unique()})
        receiver.settle()
    assert receiver.installation.puts()[user] == 1


def test_a_delete_is_honoured(receiver: Daemon) -> None:
    """Segment's GDPR call: what calls have said of the customer is gone; what others put there
    stays. It comes by a webhook only."""
    user = unique("user")
    receiver.installation.amberflo.customers[user] = {
        "customerId": user,
        "customerName": user,
        "traits": {"stripeId": "cus_1"},
    }
    traits = {"name": "Ada", "email": "ada@example.com", "phone": "555-0100"}
    receiver.send("identify", {"userId": user, "traits": traits})
    assert receiver.customer(user)["traits"] == {"stripeId": "cus_1", "phone": "555-0100"}
    body = orjson.dumps({"type": "delete", "userId": user, "timestamp": ago(0)})
    receiver.send("webhook", body, key=None, x_signature=sign(body))
    assert receiver.customer(user) == {
        "customerName": user,
        "customerEmail": None,
        "traits": {"stripeId": "cus_1"},
    }
    unknown = unique("user")
    body = orjson.dumps({"type": "delete", "userId": unknown})
    receiver.send("webhook", body, key=None, x_signature=sign(body))
    receiver.settle()
    assert unknown not in receiver.installation.amberflo.customers
    refused(receiver.post("webhook", body, x_signature=sign(b"x")), 401, "invalid_signature")


# Engage in realtime


def test_memberships_by_call_and_by_pull(installation: Installation) -> None:
    """The newest Segment time wins, and the history says who told it."""
    with closing(Warehouse(installation.folder / "engage.db")) as profiles:
        profiles.put("ada", ago(6), vip="true", name="Ada")
        profiles.put("bob", ago(6), vip="false", name="Bob")
        url = f"sqlite:///{installation.folder / 'syncer.db'}"
        know(url, "Big Spender Club", "vip")
        know(url, "total_revenue_180_days", kind="computed_trait")
        with daemon(installation) as found:
            _memberships(found, installation, profiles)


def _memberships(found: Daemon, installation: Installation, profiles: Warehouse) -> None:
    def say(event: Json) -> None:
        body = orjson.dumps(event)
        found.send("webhook", body, key=None, x_signature=sign(body))
        found.settle()

    def present(user: str) -> Json:
        traits: Json = found.customer(user)["traits"]
        audited = installation.json("audit", "customer", user)
        assert audited["present"] == traits
        assert all(change["delivered_at"] for change in audited["changes"])
        return traits

    def last_change(user: str) -> tuple[Any, ...]:
        change = installation.json("audit", "customer", user)["changes"][-1]
        fields = ("trait", "key", "before", "after", "run", "observed_at")
        return tuple(change[name] for name in fields)

    assert found.first_run()["delivered"] == 1
    assert installation.holds().keys() == {"ada"}

    # A call is newer than the pull: it counts at once, and an older pull does not undo it.
    left = ago(4)
    say(engage_call("ada", "vip", False, left))
    assert present("ada") == {"vip": False}
    assert last_change("ada") == ("vip", "vip", True, False, None, left)
    for arguments in (["--full"], []):
        assert installation.json("sync", *arguments)["due"] == 0
    assert present("ada") == {"vip": False}
    profiles.put("ada", ago(5), vip="true", name="Ada")
    assert installation.json("sync", "--full")["due"] == 0

    # A newer pull does, and then an older call does not undo that.
    entered = ago(2)
    profiles.put("ada", entered, vip="true")
    run = installation.json("sync")
    assert run["delivered"] == 1
    assert present("ada") == {"vip": True}
    assert last_change("ada") == ("vip", "vip", False, True, run["run"], entered)
    say(engage_call("ada", "vip", False, ago(3)))
    assert present("ada") == {"vip": True}
    say(engage_call("ada", "vip", False, ago(1), kind="track"))
    assert present("ada") == {"vip": False}
    assert last_change("ada")[2:5] == (True, False, None)

    # Who was never a member is not sent for a `false`; by a call of a new user a customer is made.
    say(engage_call("bob", "vip", False, ago(1)))
    say(engage_call("carl", "vip", False, ago(1)))
    assert installation.holds().keys() == {"ada"}
    say(engage_call("carl", "Big Spender Club", True, ago(0.5), what="journey_step"))
    assert present("carl") == {"big_spender_club": True}
    assert last_change("carl")[:5] == ("big_spender_club", "Big Spender Club", None, True, None)
    assert found.customer("carl")["customerName"] == "carl"
    say(engage_call("carl", "total_revenue_180_days", 450.0, ago(0.5), what="trait"))
    assert present("carl") == {"big_spender_club": True, "total_revenue_180_days": 450.0}
    say(engage_call("carl", "total_revenue_180_days", None, ago(0.4), what="trait"))
    assert present("carl") == {"big_spender_club": True}

    # The warehouse does not know of Carl yet: that is no exit. An identify cannot set a membership.
    assert installation.json("sync", "--full")["due"] == 0
    found.send("identify", {"userId": "carl", "traits": {"big_spender_club": False, "x": 1}})
    assert found.customer("carl")["traits"] == {"big_spender_club": True, "x": 1}
    members = installation.json("audit", "audience", "Big Spender Club", "--at", ago(0))
    assert members["members"] == ["carl"]
    entered_rows = installation.json("audit", "audience", "vip")["entered"]
    assert [(row["customer_id"], row["run"] is None) for row in entered_rows] == [
        ("ada", False),
        ("ada", False),
    ]

    # What is no membership is a failure, never a meter.
    dropped = found.calls("dropped", MEMBERSHIP_WITHOUT_USER)
    wrong = [
        (engage_call("dora", "vip", "true", ago(1)), BAD_MEMBERSHIP),
        (engage_call("dora", "vip", 1, ago(1)), BAD_MEMBERSHIP),
        (engage_call("dora", "vip", True, ago(1), what="forecast"), UNKNOWN_CLASS),
    ]
    for event, _ in wrong:
        say(event)
    found.batch(engage_call("", "vip", True, ago(1)) | {"anonymousId": "a"})
    found.settle()
    assert found.calls("dropped", MEMBERSHIP_WITHOUT_USER) == dropped + 1
    assert [one["reason"] for one in found.failures("dora")] == [reason for _, reason in wrong]
    assert installation.amberflo.records == []
    assert installation.holds().keys() == {"ada", "carl"}
    assert installation.amberflo.stats()["overlapping_writes"] == 0


def test_segments_own_engage_events(receiver: Daemon) -> None:
    """The documents' and other destinations' samples, each a membership or a computed trait."""
    wanted = {
        "engage_identify_audience_exit_real_responsys": None,
        "engage_identify_audience_real_sendgrid": {"seg_audience_name_1": True},
        "engage_track_audience_entered_real_amazon_amc": {"amazon_ads_audience_6_may_24": True},
        "engage_track_audience_entered_real_livelike": {"test_audience": True},
    }
    users = {}
    for name in wanted:
        users[name] = unique("user")
        body = orjson.dumps(PAYLOADS[name] | {"userId": users[name]})
        receiver.send("webhook", body, key=None, x_signature=sign(body))
    receiver.settle()
    held = receiver.installation.holds()
    for name, traits in wanted.items():
        assert held.get(users[name], {}).get("traits") == traits, name
        assert receiver.by_customer(users[name]) == []
        assert receiver.failures(users[name]) == []


def test_a_sync_beside_the_daemon(installation: Installation) -> None:
    """A run goes on while calls of the same customers come in: it ends and its sums close, no
    customer is written by two at a time, and in the end Amberflo has what both said."""
    with closing(EngageSandbox(installation.source_url, seed=5)) as engage:
        engage.fill(250, 5)
        chosen = sorted(expected_records(engage))[:10]
        installation.amberflo.faults = Faults.parse("slow=1,slow_seconds=0.02")
        with daemon(installation) as found:
            assert found.first_run()["due"] > 200
            engage.observe()
            assert len(engage.evolve(hours=2.5, fraction=0.1).changed) > 10
            with calling(found, chosen) as rounds:
                wait_until(lambda: rounds, what="a call")
                runs_beside(installation, "sync")
                engage.observe()
                assert len(engage.evolve(hours=2.5, fraction=0.1).changed) > 10
                runs_beside(installation, "sync", "--full")
            found.settle()
            wanted = expected_records(engage)
            for user in chosen:
                wanted[user]["traits"]["round"] = len(rounds)
            assert installation.holds() == wanted
            assert installation.json("sync")["due"] == 0
            assert installation.amberflo.stats()["overlapping_writes"] == 0


@contextmanager
def calling(found: Daemon, users: list[str]) -> Iterator[list[int]]:
    """Identify calls of these users, round after round, as fast as they are delivered."""
    ended, rounds = threading.Event(), list[int]()

    def call_on() -> None:
        with httpx.Client(trust_env=False) as client:
            while not ended.is_set():
                rounds.append(len(rounds) + 1)
                events = [
                    {"type": "identify", "userId": user, "traits": {"round": rounds[-1]}}
                    for user in users
                ]
                body = {"writeKey": KEY, "batch": events}
                taken(client.post(f"{found.url}/v1/batch", json=body))
                time.sleep(0.1)

    thread = threading.Thread(target=call_on)
    thread.start()
    try:
        yield rounds
    finally:
        ended.set()
        thread.join()


def runs_beside(installation: Installation, *arguments: str) -> None:
    """A run in a process of its own ends well and its sums close."""
    process = installation.start(*arguments, "--json")
    try:
        out, said = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, out + said
    run = orjson.loads(out)
    assert run["state"] == "done"
    assert run["due"] == run["delivered"] + run["failed"] + run["held"]


# Delivery and failures


def test_one_bad_record_costs_no_other(receiver: Daemon) -> None:
    """Amberflo refuses a whole batch for one record (put into the queue past the mapping, which
    makes none that Amberflo refuses); it is found by halving."""
    names = [unique("queued") for _ in range(7)]
    bad = names[3]
    rows = []
    for name in names:
        record = {
            "uniqueId": name,
            "customerId": "u1",
            "meterApiName": "E",
            "meterValue": 1,
            "meterTimeInMillis": 1_700_000_000_000,
            "dimensions": {},
        }
        if name == bad:
            record["dimensions"] = {"path": "/home"}
        rows.append(queue.EventRow(name, orjson.dumps(record), 1, 1))
    url = f"sqlite:///{receiver.installation.folder / 'syncer.db'}"
    with closing(Database.open(url, "queue")) as database, database.write() as connection:
        queue.store_processed(connection, [], rows)
    receiver.records(*(name for name in names if name != bad))
    (failure,) = receiver.failures(bad)
    assert (failure["kind"], failure["status"], failure["message_id"]) == ("meter", 400, bad)
    assert failure["customer_id"] == "u1"
    assert "dimension 'path' must match" in failure["reason"]
    assert "dimension 'path' must match" in failure["body"]
    assert failure["request"].encode() == rows[3].record
    number = str(failure["id"])
    assert receiver.installation.json("failures", "discard", number) == {"discarded": 1}
    assert receiver.failures(bad) == []


def test_large_records_are_split_until_amberflo_takes_them(receiver: Daemon) -> None:
    """A hundred of them are more than Amberflo takes at once: 413, and in halves it gets them."""
    names = [unique() for _ in range(100)]
    dimensions = {f"d{number}": "x" * 200 for number in range(110)}
    for start in range(0, 100, 20):
        receiver.batch(
            *(track(messageId=name, properties=dimensions) for name in names[start : start + 20])
        )
    records = receiver.records(*names)
    assert all(record["dimensions"] == dimensions for record in records)


def test_refused_records_are_kept_and_retried_when_asked(receiver: Daemon) -> None:
    installation = receiver.installation
    events = [track(properties={"value": number}, userId="refused") for number in range(3)]
    receiver.settle()
    installation.amberflo.odd = {"refused": "400"}
    try:
        receiver.batch(*events, track())  # one that gets through beside them
        failures = receiver.failures(*(event["messageId"] for event in events))
        assert [one["status"] for one in failures] == [400] * 3
        assert [one["attempts"] for one in failures] == [2] * 3
        assert "answered 400: Bad Request" in failures[0]["reason"]
        numbers = [str(one["id"]) for one in failures]
    finally:
        installation.amberflo.odd = {}
    try:
        installation.amberflo.max_records = 2
        installation.json("failures", "retry", *numbers[:2])
        records = receiver.records(*(event["messageId"] for event in events[:2]))
        assert [record["meterValue"] for record in records] == [0, 1]
        (left,) = receiver.failures(*(event["messageId"] for event in events))
        assert str(left["id"]) == numbers[2]
        installation.json("failures", "discard", numbers[2])
        assert receiver.failures(events[2]["messageId"]) == []
        assert events[2]["messageId"] not in str(installation.amberflo.records)
        # A repeat of what was refused and given up is a repeat still.
        receiver.batch(*events)
        receiver.records(*(event["messageId"] for event in events[:2]))
    finally:
        installation.amberflo.max_records = None


def test_a_call_that_cannot_be_taken_is_not_lost_by_a_retry(receiver: Daemon) -> None:
    event = track(properties={"value": "abc"})
    receiver.batch(event)
    (failure,) = receiver.failures(event["messageId"])
    assert orjson.loads(failure["request"]) == event
    number = str(failure["id"])
    receiver.installation.run("failures", "retry", number, exit_code=1)
    (kept,) = receiver.failures(event["messageId"])
    assert kept["reason"] == BAD_VALUE
    receiver.installation.run("failures", "discard", str(kept["id"]))
    assert receiver.failures(event["messageId"]) == []


def test_a_failing_amberflo_loses_and_doubles_nothing(receiver: Daemon) -> None:
    installation = receiver.installation
    faults = "429=0.1,500=0.1,503=0.1,drop=0.2,slow=0.1,slow_seconds=0.05,retry_after=0"
    installation.amberflo.faults = Faults.parse(faults, seed=4)
    users = [unique("user") for _ in range(10)]
    try:
        events = [track(userId=user, properties={"n": n}) for n in range(20) for user in users]
        for start in range(0, 200, 10):
            receiver.batch(*events[start : start + 10])
        receiver.batch(
            *({"type": "identify", "userId": user, "traits": {"x": user}} for user in users)
        )
        time.sleep(0.5)
    finally:
        installation.amberflo.faults = Faults()
    records = receiver.records(*(event["messageId"] for event in events))
    assert [record["customerId"] for record in records] == users * 20
    assert all(receiver.customer(user)["traits"] == {"x": user} for user in users)
    assert installation.amberflo.stats()["overlapping_writes"] == 0


def test_more_bad_events_than_one_statement_has_room_for(tmp_path: Path) -> None:
    """Small requests, many events, each a failure; SQLite as it is built by default takes 32,766
    values in a statement, PostgreSQL 65,535."""
    with closing(Workbench(tmp_path)) as bench:

        def as_by_default(connection: sqlite3.Connection, _record: object) -> None:
            connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 32_766)

        engine_event.listen(bench.state.engine, "connect", as_by_default)
        bench.state.close()
        body = orjson.dumps({"batch": [{}] * 2500})
        with bench.calls.write() as connection:  # as one commit may take them in
            queue.accept(connection, [queue.Accepted("batch", body, 2500, 1)] * 14)
        while bench.processor.process():
            pass
        with bench.state.write() as connection:
            found = failures.find(connection)
            assert len(found) == failures.CALLS
            assert failures.remove(connection, [row["id"] for row in found]) == len(found)


def test_answers_come_at_once(receiver: Daemon) -> None:
    """Also on a connection that stays open: no part of an answer waits for the client's next
    acknowledgement (40 ms)."""
    times = []
    for _ in range(25):
        began = time.perf_counter()
        receiver.send("track", track())
        times.append(time.perf_counter() - began)
    assert sorted(times)[12] < 0.025


# Start and end


def test_what_is_under_way_at_the_end_is_answered_and_taken_up_again(
    installation: Installation,
) -> None:
    installation.amberflo.faults = Faults.parse("503=1")
    waiting, late = track(), track()
    with daemon(installation) as found:
        assert "another daemon is running on this state" in fails_to_start(installation, 1)
        found.send("track", waiting)
        body = orjson.dumps(late | {"writeKey": KEY})
        with closing(connect(found.address)) as connection:
            connection.sendall(head_of(body) + body[:20])
            wait_until(lambda: found.metrics())
            found.process.send_signal(signal.SIGTERM)
            wait_until(lambda: not listens(found.address), 5, what="the end of listening")
            connection.sendall(body[20:])
            assert answer_of(connection) == (b"HTTP/1.1 200 OK", GOOD)
    assert installation.amberflo.records == []
    installation.amberflo.faults = Faults()
    with daemon(installation) as found:
        found.records(waiting["messageId"], late["messageId"])
        keeps_no_secret(found)


def test_every_line_of_the_log_is_json_where_that_is_wanted(installation: Installation) -> None:
    """Also of what the server under us says, and at the end with a request that never ends."""
    with daemon(installation, more='[log]\nformat = "json"') as found:
        with closing(connect(found.address)) as connection:
            connection.sendall(b"GARBAGE\r\n\r\n")
            assert b"400 Bad Request" in connection.recv(1000)
        with closing(connect(found.address)) as connection:
            connection.settimeout(20)
            connection.sendall(head_of(b"x" * 100) + b"{")
            wait_until(lambda: found.metrics())
            found.process.send_signal(signal.SIGTERM)
            assert b"503 Service Unavailable" in connection.recv(1000)
    lines = [json.loads(line) for line in found.log]
    assert {line["level"] for line in lines} <= {"info", "warning", "error"}
    assert [line["message"] for line in lines[-2:]] == ["stopping", "stopped"]


def fails_to_start(installation: Installation, status: int) -> str:
    """A daemon ends at once, with one clear line."""
    process = installation.start("daemon")
    try:
        _, said = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == status, said
    assert "Traceback" not in said
    (error,) = [line for line in said.splitlines() if line.startswith("error: ")]
    return error


def connect(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, timeout=10)


def head_of(body: bytes) -> bytes:
    return b"POST /v1/track HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)


def answer_of(connection: socket.socket) -> tuple[bytes, bytes]:
    """The first line and the body of an answer."""
    read = b""
    while not read.endswith(GOOD):
        chunk = connection.recv(10_000)
        assert chunk, read
        read += chunk
    head, _, body = read.partition(b"\r\n\r\n")
    return head.partition(b"\r\n")[0], body


def listens(address: tuple[str, int]) -> bool:
    try:
        connect(address).close()
    except ConnectionRefusedError:
        return False
    return True


def test_an_address_that_is_taken(installation: Installation) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        installation.configure(more=f'[passthrough]\nlisten = "{address}"\n')
        said = fails_to_start(installation, 2)
    assert f"error: passthrough.listen: cannot listen on {address}" in said


def test_on_postgresql(installation: Installation, postgres_url: str) -> None:
    """The state and the queue on PostgreSQL; many bad events at once are not too many for it."""
    know(postgres_url, "vip")
    with daemon(installation, state=postgres_url) as found:
        user, name = unique("user"), unique()
        with stopped_worker(found):
            for _ in range(4):
                found.send("batch", {"batch": [{"type": "page"}] * 2500})
        found.batch(
            track(messageId=name, userId=user),
            track(messageId=name, userId=user),
            {"type": "identify", "userId": user, "traits": {"name": "Ada", "plan": "pro"}},
            engage_call(user, "vip", True, ago(1)),
            track(messageId=name + "x", userId=user, properties={"a": "x\0y", "value": "abc"}),
        )
        assert found.records(name)[0]["customerId"] == user
        assert found.customer(user) == {
            "customerName": "Ada",
            "customerEmail": None,
            "traits": {"plan": "pro", "vip": True},
        }
        assert found.calls("repeated") == 1
        assert found.metrics()["syncer_failures"] == failures.CALLS
        assert found.calls("failure", "let go") == 1
        audited = installation.json("audit", "customer", user)
        keys = [(change["key"], change["run"]) for change in audited["changes"]]
        assert keys == [("name", None), ("plan", None), ("vip", None)]


# Secrets


def test_no_secret_is_kept_or_told(receiver: Daemon) -> None:
    """However a key is given: no file of the state has it, no answer, no log."""
    written_keys = [
        f'"writeKey":"{KEY}"',
        f'"writeKey"\n:\t"{KEY}"',
        f'"writeKey":"\\u0077{KEY[1:]}"',
        f'"writeKey":"{KEY}","context":{{"writeKey":"{KEY}","a":[{{"writeKey": "{KEY}"}}]}}',
    ]
    with stopped_worker(receiver):
        for text in written_keys:
            name = unique()
            event = f'{{"userId":"u1","type":"track","event":"E","messageId":"{name}",{text}}}'
            batch = f'{{"batch":[{event.replace("userId", "user")},{event}],{text}}}'
            receiver.send("track", event.encode(), key=None)
            receiver.send("batch", batch.encode(), key=None)
            first = event.encode()
            receiver.send(
                f"webhook?key={KEY}", b"[" + first + b"]", key=None, x_signature=sign(first)
            )
        keeps_no_secret(receiver)
        rows = inbox_of(receiver)
        assert len(rows) == 3 * len(written_keys)
        assert [row.body for row in rows if holds_secret(row.body)] == []
    receiver.settle()
    keeps_no_secret(receiver)
    assert not holds_secret(orjson.dumps(receiver.installation.json("failures")))
    assert not holds_secret(receiver.client.get(f"{receiver.url}/metrics").content)
    for body in (b"{", f'{{"writeKey":"{KEY}"'.encode(), orjson.dumps({"writeKey": KEY})):
        answer = receiver.post("track", body)
        assert answer.status_code == 400
        assert not holds_secret(answer.content)


# Anything at all


TEXT = st.text(st.characters(exclude_categories=()), max_size=8)
SCALAR = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | TEXT
    | st.sampled_from(["", " ", "1970-01-01T00:00:00Z", "2100-01-01", "NaN", "2.5", "\0", "a/b|c"])
)
ANYTHING = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
)
DATA = st.dictionaries(TEXT | st.sampled_from(["value", "vip", "name", "a"]), ANYTHING, max_size=4)
GOOD_EVENT = {
    "type": st.sampled_from(["track", "page", "screen", "identify", "group", "alias", "delete"]),
    "userId": st.sampled_from(["u1", "u2", "ü3", 7]),
    "event": st.just("E") | TEXT,
}
ENGAGE = [
    {"personas": {"computation_class": kind, "computation_key": key}}
    for kind, key in (("audience", "vip"), ("trait", "value"), ("journey_step", "a"))
]
MORE = {
    "anonymousId": st.just("a1"),
    "name": TEXT,
    "messageId": TEXT,
    "properties": DATA,
    "traits": DATA,
    "timestamp": st.sampled_from([SEED_TIME, "2015-2-02T00:30:08.276Z", 1, "x"]),
    "integrations": st.sampled_from([{}, {"All": False}]),
    "context": st.sampled_from([{}, {}, *ENGAGE]),
}
EVENT = st.fixed_dictionaries(GOOD_EVENT, optional=MORE) | st.fixed_dictionaries(
    {}, optional={name: good | ANYTHING for name, good in (GOOD_EVENT | MORE).items()}
)
OF_BATCH = {"context": ANYTHING, "sentAt": ANYTHING, "integrations": ANYTHING}
BODIES: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(SINGLE, EVENT),
    **dict.fromkeys(
        BATCH,
        st.fixed_dictionaries({"batch": st.lists(EVENT, max_size=4)}, optional=OF_BATCH),
    ),
    "webhook": EVENT | st.lists(EVENT, max_size=4),
    "m": ANYTHING,
}
REQUEST = st.sampled_from(sorted(BODIES)).flatmap(
    lambda route: st.tuples(
        st.just(route), BODIES[route] | BODIES[route] | ANYTHING | st.binary(max_size=60)
    )
)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "authorization": st.binary(max_size=20).map(lambda text: b"Basic " + text),
        "content-encoding": st.sampled_from([b"gzip", b"br", b"identity", b"\xff"]),
        "x-signature": st.binary(max_size=45),
    },
)
DOCUMENTED = {
    "POST": {200, 400, 401, 403, 413, 415, 429, 503},
    "OPTIONS": {204},
    "GET": {405},
}


class Workbench:
    """The receiver's app, its inbox and the processor on real databases, in this process."""

    def __init__(self, folder: Path) -> None:
        url = f"sqlite:///{folder / 'syncer.db'}"
        self.calls, self.state = Database.open(url, "queue"), Database.open(url)
        self.inbox = Inbox(self.calls, 10**9)
        self.inbox.start()
        self.app = Receiver(self.inbox, (Caller("key", frozenset(SCOPES), KEY),), SECRET).app()
        self.processor = Processor(self.calls, self.state, ["*"], ["value"])

    def request(self, method: str, path: str, content: bytes, headers: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
                return await client.request(method, path, content=content, headers=headers)

        return asyncio.run(ask())

    def close(self) -> None:
        self.inbox.stop()
        self.calls.close()
        self.state.close()


def test_whatever_comes_has_a_documented_answer_and_no_harm(tmp_path: Path) -> None:
    """Any bytes and any JSON, to any route; what was taken can be sorted, and Amberflo takes what
    comes of it."""
    with closing(Workbench(tmp_path)) as bench:

        @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
        @given(
            REQUEST,
            HEADERS | st.just({}),
            st.sampled_from([True, True, False]),
            st.sampled_from(["POST"] * 10 + ["OPTIONS", "GET"]),
        )
        @example(("track", track()), {}, True, "POST")
        @example(("identify", {"userId": "u1", "traits": {"a": 1}}), {}, True, "POST")
        @example(("track", b"[" * 100_000), {}, False, "POST")
        @example(("batch", {"batch": [{"userId": 10**400}]}), {}, True, "POST")
        @example(("webhook", b'["\\ud800"'), {"x-signature": b"0"}, False, "POST")
        def check(request: tuple[str, Any], headers: Json, good: bool, method: str) -> None:
            route, body = request
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            if good:
                headers = headers | {"authorization": basic(KEY)["authorization"].encode()}
                first = body[0] if isinstance(body, list) and body else body
                signed = content if isinstance(body, bytes) else json.dumps(first).encode()
                headers["x-signature"] = sign(signed).encode()
                if headers.get("content-encoding") == b"gzip":
                    content = gzip.compress(content, 1)
            answer = bench.request(method, f"/v1/{route}", content, headers)
            assert answer.status_code in DOCUMENTED[method], answer.text
            if method == "POST" and answer.status_code != 200:
                refused(answer, answer.status_code, answer.json()["code"])
            while bench.processor.process():
                pass

        check()
        amberflo_takes(bench)


def amberflo_takes(bench: Workbench) -> None:
    """The strict stand-in takes every record and customer that waits."""
    with bench.calls.write() as connection:
        records = queue.claim(connection, 1, 2**62, 10**6)
    with bench.state.write() as connection:
        customers = outbox.claim(connection, 1, 2**62, 10**6)
    assert records
    assert customers
    with running(AmberfloSandbox(API_KEY)) as url, httpx.Client(trust_env=False) as client:
        key = {"x-api-key": API_KEY}
        for record in records:
            answer = client.post(f"{url}/ingest", content=record.record, headers=key)
            assert answer.status_code == 200, (answer.text, record.record)
        for row in customers:
            called = orjson.loads(row.called) if row.called else {}
            said = {name: value for name, (value, _) in called.items() if value is not None}
            content = merged(
                None,
                customer_id=row.customer_id,
                traits=said | orjson.loads(row.traits),
                name=row.name,
                email=row.email,
                owned=called.keys(),
            )
            answer = client.put(f"{url}/customers", json=content, headers=key)
            assert answer.status_code == 200, (answer.text, content)
