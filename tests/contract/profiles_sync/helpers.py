"""What the tests of Profiles Sync share."""

from __future__ import annotations

import random
from collections import Counter
from datetime import datetime, timedelta

import pytest

from syncer.engage.lineage import STEPS
from syncer.engage.profiles_sync import ProfilesSyncPull
from tests.support.space import KEYS, Warehouse

#: Runs a test on DuckDB as well.
on_duckdb_too = pytest.mark.parametrize("empty", ["sqlite", "postgresql", "duckdb"], indirect=True)


def assert_watermark(pull: ProfilesSyncPull, newest: str) -> None:
    """It is the time of the newest row, or a trifle before (SQLite counts in days): never later."""
    watermark = datetime.fromisoformat(pull.watermark() or "")
    expected = datetime.fromisoformat(newest)
    assert expected - timedelta(milliseconds=2) < watermark <= expected


class Model:
    """The same tables as lists, and what should be pulled of them, worked out the slow way."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        profiles = [f"p{n}" for n in range(14)]
        times = [f"2026-03-04T{hour:02d}:00:00Z" for hour in range(10, 16)]
        self.merges = [
            (rng.choice(profiles), rng.choice(profiles), rng.choice(times))
            for _ in range(rng.randrange(12))
        ]
        self.ids = [
            (rng.choice(profiles), rng.choice(["user_id", "user_id", "email"]), user, time)
            for user in ("u1", "u2", "é", "Z", "🦊", "", "u7", "u8")
            for time in rng.sample(times, rng.choice([1, 1, 2]))
        ]
        self.traits = [
            (rng.choice(profiles), rng.choice([*KEYS, "name", "plan"]), str(n), rng.choice(times))
            for n in range(40)
        ]

    def fill(self, warehouse: Warehouse) -> None:
        for old, into, time in self.merges:
            warehouse.merge(old, into, time)
        for profile, kind, value, time in self.ids:
            warehouse.id(profile, value, time, type=kind)
        for profile, name, value, time in self.traits:
            warehouse.trait(profile, name, value, time)

    def profile(self, segment_id: str) -> str:
        newest: dict[str, str] = {}
        for old, into, _ in sorted(self.merges, key=lambda row: row[2]):  # stable: seq goes up
            newest[old] = into
        seen, here = {segment_id}, segment_id
        while newest.get(here, here) != here:
            here = newest[here]
            if here in seen or len(seen) > STEPS:
                return segment_id
            seen.add(here)
        return here

    def expected(self, since: str = "", only: str = "") -> dict[str, Counter[tuple[str, str]]]:
        customers: dict[str, set[str]] = {}
        for profile, kind, value, _ in self.ids:
            if kind == "user_id" and value:
                customers.setdefault(value, set()).add(self.profile(profile))
        touched = {self.profile(row[0]) for row in (*self.ids, *self.traits) if row[-1] >= since}
        touched |= {self.profile(into) for _, into, time in self.merges if time >= since}
        by_customer = {}
        in_scope = touched if since else {self.profile(row[0]) for row in self.traits}
        self.nameless = in_scope.difference(*customers.values())
        for customer, profiles in customers.items():
            if (only and customer != only) or (since and not profiles & touched):
                continue
            rows = Counter(
                (name, value)
                for profile, name, value, _ in self.traits
                if self.profile(profile) in profiles and name != "plan"
            )
            if rows:
                by_customer[customer] = rows
        return by_customer
