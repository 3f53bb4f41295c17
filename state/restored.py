"""That a state was restored from a backup, until a run has compared everything.

What Amberflo has is newer than such a state. So nothing of it is sent before Engage was asked what
is true now: a customer that was due in the backup has values of then.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

import orjson
from sqlalchemy import Connection

from state.db import metadata
from state.errors import StateError

_NAME = "restored"


class Restored(NamedTuple):
    """When the state was restored, and of when the backup is (epoch milliseconds)."""

    at: int
    made_at: int


def note(connection: Connection, restored: Restored) -> None:
    """Note that this state was restored."""
    metadata.put(connection, _NAME, orjson.dumps(restored._asdict()).decode())


def pending(connection: Connection) -> Restored | None:
    """Return what was noted, if no run has compared everything since."""
    text = metadata.get(connection, _NAME)
    return None if text is None else Restored(**orjson.loads(text))


def settle(connection: Connection) -> None:
    """Note that a run has compared everything: what is due from here on is true now."""
    metadata.drop(connection, _NAME)


def check(connection: Connection) -> None:
    """Raise while no run has compared everything since the state was restored."""
    restored = pending(connection)
    if restored is not None:
        made = datetime.fromtimestamp(restored.made_at // 1000, UTC)
        raise StateError(
            f"this state was restored from a backup of {made:%Y-%m-%dT%H:%M:%SZ}, and nothing of "
            "it is sent before a run has compared everything: `syncer sync --full`"
        )
