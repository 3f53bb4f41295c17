"""A simulated month of the schedule, in seconds: the real `Schedule` on the real APScheduler and
the real records of runs, on a machine whose time goes by as the scheduler says to wait."""

from __future__ import annotations

import itertools
import time
from datetime import UTC, datetime

import pytest

from state import runs
from tests.unit.schedule_month.helpers import (
    BEGIN,
    DAY,
    EXACT,
    HIGH,
    HOUR,
    LOW,
    MINUTE,
    Start,
    World,
    assert_daily_reconciles,
    assert_in_rhythm,
)


def test_a_month(world: World) -> None:
    world.daemon(31 * DAY)
    assert world.starts[0] == Start(0, BEGIN.timestamp(), True)  # the initial sync, at once
    assert_in_rhythm(world.starts)
    assert_daily_reconciles(world)
    assert 31 * DAY / HIGH <= len(world.starts) <= 31 * DAY / LOW + 1
    assert sum(start.full for start in world.starts) in (31, 32)
    assert len({round(gap) for gap in world.gaps}) > 100  # at random, not in step
    assert all(2 * HOUR < gap < 3 * HOUR for gap in world.gaps)
    # The time of every run was told before it.
    assert [slot.full for slot in world.told[:-1]] == [start.full for start in world.starts]
    for slot, start in zip(world.told, world.starts, strict=False):
        assert slot.at == pytest.approx(start.clock, abs=EXACT)


@pytest.mark.parametrize(
    "begin",
    [
        datetime(2026, 3, 6, 1, 30, tzinfo=UTC),  # on March 8 there, 02:00 to 03:00 is left out
        datetime(2026, 10, 30, 1, 30, tzinfo=UTC),  # on November 1, 01:00 to 02:00 comes twice
    ],
)
def test_summer_time_changes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, begin: datetime
) -> None:
    world.set_clock((begin - BEGIN).total_seconds())
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        world.daemon(5 * DAY)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert_in_rhythm(world.starts)
    assert_daily_reconciles(world, but=(0,))
    assert sum(start.full for start in world.starts) >= 5


def test_a_long_run_is_followed_by_one_at_once_and_no_more(world: World) -> None:
    long = world.when(3, 15)
    world.takes = lambda start: 7 * HOUR if long <= start.real < long + HIGH else 10 * MINUTE
    world.daemon(6 * DAY)
    (number,) = [n for n, gap in enumerate(world.gaps) if gap > HIGH + EXACT]
    assert world.gaps[number] == pytest.approx(7 * HOUR)
    assert_in_rhythm(world.starts[: number + 1])
    assert_in_rhythm(world.starts[number + 1 :])
    assert_daily_reconciles(world)


def test_a_reconcile_in_the_time_of_a_long_run_is_made_after_it(world: World) -> None:
    long = world.when(3, 22)
    world.takes = lambda start: 7 * HOUR if long <= start.real < long + HIGH else 10 * MINUTE
    world.daemon(6 * DAY)
    (number,) = [n for n, gap in enumerate(world.gaps) if gap > HIGH + EXACT]
    after = world.starts[number + 1]
    assert after.full
    assert after.real == pytest.approx(world.starts[number].real + 7 * HOUR)
    assert_in_rhythm(world.starts[number + 1 :])
    assert_daily_reconciles(world, but=(4,))
    assert len(world.reconciles()[after.day]) == 1


def test_what_was_missed_while_nothing_ran_is_made_at_once_and_once(world: World) -> None:
    world.daemon(world.when(4, 2))
    down = len(world.starts)
    world.go_on(7 * HOUR)
    world.daemon(8 * DAY)
    (back,) = world.between(world.when(4, 2), world.when(4, 9) + 1)
    assert world.starts[down] == back
    assert back.real == pytest.approx(world.when(4, 9))
    assert back.full
    assert_in_rhythm(world.starts[:down])
    assert_in_rhythm(world.starts[down:])
    assert_daily_reconciles(world, but=(4,))
    assert len(world.reconciles()[back.day]) == 1


def test_a_short_stop_in_between_changes_nothing(world: World) -> None:
    for days in range(1, 30):
        world.daemon(days * 0.2 * DAY)
        world.go_on(90)
    assert_in_rhythm(world.starts)
    assert len(world.starts) > 45
    for hours in world.reconciles().values():
        assert len(hours) == 1


@pytest.mark.parametrize("state", [runs.RUNNING, runs.INTERRUPTED, runs.FAILED])
def test_a_run_that_was_cut_off_is_made_up_for_at_the_next_start(world: World, state: str) -> None:
    world.daemon(2 * DAY)
    world.by_hand(full=False, takes=30, state=state)
    world.go_on(60)
    began = world.real
    world.daemon(4 * DAY)
    assert world.between(began, began + 1)
    assert_in_rhythm(world.between(began, world.real))


def test_runs_that_fail_keep_the_rhythm_and_the_reconcile_stays_to_be_made(world: World) -> None:
    first, last = world.when(3, 2), world.when(4, 20)
    world.ends_as = lambda start: runs.FAILED if first <= start.real < last else runs.DONE
    world.daemon(7 * DAY)
    assert_in_rhythm(world.starts)
    failed = world.between(world.when(3, 3) - 1, last)
    assert failed[0].clock % DAY / HOUR == pytest.approx(3)
    assert all(start.full for start in failed)
    good = world.between(last, world.when(5, 3) - 1)
    assert [start.full for start in good] == [True] + [False] * (len(good) - 1)
    assert_daily_reconciles(world, but=(3, 4))


def test_an_initial_sync_that_fails_is_tried_again_in_the_rhythm(world: World) -> None:
    world.ends_as = lambda start: runs.FAILED if start.real < 9 * HOUR else runs.DONE
    world.daemon(3 * DAY)
    assert_in_rhythm(world.starts)
    assert_daily_reconciles(world)


def test_a_run_that_breaks_is_made_again_and_does_not_end_the_schedule(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    def takes(start: Start) -> float:
        if DAY < start.real < DAY + HIGH:
            raise ZeroDivisionError
        return 10 * MINUTE

    world.takes = takes
    world.daemon(3 * DAY)
    broken = [start.real for start in world.starts if DAY < start.real < DAY + HIGH]
    assert caplog.text.count("the run failed") == len(broken) > 1
    pauses = [after - before for before, after in itertools.pairwise(broken)]
    assert pauses == pytest.approx([MINUTE * 2**n for n in range(len(pauses))], abs=EXACT)
    assert_in_rhythm([start for start in world.starts if start.real < DAY])
    assert_in_rhythm([start for start in world.starts if start.real > broken[-1]])


def test_a_run_by_hand_moves_the_slots(world: World) -> None:
    by_hand = [world.when(day, 14) for day in range(2, 8)]
    for moment in by_hand:
        world.at(moment, lambda: world.by_hand(full=False, takes=5 * MINUTE))
    world.takes = lambda start: MINUTE
    world.daemon(9 * DAY)
    moments = [start.real for start in world.starts]
    starts = [Start(real, 0, False) for real in sorted(moments + by_hand)]
    for before, after in itertools.pairwise(starts):
        assert after.real - before.real <= HIGH + EXACT
        if after.real not in by_hand:
            assert after.real - before.real >= LOW - EXACT
    assert_daily_reconciles(world)


def test_a_reconcile_by_hand_does_not_do_away_with_the_next(world: World) -> None:
    world.at(world.when(3, 20), lambda: world.by_hand(full=True, takes=5 * MINUTE))
    world.takes = lambda start: MINUTE
    world.daemon(6 * DAY)
    assert_daily_reconciles(world)


def test_while_another_run_goes_on_it_is_tried_every_minute(world: World) -> None:
    slot = HIGH + MINUTE  # the first of the schedule's own has been by then

    def hand() -> None:
        world.by_hand(full=False, takes=6 * HOUR, state=runs.FAILED)

    world.takes = lambda start: MINUTE
    world.at(slot, hand)
    world.daemon(2 * DAY)
    after = next(start for start in world.starts if start.real > slot)
    assert 0 <= after.real - (slot + 6 * HOUR) <= MINUTE + EXACT
    later = [start for start in world.starts if start.real >= after.real]
    assert_in_rhythm(later)
    tries = [told.at for told in world.told]
    assert sum(58 < later - earlier < 62 for earlier, later in itertools.pairwise(tries)) > 180


def test_a_run_by_hand_that_goes_on_at_the_slot_moves_it(world: World) -> None:
    by_hand: list[float] = []

    def shortly_before_the_slot() -> None:
        def hand() -> None:
            by_hand.append(world.real)
            world.by_hand(full=False, takes=30 * MINUTE)

        world.at(world.real + world.told[-1].at - time.time() - 10 * MINUTE, hand)

    world.takes = lambda start: MINUTE
    world.at(12.1 * HOUR, shortly_before_the_slot)
    world.daemon(2 * DAY)
    (moment,) = by_hand
    after = [start for start in world.starts if start.real > moment]
    assert moment + LOW - EXACT <= after[0].real <= moment + HIGH + EXACT
    assert sum(slot.at - world.starts[0].clock < after[0].real for slot in world.told) > 20
    assert_in_rhythm(after)
