"""Until when a pull knows what calls said."""

from __future__ import annotations

#: So long (milliseconds) Engage may take to bring what a call said into the source: Profiles Sync
#: loads hourly, slightly out of order (docs/facts/segment.md §1.3).
LOADED_AFTER = 3 * 3600 * 1000


def horizon(newest: int, now: int) -> int:
    """What came by a call after this, a pull whose newest row is of `newest` need not know of yet
    (epoch milliseconds)."""
    return min(newest, now) - LOADED_AFTER
