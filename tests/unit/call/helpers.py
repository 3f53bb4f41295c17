"""Calls as a body brings them, and what becomes of each."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from syncer.passthrough.call import Call, Dropped, Rejected, split

PAYLOADS = json.loads((Path(__file__).parents[1] / "segment_payloads.json").read_text("utf-8"))


def at(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


NOW = at("2024-05-01T12:30:00")


def ids() -> Callable[[], str]:
    made = iter(range(10**6))
    return lambda: f"made-{next(made)}"


def events(route: str, body: object, now: int = NOW) -> list[Call | Dropped | Rejected]:
    return split(route, body, received_at=now, make_id=ids())


def outcome_of(event: object, route: str = "batch", **common: object) -> Call | Dropped | Rejected:
    body: object = event
    if route == "batch":
        body = {"batch": [event], **common}
    (outcome,) = events(route, body)
    return outcome


def call(event: object, route: str = "batch", **common: object) -> Call:
    outcome = outcome_of(event, route, **common)
    assert isinstance(outcome, Call), outcome
    return outcome


def reason(event: object, route: str = "batch", **common: object) -> str:
    outcome = outcome_of(event, route, **common)
    assert isinstance(outcome, Rejected), outcome
    return outcome.reason


def dropped(event: object, route: str = "batch", **common: object) -> str:
    outcome = outcome_of(event, route, **common)
    assert isinstance(outcome, Dropped), outcome
    return outcome.reason
