"""One entry of the Public API's lists, read (docs/facts/segment.md §1.2)."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.engage.computations import AUDIENCE, COMPUTED_TRAIT, Computation
from syncer.engage.public_api import computation
from syncer.errors import SourceError
from tests.support.examples import examples

#: As the stable version gives it.
STABLE: dict[str, Any] = {
    "id": "aud_0ujsszwN8NRY24YaXiTIE2VWDTS",
    "spaceId": "9aQ1Lj62S4bomZKLF4DPqW",
    "name": "Profiles Audience V1",
    "description": "Test profiles audience v1 example",
    "key": "profiles_audience_v1",
    "enabled": True,
    "definition": {"targetEntity": "profile", "query": "event('Purchased').count() >= 1"},
    "status": "Live",
    "createdBy": "createdBy",
    "updatedBy": "updatedBy",
    "createdAt": "2006-01-02T15:04:05.000Z",
    "updatedAt": "2006-01-02T15:04:05.000Z",
    "audienceType": "USERS",
    "computeCadence": {"type": "REALTIME"},
    "size": {"count": 10, "type": "USERS", "uniqueCount": 10},
    "options": {"filterByExternalIds": ["user_id", "email"], "includeHistoricalData": True},
    "schedules": [],
}
#: As the alpha version gives it, with nothing that may be missing.
ALPHA: dict[str, Any] = {
    "id": "id",
    "spaceId": "spaceId",
    "name": "name",
    "definition": {"query": "event('Shoes Bought').count()", "type": "USERS"},
    "key": "key",
    "enabled": False,
}


def test_an_audience_of_the_stable_version() -> None:
    assert computation(STABLE, AUDIENCE) == Computation(
        "profiles_audience_v1", "Profiles Audience V1", AUDIENCE, "Live", True, 10
    )


def test_a_computed_trait_of_the_alpha_version() -> None:
    expected = Computation("key", "name", COMPUTED_TRAIT, None, False, None)
    assert computation(ALPHA, COMPUTED_TRAIT) == expected
    assert computation(ALPHA | {"definition": None, "status": None}, COMPUTED_TRAIT) == expected


@pytest.mark.parametrize(
    "whom",
    [
        {"audienceType": "ACCOUNTS"},
        {"audienceType": "LINKED"},
        {"definition": {"type": "ACCOUNTS"}},
        {"definition": {"type": "ACCOUNTS"}, "enabled": "not looked at"},
    ],
)
def test_only_what_is_of_users_counts(whom: dict[str, Any]) -> None:
    assert computation(ALPHA | whom, AUDIENCE) is None


@pytest.mark.parametrize(
    ("size", "count"),
    [
        (None, None),
        ({}, None),
        ({"count": None, "type": "USERS"}, None),
        ({"count": 0}, 0),
        ({"count": 12.0, "type": "USERS"}, 12),
        ({"count": 2**40, "type": "USERS", "uniqueCount": 3}, 2**40),
        ({"count": 12, "type": "ENTITIES"}, None),
    ],
)
def test_its_size(size: Any, count: int | None) -> None:
    parsed = computation(STABLE | {"size": size}, AUDIENCE)
    assert parsed is not None
    assert parsed.size == count


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"key": None}, "an entry has the key null"),
        ({"key": ""}, 'an entry has the key ""'),
        ({"key": 5}, "an entry has the key 5"),
        ({"enabled": None}, "'key' has enabled = null"),
        ({"enabled": "true"}, "'key' has enabled = \"true\""),
        ({"name": 5}, "'key' has name = 5"),
        ({"status": ["Live"]}, "'key' has status = [\"Live\"]"),
        ({"audienceType": 1}, "'key' has audienceType = 1"),
        ({"definition": "query"}, "'key' has definition = \"query\""),
        ({"size": 10}, "'key' has size = 10"),
        ({"size": {"count": "10"}}, "'key' has size.count = \"10\""),
        ({"size": {"count": True}}, "'key' has size.count = true"),
        ({"size": {"count": -1}}, "'key' has size.count = -1"),
    ],
)
def test_what_cannot_be_read_is_named(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(SourceError) as error:
        computation(ALPHA | wrong, AUDIENCE)
    assert str(error.value) == f"the Public API sent an answer that cannot be read: {said}"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**53) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(JSON)
def test_anything_else_is_no_entry(item: Any) -> None:
    with pytest.raises(SourceError, match="an answer that cannot be read"):
        computation(item, AUDIENCE)


@examples(20)
@given(st.dictionaries(st.sampled_from(sorted(STABLE)), JSON))
def test_any_entry_is_read_or_refused(wrong: dict[str, Any]) -> None:
    parsed: Computation | None = None
    with suppress(SourceError):
        parsed = computation(STABLE | wrong, AUDIENCE)
    assert parsed is None or parsed.size is None or parsed.size >= 0
