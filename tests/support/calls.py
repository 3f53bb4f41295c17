"""Segment calls that came in: through the real queue and the processor of an installation."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import orjson

from state import queue
from state.queue import Accepted
from syncer.app import App
from syncer.config import load
from syncer.progress import LineProgress

_numbers = count(1)


def told(*hours: float) -> str:
    """A time so many hours ago (or ahead, where negative), as a client writes it."""
    at = time.time() - sum(hours) * 3600
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def membership(
    customer_id: str, key: str, value: object, *, ago: float = 0.0, kind: str = "audience"
) -> dict[str, Any]:
    """A call of Engage: that somebody entered or left an audience, or has a value."""
    return {
        "type": "identify",
        "userId": customer_id,
        "timestamp": told(ago),
        "traits": {key: value},
        "context": {"personas": {"computation_class": kind, "computation_key": key}},
    }


def identify(customer_id: str, *, ago: float = 0.0, **traits: object) -> dict[str, Any]:
    """A client's call that says something of a customer."""
    return {"type": "identify", "userId": customer_id, "timestamp": told(ago), "traits": traits}


def take(config: Path, *events: dict[str, Any], received: float = 0.0) -> dict[str, int]:
    """Accept calls as of `received` hours ago and sort them; gives the counters of what became of
    them, as `outcome: reason`."""
    app = App(load(config, {}), LineProgress())
    at = int((time.time() - received * 3600) * 1000)
    with app.queue(writes=True) as calls, app.state(writes=True) as state:
        with calls.write() as connection:
            accepted = [
                Accepted(
                    "identify", orjson.dumps({"messageId": f"m-{next(_numbers)}", **event}), 1, at
                )
                for event in events
            ]
            queue.accept(connection, accepted)
        processor = app.processor(calls, state)
        while processor.process():
            pass
        with calls.read() as connection:
            counters = queue.counters(connection)
    return {": ".join(filter(None, (str(part) for part in key))): n for key, n in counters.items()}
