"""What Amberflo has and the snapshot does not know, and what a missing row says."""

from __future__ import annotations

import pytest

from syncer.engage.source import Absence, PulledCustomer
from syncer.sync.changes import CustomerChange, TraitChange
from syncer.sync.diff import compare
from syncer.sync.join import DestinationState, look_up, merge
from syncer.sync.tally import Tally
from tests.unit.compare.helpers import (
    JUNE_MS,
    Stored,
    compare_one,
    counts,
    known,
    make_catalog,
    with_traits,
)

# What Amberflo has and the snapshot does not know (docs/design.md §3.5)


def beside(
    row: PulledCustomer | None, before: Stored | None, seen: DestinationState
) -> tuple[CustomerChange | None, Tally]:
    """Compare one customer whom Amberflo has otherwise."""
    tally = Tally(make_catalog())
    changes = list(compare([(row, before, seen)], tally.catalog, tally, JUNE_MS))
    return (changes[0] if changes else None), tally


@pytest.mark.parametrize("value", [True, "true"])
@pytest.mark.parametrize("row", [with_traits("u1", vip="f"), with_traits("u1", lost="f")])
def test_a_member_whom_only_amberflo_knows_leaves(row: PulledCustomer, value: object) -> None:
    change, tally = beside(row, None, DestinationState(None, {"vip": value, "stripeId": "cus_1"}))
    assert change is not None
    assert change.known is False
    assert change.traits["vip"] is False
    (vip,) = [trait_change for trait_change in change.changes if trait_change.trait == "vip"]
    assert (vip.before, vip.after, vip.source, vip.was) == (True, False, "amberflo", None)
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
    assert {
        trait_change.trait: (trait_change.before, trait_change.after)
        for trait_change in change.changes
    } == {
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
    (trait_change,) = change.changes
    assert (trait_change.trait, trait_change.before, trait_change.after, trait_change.was) == (
        "vip",
        False,
        True,
        True,
    )
    assert counts(tally, "vip") == {"pulled": 1, "changed": 1}
    # the customer changed since Amberflo was looked at
    assert beside(row, before, DestinationState(2, {"vip": False}))[0] is None


def test_what_is_judged_of_amberflo_is_all_that_counts() -> None:
    """The rest of a record may be on its way."""
    before = known("u1", {"vip": True, "lost": True})
    row = with_traits("u1", vip="t", lost="t")
    traits = {"vip": False, "lost": False}
    change, _ = beside(row, before, DestinationState(1, traits, judged={"vip"}))
    assert change is not None
    assert [trait_change.trait for trait_change in change.changes] == ["vip"]


def test_nobody_judges_whom_engage_never_knew() -> None:
    """docs/design.md §3.5: customers that Amberflo has and Engage does not know are left alone."""
    stranger = known("u1", {})._replace(compared=None)
    assert beside(None, stranger, DestinationState(1, {"vip": True}))[0] is None


def test_who_is_pulled_with_all_others_for_the_first_time_is_noted() -> None:
    new = known("u1", {"vip": True})._replace(compared=None)
    change, tally = compare_one(with_traits("u1", vip="t"), new)
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
