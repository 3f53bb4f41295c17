"""The schedule: an initial sync at once, then every 2 to 3 hours what changed, daily a reconcile.

A reconcile compares everything. Starts stay `every` ± `jitter` apart. The reconcile replaces the
run at its time: the starts before it are drawn so that one falls on it if their bounds allow it,
else the first start after its time is the reconcile. A missed slot (nothing ran, or the last run
took too long) is taken at once, and only once. Times are epoch seconds; cron lines are UTC, so a
change to summer time neither moves nor doubles a run.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil
from typing import NamedTuple

from apscheduler.job import Job
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.schedulers.base import BaseScheduler
from apscheduler.triggers.date import DateTrigger

from syncer.cron import CronLine
from syncer.process.unexpected import log_error

log = logging.getLogger("syncer")

#: A change of the clock by more seconds than this is a reset clock, or sleep of the machine.
CLOCK_STEP = 5.0
#: The starts are drawn towards a reconcile from this many runs before it.
AHEAD = 1000
#: Seconds until a slot is tried again if another run was going on.
RETRY_SLOT_AFTER = 60.0
#: Seconds until a run that took nothing is made again; it doubles, up to the next slot.
RETRY_RUN_AFTER = 60.0
#: Seconds after which a slot that came due and was not taken is lost: the scheduler is dead.
LOST_AFTER = 60.0


class Slot(NamedTuple):
    """The next run: when it starts, and whether it compares everything."""

    at: float
    full: bool


class Past(NamedTuple):
    """When the last run started, and the last that compared everything; None if there is none."""

    start: float | None
    full: float | None


@dataclass(frozen=True)
class Rhythm:
    """The settings: starts every `every` ± `jitter` seconds, a reconcile at `reconcile`."""

    every: float
    jitter: float
    reconcile: CronLine

    def next(self, past: Past, now: float, chance: Callable[[], float] = random.random) -> Slot:
        """Return the slot that follows the past."""
        if past.start is None:
            return Slot(now, True)
        low, high = max(self.every - self.jitter, 1.0), self.every + self.jitter
        base = min(past.start, now)  # the clock may have been set back
        target = self.reconcile.after(base if past.full is None else min(past.full, now))
        if base + low <= target <= base + high:
            at = target
        else:
            at = base + self._step(target - base, low, high, chance)
        return Slot(max(at, now), target <= max(at, now))

    def _step(self, distance: float, low: float, high: float, chance: Callable[[], float]) -> float:
        """Return the seconds to the next start, such that a later one can fall `distance` away."""
        fitting = []
        if high < distance < AHEAD * low:
            # After this step, k more steps of low..high must be able to cover the rest.
            for k in range(max(1, ceil((distance - high) / high)), int((distance - low) / low) + 1):
                first, last = max(low, distance - k * high), min(high, distance - k * low)
                if first <= last:
                    fitting.append((first, last))
        first, last = _drawn(fitting or [(low, high)], chance)
        return first + (last - first) * chance()


def _drawn(ranges: list[tuple[float, float]], chance: Callable[[], float]) -> tuple[float, float]:
    """Draw one of the ranges, weighted by their lengths."""
    point = chance() * sum(last - first for first, last in ranges)
    for first, last in ranges:
        point -= last - first
        if point < 0:
            return first, last
    return ranges[-1]


class AnotherRun(Exception):
    """Another run is going on: the slot is tried again soon."""


class TookNothing(Exception):
    """The run failed before it took anything: it is made again soon, after a pause that grows."""


class SlotLost(Exception):
    """A slot came due, and no run began."""


class Schedule:
    """Starts runs at their slots, one at a time.

    `past` is asked before each start, so that a run made by hand moves the slots. `run` takes
    whether to compare everything, returns when the run is over, and raises `AnotherRun` while
    another is going on, or `TookNothing`. `on_slot` gets each new slot.
    """

    def __init__(
        self,
        rhythm: Rhythm,
        past: Callable[[], Past],
        run: Callable[[bool], None],
        *,
        on_slot: Callable[[Slot], None] = lambda slot: None,
        chance: Callable[[], float] = random.random,
        scheduler: BaseScheduler | None = None,
    ) -> None:
        self.rhythm = rhythm
        self._past, self._run, self._on_slot, self._chance = past, run, on_slot, chance
        self._scheduler = scheduler or BackgroundScheduler(timezone=UTC)
        self._running = threading.Lock()
        #: held while a slot is planned, so that none is planned after `stop`
        self._planning = threading.Lock()
        self._stopped = False
        self._job: Job | None = None
        self._slot: Slot | None = None
        #: the newest start on record when the slot was planned, and our own last one
        self._basis: float | None = None
        self._started: float | None = None
        #: how many runs in a row took nothing
        self._failed = 0
        #: how many looks in a row a slot was due and no run began
        self._looks_late = 0
        self._ahead = time.time() - time.monotonic()

    def start(self, *, at_once: bool = False) -> None:
        """Plan the first slot and begin; with `at_once` it is now."""
        past = self._past()
        slot = self.rhythm.next(past, time.time(), self._chance)
        self._plan(slot._replace(at=time.time()) if at_once else slot, past.start)
        self._scheduler.start()

    def stop(self) -> None:
        """Start nothing more, and wait for the current run; the caller has asked it to end."""
        with self._planning:
            self._stopped = True
            # APScheduler fails on a job that comes due while it shuts down.
            self._drop_job()
        self._scheduler.shutdown(wait=True)

    def change(self, rhythm: Rhythm) -> None:
        """Continue in another rhythm."""
        self.rhythm = rhythm
        if not self._running.locked():
            past = self._past()
            self._plan(rhythm.next(self._known(past), time.time(), self._chance), past.start)

    def check_clock(self) -> None:
        """Adjust the plan if the clock was set or the machine slept. Call it every few seconds.

        The scheduler plans by the wall clock and sleeps by the monotonic one. Raises `SlotLost`
        where it does not start what is due.
        """
        ahead = time.time() - time.monotonic()
        step, self._ahead = ahead - self._ahead, ahead
        if abs(step) < CLOCK_STEP:
            self._check_slot()
            return
        log.info("the clock was set by %.0f s, or the machine slept", step)
        if self._started is not None:
            self._started += min(step, 0.0)
        if step < 0 and self._slot is not None and not self._running.locked():
            # The same time from now, by the monotonic clock.
            self._plan(self._slot._replace(at=self._slot.at + step), self._basis)
        else:
            self._scheduler.wakeup()

    def _check_slot(self) -> None:
        late = 0.0 if self._slot is None else time.time() - self._slot.at
        # At two looks in a row: a run that just ended plans the next slot in a moment.
        self._looks_late = (
            self._looks_late + 1 if late > LOST_AFTER and not self._running.locked() else 0
        )
        if self._looks_late > 1:
            raise SlotLost(f"a run has been due for {late:.0f} s and does not begin")

    def _plan(self, slot: Slot, basis: float | None) -> None:
        """Make this the next slot; `basis` is the newest recorded start now."""
        with self._planning:
            if self._stopped:
                return
            self._slot, self._basis = slot, basis
            self._drop_job()
            self._job = self._scheduler.add_job(
                self._take_slot,
                DateTrigger(datetime.fromtimestamp(slot.at, UTC), timezone=UTC),
                misfire_grace_time=None,
                coalesce=True,
                max_instances=1,
            )
        self._on_slot(slot)

    def _drop_job(self) -> None:
        if self._job is not None:
            with suppress(JobLookupError):  # it has run, or runs now
                self._job.remove()

    def _take_slot(self) -> None:
        if not self._running.acquire(blocking=False):
            return  # the current run plans the next slot when it ends
        try:
            assert self._slot is not None
            slot, basis = self._take(self._slot), self._past().start
        except Exception as error:  # noqa: BLE001 - such as a database that cannot be read now
            log_error(log, "the next run could not be planned; tried again in a minute", error)
            full = self._slot is not None and self._slot.full
            slot, basis = Slot(time.time() + RETRY_SLOT_AFTER, full), self._basis
        finally:
            self._running.release()
        self._plan(slot, basis)

    def _take(self, slot: Slot) -> Slot:
        """Make the run of a slot, unless somebody else made one; return the slot that follows."""
        now, past = time.time(), self._past()
        if self._made_meanwhile(past, now):
            return self.rhythm.next(past, now, self._chance)
        before, self._started = self._started, now
        try:
            self._run(slot.full)
        except AnotherRun:
            self._started = before
            return Slot(time.time() + RETRY_SLOT_AFTER, slot.full)
        except Exception as error:  # noqa: BLE001 - it is logged, and the run made again
            if not isinstance(error, TookNothing):
                log_error(log, "the run failed", error)
            self._failed += 1
        else:
            self._failed = 0
        # By our own start: the recorded one may be later, or from before the clock was set.
        past = self._past()._replace(start=self._started)
        following = self.rhythm.next(past, time.time(), self._chance)
        if not self._failed:
            return following
        again = time.time() + RETRY_RUN_AFTER * 2.0 ** min(self._failed - 1, 16)
        return following if following.at <= again else Slot(again, slot.full)

    def _made_meanwhile(self, past: Past, now: float) -> bool:
        """Whether a run was made since the slot was planned, and too recently for another."""
        if past.start is None or past.start == self._basis:
            return False
        return 0 <= now - past.start < self.rhythm.every - self.rhythm.jitter

    def _known(self, past: Past) -> Past:
        """Return the recorded past, with our own last start even if its run failed.

        A start in the future is from before the clock was set back.
        """
        starts = [start for start in (past.start, self._started) if start is not None]
        known = [start for start in starts if start <= time.time()]
        return past._replace(start=max(known, default=past.start))
