"""Names and emails, calls, merges, and what Amberflo has."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest

from syncer.engage.source import Absence, PulledCustomer
from syncer.engage.values import same
from syncer.errors import SourceError
from syncer.sync.changes import CustomerChange, TraitChange
from syncer.sync.diff import ENGAGE_WINS, compare
from syncer.sync.join import DestinationState, look_up, merge
from syncer.sync.tally import Tally
from tests.unit.compare.helpers import (
    JULY,
    JULY_MS,
    JUNE,
    JUNE_MS,
    MAY,
    MAY_MS,
    Row,
    Stored,
    counts,
    known,
    make_catalog,
    one,
    pulled,
    with_traits,
)

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
    assert tally.sums["vip"].unrecorded == 1


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
    assert (tally.sums["vip"].exited, tally.sums["vip"].unrecorded) == (1, 1)


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


# What a missing row says (docs/design.md §3.11)


def test_a_missing_row_of_a_key_that_only_logs_tell_says_nothing() -> None:
    """Of `vip` the source has a list; of the other keys only rows say something."""
    absence = Absence(frozenset({"vip"}), deletions=False)
    before = [
        known("u1", {"vip": True, "lost": True, "total": 5}),
        known("u2", {"lost": True, "total": 5}),
    ]
    tally = Tally(make_catalog())
    changes = list(compare(merge([], before), tally.catalog, tally, JUNE_MS, absence=absence))
    assert [(each.customer_id, each.traits) for each in changes] == [
        ("u1", {"vip": False, "lost": True, "total": 5})
    ]
    assert counts(tally, "vip") == {"pulled": 1, "exited": 1, "vanished": 1}
    assert counts(tally, "lost") == counts(tally, "total") == {}


def test_where_nothing_is_said_what_amberflo_lost_is_put_back() -> None:
    """A source without a pull only reconciles: what is known stays, and is sent where it is not."""
    absence = Absence(frozenset(), deletions=False)
    remote = DestinationState(1, {"total": 7})
    rows = [(None, known("u1", {"vip": True, "total": 5}), remote)]
    tally = Tally(make_catalog())
    (change,) = compare(rows, tally.catalog, tally, JUNE_MS, absence=absence)
    assert change.traits == {"vip": True, "total": 5}
    assert [(each.key, each.before, each.after, each.source) for each in change.changes] == [
        ("total", 7, 5, "amberflo"),
        ("vip", None, True, "amberflo"),
    ]
