"""The guard's limits (docs/design.md §3.13)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.sync.guard import Guard
from syncer.sync.tally import Sums


def held(
    sums: Sums,
    members: int,
    *,
    guard: Guard | None = None,
    whole: bool = True,
    still: dict[str, str] | None = None,
    leavers: int = 0,
    excused: int = 0,
) -> str | None:
    """Why the trait "vip" is held; None when it is not."""
    reasons = (guard or Guard()).held(
        {"vip": sums},
        {"vip": members},
        whole=whole,
        still=still or {},
        excused={"vip": excused},
        leavers={"vip": leavers},
    )
    assert set(reasons) <= {"vip"}
    return reasons.get("vip")


def exits(number: int, *, stay: int = 1) -> Sums:
    return Sums(pulled=number + stay, exited=number, unchanged=stay)


def test_the_limits_are_a_fifth_and_at_least_a_hundred() -> None:
    assert Guard() == Guard(0.2, 100, small_max_exits=0.3, small_min_exits=10, max_deleted=0.05)


@pytest.mark.parametrize(
    ("leaving", "members", "is_held"),
    [
        # the share: more than it
        (200, 1000, False),
        (201, 1000, True),
        (1000, 1000, True),
        # the number: at least it
        (99, 400, False),
        (100, 499, True),
        (100, 500, False),
        (1, 1, False),
        # small audiences: three tenths, and at least ten
        (99, 100, True),
        (30, 90, True),
        (30, 100, False),
        (31, 100, True),
        (10, 33, True),
        (9, 10, False),
        (10, 34, False),
    ],
)
def test_both_the_share_and_the_number_must_be_reached(
    leaving: int, members: int, is_held: bool
) -> None:
    assert (held(exits(leaving), members) is not None) is is_held


@pytest.mark.parametrize("whole", [True, False])
def test_the_reason_says_how_many_of_how_many(whole: bool) -> None:
    reason = held(exits(2500), 10_000, whole=whole)
    assert reason == "2,500 of 10,000 members would leave, more than 20%"


@pytest.mark.parametrize("number", [1, 5, 1000])
def test_without_a_number_the_share_alone_decides(number: int) -> None:
    guard = Guard(max_exits=0.5, min_exits=0)
    assert held(exits(number), 2 * number, guard=guard) is None
    assert held(exits(number + 1), 2 * number, guard=guard) is not None


def test_a_share_of_one_holds_no_exits_and_a_share_of_none_holds_all() -> None:
    assert held(exits(500), 500, guard=Guard(max_exits=1.0)) is None
    assert held(exits(100), 1_000_000, guard=Guard(max_exits=0.0)) is not None
    assert held(exits(1), 1_000_000, guard=Guard(max_exits=0.0, min_exits=0)) is not None


def test_exactly_the_share_is_not_more_than_it() -> None:
    assert held(exits(29), 100, guard=Guard(max_exits=0.29, min_exits=0)) is None


def test_entries_are_never_too_many() -> None:
    assert held(Sums(pulled=100_000, entered=100_000), 10) is None


def test_lost_values_of_a_computed_trait_count_as_exits() -> None:
    dropped = Sums(pulled=300, changed=300, dropped=300)
    assert held(dropped, 1000) == "300 of 1,000 members would leave, more than 20%"
    assert held(Sums(pulled=300, changed=300), 1000) is None


def test_a_trait_that_lost_all_its_rows_is_held_however_small() -> None:
    """docs/design.md §3.13: the pull has no rows for an audience that had members."""
    reason = held(Sums(pulled=3, exited=3, vanished=3), 3)
    assert reason == "the pull has no rows of it, and it had 3 members"
    computed = Sums(pulled=2, changed=2, dropped=2, vanished=2)
    assert held(computed, 1200) == "the pull has no rows of it, and it had 1,200 members"


@pytest.mark.parametrize(
    "rest",
    [Sums(unchanged=1), Sums(exited=1), Sums(entered=1), Sums()],
)
def test_one_row_of_a_trait_is_enough_to_take_the_exits_for_real(rest: Sums) -> None:
    rest.pulled, rest.exited, rest.vanished = 4, rest.exited + 3, 3
    assert held(rest, 4) is None


def test_a_partial_pull_has_no_rows_of_most_traits() -> None:
    assert held(Sums(pulled=3, exited=3, vanished=3), 3, whole=False) is None


def test_what_nobody_was_in_cannot_be_lost() -> None:
    assert held(Sums(pulled=1, changed=1, vanished=1), 0) is None


@pytest.mark.parametrize("whole", [True, False])
def test_without_a_difference_there_is_nothing_to_hold(whole: bool) -> None:
    for sums in (Sums(), Sums(pulled=500, unchanged=500)):
        assert held(sums, 500, whole=whole, leavers=400) is None


@pytest.mark.parametrize("whole", [True, False])
def test_what_is_held_stays_held_whatever_the_run(whole: bool) -> None:
    entered = Sums(pulled=1, entered=1)
    assert held(entered, 500, whole=whole, still={"vip": "held since run 4"}) == "held since run 4"
    assert held(entered, 500, whole=whole, still={"other": "held"}) is None


def test_runs_of_a_day_are_added_up() -> None:
    """docs/design.md §3.13: five runs of 19 % are not less than one of 95 %."""
    assert held(exits(190), 1000) is None
    reason = held(exits(154), 810, leavers=190)
    assert reason == (
        "154 of 810 members would leave, more than 20% within a day, in which 190 left before"
    )
    assert held(exits(10), 810, leavers=190) is None
    assert held(Sums(pulled=5, entered=5), 100, leavers=900) is None


def test_what_was_decided_is_not_counted() -> None:
    assert held(exits(600), 1000, excused=600) is None
    assert held(exits(600), 1000, excused=399) is not None
    assert held(Sums(pulled=3, exited=3, vanished=3), 3, excused=3) is None


def test_members_whom_only_amberflo_knew_count_as_members() -> None:
    sums = exits(150)
    sums.unrecorded = 1000
    assert held(sums, 0) is None
    sums.unrecorded = 500
    assert held(sums, 0) == "150 of 500 members would leave, more than 20%"


def test_deleted_customers_are_guarded_apart() -> None:
    guard = Guard()
    assert guard.held_deletions(9, 20, 0) is None
    assert guard.held_deletions(10, 200, 0) is None
    assert guard.held_deletions(10, 199, 0) == (
        "10 of 199 customers have no identifier in Segment any more, more than 5%"
    )
    assert guard.held_deletions(5, 199, 6) is not None
    assert guard.held_deletions(0, 199, 100) is None


def test_most_of_few_customers_are_not_deleted_without_a_word() -> None:
    """An empty source, or another id type in the config, must not be a deletion of all."""
    guard = Guard()
    assert guard.held_deletions(4, 9, 0) is None
    assert guard.held_deletions(5, 9, 0) is not None
    assert guard.held_deletions(1, 9, 0, nobody=True) is not None
    assert guard.held_deletions(0, 0, 0, nobody=True) is None


def test_each_trait_is_looked_at_by_itself() -> None:
    sums = {"gone": exits(900), "fine": exits(10), "new": Sums(pulled=5, entered=5)}
    members = {"gone": 1000, "fine": 1000}
    reasons = Guard().held(sums, members, whole=True, still={}, excused={}, leavers={})
    assert set(reasons) == {"gone"}


@given(
    st.floats(0, 1),
    st.integers(0, 500),
    st.integers(0, 2000),
    st.integers(0, 2000),
)
def test_more_exits_are_never_held_less(
    max_exits: float, min_exits: int, members: int, leaving: int
) -> None:
    guard = Guard(max_exits, min_exits, small_max_exits=1.0, small_min_exits=min_exits)
    before = held(exits(leaving), members, guard=guard, whole=False)
    after = held(exits(leaving + 1), members, guard=guard, whole=False)
    assert before is None or after is not None
    if before is not None:
        assert leaving >= min_exits
        assert leaving > max_exits * members - 1e-6


def test_a_key_that_nothing_is_pulled_of_is_held_in_a_partial_run_too() -> None:
    """Few at a time would pass below every limit (docs/design.md §3.7)."""
    sums = {"vip": Sums(pulled=1, exited=1, vanished=1)}
    guard = Guard(max_exits=1.0, min_exits=100)
    assert not guard.held(sums, {"vip": 5}, whole=False, still={}, excused={}, leavers={})
    assert "vip" in guard.held(
        sums, {"vip": 5}, whole=False, still={}, excused={}, leavers={}, lost={"vip"}
    )


def test_a_key_that_is_not_listed_is_held_with_that_reason() -> None:
    """A deleted audience stays true in Engage for ever (docs/facts/segment.md §3.4)."""
    sums = {key: Sums(pulled=1, exited=1, vanished=1) for key in ("gone", "lost")}
    members = {"gone": 1234, "lost": 5}
    reasons = Guard().held(
        sums,
        members,
        whole=True,
        still={},
        excused={},
        leavers={},
        lost={"gone", "lost"},
        unlisted={"gone"},
    )
    assert reasons == {
        "gone": "the Public API lists it no more: it was deleted in Engage, or never was an "
        "audience or computed trait of users; it had 1,234 members",
        "lost": "the pull has no rows of it, and it had 5 members",
    }


@pytest.mark.parametrize("whole", [True, False])
def test_exits_that_wait_are_not_the_guards(whole: bool) -> None:
    """It looks at them when they are to be applied."""
    for sums in (exits(900), Sums(pulled=900, exited=900, vanished=900)):
        reasons = Guard().held(
            {"vip": sums},
            {"vip": 1000},
            whole=whole,
            still={},
            excused={},
            leavers={},
            lost={"vip"},
            waiting={"vip"},
        )
        assert not reasons


def test_what_is_held_already_stays_held_though_exits_wait() -> None:
    sums = {"vip": Sums(pulled=2, entered=1, exited=1)}
    reasons = Guard().held(
        sums,
        {"vip": 1000},
        whole=False,
        still={"vip": "held since run 4"},
        excused={},
        leavers={},
        waiting={"vip"},
    )
    assert reasons == {"vip": "held since run 4"}
