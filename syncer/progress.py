"""How far long work is: what it reports to, as lines for a log and as figures for `status`."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from syncer.display import visible

#: Seconds between two lines of progress where there is no terminal.
LINE_EVERY = 10.0
#: Seconds between two figures for `status`.
TELL_EVERY = 1.0


class Progress(Protocol):
    """Where long work tells how far it is."""

    def say(self, text: str) -> None:
        """One line for the user."""

    def begin(self, stage: str, total: int, done: int = 0) -> None:
        """A stage begins that will do `total` customers; so many were done before."""

    def at(self, done: int) -> None:
        """So many are done."""

    def end(self) -> None:
        """The stage ended."""


def say(text: str) -> None:
    """One line on stderr."""
    print(visible(text), file=sys.stderr, flush=True)


class LineProgress:
    """A line now and then, for log files and pipes; `tell` gets the same for `status`."""

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
        found = self._estimate.at(done, now)
        if now - self._told >= TELL_EVERY:
            self._told = now
            self._tell({"stage": self._stage, **found})
        if now - self._printed >= LINE_EVERY:
            self._printed = now
            left = found["seconds_left"]
            self.say(
                f"{self._stage}: {done:,} of {self._total:,}, {found['per_second']:,.0f}/s"
                + (f", {left:.0f} s left" if left is not None else "")
            )

    def end(self) -> None:
        self._tell(None)
        took = time.monotonic() - self._started
        if self._stage == "comparing":
            self.say(f"compared {self._total:,} customers in {took:.1f} s")
        else:
            self.say(f"{self._stage}: {self._done:,} of {self._total:,} in {took:.1f} s")


class Estimate:
    """How fast a stage goes and how long it takes still, by what was done in the last `WINDOW`
    seconds: what an earlier process did says nothing of how fast this one is."""

    WINDOW = 30.0

    def __init__(self, total: int, done: int, now: float) -> None:
        self._total = total
        self._marks = deque([(now, done)])

    def at(self, done: int, now: float) -> dict[str, Any]:
        """The figures at a moment (seconds, monotonic)."""
        if now - self._marks[-1][0] >= 0.5:
            self._marks.append((now, done))
        while len(self._marks) > 2 and now - self._marks[1][0] > self.WINDOW:
            self._marks.popleft()
        began, before = self._marks[0]
        rate = (done - before) / (now - began) if now > began else 0.0
        left = (self._total - done) / rate if rate > 0 else None
        return {
            "done": done,
            "total": self._total,
            "per_second": round(rate, 1),
            "seconds_left": None if left is None else round(left, 1),
        }
