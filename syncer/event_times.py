"""Event times: when a call set a value, stored beside it, and which calls a pull knows. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import orjson

from syncer.json_text import canonical

#: How long (milliseconds) it may take until a call of Engage arrives in the source: Profiles Sync
#: loads hourly, slightly out of order (docs/facts/segment.md §1.3).
LOADED_AFTER = 3 * 3600 * 1000


def horizon(newest: int, now: int) -> int:
    """Return the receipt up to which a pull knows calls (epoch milliseconds).

    `newest` is the time of the pull's newest row. Later calls may be missing in the pull.
    """
    return min(newest, now) - LOADED_AFTER


class Stamp(NamedTuple):
    """When a call set a value: by its own time and by its receipt (epoch milliseconds)."""

    at: int
    received: int


def read_stamps(text: str | None) -> dict[str, Stamp]:
    """Return the stamps of a customer by trait, `name` or `email` (see `models.Customer`).

    A stamp of an older program is a number without a receipt, which becomes 0: the next pull wins.
    """
    stored = orjson.loads(text or "{}")
    return {
        name: Stamp(*times) if isinstance(times, list) else Stamp(times, 0)
        for name, times in stored.items()
    }


def write_stamps(stamps: Mapping[str, Stamp]) -> str | None:
    """Return the text of stamps; None if there are none."""
    if not stamps:
        return None
    return canonical({name: list(stamp) for name, stamp in stamps.items()})


def came_after(text: str | None, horizon: int) -> bool:
    """Return whether a call came after a moment, by the stored times of a customer's calls."""
    return any(stamp.received > horizon for stamp in read_stamps(text).values())
