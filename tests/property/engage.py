"""What Engage says, worked out from the rows of a warehouse alone: which customers there are, and
the newest statement of each of their traits."""

from __future__ import annotations

import sqlite3
from typing import Any, NamedTuple

CUSTOMERS = [f"u{number:02}" for number in range(16)]
STRANGERS = ["s0", "s1"]
AUDIENCES = ("vip", "gold")
COMPUTED = "total_revenue_90"
#: The traits that are ours in these histories.
TRAITS = (*AUDIENCES, COMPUTED)


class Said(NamedTuple):
    """The newest row of a trait of a customer: its text, and since when it is so."""

    value: str | None
    at: str


class Engage(NamedTuple):
    """`known` are the customers with an identifier row; `said` has who has rows, by customer and
    key."""

    known: frozenset[str]
    said: dict[tuple[str, str], Said]

    def value(self, customer_id: str, trait: str) -> Any:
        """What Amberflo must have of it: True, a number, or None for no member and no value."""
        newest = self.said.get((customer_id, trait))
        if newest is None or newest.value is None or newest.value == "false":
            return None
        return True if newest.value == "true" else int(newest.value)


def read(warehouse: sqlite3.Connection) -> Engage:
    """What the rows say now."""
    into: dict[str, str] = {}
    for canonical, segment in warehouse.execute(
        "SELECT canonical_segment_id, segment_id FROM profile_merges ORDER BY timestamp, seq"
    ):
        into[segment] = canonical

    def resolved(profile: str) -> str:
        while into.get(profile, profile) != profile:
            profile = into[profile]
        return profile

    ids: dict[str, set[str]] = {}
    for profile, customer_id in warehouse.execute(
        "SELECT canonical_segment_id, value FROM user_identifiers WHERE type = 'user_id'"
    ):
        ids.setdefault(resolved(profile), set()).add(customer_id)
    said: dict[tuple[str, str], Said] = {}
    for profile, key, value, at in warehouse.execute(
        "SELECT canonical_segment_id, name, value, timestamp FROM user_traits "
        "ORDER BY timestamp, seq"
    ):
        for customer_id in ids.get(resolved(profile), ()):
            said[customer_id, key] = Said(value, at)
    return Engage(frozenset().union(*ids.values()), said)
