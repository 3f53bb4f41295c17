"""Cron lines and the rhythm of runs, against what is written here independently of them."""

from __future__ import annotations

import itertools
import random
import re
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.job import Job
from apscheduler.schedulers.background import BackgroundScheduler
from hypothesis import assume, given
from hypothesis import strategies as st

from syncer.cron import CronLine
from syncer.daemon import schedule as schedules
from syncer.daemon.schedule import Past, Rhythm, Schedule, Slot, SlotLost, TookNothing

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
#: 2028 has a February 29, and 2027 has none.
YEAR = datetime(2027, 11, 3, 14, 7, 30, tzinfo=UTC)

# -- cron lines: each with its minutes, hours, days of the month, months, and days of the week as
# -- Python counts them (Monday is 0)

ALL_DAYS, ALL_MONTHS, WEEK = range(1, 32), range(1, 13), range(7)
LINES = {
    "0 3 * * *": ([0], [3], ALL_DAYS, ALL_MONTHS, WEEK),
    "30 */6 * * *": ([30], [0, 6, 12, 18], ALL_DAYS, ALL_MONTHS, WEEK),
    "0,30 1-3,22 * * *": ([0, 30], [1, 2, 3, 22], ALL_DAYS, ALL_MONTHS, WEEK),
    "5/20 0 * * *": ([5, 25, 45], [0], ALL_DAYS, ALL_MONTHS, WEEK),
    "10-40/15 0 * * *": ([10, 25, 40], [0], ALL_DAYS, ALL_MONTHS, WEEK),
    "10-10/15,00-0/7 0 * * *": ([0, 10], [0], ALL_DAYS, ALL_MONTHS, WEEK),
    "05 03 01 08 *": ([5], [3], [1], [8], WEEK),
    "0 0 29 2 *": ([0], [0], [29], [2], WEEK),
    "0 0 31 * *": ([0], [0], [31], ALL_MONTHS, WEEK),
    "0 0 */10 * *": ([0], [0], [1, 11, 21, 31], ALL_MONTHS, WEEK),
    "0 0 1 */3 *": ([0], [0], [1], [1, 4, 7, 10], WEEK),
    "0 0 1 jan,Jul-SEP *": ([0], [0], [1], [1, 7, 8, 9], WEEK),
    "0 0 1 feb-dec/5 *": ([0], [0], [1], [2, 7, 12], WEEK),
    # days of the week: cron counts from Sunday, which is 0 and 7
    "0 3 * * 0": ([0], [3], ALL_DAYS, ALL_MONTHS, [6]),
    "0 3 * * 1": ([0], [3], ALL_DAYS, ALL_MONTHS, [0]),
    "0 3 * * 2": ([0], [3], ALL_DAYS, ALL_MONTHS, [1]),
    "0 3 * * 6": ([0], [3], ALL_DAYS, ALL_MONTHS, [5]),
    "0 3 * * 7": ([0], [3], ALL_DAYS, ALL_MONTHS, [6]),
    "0 3 * * 1-5": ([0], [3], ALL_DAYS, ALL_MONTHS, [0, 1, 2, 3, 4]),
    "0 3 * * 5-7": ([0], [3], ALL_DAYS, ALL_MONTHS, [4, 5, 6]),
    "0 3 * * 0-7": ([0], [3], ALL_DAYS, ALL_MONTHS, WEEK),
    "0 3 * * 0,3,7": ([0], [3], ALL_DAYS, ALL_MONTHS, [2, 6]),
    "0 3 * * 5-1": ([0], [3], ALL_DAYS, ALL_MONTHS, [4, 5, 6, 0]),
    "0 3 * * fri-mon": ([0], [3], ALL_DAYS, ALL_MONTHS, [4, 5, 6, 0]),
    "0 3 * * 7-1": ([0], [3], ALL_DAYS, ALL_MONTHS, [6, 0]),
    "0 3 * * SAT-sun": ([0], [3], ALL_DAYS, ALL_MONTHS, [5, 6]),
    "0 3 * * sun,tue,thu": ([0], [3], ALL_DAYS, ALL_MONTHS, [6, 1, 3]),
    "0 3 * * mon-fri/2": ([0], [3], ALL_DAYS, ALL_MONTHS, [0, 2, 4]),
    "0 3 * * */2": ([0], [3], ALL_DAYS, ALL_MONTHS, [6, 1, 3, 5]),
    "0 3 * * 1/2": ([0], [3], ALL_DAYS, ALL_MONTHS, [0, 2, 4]),
    "0 3 * * fri-1/2": ([0], [3], ALL_DAYS, ALL_MONTHS, [4, 6]),
}


def moments(line: str, begin: datetime, days: int) -> Iterator[datetime]:
    """Every minute of some days that a line names."""
    minutes, hours, of_month, months, of_week = LINES[line]
    for n in range(days):
        day = (begin + timedelta(days=n)).replace(hour=0, minute=0, second=0)
        if day.day in of_month and day.month in months and day.weekday() in of_week:
            for hour, minute in itertools.product(sorted(hours), sorted(minutes)):
                moment = day.replace(hour=hour, minute=minute)
                if moment >= begin:
                    yield moment


@pytest.mark.parametrize("line", LINES)
def test_a_cron_line_comes_when_it_says_for_a_year_and_more(line: str) -> None:
    expected = list(moments(line, YEAR, 400))
    cron, times, at = CronLine(line), [], YEAR.timestamp()
    while (at := cron.after(at)) <= (YEAR + timedelta(days=399)).timestamp():
        times.append(datetime.fromtimestamp(at, UTC))
    assert times == [moment for moment in expected if moment <= YEAR + timedelta(days=399)]
    assert times


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("", "0 fields, not 5"),
        ("0 3 * *", "4 fields, not 5"),
        ("0 3 * * * *", "6 fields, not 5"),
        ("@daily", "1 fields, not 5"),
        ("60 3 * * *", "bad minute"),
        ("-5 3 * * *", "bad minute"),
        ("5- 3 * * *", "bad minute"),
        ("1,,2 3 * * *", "bad minute"),
        ("*/0 3 * * *", "bad minute"),
        ("40-10 3 * * *", "bad minute"),
        ("*/5-5/2 3 * * *", "bad minute"),
        ("1-5-5/2 3 * * *", "bad minute"),
        ("3-3/2-5 3 * * *", "bad minute"),
        ("1.5 3 * * *", "bad minute"),
        ("٣ 3 * * *", "bad minute"),
        ("0 24 * * *", "bad hour"),
        ("0 x * * *", "bad hour"),
        ("0 *x * * *", "bad hour"),
        ("0 3 0 * *", "bad day-of-month"),
        ("0 3 32 * *", "bad day-of-month"),
        ("0 3 last5 * *", "bad day-of-month"),
        ("0 3 L * *", "bad day-of-month"),
        ("0 3 LW * *", "bad day-of-month"),
        ("0 3 ? * *", "bad day-of-month"),
        ("0 3 * 0 *", "bad month"),
        ("0 3 * 13 *", "bad month"),
        ("0 3 * jan5 *", "bad month"),
        ("0 3 * january *", "bad month"),
        ("0 3 * nov-feb *", "bad month"),
        ("0 3 * mon *", "bad month"),
        ("0 3 * jan/feb *", "bad month"),
        ("0 3 * * 8", "bad day-of-week"),
        ("0 3 * * 0-8", "bad day-of-week"),
        ("0 3 * * monday", "bad day-of-week"),
        ("0 3 * * mon5", "bad day-of-week"),
        ("0 3 * * 5L", "bad day-of-week"),
        ("0 3 * * mon#1", "bad day-of-week"),
        ("0 3 * * 1-5/0", "bad day-of-week"),
        ("0 3 * * */0", "bad day-of-week"),
        ("0 3 * * jan", "bad day-of-week"),
        ("0 3 1 * 1", "a day of the month or one of the week, not both"),
        ("0 0 30 2 *", "bad day-of-month"),
        ("0 0 31 feb,apr *", "bad day-of-month"),
    ],
)
def test_a_line_that_is_none_is_said(line: str, problem: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(problem)}$"):
        CronLine(line)


@given(st.text("0123456789*/,- monfrijalst", max_size=20))
def test_any_text_is_a_line_or_a_value_error(text: str) -> None:
    try:
        cron = CronLine(text)
    except ValueError:
        return
    assert cron.after(YEAR.timestamp()) > YEAR.timestamp()


def test_a_line_is_utc() -> None:
    seconds = CronLine("0 3 * * *").after(YEAR.timestamp())
    assert datetime.fromtimestamp(seconds, UTC) == datetime(2027, 11, 4, 3, tzinfo=UTC)


# -- the rhythm

#: In summer, and at the end of a year.
BEGINS = st.sampled_from([datetime(2026, 6, 1, tzinfo=UTC), datetime(2026, 12, 30, tzinfo=UTC)])
RECONCILES = st.sampled_from(
    ["0 3 * * *", "0 3 * * 0", "30 */6 * * *", "0 0 1 * *", "*/10 * * * *", "0 0 29 2 *"]
)


@st.composite
def rhythms(draw: st.DrawFn) -> Rhythm:
    every = draw(st.floats(MINUTE, 2 * DAY))
    return Rhythm(every, every * draw(st.floats(0, 0.999)), CronLine(draw(RECONCILES)))


RHYTHMS = rhythms()
STARTS = st.builds(lambda begin, offset: begin.timestamp() + offset, BEGINS, st.floats(0, 3 * DAY))
CHANCES = st.integers(0, 2**32).map(lambda seed: random.Random(seed).random)


def bounds(rhythm: Rhythm) -> tuple[float, float]:
    return max(rhythm.every - rhythm.jitter, 1.0), rhythm.every + rhythm.jitter


def due(rhythm: Rhythm, after: float) -> float:
    """When the next reconcile is after one that began at a time (a second's grace)."""
    return rhythm.reconcile.after(after)


def test_the_first_run_is_at_once_and_full() -> None:
    rhythm = Rhythm(2.5 * HOUR, 20 * MINUTE, CronLine("0 3 * * *"))
    assert rhythm.next(Past(None, None), 1234.5) == Slot(1234.5, True)


@given(RHYTHMS, STARTS, st.floats(0, 40 * DAY), st.floats(0, 1), CHANCES)
def test_who_is_in_time_starts_within_the_bounds(
    rhythm: Rhythm, start: float, full_ago: float, part: float, chance: random.Random
) -> None:
    low, high = bounds(rhythm)
    now = start + part * low
    slot = rhythm.next(Past(start, start - full_ago), now, chance)
    assert start + low - 1e-5 <= slot.at <= start + high + 1e-5
    assert slot.at >= now - 1e-5
    assert slot.full == (due(rhythm, start - full_ago) <= slot.at)


@given(RHYTHMS, STARTS, st.floats(0, 40 * DAY), st.floats(0, 40 * DAY), CHANCES)
def test_who_is_late_starts_at_once(
    rhythm: Rhythm, start: float, full_ago: float, late: float, chance: random.Random
) -> None:
    _, high = bounds(rhythm)
    now = start + high + late
    slot = rhythm.next(Past(start, start - full_ago), now, chance)
    assert slot.at == pytest.approx(now, abs=1e-5)
    assert slot.at >= now
    assert slot.full == (due(rhythm, start - full_ago) <= slot.at)


@given(RHYTHMS, STARTS, st.floats(-3, 3), CHANCES)
def test_a_slot_is_never_in_the_past_and_never_too_soon(
    rhythm: Rhythm, start: float, times: float, chance: random.Random
) -> None:
    """Also where the clock was set back and the last start is still to come."""
    low, high = bounds(rhythm)
    now = start + times * high
    slot = rhythm.next(Past(start, start), now, chance)
    assert slot.at >= now
    assert slot.at <= max(now, min(start, now) + high + 1e-5)
    assert slot.at == now or slot.at >= min(start, now) + low - 1e-5


@given(st.floats(HOUR, DAY), st.floats(0.01, 0.9), STARTS, CHANCES)
def test_a_reconcile_falls_on_its_time_wherever_the_bounds_allow_it(
    every: float, part: float, start: float, chance: random.Random
) -> None:
    rhythm = Rhythm(every, every * part, CronLine("0 3 * * *"))
    low, high = bounds(rhythm)
    target = due(rhythm, start)
    distance = target - start
    steps = [
        n for n in range(1, int(distance / low) + 1) if n * low + 1 <= distance <= n * high - 1
    ]
    assume(steps)
    past = Past(start, start)
    for _ in range(int(distance / low) + 2):
        slot = rhythm.next(past, past.start or 0.0, chance)
        if slot.full:
            break
        assert slot.at < target
        past = Past(slot.at, past.full)
    assert slot == Slot(target, True)


@given(st.floats(0, DAY), CHANCES)
def test_from_one_day_to_the_next_the_default_rhythm_always_reaches_it(
    offset: float, chance: random.Random
) -> None:
    """From a reconcile at 03:00 there are 9 to 11 runs to the next."""
    rhythm = Rhythm(2.5 * HOUR, 20 * MINUTE, CronLine("0 3 * * *"))
    at = datetime(2026, 6, 1, 3, tzinfo=UTC).timestamp()
    past, number = Past(at, at), 0
    while True:
        slot = rhythm.next(past, past.start or 0.0, chance)
        number += 1
        if slot.full:
            break
        past = Past(slot.at, at)
    assert slot.at == at + DAY
    assert 9 <= number <= 11


@pytest.mark.parametrize("line", ["0 3 * * 0", "0 3 1 * *", "0 3 1 1 *"])
def test_a_reconcile_far_away_falls_on_its_time(line: str) -> None:
    rhythm, chance = Rhythm(2.5 * HOUR, 20 * MINUTE, CronLine(line)), random.Random(3).random
    begin = YEAR.timestamp()
    past = Past(begin, begin)
    while not (slot := rhythm.next(past, past.start or 0.0, chance)).full:
        past = Past(slot.at, begin)
    assert slot.at == due(rhythm, begin)


def test_a_reconcile_that_cannot_be_reached_is_the_first_start_after_its_time() -> None:
    rhythm = Rhythm(2 * HOUR, 0.0, CronLine("0 3 * * *"))
    at = datetime(2026, 6, 1, 0, 30, tzinfo=UTC).timestamp()
    first = rhythm.next(Past(at, at - HOUR), at)
    second = rhythm.next(Past(first.at, at - HOUR), first.at)
    assert (first, second) == (Slot(at + 2 * HOUR, False), Slot(at + 4 * HOUR, True))
    third = rhythm.next(Past(second.at, second.at), second.at)
    assert third == Slot(at + 6 * HOUR, False)


def test_a_reconcile_that_began_a_moment_early_is_not_made_twice() -> None:
    rhythm = Rhythm(2.5 * HOUR, 20 * MINUTE, CronLine("0 3 * * *"))
    at = datetime(2026, 6, 1, 3, tzinfo=UTC).timestamp() - 0.7
    slot = rhythm.next(Past(at, at), at)
    assert not slot.full
    assert rhythm.next(Past(slot.at, at), slot.at).full is False


def test_chance_spreads_the_starts_over_all_of_the_bounds() -> None:
    rhythm = Rhythm(2.5 * HOUR, 20 * MINUTE, CronLine("0 0 29 2 *"))
    at, chance = YEAR.timestamp(), random.Random(4).random
    gaps = [rhythm.next(Past(at, at), at, chance).at - at for _ in range(300)]
    low, high = bounds(rhythm)
    for n in range(8):
        first = low + n * (high - low) / 8
        assert 15 < sum(first <= gap < first + (high - low) / 8 for gap in gaps) < 65


class SlowToSubmit(ThreadPoolExecutor):
    """Hands a job over, then keeps the scheduler busy for a moment, as a loaded machine does."""

    def __init__(self) -> None:
        super().__init__()
        self.submitted = threading.Event()

    def submit_job(self, job: Job, run_times: list[datetime]) -> None:
        super().submit_job(job, run_times)
        self.submitted.set()
        time.sleep(0.2)


def test_an_end_while_a_slot_comes_due_is_quiet_and_plans_nothing_more() -> None:
    executor, told = SlowToSubmit(), list[Slot]()
    schedule = Schedule(
        Rhythm(HOUR, MINUTE, CronLine("0 3 * * *")),
        lambda: Past(None, None),
        lambda full: time.sleep(0.1),
        on_slot=told.append,
        scheduler=BackgroundScheduler(timezone=UTC, executors={"default": executor}),
    )
    schedule.start()
    assert executor.submitted.wait(5)
    schedule.stop()  # pytest counts what breaks in the scheduler's thread
    assert len(told) == 1


@pytest.mark.parametrize("zone", ['"Europe/Rome"', "UTC+3", "America/New York", "nonsense"])
def test_a_slot_comes_due_whatever_the_time_zone_is_called(
    monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    monkeypatch.setenv("TZ", zone)
    began = threading.Event()
    schedule = Schedule(
        Rhythm(HOUR, MINUTE, CronLine("0 3 * * *")),
        lambda: Past(None, None),
        lambda full: began.set(),
    )
    schedule.start()
    try:
        assert began.wait(5)
    finally:
        schedule.stop()


def test_a_run_that_took_nothing_is_made_again_soon_and_ever_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the latest when the next one is due; and with the next good run all begins anew."""
    monkeypatch.setattr(schedules, "RETRY_RUN_AFTER", 60.0)
    fails = [True] * 9 + [False, True]

    def run(full: bool) -> None:
        if fails.pop(0):
            raise TookNothing

    schedule = Schedule(
        Rhythm(2 * HOUR, 0.0, CronLine("0 0 29 2 *")),
        lambda: Past(time.time() - 3 * HOUR, time.time()),
        run,
    )
    pauses = []
    for _ in range(11):
        began = time.time()
        pauses.append(round(schedule._take(Slot(began, False)).at - began, -1))
    assert pauses == [60, 120, 240, 480, 960, 1920, 3840, 7200, 7200, 7200, 60]


def test_a_slot_that_nobody_takes_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = Schedule(
        Rhythm(HOUR, MINUTE, CronLine("0 3 * * *")), lambda: Past(None, None), lambda full: None
    )
    schedule._slot = Slot(time.time() - 61, False)
    schedule.check_clock()
    with pytest.raises(SlotLost, match="has been due for 61 s"):
        schedule.check_clock()
