"""Segment's SDKs for servers, and plain HTTP, against the receiver: each call is at Amberflo once,
as it was made."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import pytest
from segment.analytics import request as segment_request
from segment.analytics.client import Client

from tests.e2e.sdks.helpers import NODE, Json, calls_of, check, check_customer, node_modules
from tests.support.daemon import GOOD, KEY, Daemon
from tests.support.events import unique

# analytics-python


@contextmanager
def python_sdk(receiver: Daemon, **options: Any) -> Iterator[Client]:
    errors: list[Any] = []
    client = Client(
        KEY,
        host=receiver.url,
        on_error=lambda error, _: errors.append(error),
        upload_interval=0.1,
        **options,
    )
    try:
        yield client
        if not client.sync_mode:
            client.shutdown()
        assert errors == []
    finally:
        segment_request._session.close()


PYTHON_NAMES = {
    "userId": "user_id",
    "anonymousId": "anonymous_id",
    "groupId": "group_id",
    "previousId": "previous_id",
}


@pytest.mark.parametrize("options", [{}, {"gzip": True}, {"sync_mode": True}], ids=str)
def test_analytics_python(receiver: Daemon, options: Json) -> None:
    user = unique("python")
    made: list[tuple[Json, Json]] = []
    with python_sdk(receiver, **options) as client:
        for kind, call, wanted in calls_of(user):
            named = {PYTHON_NAMES.get(name, name): value for name, value in call.items()}
            _, event = getattr(client, kind)(**named)
            if wanted is not None:
                made.append((event, wanted))
    check(receiver, made)
    check_customer(receiver, user, len(made))


def test_analytics_python_in_bulk(receiver: Daemon) -> None:
    """More than one batch, and what its JSON writer makes of Python's values."""
    user = unique("python")
    made: list[tuple[Json, Json]] = []
    moment = datetime(2026, 11, 24, 6, 51, 4, 123000, tzinfo=UTC)
    odd = {"at": moment, "price": Decimal("1.5"), "nan": float("nan"), "tags": ["a", "b"]}
    with python_sdk(receiver) as client:
        for number in range(250):
            _, event = client.track(user, "Bulk", {"value": number})
            made.append((event, {"meterApiName": "Bulk", "meterValue": number}))
        _, event = client.track(user, "Odd", odd, timestamp=datetime.now(UTC))
        dimensions = {"at": "2026-11-24T06:51:04.123000+00:00", "price": "1.5", "tags": "a,b"}
        made.append((event, {"meterApiName": "Odd", "dimensions": dimensions}))
        client.track(user, "Nothing", {"value": float("inf")})
    check(receiver, made)
    assert len(receiver.by_customer(user)) == len(made)
    (failure,) = receiver.failures(user)
    assert failure["reason"] == "value is not a finite number"


def test_analytics_python_with_a_wrong_key_gives_up_at_once(receiver: Daemon) -> None:
    errors: list[Any] = []
    client = Client(
        "wrong",
        host=receiver.url,
        on_error=lambda error, _: errors.append(error),
        upload_interval=0.05,
    )
    client.track("u1", "Never")
    client.shutdown()
    segment_request._session.close()
    (error,) = errors
    assert (error.status, error.code) == (401, "invalid_write_key")


def test_analytics_node(receiver: Daemon) -> None:
    node_modules()
    node = shutil.which("node")
    if node is None:
        pytest.skip("analytics-node: there is no node on this machine")
    user = unique("node")
    calls = calls_of(user)
    environment = {
        **os.environ,
        "RECEIVER": receiver.url,
        "WRITE_KEY": KEY,
        "CALLS": json.dumps([(kind, call) for kind, call, _ in calls]),
    }
    done = subprocess.run(
        [node, "calls.mjs"], cwd=NODE, env=environment, capture_output=True, timeout=30
    )
    assert done.returncode == 0, done.stderr.decode()
    events = json.loads(done.stdout)
    assert len(events) == len(calls)
    made = [
        (the_one(events, kind, call), wanted) for kind, call, wanted in calls if wanted is not None
    ]
    check(receiver, made)
    check_customer(receiver, user, len(made))


def the_one(events: list[Json], kind: str, call: Json) -> Json:
    """The event that an SDK made of a call."""
    (match,) = [
        event
        for event in events
        if event["type"] == kind and call.items() <= {**event, **event.get("context", {})}.items()
    ]
    return match


# Plain HTTP


def test_plain_http(receiver: Daemon) -> None:
    """As with `curl -u KEY: -d '…' URL`."""
    user, first, second = unique("curl"), unique(), unique()
    body = {
        "track": f'{{"userId": "{user}", "event": "ApiCalls", "messageId": "{first}", '
        '"properties": {"value": 2.0, "region": "us-west-2"}, '
        '"timestamp": "2026-11-24T06:51:04.123Z"}',
        "page": f'{{"userId": "{user}", "name": "Home", "messageId": "{second}", '
        '"timestamp": "2026-11-24T06:51:05Z"}',
        "identify": f'{{"userId": "{user}", "traits": {{"name": "Ada", "plan": "pro"}}}}',
    }
    form = {"content-type": "application/x-www-form-urlencoded"}  # what curl -d says
    for route, text in body.items():
        answer = httpx.post(
            f"{receiver.url}/v1/{route}",
            content=text,
            auth=(KEY, ""),
            headers=form,
            trust_env=False,
        )
        assert (answer.status_code, answer.content) == (200, GOOD)
    assert receiver.records(first, second) == [
        {
            "uniqueId": first,
            "customerId": user,
            "meterApiName": "ApiCalls",
            "meterValue": 2.0,
            "meterTimeInMillis": 1795503064123,
            "dimensions": {"region": "us-west-2"},
        },
        {
            "uniqueId": second,
            "customerId": user,
            "meterApiName": "page",
            "meterValue": 1.0,
            "meterTimeInMillis": 1795503065000,
            "dimensions": {"name": "Home"},
        },
    ]
    assert receiver.customer(user)["traits"] == {"plan": "pro"}
