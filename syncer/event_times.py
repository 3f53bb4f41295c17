"""Event times: when a call said a value, kept beside it, and until when a pull knows what calls
said. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import orjson

#: So long (milliseconds) Engage may take to bring what a call said into the source: Profiles Sync
#: loads hourly, slightly out of order (docs/facts/segment.md §1.3).
LOADED_AFTER = 3 * 3600 * 1000


def horizon(newest: int, now: int) -> int:
    """What came by a call after this, a pull whose newest row is of `newest` need not know of yet
    (epoch milliseconds)."""
    return min(newest, now) - LOADED_AFTER


class Stamp(NamedTuple):
    """When a call said a value, by its own time and by its receipt (epoch milliseconds)."""

    at: int
    received: int


def read_stamps(text: str | None) -> dict[str, Stamp]:
    """The stamps of a customer, by trait, `name` or `email` (see `tables.Customer`). One that an
    older program wrote has no receipt: the next pull knows better."""
    found = orjson.loads(text or "{}")
    return {
        name: Stamp(*one) if isinstance(one, list) else Stamp(one, 0) for name, one in found.items()
    }


def write_stamps(stamps: Mapping[str, Stamp]) -> str | None:
    """The text of stamps; None where there are none."""
    if not stamps:
        return None
    found = {name: list(one) for name, one in stamps.items()}
    return orjson.dumps(found, option=orjson.OPT_SORT_KEYS).decode()
