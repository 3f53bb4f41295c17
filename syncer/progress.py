"""The progress of long work, as lines for a log and as figures for `status`."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from syncer.display import visible

#: Seconds between two lines of progress without a terminal.
LINE_EVERY = 10.0
#: Seconds between two figures for `status`.
TELL_EVERY = 1.0


class Progress(Protocol):
    """The receiver of progress reports."""

    def say(self, text: str) -> None:
        """Show one line to the user."""

    def begin(self, stage: str, total: int, done: int = 0) -> None:
        """Report that a stage begins: `total` customers, of which `done` were done before."""

    def at(self, done: int) -> None:
        """Report how many customers are done."""

    def end(self) -> None:
        """Report that the stage ended."""


def say(text: str) -> None:
    """Print one line on stderr."""
    print(visible(text), file=sys.stderr, flush=True)


class LineProgress:
    """Writes a line now and then, for logs and pipes; `tell` takes the figures for `status`."""

    def __init__(
        self,
        line: Callable[[str], None] = say,
        tell: Callable[[Mapping[str, Any] | None], None] = lambda doing: None,
    ) -> None:
        self.say, self._tell = line, tell

    def begin(self, stage: str, total: int, done: int = 0) -> None:
        self._stage, self._total, self._done = stage, total, done
        self._started = self._printed = self._told = time.monotonic()
        self._estimate = Estimate(total, done, self._started)
        self._tell({"stage": stage, **self._estimate.at(done, self._started)})

    def at(self, done: int) -> None:
        self._done = done
        now = time.monotonic()
        figures = self._estimate.at(done, now)
        if now - self._told >= TELL_EVERY:
            self._told = now
            self._tell({"stage": self._stage, **figures})
        if now - self._printed >= LINE_EVERY:
            self._printed = now
            seconds = figures["seconds_left"]
            self.say(
                f"{self._stage}: {done:,} of {self._total:,}, {figures['per_second']:,.0f}/s"
                + (f", {seconds:.0f} s left" if seconds is not None else "")
            )

    def end(self) -> None:
        self._tell(None)
        took = time.monotonic() - self._started
        if self._stage == "comparing":
            self.say(f"compared {self._total:,} customers in {took:.1f} s")
        else:
            self.say(f"{self._stage}: {self._done:,} of {self._total:,} in {took:.1f} s")


class Estimate:
    """Estimates the rate and the remaining time of a stage from the last `WINDOW` seconds.

    Work that an earlier process did says nothing about the rate of this one.
    """

    WINDOW = 30.0

    def __init__(self, total: int, done: int, now: float) -> None:
        self._total = total
        self._marks = deque([(now, done)])

    def at(self, done: int, now: float) -> dict[str, Any]:
        """Return the figures at a moment (seconds, monotonic)."""
        if now - self._marks[-1][0] >= 0.5:
            self._marks.append((now, done))
        while len(self._marks) > 2 and now - self._marks[1][0] > self.WINDOW:
            self._marks.popleft()
        began, before = self._marks[0]
        rate = (done - before) / (now - began) if now > began else 0.0
        seconds_left = (self._total - done) / rate if rate > 0 else None
        return {
            "done": done,
            "total": self._total,
            "per_second": round(rate, 1),
            "seconds_left": None if seconds_left is None else round(seconds_left, 1),
        }
