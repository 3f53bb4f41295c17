"""The gate: which changes wait for Segment, and whether the sizes agree."""

from __future__ import annotations

import pytest

from syncer.engage.catalog import Catalog
from syncer.engage.catalog_builder import build
from syncer.engage.computations import (
    AUDIENCE,
    COMPUTED_TRAIT,
    UNLISTED,
    Computation,
    Computations,
    Kind,
)
from syncer.engage.source import ObservedKey
from syncer.sync import readiness
from syncer.sync.readiness import Mismatch
from syncer.sync.tally import Sums

LOCKED = Computation("vip", "Vip", AUDIENCE, "Locked")
LIVE = Computation("vip", "Vip", AUDIENCE, "Live")


def test_only_what_leaves_something_that_is_not_live_waits() -> None:
    listing = Computations.of(
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
    waits = readiness.waiting(listing, sums, held=())
    assert waits == {
        "vip": "1,234 that left stay as they are for now: its status is Locked, Segment keeps it "
        "locked until it is computed anew",
        "spent": "1 that left stay as they are for now: its status is Failed, Segment failed to "
        "compute it",
    }
    assert set(readiness.waiting(listing, sums, held=["vip"])) == {"spent"}
    unread = Computations({}, problem="no")
    assert set(readiness.waiting(unread, sums, held=["gone"])) == {"vip", "spent", "fine"}


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
    built = catalog("vip", "custom", "j_o_a__b", listed={"vip": AUDIENCE})
    assert built.keys == ["j_o_a__b", "vip"]
    assert readiness.unseen(Computations.of([LIVE]), built, statuses, whole=whole) is unseen


@pytest.mark.parametrize("whole", [True, False])
def test_where_the_list_cannot_be_read_all_is_to_be_compared_again(whole: bool) -> None:
    listing = Computations({"vip": AUDIENCE}, problem="no")
    built = catalog("vip", listed={"vip": AUDIENCE})
    assert readiness.unseen(listing, built, {"vip": "Live"}, whole=whole)


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
    differing = readiness.mismatches(
        Computations.of([sized(segment)]), {"vip": here}, ["*"], tolerance
    )
    assert differing == ([Mismatch("vip", segment, here)] if differs else [])


def test_only_live_audiences_of_ours_with_a_size_are_held_against_it() -> None:
    listing = Computations.of(
        [
            sized(500),
            sized(None, key="no_size"),
            sized(500, "Computing", key="computing"),
            sized(500, key="other"),
            Computation("vip_spent", "Spent", COMPUTED_TRAIT, "Live", size=500),
        ]
    )
    globs = ["vip*", "no_size", "computing"]
    assert readiness.mismatches(listing, {}, globs, 0.05) == [Mismatch("vip", 500, 0)]


def test_members_after_a_run_are_those_that_it_applies() -> None:
    sums = {key: Sums(entered=5, exited=3, changed=9) for key in ("vip", "held", "waits", "new")}
    before = {"vip": 10, "held": 10, "waits": 10}
    members = readiness.members_after(sums, before, held=["held"], waiting=["waits"])
    assert members == {"vip": 12, "held": 10, "waits": 15, "new": 2}
