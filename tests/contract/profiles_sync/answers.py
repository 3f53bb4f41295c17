"""What pulls of one warehouse are asked on two engines, and their answers in one form."""

from __future__ import annotations

import json
from typing import Any

from syncer.clock import read
from syncer.engage.profiles_sync import ProfilesSyncPull
from syncer.engage.source import ChangedSince, Everything, OnlyCustomers, Scope
from tests.support.space import KEYS

SINCE = "2026-03-04T12:00:00.000+00:00"
SCOPES: list[Scope] = [Everything(), ChangedSince(SINCE), OnlyCustomers(("u1", "it's", "\\'", "é"))]


def answers(pull: ProfilesSyncPull) -> dict[str, Any]:
    """All that a pull says, in a form that does not tell which engine says it."""
    customers = [
        (
            row.customer_id,
            json.loads(row.keys),
            json.loads(row.values),
            [read(time) for time in json.loads(row.times)],
            [(key, value, read(time)) for key, value, time in json.loads(row.profile)],
        )
        for row in pull.customers(KEYS)
    ]
    watermark = pull.watermark()
    return {
        "customers": customers,
        "count": pull.count(KEYS),
        "observed": {key.key: key for key in pull.observed()},
        "watermark": watermark and round((read(watermark) or 0) / 10),  # SQLite counts in days
        "without": pull.without_customer_id(KEYS),
        "nameless": list(pull.profiles_without_customer_id(KEYS)),
        "identified": pull.identified(["u1", "nobody", "it's", "\\'", "é"]),
        "rows of": [row._replace(counts=False) for row in pull.rows_of("vip")],
    }
