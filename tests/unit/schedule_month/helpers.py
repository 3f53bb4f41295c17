"""A machine whose time goes by as the scheduler says to wait, and what its runs must look like."""

from __future__ import annotations

import heapq
import itertools
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest
from apscheduler.executors.debug import DebugExecutor
from apscheduler.job import Job
from apscheduler.schedulers.blocking import BlockingScheduler
from freezegun.api import FrozenDateTimeFactory

from state import runs
from state.db.database import Database
from syncer.cron import CronLine
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
        hours: dict[int, list[float]] = {}
        for start in self.starts:
            if start.full:
                hours.setdefault(start.day, []).append(start.clock % DAY / HOUR)
        return hours


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
                remaining = self._until - self._world.real
                self._world.go_on(min(wait, remaining), self._event.is_set)


def assert_in_rhythm(starts: list[Start]) -> None:
    assert len(starts) > 5
    for before, after in itertools.pairwise(starts):
        assert LOW - EXACT <= after.real - before.real <= HIGH + EXACT, (before, after)


def assert_daily_reconciles(world: World, *, but: tuple[int, ...] = ()) -> None:
    """Once a day at 03:00 UTC to the second, but for some days (counted from the first)."""
    hours = world.reconciles()
    first, last = world.starts[0].day, int((world.starts[-1].clock - 3 * HOUR) // DAY)
    for day in range(first + 1, last + 1):
        if day - first not in but:
            assert hours.get(day) == [pytest.approx(3, abs=EXACT / HOUR)], day - first
