"""A simulated month in which the clock is set, the machine sleeps, or the database is away."""

from __future__ import annotations

import itertools
import random

import pytest

from state.errors import StateError
from syncer.cron import CronLine
from syncer.daemon.schedule import Past, Rhythm
from tests.unit.schedule_month.helpers import (
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

HOURS = [-30, -5, -3, -0.5, 0.5, 2, 4, 9, 26]


@pytest.mark.parametrize(("seed", "hours"), list(enumerate(HOURS)))
def test_a_clock_that_is_set_makes_no_gap_and_no_burst(world: World, hours: float) -> None:
    world.at(2 * DAY + 777, lambda: world.set_clock(hours * HOUR))
    world.daemon(5 * DAY)
    assert len(world.starts) > 40
    assert all(gap <= 3 * HOUR for gap in world.gaps)
    assert sum(gap < LOW - EXACT for gap in world.gaps) <= (hours > 0)
    before = [start for start in world.starts if start.real <= 2 * DAY]
    after = world.starts[len(before) + 1 :]
    assert_in_rhythm(before)
    assert_in_rhythm(after)
    for day, times in world.reconciles().items():
        if day > after[0].day + 1:
            assert times == [pytest.approx(3, abs=EXACT / HOUR)]


@pytest.mark.parametrize("hours", HOURS[::2])
def test_a_clock_that_is_set_in_the_middle_of_a_run(world: World, hours: float) -> None:
    set_in: list[float] = []

    def takes(start: Start) -> float:
        if start.real > 2 * DAY and not set_in:
            set_in.append(start.real)
            world.at(world.real + 20 * MINUTE, lambda: world.set_clock(hours * HOUR))
        return 40 * MINUTE

    world.takes = takes
    world.daemon(5 * DAY)
    assert len(world.starts) > 40
    assert all(gap <= 3 * HOUR for gap in world.gaps)
    assert sum(gap < LOW - EXACT for gap in world.gaps) <= (hours > 0)


def test_a_clock_that_is_set_often(world: World) -> None:
    random_ = random.Random(5)
    for hour in range(3, 100, 7):
        by = random_.uniform(-4, 4) * HOUR
        world.at(hour * HOUR, lambda by=by: world.set_clock(by))  # type: ignore[misc]
    world.daemon(5 * DAY)
    assert len(world.starts) > 40
    assert all(gap <= 3 * HOUR for gap in world.gaps)


@pytest.mark.parametrize("hour", [2, 12])
def test_a_machine_that_slept_makes_up_for_it_once(world: World, hour: float) -> None:
    asleep = world.when(4, hour)
    world.at(asleep, lambda: world.suspend(7 * HOUR))
    world.daemon(8 * DAY)
    before = [start for start in world.starts if start.real < asleep]
    after = world.starts[len(before) :]
    awake = asleep + 7 * HOUR
    assert 0 <= after[0].real - awake <= 5 + EXACT
    assert after[0].full == (hour == 2)
    assert_in_rhythm(before)
    assert_in_rhythm(after)
    assert_daily_reconciles(world, but=(4,))
    assert len(world.reconciles()[after[0].day]) == 1


def test_a_run_during_which_the_machine_slept(world: World) -> None:
    slept: list[float] = []

    def takes(start: Start) -> float:
        if start.real > 2 * DAY and not slept:
            slept.append(start.real)
            world.at(world.real + MINUTE, lambda: world.suspend(7 * HOUR))
        return 10 * MINUTE

    world.takes = takes
    world.daemon(5 * DAY)
    (number,) = [n for n, gap in enumerate(world.gaps) if gap > HIGH + EXACT]
    assert world.gaps[number] == pytest.approx(7 * HOUR + 10 * MINUTE)
    assert_in_rhythm(world.starts[number + 1 :])


def test_a_database_that_cannot_be_read_for_a_while_does_not_end_the_schedule(
    world: World,
) -> None:
    broken: list[bool] = []
    asked = world.past

    def past_or_not() -> Past:
        if broken:
            raise StateError("the disk is full")
        return asked()

    world.past = past_or_not
    world.at(DAY, lambda: broken.append(True))
    world.at(DAY + 6 * HOUR, broken.clear)
    world.daemon(3 * DAY)
    began = next(start for start in world.starts if start.real >= DAY + 6 * HOUR)
    assert began.real <= DAY + 6 * HOUR + MINUTE + EXACT
    assert_in_rhythm([start for start in world.starts if start.real >= began.real])


def test_another_rhythm_holds_from_the_moment_it_is_set(world: World) -> None:
    def hourly() -> None:
        assert world.schedule is not None
        world.schedule.change(Rhythm(HOUR, 0.0, CronLine("30 */6 * * *")))

    world.at(DAY, hourly)
    world.daemon(3 * DAY)
    after = world.between(DAY, 3 * DAY)
    assert_in_rhythm(world.between(0, DAY))
    assert after[0].real <= DAY + HOUR + EXACT
    assert len(after) > 40
    for earlier, later in itertools.pairwise(after):
        assert later.real - earlier.real == pytest.approx(HOUR, abs=EXACT)
