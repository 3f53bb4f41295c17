"""A simulated month of the schedule, in seconds: the real `Schedule` on the real APScheduler and
the real records of runs, on a machine whose time goes by as the scheduler says to wait."""

from __future__ import annotations

import heapq
import itertools
import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from apscheduler.executors.debug import DebugExecutor
from apscheduler.job import Job
from apscheduler.schedulers.blocking import BlockingScheduler
from freezegun import freeze_time
from freezegun.api import FrozenDateTimeFactory

from state import runs
from state.db.database import Database
from state.errors import StateError
from syncer.cron import CronLine
from syncer.daemon import schedule as schedules
from syncer.daemon.schedule import AnotherRun, Past, Rhythm, Schedule, Slot
from syncer.daemon.service import needs_run, past

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
EVERY, JITTER = 2.5 * HOUR, 20 * MINUTE
LOW, HIGH = EVERY - JITTER, EVERY + JITTER
BEGIN = datetime(2026, 3, 1, 7, 13, 42, 250_000, tzinfo=UTC)
#: Milliseconds of the records, and microseconds of the clock.
EXACT = 0.002


class Start(NamedTuple):
    """A run that the schedule made: by real time since the beginning, and by the clock."""

    real: float
    clock: float
    full: bool

    @property
    def day(self) -> int:
        return int(self.clock // DAY)


class World:
    """A machine, its clock, and its daemon's runs. Things can be planned `at` a real time."""

    def __init__(self, frozen: FrozenDateTimeFactory, database: Database, seed: int) -> None:
        self.database = database
        self.real = self.monotonic = 0.0
        self.starts: list[Start] = []
        self.ends: list[float] = []
        self.told: list[Slot] = []
        self.schedule: Schedule | None = None
        self.random = random.Random(seed)
        #: how long a run takes, and how it ends; what is run by hand goes on beside
        self.takes: Callable[[Start], float] = lambda start: self.random.uniform(20, 25 * MINUTE)
        self.ends_as: Callable[[Start], str] = lambda start: runs.DONE
        self.by_hand_goes_on = False
        self.past = self._past
        self._known: Past | None = None
        self._frozen = frozen
        self._planned: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    # Time

    def at(self, real: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._planned, (real, next(self._numbers), action))

    def go_on(self, seconds: float, woken: Callable[[], bool] = lambda: False) -> None:
        """Let time go by, with all that is planned in it; until something wakes who waits. Who
        waits does so by the monotonic clock."""
        end = self.monotonic + seconds
        while self._planned and self._planned[0][0] - self.real <= end - self.monotonic:
            moment, _, action = heapq.heappop(self._planned)
            self._tick(moment - self.real)
            action()
            if woken():
                return
        self._tick(end - self.monotonic)

    def _tick(self, seconds: float) -> None:
        seconds = max(seconds, 0.0)
        self.real += seconds
        self.monotonic += seconds
        self._frozen.tick(timedelta(seconds=seconds))

    def set_clock(self, by: float) -> None:
        """Somebody sets the clock; the daemon looks at it some seconds later."""
        self._frozen.tick(timedelta(seconds=by))
        self.at(self.real + 5, self.glance)

    def suspend(self, seconds: float) -> None:
        """The lid is closed: the monotonic clock stands still."""
        self.real += seconds
        self._frozen.tick(timedelta(seconds=seconds))
        self.at(self.real + 5, self.glance)

    def glance(self) -> None:
        if self.schedule is not None:
            self.schedule.check_clock()

    def when(self, days: int, hours: float) -> float:
        """The real time of an hour (UTC) so many days after the beginning, while nobody has set
        the clock."""
        midnight = BEGIN.replace(hour=0, minute=0, second=0, microsecond=0)
        return (midnight - BEGIN).total_seconds() + days * DAY + hours * HOUR

    # Runs

    def daemon(self, until: float) -> None:
        """The daemon, as syncer/daemon/service.py has it, until a real time."""
        scheduler = Simulated(self, until)
        self.schedule = Schedule(
            Rhythm(EVERY, JITTER, CronLine("0 3 * * *")),
            lambda: self.past(),
            self.run,
            on_slot=self.told.append,
            chance=self.random.random,
            scheduler=scheduler,
        )
        self.schedule.start(at_once=needs_run(self.database))
        self.schedule.stop()
        self.schedule = None

    def run(self, full: bool) -> None:
        if self.by_hand_goes_on:
            raise AnotherRun
        assert len(self.ends) == len(self.starts), "a run began while another went on"
        start = Start(self.real, time.time(), full)
        self.starts.append(start)
        number = self._record(full)
        try:
            self.go_on(self.takes(start))
            self._end(number, self.ends_as(start))
        finally:
            self.ends.append(self.real)

    def by_hand(self, full: bool, takes: float, state: str = runs.DONE) -> None:
        """Somebody types `syncer sync`."""
        self.by_hand_goes_on = True
        number = self._record(full)

        def end() -> None:
            self._end(number, state)
            self.by_hand_goes_on = False

        self.at(self.real + takes, end)

    def _past(self) -> Past:
        """What is on record, asked again when a run ended."""
        if self._known is None:
            self._known = past(self.database)
        return self._known

    def _record(self, full: bool) -> int:
        with self.database.write() as connection:
            kind = "reconcile" if full else "incremental"
            return runs.start(connection, kind, int(time.time() * 1000), "{}")

    def _end(self, number: int, state: str) -> None:
        now = int(time.time() * 1000)
        values: dict[str, Any] = {"state": state, "ended_at": now}
        if state == runs.DONE:
            values |= {"committed_at": now, "watermark": "w"}
        with self.database.write() as connection:
            runs.set_values(connection, number, values)
        self._known = None

    # What came of it

    @property
    def gaps(self) -> list[float]:
        """Real time from start to start."""
        return [after.real - before.real for before, after in itertools.pairwise(self.starts)]

    def between(self, first: float, last: float) -> list[Start]:
        return [start for start in self.starts if first <= start.real < last]

    def reconciles(self) -> dict[int, list[float]]:
        """By day (since 1970) the hours at which everything was compared."""
        found: dict[int, list[float]] = {}
        for start in self.starts:
            if start.full:
                found.setdefault(start.day, []).append(start.clock % DAY / HOUR)
        return found


class AfterTheLook(DebugExecutor):
    """Runs jobs as soon as the scheduler has looked, as a thread of their own does."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[tuple[Job, list[datetime]]] = []

    def _do_submit_job(self, job: Job, run_times: list[datetime]) -> None:
        self.waiting.append((job, run_times))

    def work(self) -> bool:
        """Run what waits; gives whether something did."""
        waiting, self.waiting = self.waiting, []
        for job, run_times in waiting:
            super()._do_submit_job(job, run_times)
        return bool(waiting)


class Simulated(BlockingScheduler):
    """Waits in simulated time, by the monotonic clock as the real one."""

    def __init__(self, world: World, until: float) -> None:
        self._executor = AfterTheLook()
        super().__init__(timezone=UTC, executors={"default": self._executor})
        self._world, self._until = world, until

    def _main_loop(self) -> None:
        while self._world.real < self._until:
            wait = self._process_jobs()
            if not self._executor.work():
                assert wait is not None, "nothing is planned any more"
                self._event.clear()
                left = self._until - self._world.real
                self._world.go_on(min(wait, left), self._event.is_set)


@pytest.fixture
def seed() -> int:
    return 7


@pytest.fixture(scope="module")
def frozen() -> Iterator[FrozenDateTimeFactory]:
    """The clock of all these tests: to take it from every module takes as long as a test."""
    with freeze_time(BEGIN, ignore=["_pytest.timing"]) as frozen:
        yield frozen


@pytest.fixture
def world(
    seed: int, frozen: FrozenDateTimeFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    frozen.move_to(BEGIN)
    with closing(Database.open("sqlite://")) as database:
        world = World(frozen, database, seed)
        clocks = SimpleNamespace(time=time.time, monotonic=lambda: world.monotonic)
        monkeypatch.setattr(schedules, "time", clocks)
        yield world


def assert_in_rhythm(starts: list[Start]) -> None:
    assert len(starts) > 5
    for before, after in itertools.pairwise(starts):
        assert LOW - EXACT <= after.real - before.real <= HIGH + EXACT, (before, after)


def assert_daily_reconciles(world: World, *, but: tuple[int, ...] = ()) -> None:
    """Once a day at 03:00 UTC to the second, but for some days (counted from the first)."""
    found = world.reconciles()
    first, last = world.starts[0].day, int((world.starts[-1].clock - 3 * HOUR) // DAY)
    for day in range(first + 1, last + 1):
        if day - first not in but:
            assert found.get(day) == [pytest.approx(3, abs=EXACT / HOUR)], day - first


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
    assert sum(58 < two - one < 62 for one, two in itertools.pairwise(tries)) > 180


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
    for day, found in world.reconciles().items():
        if day > after[0].day + 1:
            assert found == [pytest.approx(3, abs=EXACT / HOUR)]


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
    for one, two in itertools.pairwise(after):
        assert two.real - one.real == pytest.approx(HOUR, abs=EXACT)
