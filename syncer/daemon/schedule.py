"""The schedule: an initial sync at once, then every 2 to 3 hours what changed, and once a day a
reconcile that compares everything.

Starts stay `every` ± `jitter` apart. The reconcile takes the place of the run at its time: the
starts before it are drawn so that one falls on it, where their bounds allow; else the first start
after its time is the reconcile. A slot that was missed, because nothing ran or the last run took
too long, is taken at once, and only once. Times are epoch seconds; cron lines are UTC, so no change
to summer time moves or doubles anything.
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

log = logging.getLogger("syncer")

#: A clock that goes back or ahead by more seconds than this was set, or the machine slept.
STEP = 5.0
#: So many runs before a reconcile the starts begin to be drawn so that one falls on it.
AHEAD = 1000
#: Seconds after which a slot is tried again where another run was going on.
AFTER_ANOTHER = 60.0


class Slot(NamedTuple):
    """When the next run starts, and whether it compares everything."""

    at: float
    full: bool


class Past(NamedTuple):
    """When the last run started, and the last that compared everything; None: none did."""

    start: float | None
    full: float | None


@dataclass(frozen=True)
class Rhythm:
    """The settings: starts every `every` ± `jitter` seconds, a reconcile at `reconcile`."""

    every: float
    jitter: float
    reconcile: CronLine

    def next(self, past: Past, now: float, chance: Callable[[], float] = random.random) -> Slot:
        """The slot that follows on the past."""
        if past.start is None:
            return Slot(now, True)
        low, high = max(self.every - self.jitter, 1.0), self.every + self.jitter
        base = min(past.start, now)  # a clock that was set back must not stop us
        target = self.reconcile.after(base if past.full is None else min(past.full, now))
        if base + low <= target <= base + high:
            at = target
        else:
            at = base + self._step(target - base, low, high, chance)
        return Slot(max(at, now), target <= max(at, now))

    def _step(self, left: float, low: float, high: float, chance: Callable[[], float]) -> float:
        """Seconds to the next start, so that a later one can fall on a moment `left` away."""
        fitting = []
        if high < left < AHEAD * low:
            # After the step, k more of low..high each must be able to make up what is left.
            for k in range(max(1, ceil((left - high) / high)), int((left - low) / low) + 1):
                first, last = max(low, left - k * high), min(high, left - k * low)
                if first <= last:
                    fitting.append((first, last))
        first, last = _drawn(fitting or [(low, high)], chance)
        return first + (last - first) * chance()


def _drawn(ranges: list[tuple[float, float]], chance: Callable[[], float]) -> tuple[float, float]:
    """One of the ranges, the longer the likelier."""
    point = chance() * sum(last - first for first, last in ranges)
    for first, last in ranges:
        point -= last - first
        if point < 0:
            return first, last
    return ranges[-1]


class Busy(Exception):
    """Another run is going on: the slot is tried again soon."""


class Schedule:
    """Starts runs at their slots, one at a time.

    `past` is asked before each start, so a run that somebody made by hand moves the slots; `run` is
    given whether to compare everything, returns when the run is over, and raises `Busy` where
    another is going on; `tell` hears of each new slot.
    """

    def __init__(
        self,
        rhythm: Rhythm,
        past: Callable[[], Past],
        run: Callable[[bool], None],
        *,
        tell: Callable[[Slot], None] = lambda slot: None,
        chance: Callable[[], float] = random.random,
        scheduler: BaseScheduler | None = None,
    ) -> None:
        self.rhythm = rhythm
        self._past, self._run, self._tell, self._chance = past, run, tell, chance
        self._scheduler = scheduler or BackgroundScheduler(timezone=UTC)
        self._running = threading.Lock()
        #: held while a slot is planned, so that none is planned after the end
        self._planning = threading.Lock()
        self._stopped = False
        self._job: Job | None = None
        self._slot: Slot | None = None
        #: the newest start on record when the slot was planned, and our own last one
        self._basis: float | None = None
        self._started: float | None = None
        self._ahead = time.time() - time.monotonic()

    def start(self, *, at_once: bool = False) -> None:
        """Plan the first slot and begin; `at_once` says that something was left undone."""
        past = self._past()
        slot = self.rhythm.next(past, time.time(), self._chance)
        self._plan(slot._replace(at=time.time()) if at_once else slot, past.start)
        self._scheduler.start()

    def stop(self) -> None:
        """Start nothing more, and wait for the run that goes on, which the caller ends before."""
        with self._planning:
            self._stopped = True
            # Without its job APScheduler has nothing in hand: it stumbles over one that comes due
            # while it is shut down.
            self._drop_job()
        self._scheduler.shutdown(wait=True)

    def change(self, rhythm: Rhythm) -> None:
        """Go on in another rhythm."""
        self.rhythm = rhythm
        if not self._running.locked():
            past = self._past()
            self._plan(rhythm.next(self._known(past), time.time(), self._chance), past.start)

    def glance(self) -> None:
        """Look whether the clock was set or the machine slept; to be called every few seconds. The
        scheduler sleeps by the monotonic clock and plans by the other one."""
        ahead = time.time() - time.monotonic()
        step, self._ahead = ahead - self._ahead, ahead
        if abs(step) < STEP:
            return
        log.info("the clock was set by %.0f s, or the machine slept", step)
        if self._started is not None:
            self._started += min(step, 0.0)
        if step < 0 and self._slot is not None and not self._running.locked():
            # As much later as before, by the time that really goes by.
            self._plan(self._slot._replace(at=self._slot.at + step), self._basis)
        else:
            self._scheduler.wakeup()

    def _plan(self, slot: Slot, basis: float | None) -> None:
        """Make this the next slot; `basis` is the newest start on record now."""
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
        self._tell(slot)

    def _drop_job(self) -> None:
        if self._job is not None:
            with suppress(JobLookupError):  # it ran, or runs
                self._job.remove()

    def _take_slot(self) -> None:
        if not self._running.acquire(blocking=False):
            return  # which plans anew when it ends
        try:
            assert self._slot is not None
            slot, basis = self._take(self._slot), self._past().start
        except Exception:  # such as a database that cannot be read just now
            log.exception("the next run could not be planned; tried again in a minute")
            full = self._slot is not None and self._slot.full
            slot, basis = Slot(time.time() + AFTER_ANOTHER, full), self._basis
        finally:
            self._running.release()
        self._plan(slot, basis)

    def _take(self, slot: Slot) -> Slot:
        """Make the run of a slot, where it is still to be made; gives the slot that follows."""
        now, past = time.time(), self._past()
        if self._made_meanwhile(past, now):
            return self.rhythm.next(past, now, self._chance)
        before, self._started = self._started, now
        try:
            self._run(slot.full)
        except Busy:
            self._started = before
            return Slot(time.time() + AFTER_ANOTHER, slot.full)
        except Exception:
            log.exception("the run broke")
        # By our own start: on record it may be a little later, or of before the clock was set.
        past = self._past()._replace(start=self._started)
        return self.rhythm.next(past, time.time(), self._chance)

    def _made_meanwhile(self, past: Past, now: float) -> bool:
        """Whether somebody made a run since the slot was planned, too short a while ago."""
        if past.start is None or past.start == self._basis:
            return False
        return 0 <= now - past.start < self.rhythm.every - self.rhythm.jitter

    def _known(self, past: Past) -> Past:
        """The past on record, where our own last start counts also if its run failed. A start that
        is still to come was before the clock was set back."""
        starts = [one for one in (past.start, self._started) if one is not None]
        known = [one for one in starts if one <= time.time()]
        return past._replace(start=max(known, default=past.start))
