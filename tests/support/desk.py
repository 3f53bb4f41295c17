"""Calls of an installation without its daemon: accepted and processed in this process."""

from __future__ import annotations

import json
import os
from typing import Any

from state import queue
from state.queue import Accepted
from syncer.app import App
from syncer.clock import now_ms
from syncer.config import load
from syncer.passthrough.scopes import SCOPES, SIGNED
from syncer.progress import LineProgress
from tests.support.installation import Installation


def take(installation: Installation, *events: dict[str, Any], key: str = SIGNED.name) -> None:
    """Let calls come by Segment's webhook, or by a key that may send memberships; process them,
    and those that waited until a run knew their trait."""
    app = App(load(installation.config, os.environ), LineProgress(lambda text: None))
    with app.queue(writes=True) as calls, app.state(writes=True) as state:
        accepted = [
            Accepted(
                *("webhook", json.dumps(event).encode(), 1, now_ms(), key),
                ",".join(sorted(SCOPES)),
            )
            for event in events
        ]
        if accepted:
            with calls.write() as connection:
                queue.accept(connection, accepted)
        processor = app.processor(calls, state)
        while processor.process():
            pass
        processor.apply_early_calls()
