"""Names and emails, what came by a call, and keys that stand twice while a merge is under way."""

from __future__ import annotations

import pytest

from syncer.engage.source import PulledCustomer
from syncer.sync.changes import TraitChange
from syncer.sync.diff import ENGAGE_WINS, compare
from syncer.sync.join import merge
from syncer.sync.tally import Tally
from tests.unit.compare.helpers import (
    JULY,
    JULY_MS,
    JUNE,
    JUNE_MS,
    MAY,
    MAY_MS,
    Row,
    compare_one,
    counts,
    known,
    make_catalog,
    pulled,
    with_traits,
)

# Name and email (docs/design.md §3.3)


def test_a_change_of_name_or_email_is_a_change_of_the_customer() -> None:
    before = known("u1", {"vip": True}, "Ada", "a@example.com")
    for key, value in (("name", "Eva"), ("email", "e@example.com")):
        change, tally = compare_one(
            pulled("u1", ("vip", "t", MAY), profile=[(key, value, MAY)]), before
        )
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
        again, _ = compare_one(pulled("u1", ("vip", "t", MAY), profile=[(key, value, MAY)]), odd)
        assert again == change


def test_a_name_or_email_without_a_row_stays_as_it_is() -> None:
    before = known("u1", {"vip": True}, "Ada", "a@example.com")
    assert compare_one(pulled("u1", ("vip", "t", MAY)), before)[0] is None
    change, _ = compare_one(pulled("u1", ("vip", "f", MAY)), before)
    assert change is not None
    assert (change.name, change.email) == (None, None)


@pytest.mark.parametrize("null", [None, "", "null"])
def test_an_explicit_null_takes_the_name_or_email_away(null: str | None) -> None:
    row = pulled("u1", ("vip", "t", MAY), profile=[("name", null, JULY), ("email", null, JULY)])
    change, _ = compare_one(row, known("u1", {"vip": True}, "Ada", "a@example.com"))
    assert change is not None
    assert (change.name, change.email) == ("", "")
    # of what we never had there is nothing to take away: it is somebody else's at Amberflo
    assert compare_one(row, known("u1", {"vip": True}))[0] is None
    assert compare_one(row, known("u1", {"vip": True}, "", ""))[0] is None


def test_the_newest_name_and_email_count() -> None:
    profile = [
        ("email", "new@example.com", JULY),
        ("email", "old@example.com", MAY),
        ("name", "Old", "soon"),
        ("name", "New", JUNE),
        ("name", "Older", None),
    ]
    change, tally = compare_one(pulled("u1", ("vip", "t", MAY), profile=profile), None)
    assert change is not None
    assert (change.name, change.email) == ("New", "new@example.com")
    assert tally.rows == 6


def test_the_newer_of_two_names_counts() -> None:
    """A source may keep its times as text of two forms, and order them so."""
    later, earlier = "2024-05-01 10:00:00+00:00", "2024-05-01T09:00:00Z"
    profile = [("name", "New", later), ("name", "Old", earlier)]
    change, _ = compare_one(pulled("u1", ("vip", "t", MAY), profile=profile), None)
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
    change, _ = compare_one(pulled("u1", ("vip", "t", MAY), profile=profile), before)
    assert change is not None
    assert (change.name, change.email) == (name, email)


def test_a_number_as_a_name_is_text() -> None:
    change, _ = compare_one(pulled("u1", ("vip", "t", MAY), profile=[("name", 42, MAY)]), None)
    assert change is not None
    assert change.name == "42"


def test_a_name_counts_whatever_its_time() -> None:
    """The zero time of Go, in which Segment is written."""
    profile = [("name", "Ada", "0001-01-01T00:00:00Z")]
    change, _ = compare_one(pulled("u1", ("vip", "t", MAY), profile=profile), None)
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
    change, tally = compare_one(row, before)
    if stays:
        assert change is None
        for key in ("vip", "total", "Tags"):
            assert counts(tally, key) == {"pulled": 1, "unchanged": 1}
    else:
        assert change is not None
        assert change.traits == {"vip": False, "tags": ["a"]}
        assert [trait_change.trait for trait_change in change.changes] == ["tags", "total", "vip"]


def test_a_row_without_a_time_is_older_than_any_call() -> None:
    before = known("u1", {"vip": True}, stamps={"vip": [1, JULY_MS]})
    assert compare_one(pulled("u1", ("vip", "f", None)), before)[0] is None


def test_of_a_key_that_stands_twice_the_newest_row_is_held_against_the_call() -> None:
    row = pulled("u1", ("vip", "f", JULY), ("vip", "t", MAY))
    early, late = [JUNE_MS, JULY_MS + 1], [JULY_MS, JULY_MS + 1]
    assert compare_one(row, known("u1", {"vip": True}, stamps={"vip": early}))[0] is not None
    assert compare_one(row, known("u1", {"vip": True}, stamps={"vip": late}))[0] is None


@pytest.mark.parametrize(("stamp", "stays"), [(JUNE_MS, False), (JUNE_MS + 1, True)])
@pytest.mark.parametrize("row", [None, with_traits("u1", lost="t")])
def test_a_row_that_is_not_there_yet_does_not_undo_a_call(
    row: PulledCustomer | None, stamp: int, stays: bool
) -> None:
    """The pull may not know of it: rows are loaded hourly (docs/facts/segment.md §1.3)."""
    traits = {"vip": True, "total": 5, "lost": True}
    stamps = {name: [stamp, stamp] for name in ("vip", "total")}
    change, tally = compare_one(row, known("u1", traits, stamps=stamps))
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
    change, _ = compare_one(pulled("u1", ("vip", "t", MAY), profile=profile), before)
    assert change is not None
    assert (change.name, change.email) == (None, "e@example.com")
    later = [(key, value, JULY) for key, value, _ in profile]
    change, _ = compare_one(pulled("u1", ("vip", "t", MAY), profile=later), before)
    assert change is not None
    assert (change.name, change.email) == ("Eva", "e@example.com")


# Duplicates while a merge is under way (docs/design.md §3.1)


def test_of_a_key_that_stands_twice_the_newest_row_counts() -> None:
    row = pulled("u1", ("vip", "true", JULY), ("total", "1", MAY), ("vip", "false", JUNE))
    change, tally = compare_one(row, known("u1", {"vip": False, "total": 1}))
    assert change is not None
    assert change.changes == [TraitChange("vip", "vip", False, True, JULY_MS)]
    # every row counts against the source, the key once
    assert tally.rows == 3
    assert counts(tally, "vip") == {"pulled": 1, "entered": 1}
    assert counts(tally, "total") == {"pulled": 1, "unchanged": 1}


def test_a_key_that_stands_twice_and_did_not_change() -> None:
    row = pulled("u1", ("vip", "false", MAY), ("vip", "true", JUNE))
    change, tally = compare_one(row, known("u1", {"vip": True}))
    assert change is None
    assert (tally.rows, counts(tally, "vip")) == (2, {"pulled": 1, "unchanged": 1})
