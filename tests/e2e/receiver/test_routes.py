"""Routes, keys and answers of the receiver: a real daemon, real HTTP in and out."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import orjson
import pytest

from syncer.passthrough.call import (
    ALIAS,
    BATCH,
    GROUP,
    IDENTIFY_WITHOUT_USER,
    ROUTES,
    SINGLE,
)
from syncer.passthrough.mapping import (
    BAD_VALUE,
)
from tests.e2e.receiver.helpers import Json, Workbench, basic, inbox_of, stopped_worker
from tests.support.daemon import KEY, Daemon, holds_secret, refused, taken
from tests.support.events import track, unique
from tests.support.processes import wait_until
from tests.support.reference import OPENAPI


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
    assert [
        (record["meterApiName"], record["meterValue"], record["dimensions"]) for record in records
    ] == [
        ("A", 3, {}),
        ("page", 1.0, {"name": "B"}),
        ("screen", 1.0, {"name": "C"}),
    ]
    assert receiver.customer(user)["customerEmail"] == f"{user}@example.com"
    after = [receiver.calls("dropped", reason) for reason in reasons]
    assert after == [count + 1 for count in before]


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
    first, second = track(), track()
    with_key = {} if in_body is None else {"writeKey": in_body}
    receiver.send("track", first | with_key, key=None, zipped=zipped, **headers)
    receiver.send("batch", {"batch": [second]} | with_key, key=None, zipped=zipped, **headers)
    receiver.records(first["messageId"], second["messageId"])


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
        settings = answer.json()["integrations"]["Segment.io"]
        assert settings == {"apiKey": KEY, "apiHost": "calls.example.com/segment/v1"}
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
        "syncer_request_duration_seconds_count": 2,
        'syncer_calls_total{outcome="call",reason="track"}': 3,
        'syncer_calls_total{outcome="delivered",reason=""}': 2,
        f'syncer_calls_total{{outcome="rejected",reason="{BAD_VALUE}"}}': 1,
        "syncer_failures": 1,
    }
    assert {name: after[name] - before.get(name, 0) for name in gone} == gone
    assert after["syncer_lag_seconds"] == 0


def test_the_openapi_document_is_served_without_a_key(receiver: Daemon) -> None:
    answer = receiver.client.get(f"{receiver.url}/openapi.json")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.content == OPENAPI.read_bytes()
    refused(receiver.client.post(f"{receiver.url}/openapi.json"), 405, "unknown_method")


def test_each_path_answers_the_methods_that_the_openapi_document_names(receiver: Daemon) -> None:
    for path, operations in (
        receiver.client.get(f"{receiver.url}/openapi.json").json()["paths"].items()
    ):
        url = receiver.url + path.replace("{key}", KEY)
        methods = {name.upper() for name in operations.keys() - {"parameters"}}
        allow = receiver.client.request("PATCH", url).headers["allow"]
        assert {*allow.split(", "), "OPTIONS"} == methods, path
        if "HEAD" in methods:
            assert receiver.client.head(url).status_code == 200
        assert receiver.client.options(url).status_code == 204
