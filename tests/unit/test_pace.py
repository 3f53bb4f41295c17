"""The pace of a sweep, on a clock of its own: near the limit of Segment, and never beyond it."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Iterator
from random import Random

import pytest

from syncer.engage.sweep import Pace


class Clock:
    """A clock that goes on by sleeping, later than asked for, and by what else the machine does."""

    def __init__(self, rng: Random, late: float) -> None:
        self.now, self._rng, self._late = 1000.0, rng, late

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds + self._rng.random() * self._late


def sent(pace: Pace, clock: Clock, stalls: Iterator[float], number: int) -> list[float]:
    """When so many requests began; before each the machine stalls for the next time."""

    async def run() -> list[float]:
        times = []
        for stall in (next(stalls) for _ in range(number)):
            clock.now += stall
            await pace.permit()
            times.append(clock.now)
        return times

    return asyncio.run(run())


def most_in_a_second(times: list[float]) -> int:
    return max(bisect_left(times, at + 1.0) - n for n, at in enumerate(times))


@pytest.mark.parametrize("rate", [100.0, 30.0, 500.0])
@pytest.mark.parametrize(("late", "stall"), [(0.0, 0.0), (0.002, 0.0), (0.001, 0.03)])
def test_no_second_has_more_than_the_limit_and_all_of_them_nearly_as_many(
    rate: float, late: float, stall: float
) -> None:
    rng = Random(f"{rate}/{late}/{stall}")
    clock = Clock(rng, late)
    pace = Pace(rate, clock, clock.sleep)
    stalls = iter(lambda: stall if rng.random() < 0.5 / rate else 0.0, None)
    times = sent(pace, clock, stalls, int(rate * 60))
    assert most_in_a_second(times) <= rate
    assert len(times) / (times[-1] - times[0]) >= 0.95 * rate


def test_a_long_stall_is_not_made_up_for_by_a_burst() -> None:
    rng = Random(1)
    clock = Clock(rng, 0.001)
    stalls = iter(lambda: 0.4 if rng.random() < 0.01 else 0.0, None)
    assert most_in_a_second(sent(Pace(100.0, clock, clock.sleep), clock, stalls, 6000)) <= 100


def test_a_slow_rate_is_kept_too() -> None:
    clock = Clock(Random(0), 0.0)
    times = sent(Pace(0.5, clock, clock.sleep), clock, iter(lambda: 0.0, None), 20)
    assert (times[-1] - times[0]) / 19 >= 2.0


def test_after_answers_429_it_slows_down_and_comes_back() -> None:
    clock = Clock(Random(0), 0.0)
    pace = Pace(100.0, clock, clock.sleep)
    none = iter(lambda: 0.0, None)
    sent(pace, clock, none, 100)
    for _ in range(5):
        pace.throttled()
    slow = sent(pace, clock, none, 100)
    assert 100 / (slow[-1] - slow[0]) < 60
    for _ in range(10):
        clock.now += 1.1
        pace.succeeded()
    quick = sent(pace, clock, none, 300)
    assert 300 / (quick[-1] - quick[0]) > 94
    assert most_in_a_second(quick) <= 100
