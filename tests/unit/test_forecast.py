"""The forecast: more work never takes less time, a unit is what it says, and nothing is nothing."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.capacity.advice import advice
from syncer.capacity.forecast import (
    DAY,
    LATENCY,
    MACHINE,
    RATE,
    Forecast,
    Load,
    Reading,
    Step,
)
from syncer.capacity.machine import MEASURED, Cost, Machine, Sample, fit
from syncer.delivery.estimate import Estimate, worth_pages
from tests.support.examples import examples

LOAD = Load(
    customers=1_000_000,
    values=10.0,
    change=0.02,
    events=50.0,
    rate=10.0,
    latency=0.1,
    concurrency=16,
    every=9000.0,
    outage=DAY,
    queue_limit=1_000_000,
)

QUICKLY = examples(20)


def seconds(most: float) -> st.SearchStrategy[float]:
    return st.just(0.0) | st.floats(1e-7, most)


COSTS = st.builds(Cost, seconds(10), seconds(0.01), seconds(0.01))
MACHINES = st.builds(Machine, COSTS, COSTS, COSTS, COSTS, COSTS, st.floats(1e-6, 0.01))
LOADS = st.builds(
    Load,
    customers=st.integers(0, 10**9),
    values=st.floats(0, 1000),
    change=st.floats(0, 2),
    events=st.just(0.0) | st.floats(1e-3, 1e5),
    rate=st.just(0.0) | st.floats(0.01, 1e5),
    latency=seconds(60),
    concurrency=st.integers(1, 1000),
    every=st.floats(1, 10 * DAY),
    outage=st.just(0.0) | st.floats(1, 30 * DAY),
    queue_limit=st.integers(1, 10**8),
    always_whole=st.booleans(),
    daemons=st.integers(0, 8),
    postgresql=st.booleans(),
)
#: What may grow, and whether the time then grows (1) or shrinks (-1).
GROWS = {
    "customers": 1,
    "values": 1,
    "change": 1,
    "events": 1,
    "latency": 1,
    "outage": 1,
    "queue_limit": 1,
    "rate": -1,
    "concurrency": -1,
}


def steps(load: Load, machine: Machine = MEASURED) -> dict[str, Step]:
    return {step.name: step for step in Forecast(load, machine).steps()}


def time(step: Step) -> float:
    return inf if step.seconds is None else step.seconds


@QUICKLY
@given(LOADS, MACHINES, st.sampled_from(sorted(GROWS)), st.floats(1, 100))
def test_more_work_takes_no_less_time(load: Load, machine: Machine, name: str, by: float) -> None:
    value = getattr(load, name)
    if name == "rate" and not value:
        value = 1.0  # of no rate is another test
    load, grown = replace(load, **{name: value}), type(value)(value * by)
    before, after = steps(load, machine), steps(replace(load, **{name: grown}), machine)
    assert [*before] == [*after]
    for step in before:
        # Where a delivery begins to read pages, more customers take fewer requests.
        if worth_pages(before[step].sent, load.customers) != worth_pages(
            after[step].sent, replace(load, **{name: grown}).customers
        ):
            continue
        less, more = [time(before[step]), time(after[step])][:: GROWS[name]]
        assert less <= more * (1 + 1e-9) + 1e-6, step
        if name not in ("rate", "latency", "concurrency"):
            assert before[step].requests <= after[step].requests


@QUICKLY
@given(LOADS, MACHINES)
def test_no_rate_is_the_most_there_is(load: Load, machine: Machine) -> None:
    free, bound = steps(replace(load, rate=0.0), machine), steps(load, machine)
    assert all(time(free[name]) <= time(bound[name]) * (1 + 1e-9) + 1e-6 for name in free)


@QUICKLY
@given(LOADS, MACHINES)
def test_nothing_takes_nothing(load: Load, machine: Machine) -> None:
    calm = steps(replace(load, change=0.0, events=0.0), machine)
    for name in ("incremental", "full", "catch_up", "catch_up_events"):
        assert (calm[name].sent, calm[name].sending) == (0, 0.0)
    assert calm["catch_up_events"].requests == 0
    assert calm["verify"].sent == 0
    nobody = steps(replace(load, customers=0), machine)
    assert nobody["initial"].sent == 0
    assert nobody["initial"].requests == 1


@QUICKLY
@given(LOADS, MACHINES)
def test_the_advice_is_lines(load: Load, machine: Machine) -> None:
    lines = list(advice(Forecast(load, machine)))
    assert lines
    assert all("\n" not in line and "nan" not in line for line in lines)


def test_units() -> None:
    forecast, by_name = Forecast(LOAD, MEASURED), steps(LOAD)
    everybody = Estimate(1_000_000, 0, 10.0)
    first = by_name["initial"]
    assert first.sent == 1_000_000
    assert first.requests == everybody.requests + 1
    assert first.sending == pytest.approx(everybody.requests / 10 + MEASURED.delivery.start)
    assert first.before == pytest.approx(MEASURED.initial.seconds(1_000_000, 10_000_000) + 0.1)
    assert first.bound == RATE
    # 2 % a day are 2,083.3 in 2.5 hours, and 20,000 in a day without Amberflo.
    assert (by_name["incremental"].sent, by_name["catch_up"].sent) == (2084, 20_000)
    # 1,000 a page, one request that looks how large they are, and one that finds nobody.
    assert by_name["verify"].requests == 1002
    assert forecast.queue_full_after == 20_000
    assert by_name["catch_up_events"].sent == 1_000_000
    assert by_name["catch_up_events"].requests == 10_000
    assert forecast.busy == pytest.approx(
        (9.6 * by_name["incremental"].requests + by_name["full"].requests) / 864_000
    )


def test_what_is_least_bounds_the_pace() -> None:
    def bound(rate: float, latency: float) -> tuple[float, str]:
        pace = Forecast(replace(LOAD, rate=rate, latency=latency), MEASURED).pace
        return round(pace.per_second), pace.bound

    assert bound(10, 0.1) == (10, RATE)
    assert bound(1000, 0.1) == (160, LATENCY)
    request = MEASURED.delivery.customer + 10 * MEASURED.delivery.value
    assert bound(0, 0) == (round(1 / request), MACHINE)


def test_several_daemons_share_what_amberflo_gives_and_add_what_they_have() -> None:
    def of(daemons: int, **load: float) -> Forecast:
        return Forecast(replace(LOAD, daemons=daemons, **load), MEASURED)

    alone, four = of(1), of(4)
    assert alone.pace == four.pace  # the rate is for all together
    assert (alone.reading_rate, four.reading_rate) == (5.0, 2.0)  # and a run has its share of it
    assert of(0).reading_rate == 10.0  # a run by itself
    listed = steps(alone.load)["verify"].before, steps(four.load)["verify"].before
    assert listed[1] - listed[0] == pytest.approx(1001 / 2 - 1001 / 5)
    assert of(4, rate=1000).pace.per_second == 4 * of(1, rate=1000).pace.per_second  # of latency
    assert of(4, rate=0, latency=0).pace.per_second == pytest.approx(
        4 * of(1, rate=0, latency=0).pace.per_second
    )
    # Each has its records in flight, and one of them processes all calls.
    assert (alone.event_pace.per_second, alone.event_pace.bound) == (4000, LATENCY)
    assert four.event_pace == of(8).event_pace
    assert four.event_pace.per_second == pytest.approx(1 / MEASURED.event)
    assert alone.database is None
    assert Forecast(replace(LOAD, postgresql=True), MEASURED).database == four.database
    busy = 10 * MEASURED.stored_customer + 50 * MEASURED.stored_event
    assert four.database == pytest.approx(busy)


def test_a_delivery_starts_as_it_reads() -> None:
    """Few customers are read one by one, at once; requests under way grow by round trips."""
    few = steps(replace(LOAD, customers=100, latency=0.0))["initial"]
    assert few.sending == Estimate(100, 0, 10.0).requests / 10
    # 4 + 8 + 16 are under way in the first three round trips, and two more take part of the fourth.
    slow = replace(LOAD, customers=15, latency=0.5, rate=0.0, concurrency=64)
    assert steps(slow)["initial"].sending == pytest.approx(0.5 * (3 + 2 / 32))
    # The pace needs no more than 4.
    narrow = replace(slow, concurrency=4)
    assert steps(narrow)["initial"].sending == pytest.approx(30 / 4 * 0.5)


def test_more_events_than_a_worker_takes_never_end() -> None:
    flood = Forecast(replace(LOAD, events=1e5), MEASURED)
    assert flood.events().seconds is None
    lines = "\n".join(advice(flood))
    assert "more than the" in lines
    assert "1,000,000 an hour and meter" in lines
    assert "callers get 429" in lines


def test_the_advice_fits() -> None:
    def lines(**load: float) -> str:
        return "\n".join(advice(Forecast(replace(LOAD, **load), MEASURED)))

    assert lines(events=1, customers=1000).startswith("one daemon on SQLite is enough")
    assert "more changes than gets through" in lines(change=1.0)
    assert "raise schedule.every" in lines(change=0, every=60, rate=100, always_whole=True)
    assert "keep Amberflo busy for" in lines(change=0.4)
    assert "several daemons on PostgreSQL would share it" in lines(rate=1e5, latency=0)
    assert "raise amberflo.concurrency" in lines(rate=1000)
    assert "4 daemons share the rate of 10" in lines(daemons=4)
    assert "one of them processes all" in lines(daemons=4)
    assert "more daemons would bring more" in lines(events=5000)
    assert "more daemons bring no more" in lines(events=9000, daemons=4)
    assert "of each of 4 daemons" in lines(daemons=4, rate=1000)
    assert "more daemons on PostgreSQL would share it" in lines(daemons=2, rate=1e5, latency=0)
    assert "PostgreSQL needs" in lines(daemons=9, rate=1e5, latency=0)


def test_pages_are_those_of_the_reader() -> None:
    pages = replace(LOAD, values=5.0).pages
    assert [pages(listed) for listed in (0, 9, 10, 1000, 1001)] == [1, 2, 3, 3, 4]
    assert replace(LOAD, values=200.0).pages(1000) == 12


@QUICKLY
@given(COSTS, st.integers(1, 500), st.integers(501, 5000), st.integers(1, 20), st.integers(21, 90))
def test_constants_are_found_again(cost: Cost, few: int, more: int, low: int, high: int) -> None:
    small, wide, deep = ((few, few * low), (more, more * low), (more, more * high))
    fitted = fit(*(Sample(*size, cost.seconds(*size)) for size in (small, wide, deep)))
    for size in (small, wide, deep):
        assert fitted.seconds(*size) == pytest.approx(cost.seconds(*size), rel=1e-6, abs=1e-6)


def test_noise_makes_no_cost_negative() -> None:
    assert fit(Sample(10, 20, 3.0), Sample(100, 200, 2.0), Sample(100, 900, 1.0)) == Cost(3.0, 0, 0)


@QUICKLY
@given(LOADS.filter(lambda load: load.customers > 0), st.floats(0.1, 10), st.booleans())
def test_a_source_that_is_slower_is_seen(load: Load, factor: float, initial: bool) -> None:
    load = replace(load, rate=0.0, latency=0.0)
    forecast = Forecast(load, MEASURED.reads(factor))
    by_name = {step.name: step for step in forecast.steps()}
    step = by_name["initial" if initial else "full"]
    changed = 0 if initial else step.sent
    values = round(load.customers * load.values)
    reading = Reading(1, initial, load.customers, values, changed, step.before)
    assert Forecast(load, MEASURED).factor(reading) == pytest.approx(factor, rel=0.2)
