"""The gate: which changes wait for Segment, and whether the sizes agree."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.engage.catalog import Catalog, build
from syncer.engage.listing import AUDIENCE, COMPUTED_TRAIT, UNLISTED, Computation, Kind, Listing
from syncer.engage.source import Everything, ObservedKey, WithoutCustomerId
from syncer.sync import gate
from syncer.sync.compare import CustomerChange, Sums, Tally, TraitChange
from syncer.sync.gate import Mismatch
from syncer.sync.plan import Plan
from syncer.sync.run import Compared, trait_sums

LOCKED = Computation("vip", "Vip", AUDIENCE, "Locked")
LIVE = Computation("vip", "Vip", AUDIENCE, "Live")


def change(key: str, before: Any, after: Any) -> TraitChange:
    return TraitChange(key, key, before, after, 1)


# What leaves


@pytest.mark.parametrize(
    ("before", "after", "audience", "computed_trait"),
    [
        (True, False, True, False),
        (True, None, True, True),
        (False, None, False, True),
        (None, False, False, False),
        (None, True, False, False),
        (False, True, False, False),
        ("gold", None, False, True),
        ("gold", "silver", False, False),
    ],
)
def test_who_leaves(before: Any, after: Any, audience: bool, computed_trait: bool) -> None:
    assert gate.leaves(change("k", before, after), AUDIENCE) is audience
    assert gate.leaves(change("k", before, after), COMPUTED_TRAIT) is computed_trait


def test_only_what_leaves_something_that_is_not_live_waits() -> None:
    listing = Listing.of(
        [
            Computation("vip", "Vip", AUDIENCE, "Locked"),
            Computation("new", "New", AUDIENCE, "Backfilling"),
            Computation("spent", "Spent", COMPUTED_TRAIT, "Failed"),
            Computation("fine", "Fine", AUDIENCE, "Live"),
        ]
    )
    sums = {
        "vip": Sums(exited=1234),
        "new": Sums(entered=5, changed=3),
        "spent": Sums(changed=2, dropped=1),
        "fine": Sums(exited=5),
        "gone": Sums(exited=5),
    }
    found = gate.waiting(listing, sums, held=())
    assert found == {
        "vip": "1,234 that left stay as they are for now: its status is Locked, Segment keeps it "
        "locked until it is computed anew",
        "spent": "1 that left stay as they are for now: its status is Failed, Segment failed to "
        "compute it",
    }
    assert set(gate.waiting(listing, sums, held=["vip"])) == {"spent"}
    unread = Listing({}, problem="no")
    assert set(gate.waiting(unread, sums, held=["gone"])) == {"vip", "spent", "fine"}


# A customer's change, split


CATALOG = build(
    [ObservedKey(key, 9, 9, 0, 0) for key in ("vip", "fine", "held", "spent")],
    [],
    audiences=["*"],
    computed_traits=["spent"],
)


def compared(changes: list[CustomerChange]) -> Compared:
    """A comparison that holds `held`, and in which `vip` and `spent` wait."""
    tally = Tally(CATALOG)
    for one in changes:
        for trait in one.changes:
            sums = tally.sums[trait.key]
            sums.pulled += 1
            if trait.key == "spent":
                sums.changed += 1
                sums.dropped += trait.after is None
            elif trait.after is True:
                sums.entered += 1
            elif trait.before is True:
                sums.exited += 1
            else:
                sums.changed += 1
    listing = Listing.of([LOCKED, Computation("spent", "Spent", COMPUTED_TRAIT, "Failed")])
    return Compared(
        kind="incremental",
        scope=Everything(),
        catalog=CATALOG,
        tally=tally,
        plan=Plan(),
        held={"held": "too many"},
        members={},
        watermark="",
        without_id=WithoutCustomerId(0, {}),
        horizon=0,
        listing=listing,
        waiting=gate.waiting(listing, tally.sums, ["held"]),
    )


def test_who_only_leaves_what_waits_is_not_written() -> None:
    leaving = CustomerChange("u", True, {"vip": False}, None, None, [change("vip", True, False)])
    of = compared([leaving])
    assert of.split(leaving) == (None, leaving.changes)
    named = leaving._replace(name="Ada")
    assert of.split(named) == (named._replace(traits={"vip": True}, changes=[]), leaving.changes)
    of.close()


def test_what_enters_goes_through_beside_what_waits() -> None:
    changes = [
        change("fine", True, False),
        change("held", None, True),
        change("spent", 5, None),
        change("vip", True, False),
    ]
    both = CustomerChange("u", True, {"vip": False, "fine": False}, None, None, changes)
    enters = CustomerChange("v", True, {"vip": True}, None, None, [change("vip", False, True)])
    of = compared([both, enters])
    kept, back = of.split(both)
    assert kept == both._replace(
        traits={"vip": True, "fine": False, "spent": 5}, changes=changes[:1]
    )
    assert back == changes[1:]
    assert [of.waits(one) for one in changes] == [False, False, True, True]
    assert of.split(enters) == (enters, [])
    of.close()


KEYS = {"vip": AUDIENCE, "fine": AUDIENCE, "held": AUDIENCE, "spent": COMPUTED_TRAIT}


@st.composite
def customer_changes(draw: st.DrawFn) -> CustomerChange:
    known = draw(st.booleans())
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    for key, kind in KEYS.items():
        values = st.sampled_from([True, False] if kind == AUDIENCE else [5, "gold"])
        was = draw(st.none() | values) if known else None
        now = draw(st.none() | values)
        if kind == AUDIENCE and was is not None and now is None:
            now = False  # a membership that is gone is false (design §3)
        before |= {} if was is None else {key: was}
        after |= {} if now is None else {key: now}
    changes = [
        change(key, before.get(key), after.get(key))
        for key in sorted(KEYS)
        if before.get(key) is not after.get(key)
    ]
    return CustomerChange("u", known, after, None, None, changes)


@given(st.lists(customer_changes(), max_size=5))
def test_what_goes_through_and_what_does_not_are_all_of_it(changes: list[CustomerChange]) -> None:
    """Nothing that leaves goes through while it waits, and the counts are those of the split."""
    of = compared(changes)
    held: dict[str, int] = {}
    waits: dict[str, int] = {}
    for one in changes:
        kept, back = of.split(one)
        through = kept.changes if kept is not None else []
        assert sorted([*through, *back]) == sorted(one.changes)
        if kept is not None:
            assert not any(
                gate.leaves(each, KEYS[each.key]) for each in through if each.key in of.waiting
            )
            for each in back:
                assert kept.traits.get(each.trait) == each.before
            for each in through:
                assert kept.traits.get(each.trait) == each.after
        for each in back:
            held[each.key] = held.get(each.key, 0) + 1
            waits[each.key] = waits.get(each.key, 0) + of.waits(each)
    for row in trait_sums(of, held):
        assert row["held"] == held.get(row["key"], 0)
        assert row["waiting"] == waits.get(row["key"], 0) <= row["held"]
    of.close()


# What a run left aside


def catalog(*keys: str, listed: dict[str, Kind]) -> Catalog:
    observed = [ObservedKey(key, 9, 9, 0, 0) for key in keys]
    return build(observed, [], audiences=["*"], computed_traits=[], listed=listed)


@pytest.mark.parametrize(
    ("statuses", "whole", "unseen"),
    [
        ({"vip": "Live"}, False, False),
        ({"vip": None}, False, False),
        ({}, False, True),
        ({"vip": UNLISTED}, False, True),
        ({}, True, False),
        ({"vip": UNLISTED}, True, False),
    ],
)
def test_a_key_that_is_new_in_the_list_has_rows_of_before(
    statuses: dict[str, str | None], whole: bool, unseen: bool
) -> None:
    found = catalog("vip", "custom", "j_o_a__b", listed={"vip": AUDIENCE})
    assert found.keys == ["j_o_a__b", "vip"]
    assert gate.unseen(Listing.of([LIVE]), found, statuses, whole=whole) is unseen


@pytest.mark.parametrize("whole", [True, False])
def test_where_the_list_cannot_be_read_all_is_to_be_compared_again(whole: bool) -> None:
    listing = Listing({"vip": AUDIENCE}, problem="no")
    found = catalog("vip", listed={"vip": AUDIENCE})
    assert gate.unseen(listing, found, {"vip": "Live"}, whole=whole)


# Sizes


def sized(size: int | None, status: str = "Live", key: str = "vip") -> Computation:
    return Computation(key, key, AUDIENCE, status, size=size)


@pytest.mark.parametrize(
    ("segment", "here", "tolerance", "differs"),
    [
        (1000, 1000, 0.0, False),
        (1000, 950, 0.05, False),
        (1000, 949, 0.05, True),
        (1000, 1051, 0.05, True),
        (100, 90, 0.05, False),
        (100, 89, 0.05, True),
        (0, 10, 0.5, False),
        (0, 11, 0.5, True),
        (1000, 0, 1.0, False),
    ],
)
def test_the_sizes_may_differ_by_a_share_and_by_ten(
    segment: int, here: int, tolerance: float, differs: bool
) -> None:
    found = gate.mismatches(Listing.of([sized(segment)]), {"vip": here}, ["*"], tolerance)
    assert found == ([Mismatch("vip", segment, here)] if differs else [])


def test_only_live_audiences_of_ours_with_a_size_are_held_against_it() -> None:
    listing = Listing.of(
        [
            sized(500),
            sized(None, key="no_size"),
            sized(500, "Computing", key="computing"),
            sized(500, key="other"),
            Computation("vip_spent", "Spent", COMPUTED_TRAIT, "Live", size=500),
        ]
    )
    globs = ["vip*", "no_size", "computing"]
    assert gate.mismatches(listing, {}, globs, 0.05) == [Mismatch("vip", 500, 0)]


def test_members_after_a_run_are_those_that_it_applies() -> None:
    sums = {key: Sums(entered=5, exited=3, changed=9) for key in ("vip", "held", "waits", "new")}
    before = {"vip": 10, "held": 10, "waits": 10}
    found = gate.members_after(sums, before, held=["held"], waiting=["waits"])
    assert found == {"vip": 12, "held": 10, "waits": 15, "new": 2}
