"""What the receiver refuses, and its limits."""

from __future__ import annotations

import gzip
import json
import time
import zlib
from itertools import pairwise
from pathlib import Path

import orjson
import pytest

from syncer.passthrough.call import (
    BAD_MESSAGE_ID,
    TOO_LARGE,
)
from syncer.sandbox.faults import Faults
from tests.e2e.receiver.helpers import Json
from tests.support.daemon import KEY, Daemon, daemon, refused, taken
from tests.support.events import sign, track, unique
from tests.support.installation import Installation
from tests.support.processes import wait_until

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
    paths = ["/", "/v1", "/v1/nothing", "/v2/track", "/v1/track/x", "/docs", "/openapi.yaml"]
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
    ids = [event["messageId"] for event in orjson.loads(body)["batch"]]
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
    # The daemon itself grows by 10 to 20 MiB meanwhile, by what it imports when it first needs it.
    # A bomb that is let in takes 200 MB.
    assert memory_peak(receiver.process.pid) - before < 64 * 1024


def memory_peak(process: int) -> int:
    """The most memory that a process had so far, in KiB."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise AssertionError("no VmHWM")


def test_a_full_queue_says_so_and_takes_again_later(installation: Installation) -> None:
    """What waits for a failing Amberflo fills the queue; when it was worked off there is room."""
    installation.amberflo.faults = Faults.parse("503=1")
    with daemon(installation, queue_limit=5, queue_share=1, webhook_secret=None) as service:
        first = [track() for _ in range(4)]
        service.batch(*first)
        answer = service.post("batch", {"batch": [track(), track()]})
        refused(answer, 429, "queue_full")
        assert int(answer.headers["retry-after"]) > 0
        last = track()
        service.send("track", last)
        for route, body in (("track", track()), ("batch", {"batch": [track()]})):
            refused(service.post(route, body), 429, "queue_full")
        service.send("batch", {"batch": []})
        assert service.waiting() == 5
        installation.amberflo.faults = Faults()
        assert len(service.records(*(event["messageId"] for event in [*first, last]))) == 5
        again = track()
        wait_until(lambda: service.post("track", again).status_code == 200, 10, what="room")
        service.records(again["messageId"])

        # Without a secret there are no webhooks.
        for route in ("webhook", "webhook?key=" + KEY):
            refused(service.post(route, track()), 404, "unknown_path")
        refused(service.client.options(f"{service.url}/v1/webhook"), 404, "unknown_path")
