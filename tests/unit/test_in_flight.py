"""Requests under way follow latency and rate (syncer/in_flight.py), against simulated servers."""

from __future__ import annotations

import heapq

from hypothesis import given
from hypothesis import strategies as st

from syncer.in_flight import START, InFlight

BOUNDS = st.integers(1, 200)


@given(
    BOUNDS,
    st.lists(
        st.tuples(
            st.sampled_from(["GET", "PUT", None]),
            st.floats(0.0, 60.0),
            st.integers(0, 300),
            st.floats(0.0, 5.0),
        ),
        max_size=300,
    ),
)
def test_the_limit_stays_within_its_bounds(
    most: int, answers: list[tuple[str | None, float, int, float]]
) -> None:
    in_flight, now = InFlight(most), 0.0
    for kind, seconds, under_way, later in answers:
        now += later
        if kind is None:
            in_flight.refused(now, seconds)
        else:
            in_flight.answered(now, kind, seconds, under_way)
        assert 1 <= in_flight.limit <= most


def simulate(
    in_flight: InFlight,
    seconds: float,
    *,
    at_once: int = 1000,
    rate: float = 0.0,
    answers: int = 3000,
    began: float = 0.0,
) -> tuple[float, float]:
    """Send as many requests as the limit allows to a server.

    The server answers `at_once` requests at a time, each after `seconds`; the others wait. At a
    limited `rate` no more are sent. Returns answers a second and the average number under way, of
    the second half.
    """
    now, next_one, under_way = began, began, list[tuple[float, float]]()
    free = [began] * at_once
    half, area = began, 0.0
    for number in range(answers):
        while len(under_way) < in_flight.limit and (not rate or next_one <= now):
            begins = max(now, heapq.heappop(free))
            heapq.heappush(free, begins + seconds)
            heapq.heappush(under_way, (begins + seconds, now))
            next_one = max(next_one, now - 0.05) + 1 / rate if rate else now
        earliest = under_way[0][0] if under_way else float("inf")
        if rate and len(under_way) < in_flight.limit and next_one < earliest:
            area += len(under_way) * (next_one - now)
            now = next_one
            continue
        area += len(under_way) * (earliest - now)
        now, sent = heapq.heappop(under_way)
        in_flight.answered(now, "PUT", now - sent, len(under_way) + 1)
        if number == answers // 2:
            half, area = now, 0.0
    return (answers - answers // 2) / (now - half), area / (now - half)


@given(BOUNDS, st.floats(0.001, 2.0))
def test_it_reaches_its_bound_where_the_server_takes_all(most: int, seconds: float) -> None:
    in_flight = InFlight(most)
    simulate(in_flight, seconds, answers=4 * most)
    assert in_flight.limit == most


@given(st.integers(START, 60), st.floats(0.05, 1.0))
def test_it_fills_a_server_and_leaves_it_no_long_queue(at_once: int, seconds: float) -> None:
    in_flight = InFlight(1000)
    rate, under_way = simulate(in_flight, seconds, at_once=at_once, answers=200 * at_once)
    assert rate > 0.9 * at_once / seconds
    assert under_way < 2.5 * at_once


@given(st.floats(1.0, 100.0), st.floats(0.02, 1.0))
def test_at_a_limited_rate_it_follows_latency_times_rate(rate: float, seconds: float) -> None:
    in_flight = InFlight(1000)
    _, under_way = simulate(in_flight, seconds, rate=rate)
    assert under_way <= 1.2 * rate * seconds + 1
    assert in_flight.limit <= max(START, 2 * rate * seconds + 2)
    assert in_flight.limit + 1 >= rate * seconds


def test_refused_requests_lower_it_and_it_comes_back() -> None:
    in_flight = InFlight(64)
    simulate(in_flight, 0.05)
    in_flight.refused(1000.0, 0.05)
    assert in_flight.limit == 64  # one is no sign
    for number in range(100):
        in_flight.refused(1000.0 + number, 0.05)
    assert in_flight.limit == 1
    simulate(in_flight, 0.05, began=2000.0)
    assert in_flight.limit > 32


def test_a_server_that_is_slower_from_now_on_is_no_full_one_for_long() -> None:
    in_flight = InFlight(64)
    simulate(in_flight, 0.05)
    simulate(in_flight, 0.5, began=1000.0, answers=6000)
    assert in_flight.limit > 32


def test_kinds_of_requests_have_their_own_latency() -> None:
    in_flight = InFlight(64)
    for number in range(400):
        kind, seconds = ("GET", 0.02) if number % 2 else ("PUT", 0.4)
        in_flight.answered(number / 100, kind, seconds, 64)
    assert in_flight.limit == 64
