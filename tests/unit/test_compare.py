"""The comparison: docs/design.md §3 line by line, then against an oracle that keeps all in
dicts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncer.engage import catalog as catalogs
from syncer.engage.catalog import Catalog, KnownTrait
from syncer.engage.catalog_builder import build
from syncer.engage.computations import AUDIENCE, COMPUTED_TRAIT
from syncer.engage.source import ObservedKey, PulledCustomer
from syncer.engage.values import same
from syncer.errors import SourceError
from syncer.ids import problem
from syncer.json_text import canonical
from syncer.sync import diff as comparison
from syncer.sync.diff import (
    ENGAGE_WINS,
    CustomerChange,
    DestinationState,
    Sums,
    Tally,
    TraitChange,
    compare,
    look_up,
    merge,
)

#: Times of rows as the source writes them, with what they are in epoch milliseconds.
MAY, MAY_MS = "2024-05-01T00:00:00Z", 1_714_521_600_000
JUNE, JUNE_MS = "2024-06-01 02:00:00+02:00", 1_717_200_000_000
JULY, JULY_MS = "2024-07-01T00:00:00", 1_719_792_000_000

TRAITS = [
    KnownTrait("vip", "vip", AUDIENCE),
    KnownTrait("Order Completed Last 30days", "order_completed_last_30days", AUDIENCE),
    KnownTrait("lost", "lost", AUDIENCE),
    KnownTrait("total", "total", COMPUTED_TRAIT),
    KnownTrait("Tags", "tags", COMPUTED_TRAIT),
    # two keys, one name
    KnownTrait("Gold Club", "gold_club", AUDIENCE),
    KnownTrait("gold_club", "gold_club", AUDIENCE),
]
PROBLEMS = dict.fromkeys(("Gold Club", "gold_club"), "name taken twice")
ORDERS = "Order Completed Last 30days"


def make_catalog() -> Catalog:
    return Catalog(TRAITS, PROBLEMS, [])


class Stored(NamedTuple):
    """A customer as the snapshot gives it."""

    customer_id: str
    traits: str
    name: str | None
    email: str | None
    stamps: str | None = None
    rev: int = 1
    compared: int | None = 1


Row = tuple[str, object, str | None]


def pulled(customer_id: str, *rows: Row, profile: Iterable[Row] = ()) -> PulledCustomer:
    keys, values, times = (json.dumps([row[n] for row in rows]) for n in range(3))
    return PulledCustomer(
        customer_id, keys, values, times, json.dumps(list(profile), separators=(",", ":"))
    )


def with_traits(customer_id: str, **values: object) -> PulledCustomer:
    """A customer with these rows, all of May."""
    return pulled(customer_id, *((key, value, MAY) for key, value in values.items()))


def known(
    customer_id: str,
    traits: dict[str, Any],
    name: str | None = None,
    email: str | None = None,
    stamps: dict[str, Any] | None = None,
) -> Stored:
    """`stamps` are the times of what came by a call: [its own, of its receipt], or one for both."""
    text = None if stamps is None else json.dumps(stamps)
    return Stored(customer_id, canonical(traits), name, email, text)


def run(
    pull: Iterable[PulledCustomer], snapshot: Iterable[Stored] = ()
) -> tuple[list[CustomerChange], Tally]:
    """Compare a whole pull that knows of all that was before June."""
    tally = Tally(make_catalog())
    return list(compare(merge(pull, snapshot), tally.catalog, tally, JUNE_MS)), tally


def one(row: PulledCustomer | None, before: Stored | None) -> tuple[CustomerChange | None, Tally]:
    """Compare one customer."""
    changes, tally = run([row] if row else [], [before] if before else [])
    assert len(changes) <= 1
    return (changes[0] if changes else None), tally


def counts(tally: Tally, key: str) -> dict[str, int]:
    """The sums of a trait that are not zero."""
    sums = tally.sums[key]
    names = ("pulled", "entered", "exited", "changed", "unchanged", "skipped", "vanished")
    return {name: count for name in (*names, "dropped") if (count := getattr(sums, name))}


# New customers (docs/design.md §3.4)


def test_a_new_customer_in_an_audience_is_sent_with_its_pulled_false_too() -> None:
    change, tally = one(pulled("u1", ("vip", "true", MAY), (ORDERS, "f", JUNE)), None)
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
    change, tally = one(with_traits("u1", vip="false", lost="0", total=None), None)
    assert change is None
    assert (tally.new, tally.changed, tally.unchanged) == (0, 0, 0)
    for key in ("vip", "lost", "total"):
        assert counts(tally, key) == {"pulled": 1, "unchanged": 1}
    assert (tally.customers, tally.rows) == (1, 3)


def test_a_new_customer_with_only_a_name_or_garbage_is_not_sent() -> None:
    assert one(pulled("u1", profile=[("name", "Ada", MAY)]), None)[0] is None
    change, tally = one(with_traits("u1", vip="perhaps"), None)
    assert change is None
    assert tally.sums["vip"].reasons == {"not a boolean": 1}


def test_a_new_customer_with_a_computed_trait_only_is_sent() -> None:
    change, tally = one(with_traits("u1", total="450.00", vip="false"), None)
    assert change is not None
    assert (change.known, change.traits) == (False, {"total": 450.0, "vip": False})
    assert counts(tally, "total") == {"pulled": 1, "changed": 1}
    assert tally.new == 1


def test_a_new_customer_takes_its_name_and_email() -> None:
    profile = [("email", "ada@example.com", MAY), ("name", "Ada", MAY)]
    change, tally = one(pulled("u1", ("vip", "1", MAY), profile=profile), None)
    assert change is not None
    assert (change.name, change.email) == ("Ada", "ada@example.com")
    assert tally.rows == 3


# Known customers


def test_a_customer_that_did_not_change_is_not_sent() -> None:
    before = known("u1", {"vip": True, "total": 4.5}, "Ada", "a@example.com")
    profile = [("name", "Ada", JULY), ("email", "a@example.com", JULY)]
    row = pulled("u1", ("total", "4.50", JULY), ("vip", "T", JULY), profile=profile)
    change, tally = one(row, before)
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
    change, tally = one(with_traits("u1", lost="f", vip=raw), known("u1", traits, "Ada", "e"))
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
    change, tally = one(with_traits("u1", total="1"), known("u1", {"total": 1, "vip": True}))
    assert change is not None
    assert change.traits == {"total": 1, "vip": False}
    assert change.changes == [TraitChange("vip", "vip", True, False, None)]
    assert counts(tally, "vip") == {"pulled": 1, "exited": 1, "vanished": 1}
    assert tally.rows == 1


def test_a_false_membership_that_vanished_stays_false_and_is_no_change() -> None:
    change, tally = one(with_traits("u1", total="1"), known("u1", {"total": 1, "vip": False}))
    assert change is None
    assert counts(tally, "vip") == {}
    assert tally.unchanged == 1


@pytest.mark.parametrize("null", [None, "", "null"])
def test_a_membership_that_became_null_is_false(null: str | None) -> None:
    change, tally = one(with_traits("u1", vip=null), known("u1", {"vip": True}))
    assert change is not None
    assert change.changes == [TraitChange("vip", "vip", True, False, MAY_MS)]
    assert counts(tally, "vip") == {"pulled": 1, "exited": 1}


def test_a_membership_that_was_never_there_and_is_null_stays_absent() -> None:
    change, tally = one(with_traits("u1", vip=None, lost="t"), known("u1", {"total": 1}))
    assert change is not None
    assert change.traits == {"lost": True}
    assert counts(tally, "vip") == {"pulled": 1, "unchanged": 1}


def test_a_computed_trait_that_vanished_or_became_null_is_dropped() -> None:
    for rows, vanished in (([], 1), ([("total", None, MAY)], 0)):
        change, tally = one(
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
    change, tally = one(with_traits("u1", total="true"), known("u1", {"total": False}))
    assert change is not None
    assert change.changes == [TraitChange("total", "total", False, True, MAY_MS)]
    assert counts(tally, "total") == {"pulled": 1, "changed": 1}
    assert tally.sums["total"].leaving == 0


@pytest.mark.parametrize(("before", "raw"), [(True, "1"), (1, "true"), (1, "1.0"), (1.0, "1")])
def test_values_that_python_takes_for_equal_differ(before: object, raw: str) -> None:
    """As JSON true, 1 and 1.0 are three values."""
    change, _ = one(with_traits("u1", total=raw), known("u1", {"total": before}))
    assert change is not None
    assert json.dumps(change.changes[0].before) == json.dumps(before)


def test_lists_are_compared_by_their_content() -> None:
    before = known("u1", {"tags": ["a", "b"], "vip": True})
    assert one(with_traits("u1", vip="t", Tags='["a","b"]'), before)[0] is None
    assert one(with_traits("u1", vip="f", Tags='[ "a" , "b" ]'), before)[0] is not None
    change, _ = one(with_traits("u1", vip="t", Tags='["b","a"]'), before)
    assert change is not None
    assert change.changes == [TraitChange("Tags", "tags", ["a", "b"], ["b", "a"], MAY_MS)]


def test_a_membership_that_cannot_be_read_stays_as_it_was() -> None:
    for was in (True, False):
        change, tally = one(
            with_traits("u1", vip="perhaps", lost="t"), known("u1", {"vip": was, "lost": False})
        )
        assert change is not None
        assert change.traits == {"vip": was, "lost": True}
        assert [found.key for found in change.changes] == ["lost"]
        assert counts(tally, "vip") == {"pulled": 1, "skipped": 1}
        assert tally.sums["vip"].reasons == {"not a boolean": 1}


def test_a_customer_of_whom_nothing_can_be_read_does_not_change() -> None:
    change, tally = one(with_traits("u1", vip="?"), known("u1", {"vip": True}))
    assert change is None
    assert (tally.unchanged, counts(tally, "vip")) == (1, {"pulled": 1, "skipped": 1})
    # also where all the rest is as it was
    change, tally = one(with_traits("u1", total="1", vip="?"), known("u1", {"total": 1}))
    assert change is None
    assert (tally.unchanged, counts(tally, "vip")) == (1, {"pulled": 1, "skipped": 1})
    assert counts(tally, "total") == {"pulled": 1, "unchanged": 1}


def test_a_name_that_two_keys_give_stays_as_it_was() -> None:
    """docs/design.md §3.2: neither is sent; the rest go on."""
    row = pulled("u1", ("Gold Club", "f", MAY), ("gold_club", "f", MAY), ("vip", "t", MAY))
    change, tally = one(row, known("u1", {"gold_club": True, "vip": False}))
    assert change is not None
    assert change.traits == {"gold_club": True, "vip": True}
    assert [found.key for found in change.changes] == ["vip"]
    for key in PROBLEMS:
        assert counts(tally, key) == {"pulled": 1, "skipped": 1}
        assert tally.sums[key].reasons == {"name taken twice": 1}
    change, tally = one(with_traits("u1", vip="t"), known("u1", {"gold_club": True, "vip": False}))
    assert change is not None
    assert change.traits["gold_club"] is True
    assert counts(tally, "gold_club") == {}


def test_a_trait_of_the_snapshot_that_is_none_of_ours_stays() -> None:
    change, _ = one(with_traits("u1", vip="f"), known("u1", {"stranger": "x", "vip": True}))
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
    change, tally = one(None, known("u1", traits, "Ada", "a@example.com"))
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
    change, tally = one(None, known("u1", {"vip": False}, "Ada"))
    assert change is None
    assert (tally.changed, tally.unchanged, counts(tally, "vip")) == (0, 1, {})


# Name and email (docs/design.md §3.3)


def test_a_change_of_name_or_email_is_a_change_of_the_customer() -> None:
    before = known("u1", {"vip": True}, "Ada", "a@example.com")
    for key, value in (("name", "Eva"), ("email", "e@example.com")):
        change, tally = one(pulled("u1", ("vip", "t", MAY), profile=[(key, value, MAY)]), before)
        assert change is not None
        assert change.changes == []
        assert change.traits == {"vip": True}
        # what does not change is not told
        expected = {"name": None, "email": None} | {key: value}
        assert {"name": change.name, "email": change.email} == expected
        assert (tally.changed, tally.unchanged) == (1, 0)
        assert counts(tally, "vip") == {"pulled": 1, "unchanged": 1}
        # also where the traits have to be looked at one by one
        odd = before._replace(traits='{"vip": true}')
        again, _ = one(pulled("u1", ("vip", "t", MAY), profile=[(key, value, MAY)]), odd)
        assert again == change


def test_a_name_or_email_without_a_row_stays_as_it_is() -> None:
    before = known("u1", {"vip": True}, "Ada", "a@example.com")
    assert one(pulled("u1", ("vip", "t", MAY)), before)[0] is None
    change, _ = one(pulled("u1", ("vip", "f", MAY)), before)
    assert change is not None
    assert (change.name, change.email) == (None, None)


@pytest.mark.parametrize("null", [None, "", "null"])
def test_an_explicit_null_takes_the_name_or_email_away(null: str | None) -> None:
    row = pulled("u1", ("vip", "t", MAY), profile=[("name", null, JULY), ("email", null, JULY)])
    change, _ = one(row, known("u1", {"vip": True}, "Ada", "a@example.com"))
    assert change is not None
    assert (change.name, change.email) == ("", "")
    # of what we never had there is nothing to take away: it is somebody else's at Amberflo
    assert one(row, known("u1", {"vip": True}))[0] is None
    assert one(row, known("u1", {"vip": True}, "", ""))[0] is None


def test_the_newest_name_and_email_count() -> None:
    profile = [
        ("email", "new@example.com", JULY),
        ("email", "old@example.com", MAY),
        ("name", "Old", "soon"),
        ("name", "New", JUNE),
        ("name", "Older", None),
    ]
    change, tally = one(pulled("u1", ("vip", "t", MAY), profile=profile), None)
    assert change is not None
    assert (change.name, change.email) == ("New", "new@example.com")
    assert tally.rows == 6


def test_the_newer_of_two_names_counts() -> None:
    """A source may keep its times as text of two forms, and order them so."""
    later, earlier = "2024-05-01 10:00:00+00:00", "2024-05-01T09:00:00Z"
    profile = [("name", "New", later), ("name", "Old", earlier)]
    change, _ = one(pulled("u1", ("vip", "t", MAY), profile=profile), None)
    assert change is not None
    assert change.name == "New"


@pytest.mark.parametrize(
    ("profile", "name", "email"),
    [
        (
            [("email", "b@example.com", MAY), ("email", "a@example.com", JUNE)],
            None,
            "a@example.com",
        ),
        ([("name", "b@example.com", JUNE), ("name", "a@example.com", MAY)], "b@example.com", None),
        (
            [("name", "b@example.com", MAY), ("email", "a@example.com", MAY)],
            "b@example.com",
            "a@example.com",
        ),
    ],
)
def test_a_name_and_an_email_are_not_taken_for_each_other(
    profile: list[Row], name: str | None, email: str | None
) -> None:
    """Two rows that hold the known texts, but not those of their keys."""
    before = known("u1", {"vip": True}, "a@example.com", "b@example.com")
    change, _ = one(pulled("u1", ("vip", "t", MAY), profile=profile), before)
    assert change is not None
    assert (change.name, change.email) == (name, email)


def test_a_number_as_a_name_is_text() -> None:
    change, _ = one(pulled("u1", ("vip", "t", MAY), profile=[("name", 42, MAY)]), None)
    assert change is not None
    assert change.name == "42"


def test_a_name_counts_whatever_its_time() -> None:
    """The zero time of Go, in which Segment is written."""
    profile = [("name", "Ada", "0001-01-01T00:00:00Z")]
    change, _ = one(pulled("u1", ("vip", "t", MAY), profile=profile), None)
    assert change is not None
    assert change.name == "Ada"


# What came by a call (docs/design.md §3.10). The pull knows of all before June.


@pytest.mark.parametrize(
    ("at", "received", "stays"),
    [
        # The pull may not know of the call yet: it holds, unless a row is newer.
        (MAY_MS - 1, JUNE_MS + 1, False),
        (MAY_MS, JUNE_MS + 1, True),
        (MAY_MS + 1, JUNE_MS + 1, True),
        # The pull could know of it: it stands, whatever the times say.
        (MAY_MS + 1, JUNE_MS, False),
        (JULY_MS, MAY_MS, False),
    ],
)
def test_a_call_holds_until_a_pull_could_know_better(at: int, received: int, stays: bool) -> None:
    traits = {"vip": True, "total": 5}
    stamp = [at, received]
    before = known("u1", traits, stamps={"vip": stamp, "total": stamp, "tags": stamp})
    row = with_traits("u1", vip="false", total=None, Tags='["a"]')
    change, tally = one(row, before)
    if stays:
        assert change is None
        for key in ("vip", "total", "Tags"):
            assert counts(tally, key) == {"pulled": 1, "unchanged": 1}
    else:
        assert change is not None
        assert change.traits == {"vip": False, "tags": ["a"]}
        assert [found.trait for found in change.changes] == ["tags", "total", "vip"]


def test_a_row_without_a_time_is_older_than_any_call() -> None:
    before = known("u1", {"vip": True}, stamps={"vip": [1, JULY_MS]})
    assert one(pulled("u1", ("vip", "f", None)), before)[0] is None


def test_of_a_key_that_stands_twice_the_newest_row_is_held_against_the_call() -> None:
    row = pulled("u1", ("vip", "f", JULY), ("vip", "t", MAY))
    early, late = [JUNE_MS, JULY_MS + 1], [JULY_MS, JULY_MS + 1]
    assert one(row, known("u1", {"vip": True}, stamps={"vip": early}))[0] is not None
    assert one(row, known("u1", {"vip": True}, stamps={"vip": late}))[0] is None


@pytest.mark.parametrize(("stamp", "stays"), [(JUNE_MS, False), (JUNE_MS + 1, True)])
@pytest.mark.parametrize("row", [None, with_traits("u1", lost="t")])
def test_a_row_that_is_not_there_yet_does_not_undo_a_call(
    row: PulledCustomer | None, stamp: int, stays: bool
) -> None:
    """The pull may not know of it: rows are loaded hourly (docs/facts/segment.md §1.3)."""
    traits = {"vip": True, "total": 5, "lost": True}
    stamps = {name: [stamp, stamp] for name in ("vip", "total")}
    change, tally = one(row, known("u1", traits, stamps=stamps))
    after = (change.traits if change else traits) | {"lost": True}
    assert after == (traits if stays else {"vip": False, "lost": True})
    assert counts(tally, "vip").get("vanished", 0) == (0 if stays else 1)


def test_a_resync_lets_engage_win_in_everything() -> None:
    stamp = [JULY_MS, JULY_MS]
    before = known("u1", {"vip": True}, "Ada", None, {"vip": stamp, "name": stamp})
    row = pulled("u1", ("vip", "f", MAY), profile=[("name", "Eva", MAY)])
    tally = Tally(make_catalog())
    (change,) = compare(merge([row], [before]), tally.catalog, tally, ENGAGE_WINS)
    assert (change.traits, change.name) == ({"vip": False}, "Eva")


def test_a_pulled_name_does_not_undo_the_newer_one_of_a_call() -> None:
    before = known("u1", {"vip": True}, "Ada", "a@example.com", {"name": JUNE_MS, "email": MAY_MS})
    profile = [("email", "e@example.com", MAY), ("name", "Eva", MAY)]
    change, _ = one(pulled("u1", ("vip", "t", MAY), profile=profile), before)
    assert change is not None
    assert (change.name, change.email) == (None, "e@example.com")
    later = [(key, value, JULY) for key, value, _ in profile]
    change, _ = one(pulled("u1", ("vip", "t", MAY), profile=later), before)
    assert change is not None
    assert (change.name, change.email) == ("Eva", "e@example.com")


# Duplicates while a merge is under way (docs/design.md §3.1)


def test_of_a_key_that_stands_twice_the_newest_row_counts() -> None:
    row = pulled("u1", ("vip", "true", JULY), ("total", "1", MAY), ("vip", "false", JUNE))
    change, tally = one(row, known("u1", {"vip": False, "total": 1}))
    assert change is not None
    assert change.changes == [TraitChange("vip", "vip", False, True, JULY_MS)]
    # every row counts against the source, the key once
    assert tally.rows == 3
    assert counts(tally, "vip") == {"pulled": 1, "entered": 1}
    assert counts(tally, "total") == {"pulled": 1, "unchanged": 1}


def test_a_key_that_stands_twice_and_did_not_change() -> None:
    row = pulled("u1", ("vip", "false", MAY), ("vip", "true", JUNE))
    change, tally = one(row, known("u1", {"vip": True}))
    assert change is None
    assert (tally.rows, counts(tally, "vip")) == (2, {"pulled": 1, "unchanged": 1})


# What Amberflo has and the snapshot does not know (docs/design.md §3.5)


def beside(
    row: PulledCustomer | None, before: Stored | None, seen: DestinationState
) -> tuple[CustomerChange | None, Tally]:
    """Compare one customer whom Amberflo has otherwise."""
    tally = Tally(make_catalog())
    changes = list(compare([(row, before, seen)], tally.catalog, tally, JUNE_MS))
    return (changes[0] if changes else None), tally


@pytest.mark.parametrize("there", [True, "true"])
@pytest.mark.parametrize("row", [with_traits("u1", vip="f"), with_traits("u1", lost="f")])
def test_a_member_whom_only_amberflo_knows_leaves(row: PulledCustomer, there: object) -> None:
    change, tally = beside(row, None, DestinationState(None, {"vip": there, "stripeId": "cus_1"}))
    assert change is not None
    assert change.known is False
    assert change.traits["vip"] is False
    (left,) = [found for found in change.changes if found.trait == "vip"]
    assert (left.before, left.after, left.source, left.was) == (True, False, "amberflo", None)
    assert tally.sums["vip"].exited == 1
    assert tally.sums["vip"].found == 1


def test_who_is_false_there_too_is_still_nobody() -> None:
    assert (
        beside(with_traits("u1", vip="f"), None, DestinationState(None, {"vip": "false"}))[0]
        is None
    )


def test_a_value_of_others_under_a_name_of_ours_is_the_one_before() -> None:
    row = with_traits("u1", lost="t")
    change, tally = beside(row, None, DestinationState(None, {"vip": "by the CRM", "total": 7}))
    assert change is not None
    assert change.traits == {"lost": True}
    assert {one.trait: (one.before, one.after) for one in change.changes} == {
        "lost": (None, True),
        "total": (7, None),
        "vip": ("by the CRM", None),
    }
    assert tally.first_contact == 2


def test_what_is_there_against_what_was_acknowledged_is_sent_again() -> None:
    before = known("u1", {"vip": True, "total": 5})
    row = with_traits("u1", vip="t", total="5")
    change, tally = beside(row, before, DestinationState(1, {"vip": False, "total": "5.0"}))
    assert change is not None
    (found,) = change.changes
    assert (found.trait, found.before, found.after, found.was) == ("vip", False, True, True)
    assert counts(tally, "vip") == {"pulled": 1, "changed": 1}
    # the customer changed since Amberflo was looked at
    assert beside(row, before, DestinationState(2, {"vip": False}))[0] is None


def test_what_is_judged_of_amberflo_is_all_that_counts() -> None:
    """The rest of a record may be on its way."""
    before = known("u1", {"vip": True, "lost": True})
    row = with_traits("u1", vip="t", lost="t")
    there = {"vip": False, "lost": False}
    change, _ = beside(row, before, DestinationState(1, there, judged={"vip"}))
    assert change is not None
    assert [one.trait for one in change.changes] == ["vip"]


def test_nobody_judges_whom_engage_never_knew() -> None:
    """docs/design.md §3.5: customers that Amberflo has and Engage does not know are left alone."""
    stranger = known("u1", {})._replace(compared=None)
    assert beside(None, stranger, DestinationState(1, {"vip": True}))[0] is None


def test_who_is_pulled_with_all_others_for_the_first_time_is_noted() -> None:
    new = known("u1", {"vip": True})._replace(compared=None)
    change, tally = one(with_traits("u1", vip="t"), new)
    assert change is not None
    assert (change.changes, change.compared) == ([], True)
    assert (tally.changed, tally.unchanged) == (0, 1)
    tally = Tally(make_catalog())
    pairs = look_up([with_traits("u1", vip="t")], lambda ids: [new])
    assert list(compare(pairs, tally.catalog, tally, whole=False)) == []


def test_who_left_here_and_is_a_member_there_leaves_again() -> None:
    change, tally = beside(None, known("u1", {"vip": False}), DestinationState(1, {"vip": True}))
    assert change is not None
    assert change.changes == [
        TraitChange("vip", "vip", True, False, None, "amberflo", recorded=False)
    ]
    assert (tally.sums["vip"].exited, tally.sums["vip"].found) == (1, 1)


# The streams


def test_merge_is_an_outer_join_in_order() -> None:
    rows = [with_traits(customer_id) for customer_id in ("b", "c", "é", "日")]
    there = [known(customer_id, {}) for customer_id in ("a", "b", "d", "日", "😀")]
    pairs = [(row and row.customer_id, known and known[0]) for row, known, _ in merge(rows, there)]
    assert pairs == [
        (None, "a"),
        ("b", "b"),
        ("c", None),
        (None, "d"),
        ("é", None),
        ("日", "日"),
        (None, "😀"),
    ]


@pytest.mark.parametrize(
    "ids", [["b", "a"], ["a", "a"], ["😀", "\uffff"], ["a", "b", "B"], ["é", "z"]]
)
def test_a_pull_out_of_order_ends_the_run(ids: list[str]) -> None:
    """docs/design.md §3.7: in UTF-8 byte order, each customer once."""
    with pytest.raises(SourceError, match="out of order") as refused:
        list(merge([with_traits(customer_id) for customer_id in ids], []))
    assert repr(ids[-1]) in str(refused.value)
    assert repr(ids[-2]) in str(refused.value)


def test_merge_reads_no_further_than_it_must() -> None:
    """Both sides are streams: millions of customers must not be gathered."""
    taken: list[str] = []

    def rows() -> Iterable[PulledCustomer]:
        for customer_id in ("a", "b", "c"):
            taken.append(customer_id)
            yield with_traits(customer_id)

    pairs = merge(rows(), [known("a", {})])
    next(pairs)
    assert taken == ["a"]


def test_look_up_pairs_a_part_with_the_snapshot_chunk_by_chunk() -> None:
    asked: list[list[str]] = []
    there = {"b": known("b", {"vip": True}), "x": known("x", {})}

    def find(ids: Collection[str]) -> list[Stored]:
        asked.append(list(ids))
        return [there[one] for one in reversed(list(ids)) if one in there]

    rows = [with_traits(one) for one in ("a", "b", "c", "d", "e")]
    pairs = list(look_up(rows, find, at_a_time=2))
    assert pairs == [(row, there.get(row.customer_id), None) for row in rows]
    assert asked == [["a", "b"], ["c", "d"], ["e"]]


def test_a_partial_pull_says_nothing_of_the_others() -> None:
    tally = Tally(make_catalog())
    there = {one: known(one, {"vip": True}) for one in ("a", "b")}
    pairs = look_up([with_traits("a", vip="f")], lambda ids: [there[one] for one in ids])
    (change,) = compare(pairs, tally.catalog, tally, whole=False)
    assert change.customer_id == "a"
    assert counts(tally, "vip") == {"pulled": 1, "exited": 1}


def test_a_partial_pull_infers_nothing_from_a_row_that_is_not_there() -> None:
    """docs/design.md §3.11: a merge or a table may be half loaded."""
    tally = Tally(make_catalog())
    before = known("a", {"vip": True, "lost": True, "total": 5})
    pairs = look_up([with_traits("a", vip="f")], lambda ids: [before])
    (change,) = compare(pairs, tally.catalog, tally, whole=False)
    assert change.traits == {"vip": False, "lost": True, "total": 5}
    pairs = look_up([with_traits("a", vip="t")], lambda ids: [before])
    assert list(compare(pairs, tally.catalog, tally, whole=False)) == []


def test_an_explicit_null_counts_in_a_partial_pull_too() -> None:
    tally = Tally(make_catalog())
    before = known("a", {"vip": True, "lost": True, "total": 5})
    pairs = look_up([with_traits("a", vip=None, total=None)], lambda ids: [before])
    (change,) = compare(pairs, tally.catalog, tally, whole=False)
    assert change.traits == {"vip": False, "lost": True}


@pytest.mark.parametrize(
    ("first", "second", "equal"),
    [
        (None, None, True),
        (True, True, True),
        (True, 1, False),
        (False, 0, False),
        (1, 1.0, False),
        (None, False, False),
        ("1", 1, False),
        ([True], [1], False),
        (["a"], ["a"], True),
    ],
)
def test_equal_means_equal_json(first: Any, second: Any, equal: bool) -> None:
    assert same(first, second) is equal
    assert same(second, first) is equal


# Against an oracle

#: What a stored value means, so that the oracle does not read values itself.
MEMBERSHIPS: list[tuple[object, object]] = [
    *((raw, True) for raw in ("true", "T", "1", True, 1)),
    *((raw, False) for raw in ("false", "f", " 0", False, 0)),
    *((raw, "null") for raw in (None, "", "null")),
    *((raw, "garbage") for raw in ("perhaps", "2", 7)),
]
COMPUTED: list[tuple[object, object]] = [
    *((raw, ("value", raw)) for raw in ("text", "007", 1, 1.0, True, False, 0)),
    *(("1", ("value", 1)), ("450.00", ("value", 450.0)), ("true", ("value", True))),
    *((f" {json.dumps(raw)}", ("value", raw)) for raw in (["a"], [], [1, True])),
    *((raw, "null") for raw in (None, " ", "null")),
]
TIMES: list[tuple[str | None, int | None]] = [
    *((MAY, MAY_MS), (JUNE, JUNE_MS), (JULY, JULY_MS)),
    *((None, None), ("soon", None)),
]


TraitRow = tuple[str, object, object, str | None, int | None]


@dataclass
class Rows:
    """What the source says of a customer: (key, raw, meaning, time text, time)."""

    traits: list[TraitRow]
    profile: list[tuple[str, str | None, str | None, int]]


@dataclass
class State:
    """What Amberflo should hold of a customer."""

    traits: dict[str, Any]
    name: str | None = None
    email: str | None = None
    stamps: dict[str, list[int]] | None = None


@dataclass
class World:
    pull: dict[str, Rows]
    snapshot: dict[str, State]

    def rows(self) -> list[PulledCustomer]:
        return [
            pulled(
                customer_id,
                *((key, raw, time) for key, raw, _, time, _ in rows.traits),
                profile=[(key, value, time) for key, value, time, _ in rows.profile],
            )
            for customer_id, rows in in_order(self.pull)
        ]

    def known(self) -> list[Stored]:
        return [
            known(customer_id, state.traits, state.name, state.email, state.stamps)
            for customer_id, state in in_order(self.snapshot)
        ]


def in_order(customers: dict[str, Any]) -> list[tuple[str, Any]]:
    return sorted(customers.items(), key=lambda item: item[0].encode())


def possible_rows(trait: KnownTrait) -> list[list[TraitRow]]:
    """No row, one, or two (a merge under way) of a trait: one choice, so that much is tried."""
    values = COMPUTED if trait.kind == COMPUTED_TRAIT else MEMBERSHIPS
    ones: list[TraitRow] = [
        (trait.key, raw, meaning, *TIMES[number % len(TIMES)])
        for number, (raw, meaning) in enumerate(values)
    ]
    twos: list[list[TraitRow]] = [
        [(trait.key, *values[first], *time), (trait.key, *values[second], *other)]
        for first in range(0, len(values), 2)
        for second in range(1, len(values), 3)
        for time in TIMES
        for other in TIMES
    ]
    return [[], *([row] for row in ones), *twos[::7]]


def possible_profiles(key: str, value: str) -> list[list[tuple[str, str | None, str | None, int]]]:
    """Of equal keys the later row is the newer one, as the source orders them."""
    return [
        [],
        [(key, value, MAY, MAY_MS)],
        [(key, None, MAY, MAY_MS)],
        [(key, "", None, 0), (key, value, MAY, MAY_MS)],
        [(key, value, MAY, MAY_MS), (key, "x" + value, JUNE, JUNE_MS)],
        [(key, value, MAY, MAY_MS), (key, "null", JULY, JULY_MS)],
    ]


#: The source has no row of "lost". Half of the time a trait has none or one.
ROWS = [
    st.sampled_from([*rows, *rows[: len(rows) // 4] * 4])
    for rows in (possible_rows(trait) for trait in TRAITS if trait.key != "lost")
]
PROFILES = [
    st.sampled_from(possible_profiles("email", "a@example.com")),
    st.sampled_from(possible_profiles("name", "Ada")),
]


@st.composite
def rows_of_a_customer(draw: st.DrawFn) -> Rows:
    traits = [row for rows in ROWS for row in draw(rows)]
    profile = [row for rows in PROFILES for row in draw(rows)]
    if draw(st.booleans()):
        # of the rows of one key the later one is the newer one in either order
        traits.reverse()
        profile.sort(key=lambda row: row[3])
    return Rows(traits, profile)


STAMPED = ["vip", "lost", "total", "tags", "gold_club", "stranger", "name", "email"]
STAMPS = [1, MAY_MS, MAY_MS + 1, JUNE_MS, JUNE_MS + 1, JULY_MS, JULY_MS + 1]
MEMBER = st.sampled_from([None, True, False])
VALUE = st.sampled_from([None, None, "text", 1, 1.0, True, 450.0, ["a"]])
STATES = st.builds(
    lambda vip, orders, lost, gold, total, tags, stranger, name, email, stamps: State(
        {
            key: value
            for key, value in {
                "vip": vip,
                "order_completed_last_30days": orders,
                "lost": lost,
                "gold_club": gold,
                "total": total,
                "tags": tags,
                "stranger": stranger,
            }.items()
            if value is not None
        },
        name,
        email,
        stamps,
    ),
    *(MEMBER, MEMBER, MEMBER, MEMBER, VALUE, VALUE, VALUE),
    st.sampled_from([None, "Ada", "Zoë"]),
    st.sampled_from([None, "a@example.com"]),
    st.none()
    | st.dictionaries(
        st.sampled_from(STAMPED),
        st.tuples(st.sampled_from(STAMPS), st.sampled_from(STAMPS)).map(list),
        max_size=3,
    ),
)


TEXTS = st.text(min_size=1, max_size=3) | st.sampled_from(["a", "b", "é", "z", "\uffff", "😀"])
#: `look_up` leaves rows unpaired whose id can be no customer's; `with_usable_ids` drops these.
IDS = TEXTS.filter(lambda text: problem(text) is None)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    ids = draw(st.lists(IDS, unique=True, max_size=6))
    where = {one: draw(st.sampled_from(["both", "both", "pull", "snapshot"])) for one in ids}
    return World(
        {one: draw(rows_of_a_customer()) for one in ids if where[one] != "snapshot"},
        {one: draw(STATES) for one in ids if where[one] != "pull"},
    )


@dataclass
class Expected:
    """What the oracle says."""

    states: dict[str, State]
    new: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)
    unchanged: set[str] = field(default_factory=set)
    changes: dict[str, list[TraitChange]] = field(default_factory=dict)
    sums: dict[str, Sums] = field(default_factory=lambda: {trait.key: Sums() for trait in TRAITS})


def is_same(one: object, other: object) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def oracle(world: World, *, whole: bool = True) -> Expected:
    """docs/design.md §3, straight: each customer on its own, all in dicts."""
    expected = Expected(dict(world.snapshot))
    for customer_id in {*world.pull, *(world.snapshot if whole else ())}:
        _expect(customer_id, world, expected, whole)
    return expected


def _expect(customer_id: str, world: World, expected: Expected, whole: bool) -> None:
    before = world.snapshot.get(customer_id)
    rows = world.pull.get(customer_id, Rows([], []))
    newest: dict[str, tuple[object, int | None]] = {}
    for key, _, meaning, _, at in rows.traits:
        if key not in newest or (at or 0) >= (newest[key][1] or 0):
            newest[key] = (meaning, at)
    was = before.traits if before else {}
    stamps = (before.stamps if before else None) or {}
    profile: dict[str, tuple[str | None, int]] = {"name": (None, 0), "email": (None, 0)}
    for key, value, _, at in rows.profile:
        if at >= max(profile[key][1], stamps.get(key, [0, 0])[0]):
            profile[key] = ("" if value in (None, "", "null") else value, at)

    now: dict[str, Any] = {}
    for name in {*was, *(trait.name for trait in TRAITS)}:
        mine = [trait for trait in TRAITS if trait.name == name and trait.key not in PROBLEMS]
        if not mine:
            keep = name in was
        else:
            meaning, at_or_none = newest.get(mine[0].key, ("absent", None))
            said, received = stamps.get(name, [0, 0])
            called = received > JUNE_MS and said >= (at_or_none or 0)
            open_ = meaning == "absent" and not whole
            keep = (called or open_ or meaning == "garbage") and name in was
            if called:
                pass
            elif isinstance(meaning, bool):
                now[name] = meaning
            elif isinstance(meaning, tuple):
                now[name] = meaning[1]
            elif mine[0].kind == AUDIENCE and name in was and not keep:
                now[name] = False
        if keep:
            now[name] = was[name]
    somebody = any(
        meaning is True or isinstance(meaning, tuple)
        for key, (meaning, _) in newest.items()
        if key not in PROBLEMS
    )
    if before is None and not somebody:
        now = {}
    after = State(
        now,
        _pulled(profile["name"][0], before.name if before else None),
        _pulled(profile["email"][0], before.email if before else None),
        before.stamps if before else None,
    )

    changes = []
    for trait in TRAITS:
        sums = expected.sums[trait.key]
        there = trait.key in newest
        if trait.key in PROBLEMS or (there and newest[trait.key][0] == "garbage"):
            sums.pulled += there
            if there:
                sums.reasons[PROBLEMS.get(trait.key, "not a boolean")] += 1
            continue
        one, other = was.get(trait.name), now.get(trait.name)
        if is_same(one, other):
            sums.pulled += there
            sums.unchanged += there
            continue
        sums.pulled += 1
        sums.vanished += not there
        if trait.kind == AUDIENCE and other is True:
            sums.entered += 1
        elif trait.kind == AUDIENCE and one is True:
            sums.exited += 1
        else:
            sums.changed += 1
            sums.dropped += trait.kind == COMPUTED_TRAIT and other is None
        at = newest[trait.key][1] if there else None
        changes.append(TraitChange(trait.key, trait.name, one, other, at))

    if before is None:
        if somebody:
            expected.new.add(customer_id)
            expected.states[customer_id] = after
            expected.changes[customer_id] = changes
    elif changes or (after.name, after.email) != (before.name, before.email):
        expected.changed.add(customer_id)
        expected.states[customer_id] = after
        expected.changes[customer_id] = changes
    else:
        expected.unchanged.add(customer_id)


def _pulled(row: str | None, before: str | None) -> str | None:
    """A name or email: an explicit null ("" here) takes away what we had."""
    if row is None or (row == "" and before is None):
        return before
    return row


def applied(world: World, changes: Iterable[CustomerChange]) -> dict[str, State]:
    found = dict(world.snapshot)
    for change in changes:
        before = found.get(change.customer_id, State({}))
        found[change.customer_id] = State(
            change.traits,
            before.name if change.name is None else change.name,
            before.email if change.email is None else change.email,
            before.stamps,
        )
    return found


def whole(world: World) -> tuple[list[CustomerChange], Tally]:
    return run(world.rows(), world.known())


def told(change: CustomerChange) -> tuple[str, list[str]]:
    """A customer's changes as comparable text (1 is not True)."""
    return change.customer_id, [json.dumps(one) for one in change.changes]


THOROUGH = settings(max_examples=150, deadline=None)


@THOROUGH
@given(worlds())
def test_states_changes_and_sums_are_those_of_the_oracle(world: World) -> None:
    changes, tally = whole(world)
    expected = oracle(world)
    found = applied(world, changes)
    assert is_same(
        {one: vars(state) for one, state in found.items()},
        {one: vars(state) for one, state in expected.states.items()},
    )
    assert {change.customer_id for change in changes if not change.known} == expected.new
    assert {change.customer_id for change in changes if change.known} == expected.changed
    for change in changes:
        want = sorted(expected.changes[change.customer_id], key=lambda one: one.trait)
        assert told(change)[1] == [json.dumps(one) for one in want]
    assert tally.sums == expected.sums
    assert (tally.new, tally.changed, tally.unchanged) == (
        len(expected.new),
        len(expected.changed),
        len(expected.unchanged),
    )


@THOROUGH
@given(worlds())
def test_a_partial_pull_gives_the_changes_of_its_own_customers(world: World) -> None:
    tally = Tally(make_catalog())
    there = {one.customer_id: one for one in world.known()}
    pairs = look_up(
        world.rows(), lambda ids: [there[one] for one in ids if one in there], at_a_time=2
    )
    changes = list(compare(pairs, tally.catalog, tally, JUNE_MS, whole=False))
    expected = oracle(world, whole=False)
    assert {change.customer_id for change in changes} == expected.new | expected.changed
    assert tally.sums == expected.sums
    assert tally.unchanged == len(expected.unchanged)


@THOROUGH
@given(worlds())
def test_the_changes_of_a_customer_are_the_difference_of_its_traits(world: World) -> None:
    """Nothing may go to Amberflo that the history does not tell, nor the other way round."""
    for change in whole(world)[0]:
        assert change.known == (change.customer_id in world.snapshot)
        state = world.snapshot.get(change.customer_id, State({}))
        before = state.traits
        if change.known:
            assert change.name is None or change.name != state.name
            assert change.email is None or change.email != state.email
        differing = {
            name
            for name in {*before, *change.traits}
            if not is_same(before.get(name), change.traits.get(name))
        }
        assert [one.trait for one in change.changes] == sorted(differing)
        for one in change.changes:
            assert is_same(one.before, before.get(one.trait))
            assert is_same(one.after, change.traits.get(one.trait))


@THOROUGH
@given(worlds())
def test_the_sums_close(world: World) -> None:
    """docs/design.md §3.8: pulled = unchanged + entered + exited + changed + skipped, by trait."""
    changes, tally = whole(world)
    for sums in tally.sums.values():
        parts = (sums.unchanged, sums.entered, sums.exited, sums.changed, sums.skipped)
        assert sums.pulled == sum(parts)
        assert min(parts) >= 0
        assert sums.dropped <= sums.changed
        assert sums.vanished <= sums.differing
    differing = Counter(one.key for change in changes for one in change.changes)
    assert differing == Counter({key: s.differing for key, s in tally.sums.items() if s.differing})
    assert tally.customers == len(world.pull)
    assert tally.rows == sum(len(r.traits) + len(r.profile) for r in world.pull.values())
    assert len(changes) == tally.new + tally.changed
    ids = [change.customer_id for change in changes]
    assert ids == [one for one, _ in in_order(dict.fromkeys(ids))]


@THOROUGH
@given(worlds())
def test_comparing_again_after_the_changes_finds_none(world: World) -> None:
    changes, _ = whole(world)
    again, tally = whole(World(world.pull, applied(world, changes)))
    assert again == []
    assert (tally.new, tally.changed) == (0, 0)
    assert all(sums.differing == 0 for sums in tally.sums.values())


@THOROUGH
@given(worlds())
def test_the_fast_path_gives_what_the_slow_one_gives(world: World) -> None:
    """Texts that are equal JSON but not equal text take the slow path."""
    fast, fast_tally = whole(world)
    slow, slow_tally = run(
        world.rows(), [one._replace(traits=" " + one.traits) for one in world.known()]
    )
    assert [told(change) for change in slow] == [told(change) for change in fast]
    assert slow == fast
    assert slow_tally.sums == fast_tally.sums
    assert slow_tally.unchanged == fast_tally.unchanged


@THOROUGH
@given(worlds())
def test_how_many_readings_are_remembered_changes_nothing(world: World) -> None:
    changes, tally = whole(world)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogs, "READINGS", 1)
        few, few_tally = whole(world)
    assert [told(change) for change in few] == [told(change) for change in changes]
    assert few == changes
    assert few_tally.sums == tally.sums


@pytest.mark.parametrize(
    "sent",
    [
        True,
        False,
    ],
)
def test_memory_stays_flat_however_many_sets_of_keys_there_are(
    monkeypatch: pytest.MonkeyPatch, sent: bool
) -> None:
    """Sparse audiences make as many sets of keys as customers."""
    tally = Tally(make_catalog())
    monkeypatch.setattr(catalogs, "LAYOUTS", 1000)
    monkeypatch.setattr(comparison, "KEYS_COUNTED", 2 * (len(tally.catalog.by_key) + 1))
    keys = ("vip", ORDERS, "lost")
    sets = [[one, *others] for one in keys for others in ([], ["total"], ["Tags"]) for _ in "12"]
    ids = [f"u{number:02}" for number in range(len(sets))]
    most = 0

    def rows() -> Iterable[PulledCustomer]:
        nonlocal most
        for customer_id, there in zip(ids, sets, strict=True):
            yield pulled(customer_id, *((key, None, MAY) for key in there))
            most = max(most, len(tally.unchanged_layouts))

    snapshot = [known(customer_id, {}) for customer_id in ids] if sent else []
    assert list(compare(merge(rows(), snapshot), tally.catalog, tally)) == []
    assert sum(sums.pulled for sums in tally.sums.values()) == sum(map(len, sets))
    assert most <= 3
