"""What the SDKs of Segment are asked for, and what must come of it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon

NODE = Path(__file__).parents[1] / "node"
#: Milliseconds that a call may be on its way: the receiver takes them for an error of the clock.
ON_ITS_WAY = 5000

Json = dict[str, Any]


def check(receiver: Daemon, made: list[tuple[Json, Json]]) -> None:
    """Each call, as its SDK made it, has its record and no other; beside it stands what of the
    record is not the call's own."""
    records = receiver.records(*(event["messageId"] for event, _ in made))
    assert len(records) == len(made)
    for record, (event, wanted) in zip(records, made, strict=True):
        at = datetime.fromisoformat(event["timestamp"]).timestamp() * 1000
        assert at - 1 <= record.pop("meterTimeInMillis") <= at + ON_ITS_WAY
        fields = {
            "uniqueId": event["messageId"],
            "customerId": event.get("userId") or event["anonymousId"],
            "meterValue": 1.0,
            "dimensions": {},
        }
        assert record == fields | wanted


# What the SDKs of a server are asked for, and what must come of it


def calls_of(user: str) -> list[tuple[str, Json, Json | None]]:
    """(kind, call, what its record must have; None for what is no meter)."""
    return [
        ("identify", {"userId": user, "traits": {"name": "Ada", "plan": "pro", "seats": 5}}, None),
        (
            "track",
            {"userId": user, "event": "ApiCalls", "properties": {"value": 2.5, "region": "us|a/b"}},
            {"meterApiName": "ApiCalls", "meterValue": 2.5, "dimensions": {"region": "us_a_b"}},
        ),
        (
            "track",
            {"userId": user, "event": "Ünï 🦊", "properties": {"n": 5, "b": True, "o": {"x": 1}}},
            {"meterApiName": "Ünï 🦊", "dimensions": {"n": "5", "b": "true", "o_x": "1"}},
        ),
        (
            "page",
            {"userId": user, "name": "Home", "properties": {"title": "Welcome | Initech"}},
            {"meterApiName": "page", "dimensions": {"name": "Home", "title": "Welcome _ Initech"}},
        ),
        (
            "screen",
            {"anonymousId": f"{user}-anonymous", "name": "Start"},
            {"meterApiName": "screen", "dimensions": {"name": "Start"}},
        ),
        ("group", {"userId": user, "groupId": "g1", "traits": {"name": "Initech"}}, None),
        ("alias", {"userId": user, "previousId": "before"}, None),
        (
            "track",
            {"userId": user, "event": "Elsewhere", "integrations": {"All": False}},
            None,
        ),
        (
            "identify",
            {"userId": user, "traits": {"email": "ada@example.com", "trial": False}},
            None,
        ),
    ]


def check_customer(receiver: Daemon, user: str, meters: int) -> None:
    assert receiver.customer(user) == {
        "customerName": "Ada",
        "customerEmail": "ada@example.com",
        "traits": {"plan": "pro", "seats": 5, "trial": False},
    }
    mine = [
        record
        for customer in (user, f"{user}-anonymous")
        for record in receiver.by_customer(customer)
    ]
    assert len(mine) == meters


# analytics-node


def node_modules() -> Path:
    path = NODE / "node_modules" / "@segment"
    if not path.is_dir():
        pytest.skip("npm packages are missing: npm ci --prefix tests/e2e/node")
    return path
