"""The fingerprints that an engine computes, held against those that are worked out the slow way."""

from __future__ import annotations

import json
from collections import Counter
from hashlib import md5
from typing import Any

from syncer.engage.fingerprints import DIGITS, PARTS, fingerprints
from syncer.engage.people import identifiers
from syncer.engage.profiles_sync import ProfilesSyncPull
from syncer.engage.source import PulledCustomer
from tests.support.space import KEYS


def computed(tried: ProfilesSyncPull) -> dict[str, tuple[str, int]]:
    """What the engine says: the fingerprint of each customer, and the number of its rows."""
    ids = identifiers(tried.space, tried.customer_id)
    statement = fingerprints(tried.rows(KEYS), ids, tried.space.columns)
    return {str(own): (str(text), int(number)) for own, text, number in tried.ask(statement)}


def rows_of(customer: PulledCustomer) -> list[tuple[str, Any, Any]]:
    traits = map(json.loads, (customer.keys, customer.values, customer.times))
    return [*zip(*traits, strict=True), *map(tuple, json.loads(customer.profile))]


def expected(rows: list[tuple[str, Any, Any]]) -> str:
    """The fingerprint of a customer that has no trait twice."""
    parts = [""] * PARTS
    if rows:
        sums = [0] * PARTS
        for name, value, _ in rows:
            text = f"{len(name)}:{name}" + (";-" if value is None else f";+{value}")
            digest = md5(text.encode()).hexdigest()
            for part in range(PARTS):
                sums[part] += int(digest[DIGITS * part : DIGITS * (part + 1)], 16)
        parts = list(map(str, sums))
    return md5("".join(f"-{part}" for part in parts).encode()).hexdigest()


def check_fingerprints(tried: ProfilesSyncPull) -> dict[str, tuple[str, int]]:
    """Hold what an engine computes against what it gives out."""
    given = {customer.customer_id: rows_of(customer) for customer in tried.customers(KEYS)}
    computed_here = computed(tried)
    assert given.keys() <= computed_here.keys()
    twice = 0
    for customer_id, (text, number) in computed_here.items():
        rows = given.get(customer_id, [])
        assert number == len(rows), customer_id
        if max(Counter(row[0] for row in rows).values(), default=0) < 2:
            assert text == expected(rows), customer_id
        else:
            twice += 1
    assert twice > 1
    assert len({text for text, _ in computed_here.values()}) > 10
    return computed_here
