"""The pace of requests, on a clock of its own: Amberflo publishes no limit
(docs/facts/amberflo.md §1.7), so the rate goes down on 429 and comes back by itself."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.rate_limit import RECOVER, SETTLE, SLOW_DOWN, SLOWEST, RateLimiter


def pace_of(rate: float) -> RateLimiter:
    """A pace that heeds the first 429 of a window already."""
    return RateLimiter(rate, share=0.0, least=1)


RATES = st.floats(0.5, 2000)


def moments(pace: RateLimiter, at: list[float]) -> list[float]:
    """When requests that ask at these times may go."""
    return [now + pace.reserve(now) for now in at]


def steady(pace: RateLimiter, start: float, seconds: float, per_second: int) -> float:
    """Requests that ask evenly for some time; gives the time after it."""
    for n in range(int(seconds * per_second)):
        pace.reserve(start + n / per_second)
    return start + seconds


def recover(pace: RateLimiter, wanted: float, now: float) -> float:
    """Successes until the rate is the wanted one again; gives the time."""
    for _ in range(200):
        if pace.rate == wanted:
            return now
        now += SETTLE
        pace.speed_up(now)
    raise AssertionError(f"stuck at {pace.rate}")


@given(RATES, st.integers(2, 40), st.floats(0, 1e6))
def test_requests_at_once_are_spread_evenly(rate: float, number: int, now: float) -> None:
    pace = pace_of(rate)
    waits = [pace.reserve(now) for _ in range(number)]
    assert waits == pytest.approx([n / rate for n in range(number)], abs=1e-6)


@given(RATES, st.lists(st.floats(0, 3), min_size=1, max_size=30))
def test_no_two_requests_are_nearer_than_the_rate(rate: float, gaps: list[float]) -> None:
    asked, now = [], 0.0
    for gap in gaps:
        now += gap
        asked.append(now)
    went = moments(pace_of(rate), asked)
    for before, after in pairwise(went):
        assert after - before >= 1 / rate - 1e-6
    for at, moment in zip(asked, went, strict=True):
        assert moment >= at - 1e-9


def test_a_rest_is_not_saved_up_for_a_burst() -> None:
    pace = pace_of(10)
    pace.reserve(0)
    assert [pace.reserve(60) for _ in range(3)] == pytest.approx([0, 0.1, 0.2])


def test_a_request_that_comes_late_enough_does_not_wait() -> None:
    pace = pace_of(10)
    assert [pace.reserve(now) for now in (0, 0.1, 0.25, 0.3)] == pytest.approx([0, 0, 0, 0.05])


@given(st.lists(st.floats(0, 100), max_size=30))
def test_an_unlimited_pace_never_waits(times: list[float]) -> None:
    pace = pace_of(0)
    assert pace.rate == 0
    assert [pace.reserve(now) for now in sorted(times)] == [0] * len(times)


def test_a_429_halves_the_rate_once_in_a_settle_window() -> None:
    """Many requests are under way when it comes: their 429s are one."""
    pace = pace_of(100)
    pace.slow_down(10.0, None)
    assert pace.rate == 50
    for now in (10.0, 10.2, 10.0 + SETTLE - 0.01):
        pace.slow_down(now, None)
    assert pace.rate == 50
    pace.slow_down(10.0 + SETTLE, None)
    assert pace.rate == 25


def test_after_a_429_requests_are_wider_apart() -> None:
    pace = pace_of(10)
    pace.slow_down(0, None)
    assert [pace.reserve(0) for _ in range(3)] == pytest.approx([0, 0.2, 0.4])


def test_retry_after_pauses_all_requests() -> None:
    pace = pace_of(10)
    pace.reserve(0)
    pace.slow_down(1, 7)
    assert pace.reserve(1) == pytest.approx(7)
    assert pace.reserve(2) == pytest.approx(6.2)
    # a shorter one that comes later does not end the pause
    pace.slow_down(2, 0.5)
    assert 2 + pace.reserve(2) > 8


def test_the_window_settles_after_the_pause() -> None:
    pace = pace_of(100)
    pace.slow_down(0, 5)
    for now in (1, 5, 5 + SETTLE - 0.01):
        pace.slow_down(now, None)
        pace.speed_up(now)
    assert pace.rate == 50
    pace.slow_down(5 + SETTLE, None)
    assert pace.rate == 25


def test_a_retry_after_inside_the_window_still_pauses() -> None:
    pace = pace_of(100)
    pace.slow_down(0, None)
    pace.slow_down(0.5, 30)
    assert pace.rate == 50
    assert pace.reserve(0.5) == pytest.approx(30)


def test_the_rate_recovers_step_by_step_to_the_wanted_one() -> None:
    pace = pace_of(100)
    pace.slow_down(0, None)
    pace.speed_up(SETTLE - 0.01)
    assert pace.rate == 50
    seen, now = [], 0.0
    while pace.rate != 100:
        now += SETTLE
        pace.speed_up(now)
        pace.speed_up(now + SETTLE / 2)  # one step a window
        seen.append(pace.rate)
    assert seen == pytest.approx([62.5, 78.125, 97.65625, 100])


def test_success_at_the_wanted_rate_makes_it_no_faster() -> None:
    pace = pace_of(100)
    for now in range(10):
        pace.speed_up(now)
    assert pace.rate == 100


def test_an_unlimited_rate_goes_down_from_what_was_measured_and_becomes_unlimited_again() -> None:
    pace = pace_of(0)
    now = steady(pace, 1000, 4, 50)
    pace.slow_down(now, None)
    assert pace.rate == pytest.approx(50 * SLOW_DOWN, rel=0.1)
    assert pace.reserve(now) == 0
    assert pace.reserve(now) == pytest.approx(1 / pace.rate)
    now = recover(pace, 0, now)
    assert pace.rate == 0
    assert [pace.reserve(now + 60) for _ in range(5)] == [0] * 5


def test_the_measured_rate_is_that_of_the_last_seconds() -> None:
    pace = pace_of(0)
    now = steady(pace, 0, 20, 100)
    now = steady(pace, now + 60, 4, 10)
    pace.slow_down(now, None)
    assert pace.rate == pytest.approx(10 * SLOW_DOWN, rel=0.3)


@pytest.mark.parametrize("wanted", [0, 0.5, 10, 1000])
def test_it_is_never_slower_than_the_slowest(wanted: float) -> None:
    pace = pace_of(wanted)
    pace.reserve(0)
    for n in range(100):
        pace.slow_down(n * SETTLE, None)
        assert pace.rate >= SLOWEST
    assert pace.rate == SLOWEST
    recover(pace, wanted, 100 * SETTLE)


@pytest.mark.parametrize("wanted", [0.01, 0.1, 0.19])
def test_a_429_never_makes_it_faster(wanted: float) -> None:
    pace = pace_of(wanted)
    pace.slow_down(0, None)
    assert pace.rate <= wanted


@given(
    st.floats(SLOWEST, 1000),
    st.lists(
        st.tuples(
            st.sampled_from(["reserve", "slow_down", "speed_up"]),
            st.floats(0, 3),
            st.none() | st.floats(0, 10),
        ),
        max_size=60,
    ),
)
def test_whatever_comes_the_rate_and_the_order_stay_in_bounds(
    wanted: float, events: list[tuple[str, float, float | None]]
) -> None:
    pace, now, last = pace_of(wanted), 0.0, 0.0
    for event, gap, after in events:
        now += gap
        before = pace.rate
        if event == "reserve":
            moment = now + pace.reserve(now)
            assert moment >= max(now, last) - 1e-6
            last = moment
        elif event == "slow_down":
            pace.slow_down(now, after)
            assert max(before * SLOW_DOWN, SLOWEST) - 1e-9 <= pace.rate <= before
            if after is not None:
                last = max(last, now + after)
        else:
            pace.speed_up(now)
            assert before <= pace.rate <= before * RECOVER + 1e-9
        assert SLOWEST <= pace.rate <= wanted


def test_a_429_now_and_then_slows_nobody_else_down() -> None:
    """One of twenty, as a busy server may do: only its own customer waits for Retry-After."""
    pace, now = RateLimiter(0), 0.0
    for number in range(4000):
        now += 0.002 + pace.reserve(now)
        if number % 20 == 7:
            pace.slow_down(now, 1.0)
        else:
            pace.speed_up(now)
    assert now < 9
    assert pace.rate == 0


def test_a_server_that_refuses_half_slows_all_down() -> None:
    pace, now, rates = RateLimiter(0), 0.0, set()
    for number in range(200):
        now += 0.002 + pace.reserve(now)
        if number % 2:
            pace.slow_down(now, 1.0)
        else:
            pace.speed_up(now)
        rates.add(pace.rate)
    assert 0 < min(rates - {0.0}) < 200
    assert now > 2


# Several processes that share the rate


@given(
    st.floats(0.5, 1000),
    st.lists(
        st.tuples(
            st.sampled_from(["join", "leave", "slow_down", "speed_up"]),
            st.integers(0, 20),
            st.floats(0, 3),
        ),
        max_size=60,
    ),
)
def test_together_they_are_never_faster_than_the_rate(
    rate: float, events: list[tuple[str, int, float]]
) -> None:
    together, now = [pace_of(rate)], 0.0
    for event, which, gap in events:
        now += gap
        limiter = together[which % len(together)]
        if event == "join":
            together.append(pace_of(rate))
        elif event == "leave" and len(together) > 1:
            together.remove(limiter)
        elif event == "slow_down":
            limiter.slow_down(now, None)
        else:
            limiter.speed_up(now)
        for pace in together:
            pace.divide(len(together))
            assert 0 < pace.rate <= rate / len(together) * (1 + 1e-9)
        assert sum(pace.rate for pace in together) <= rate * (1 + 1e-9)


@given(st.floats(1, 200), st.integers(1, 6))
def test_requests_of_all_together_keep_to_the_rate(rate: float, workers: int) -> None:
    went = []
    for _ in range(workers):
        pace = RateLimiter(rate)
        pace.divide(workers)
        went += [pace.reserve(0) for _ in range(40)]
    went.sort()
    for first, last in zip(went, went[workers:], strict=False):
        assert last - first >= 1 / rate - 1e-6
    seconds = max(went)
    assert len(went) <= rate * seconds + workers + 1e-6


def test_who_is_left_alone_has_the_whole_rate_again() -> None:
    pace = pace_of(90)
    for workers, rate in ((3, 30), (2, 45), (1, 90), (0, 90), (9, 10), (1, 90)):
        pace.divide(workers)
        assert pace.rate == pytest.approx(rate)


def test_the_share_of_who_was_slowed_down_comes_back_up_to_the_new_one() -> None:
    pace = pace_of(100)
    pace.slow_down(0, None)
    pace.divide(4)
    assert pace.rate == 25  # a share is less than what Amberflo allowed
    pace.divide(4)
    assert pace.rate == 25
    pace.slow_down(10, None)
    assert pace.rate == 12.5
    pace.divide(2)
    assert pace.rate == 12.5  # more is to be had, but only as Amberflo takes it
    recover(pace, 50, 10)


def test_an_unlimited_rate_has_no_shares() -> None:
    pace = pace_of(0)
    assert not pace.limited
    pace.divide(5)
    assert pace.rate == 0
    assert [pace.reserve(1) for _ in range(5)] == [0] * 5
    assert pace_of(1).limited
