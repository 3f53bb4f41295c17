"""The clock of a simulation: it stands still, and goes on only while the program works."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, cast

import syncer.engage.profiles_sync

#: Seconds that it goes on at most in one piece of work, so that it never comes to the next minute.
LONGEST = 50.0
MINUTE = 60


class Clock:
    """What the program takes for now. `begin` is in epoch seconds, minutes count from there."""

    def __init__(self, begin: int) -> None:
        self.begin, self._minute = begin, 0
        self._worked = 0.0
        self._since: float | None = None

    @property
    def minute(self) -> int:
        """The minute that it stands at."""
        return self._minute

    @minute.setter
    def minute(self, minute: int) -> None:
        if minute != self._minute:
            self._minute, self._worked = minute, 0.0

    def at(self, minute: float) -> float:
        """Return the epoch seconds of a minute."""
        return self.begin + minute * MINUTE

    def now(self) -> float:
        """Return epoch seconds; while nothing works, those of the minute."""
        if self._since is None:
            return self.at(self._minute)
        return self.at(self._minute) + min(time.monotonic() - self._since, LONGEST)

    @contextmanager
    def going(self) -> Iterator[None]:
        """Go on as the machine's clock does, for a piece of work of the program.

        The next piece of the same minute goes on where this one ended: no clock goes back.
        """
        self._since = time.monotonic() - self._worked
        try:
            yield
        finally:
            self._worked = time.monotonic() - self._since
            self._since = None


@contextmanager
def simulated(begin: int) -> Iterator[Clock]:
    """A clock that this process follows for the block, and the processes that it forks."""
    clock, source = Clock(begin), cast(Any, syncer.engage.profiles_sync)
    kept = time.time, time.time_ns, source.datetime

    class Simulated(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.fromtimestamp(0, tz) + timedelta(seconds=clock.now())

    time.time = clock.now
    time.time_ns = lambda: int(clock.now() * 1e9)
    source.datetime = Simulated
    try:
        yield clock
    finally:
        time.time, time.time_ns, source.datetime = kept
