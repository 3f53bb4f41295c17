"""What a comparison finds of new and of known customers."""

from __future__ import annotations

import json

import pytest

from syncer.engage.catalog import KnownTrait
from syncer.engage.catalog_builder import build
from syncer.engage.computations import AUDIENCE
from syncer.engage.source import ObservedKey, PulledCustomer
from syncer.sync.changes import CustomerChange, TraitChange
from syncer.sync.diff import compare
from syncer.sync.join import merge
from syncer.sync.tally import Sums, Tally
from tests.unit.compare.helpers import (
    JULY,
    JUNE,
    JUNE_MS,
    MAY,
    MAY_MS,
    ORDERS,
    PROBLEMS,
    compare_one,
    counts,
    known,
    pulled,
    with_traits,
)

# New customers (docs/design.md §3.4)


def test_a_new_customer_in_an_audience_is_sent_with_its_pulled_false_too() -> None:
    change, tally = compare_one(pulled("u1", ("vip", "true", MAY), (ORDERS, "f", JUNE)), None)
    assert change == CustomerChange(
        "u1",
        False,
        {"vip": True, "order_completed_last_30days": False},
        None,
        None,
        [
            TraitChange(ORDERS, "order_completed_last_30days", None, False, JUNE_MS),
            TraitChange("vip", "vip", None, True, MAY_MS),
        ],
        compared=True,
    )
    assert counts(tally, "vip") == {"pulled": 1, "entered": 1}
    # Amberflo learns of it, but nobody entered or left
    assert counts(tally, ORDERS) == {"pulled": 1, "changed": 1}
    assert (tally.new, tally.changed, tally.unchanged) == (1, 0, 0)


def test_a_new_customer_with_nothing_but_false_is_not_sent() -> None:
    change, tally = compare_one(with_traits("u1", vip="false", lost="0", total=None), None)
    assert change is None
    assert (tally.new, tally.changed, tally.unchanged) == (0, 0, 0)
    for key in ("vip", "lost", "total"):
        assert counts(tally, key) == {"pulled": 1, "unchanged": 1}
    assert (tally.customers, tally.rows) == (1, 3)


def test_a_new_customer_with_only_a_name_or_garbage_is_not_sent() -> None:
    assert compare_one(pulled("u1", profile=[("name", "Ada", MAY)]), None)[0] is None
    change, tally = compare_one(with_traits("u1", vip="perhaps"), None)
    assert change is None
    assert tally.sums["vip"].reasons == {"not a boolean": 1}


def test_a_new_customer_with_a_computed_trait_only_is_sent() -> None:
    change, tally = compare_one(with_traits("u1", total="450.00", vip="false"), None)
    assert change is not None
    assert (change.known, change.traits) == (False, {"total": 450.0, "vip": False})
    assert counts(tally, "total") == {"pulled": 1, "changed": 1}
    assert tally.new == 1


def test_a_new_customer_takes_its_name_and_email() -> None:
    profile = [("email", "ada@example.com", MAY), ("name", "Ada", MAY)]
    change, tally = compare_one(pulled("u1", ("vip", "1", MAY), profile=profile), None)
    assert change is not None
    assert (change.name, change.email) == ("Ada", "ada@example.com")
    assert tally.rows == 3


# Known customers


def test_a_customer_that_did_not_change_is_not_sent() -> None:
    before = known("u1", {"vip": True, "total": 4.5}, "Ada", "a@example.com")
    profile = [("name", "Ada", JULY), ("email", "a@example.com", JULY)]
    row = pulled("u1", ("total", "4.50", JULY), ("vip", "T", JULY), profile=profile)
    change, tally = compare_one(row, before)
    assert change is None
    assert (tally.new, tally.changed, tally.unchanged) == (0, 0, 1)
    assert counts(tally, "vip") == counts(tally, "total") == {"pulled": 1, "unchanged": 1}


@pytest.mark.parametrize(
    ("before", "raw", "after", "counted"),
    [
        (True, "false", False, "exited"),
        (False, "true", True, "entered"),
        (None, "true", True, "entered"),
        (None, "false", False, "changed"),
    ],
)
def test_a_membership_that_turned(before: bool | None, raw: str, after: bool, counted: str) -> None:
    traits = {"lost": False} | ({} if before is None else {"vip": before})
    change, tally = compare_one(
        with_traits("u1", lost="f", vip=raw), known("u1", traits, "Ada", "e")
    )
    assert change == CustomerChange(
        "u1",
        True,
        {"lost": False, "vip": after},
        None,
        None,
        [TraitChange("vip", "vip", before, after, MAY_MS)],
        compared=True,
    )
    assert counts(tally, "vip") == {"pulled": 1, counted: 1}
    assert counts(tally, "lost") == {"pulled": 1, "unchanged": 1}
    assert (tally.new, tally.changed, tally.unchanged) == (0, 1, 0)


def test_a_membership_that_vanished_is_false() -> None:
    change, tally = compare_one(
        with_traits("u1", total="1"), known("u1", {"total": 1, "vip": True})
    )
    assert change is not None
    assert change.traits == {"total": 1, "vip": False}
    assert change.changes == [TraitChange("vip", "vip", True, False, None)]
    assert counts(tally, "vip") == {"pulled": 1, "exited": 1, "vanished": 1}
    assert tally.rows == 1


def test_a_false_membership_that_vanished_stays_false_and_is_no_change() -> None:
    change, tally = compare_one(
        with_traits("u1", total="1"), known("u1", {"total": 1, "vip": False})
    )
    assert change is None
    assert counts(tally, "vip") == {}
    assert tally.unchanged == 1


@pytest.mark.parametrize("null", [None, "", "null"])
def test_a_membership_that_became_null_is_false(null: str | None) -> None:
    change, tally = compare_one(with_traits("u1", vip=null), known("u1", {"vip": True}))
    assert change is not None
    assert change.changes == [TraitChange("vip", "vip", True, False, MAY_MS)]
    assert counts(tally, "vip") == {"pulled": 1, "exited": 1}


def test_a_membership_that_was_never_there_and_is_null_stays_absent() -> None:
    change, tally = compare_one(with_traits("u1", vip=None, lost="t"), known("u1", {"total": 1}))
    assert change is not None
    assert change.traits == {"lost": True}
    assert counts(tally, "vip") == {"pulled": 1, "unchanged": 1}


def test_a_computed_trait_that_vanished_or_became_null_is_dropped() -> None:
    for rows, vanished in (([], 1), ([("total", None, MAY)], 0)):
        change, tally = compare_one(
            pulled("u1", ("vip", "t", MAY), *rows), known("u1", {"total": 7, "vip": True})
        )
        assert change is not None
        assert change.traits == {"vip": True}
        at = None if vanished else MAY_MS
        assert change.changes == [TraitChange("total", "total", 7, None, at)]
        sums = tally.sums["total"]
        assert (sums.pulled, sums.changed, sums.dropped, sums.vanished) == (1, 1, 1, vanished)
        assert (sums.differing, sums.leaving) == (1, 1)


def test_a_computed_trait_that_changed_is_no_entry_or_exit() -> None:
    change, tally = compare_one(with_traits("u1", total="true"), known("u1", {"total": False}))
    assert change is not None
    assert change.changes == [TraitChange("total", "total", False, True, MAY_MS)]
    assert counts(tally, "total") == {"pulled": 1, "changed": 1}
    assert tally.sums["total"].leaving == 0


@pytest.mark.parametrize(("before", "raw"), [(True, "1"), (1, "true"), (1, "1.0"), (1.0, "1")])
def test_values_that_python_takes_for_equal_differ(before: object, raw: str) -> None:
    """As JSON true, 1 and 1.0 are three values."""
    change, _ = compare_one(with_traits("u1", total=raw), known("u1", {"total": before}))
    assert change is not None
    assert json.dumps(change.changes[0].before) == json.dumps(before)


def test_lists_are_compared_by_their_content() -> None:
    before = known("u1", {"tags": ["a", "b"], "vip": True})
    assert compare_one(with_traits("u1", vip="t", Tags='["a","b"]'), before)[0] is None
    assert compare_one(with_traits("u1", vip="f", Tags='[ "a" , "b" ]'), before)[0] is not None
    change, _ = compare_one(with_traits("u1", vip="t", Tags='["b","a"]'), before)
    assert change is not None
    assert change.changes == [TraitChange("Tags", "tags", ["a", "b"], ["b", "a"], MAY_MS)]


def test_a_membership_that_cannot_be_read_stays_as_it_was() -> None:
    for was in (True, False):
        change, tally = compare_one(
            with_traits("u1", vip="perhaps", lost="t"), known("u1", {"vip": was, "lost": False})
        )
        assert change is not None
        assert change.traits == {"vip": was, "lost": True}
        assert [trait_change.key for trait_change in change.changes] == ["lost"]
        assert counts(tally, "vip") == {"pulled": 1, "skipped": 1}
        assert tally.sums["vip"].reasons == {"not a boolean": 1}


def test_a_customer_of_whom_nothing_can_be_read_does_not_change() -> None:
    change, tally = compare_one(with_traits("u1", vip="?"), known("u1", {"vip": True}))
    assert change is None
    assert (tally.unchanged, counts(tally, "vip")) == (1, {"pulled": 1, "skipped": 1})
    # also where all the rest is as it was
    change, tally = compare_one(with_traits("u1", total="1", vip="?"), known("u1", {"total": 1}))
    assert change is None
    assert (tally.unchanged, counts(tally, "vip")) == (1, {"pulled": 1, "skipped": 1})
    assert counts(tally, "total") == {"pulled": 1, "unchanged": 1}


def test_a_name_that_two_keys_give_stays_as_it_was() -> None:
    """docs/design.md §3.2: neither is sent; the rest go on."""
    row = pulled("u1", ("Gold Club", "f", MAY), ("gold_club", "f", MAY), ("vip", "t", MAY))
    change, tally = compare_one(row, known("u1", {"gold_club": True, "vip": False}))
    assert change is not None
    assert change.traits == {"gold_club": True, "vip": True}
    assert [trait_change.key for trait_change in change.changes] == ["vip"]
    for key in PROBLEMS:
        assert counts(tally, key) == {"pulled": 1, "skipped": 1}
        assert tally.sums[key].reasons == {"name taken twice": 1}
    change, tally = compare_one(
        with_traits("u1", vip="t"), known("u1", {"gold_club": True, "vip": False})
    )
    assert change is not None
    assert change.traits["gold_club"] is True
    assert counts(tally, "gold_club") == {}


def test_a_trait_of_the_snapshot_that_is_none_of_ours_stays() -> None:
    change, _ = compare_one(with_traits("u1", vip="f"), known("u1", {"stranger": "x", "vip": True}))
    assert change is not None
    assert change.traits == {"stranger": "x", "vip": False}
    assert len(change.changes) == 1


@pytest.mark.parametrize("row", [with_traits("u1", vip_club="false", trial="true"), None])
def test_members_of_a_lost_key_leave_by_the_key_that_took_its_name(
    row: PulledCustomer | None,
) -> None:
    """Nothing may become of a trait that no change tells."""
    catalog = build(
        [ObservedKey("vip_club", 1, 1, 0, 0), ObservedKey("trial", 1, 1, 0, 0)],
        [KnownTrait("VIP Club", "vip_club", AUDIENCE), KnownTrait("trial", "trial", AUDIENCE)],
        audiences=["*"],
        computed_traits=[],
    )
    tally = Tally(catalog)
    before = known("u1", {"trial": False, "vip_club": True})
    (change,) = compare(merge([row] if row else [], [before]), catalog, tally)
    assert change.traits == {"trial": row is not None, "vip_club": False}
    at = MAY_MS if row else None
    assert change.changes[-1] == TraitChange("vip_club", "vip_club", True, False, at)
    assert tally.sums["vip_club"].exited == 1


# Customers that the pull has no more


def test_a_customer_that_vanished_leaves_its_audiences_and_loses_its_computed_traits() -> None:
    traits = {"lost": False, "stranger": 1, "total": 3, "vip": True, "gold_club": True}
    change, tally = compare_one(None, known("u1", traits, "Ada", "a@example.com"))
    assert change == CustomerChange(
        "u1",
        True,
        {"lost": False, "stranger": 1, "vip": False, "gold_club": True},
        None,
        None,
        [
            TraitChange("total", "total", 3, None, None),
            TraitChange("vip", "vip", True, False, None),
        ],
    )
    assert counts(tally, "vip") == {"pulled": 1, "exited": 1, "vanished": 1}
    assert tally.sums["total"] == Sums(pulled=1, changed=1, vanished=1, dropped=1)
    assert (tally.customers, tally.rows, tally.changed) == (0, 0, 1)


def test_a_customer_that_vanished_with_nothing_but_false_is_unchanged() -> None:
    change, tally = compare_one(None, known("u1", {"vip": False}, "Ada"))
    assert change is None
    assert (tally.changed, tally.unchanged, counts(tally, "vip")) == (0, 1, {})
