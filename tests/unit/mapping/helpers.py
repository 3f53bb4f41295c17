"""What a call becomes at Amberflo, for the tests beside this file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson

from syncer.passthrough.call import Call, Rejected, rejected, split
from syncer.passthrough.mapping import (
    Meter,
    Outcome,
    outcome,
)
from tests.support.strategies import TRACK

PAYLOADS = json.loads((Path(__file__).parents[1] / "segment_payloads.json").read_text("utf-8"))
SEED = PAYLOADS["amberflo_official_segment_destination"]
NOW = 1_714_566_600_000


def outcomes(events: list[Any], route: str = "webhook") -> list[Outcome | Rejected]:
    body: object = events if route == "webhook" else {"batch": events}
    split_events = split(route, body, received_at=NOW, make_id=lambda: "made")
    return [mapped(event) if isinstance(event, Call) else event for event in split_events]


def mapped(call: Call) -> Outcome | Rejected:
    result = outcome(call)
    return rejected(result, call.source, call.message_id) if isinstance(result, str) else result


def become(event: Any, route: str = "webhook") -> Outcome | Rejected:
    (result,) = outcomes([event], route)
    return result


def record(event: dict[str, Any]) -> dict[str, Any]:
    meter = become(event)
    assert isinstance(meter, Meter), meter
    read = orjson.loads(meter.record)
    assert (read["uniqueId"], read["customerId"]) == (meter.message_id, meter.customer_id)
    assert isinstance(read, dict)
    return read


def dimensions(**properties: Any) -> dict[str, str]:
    by_name: dict[str, str] = record(TRACK | {"properties": properties})["dimensions"]
    return by_name


def reason(event: Any) -> str:
    rejection = become(event)
    assert isinstance(rejection, Rejected), rejection
    return rejection.reason
