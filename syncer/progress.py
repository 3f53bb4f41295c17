"""The progress of long work: lines for a log, and figures for `status`."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from syncer.display import visible

#: Seconds between two lines of progress.
LINE_EVERY = 10.0
#: The line when trouble is over.
OVER = "it goes on"
#: Seconds between two records of the figures for `status`.
RECORD_EVERY = 1.0


class Progress(Protocol):
    """Receives the progress of long work."""

    def say(self, text: str) -> None:
        """Show a line to the user."""

    def begin(self, stage: str, total: int, done: int = 0) -> None:
        """Begin a stage of `total` customers, of which `done` were done before."""

    def at(self, done: int) -> None:
        """Set how many customers are done."""

    def end(self) -> None:
        """End the stage."""

    def trouble(self, text: str | None) -> None:
        """Show what keeps the work from going on, while it does; None when it goes on.

        It may be called by any thread, in a stage or between two.
        """


def say(text: str) -> None:
    """Print a line to stderr."""
    print(visible(text), file=sys.stderr, flush=True)


class LineProgress:
    """Writes a line from time to time; `record` gets the figures for `status`, None at the end."""

    def __init__(
        self,
        line: Callable[[str], None] = say,
        record: Callable[[Mapping[str, Any] | None], None] = lambda figures: None,
    ) -> None:
        self.say, self._record = line, record
        self._trouble: str | None = None
        self._told = 0.0

    def begin(self, stage: str, total: int, done: int = 0) -> None:
        self._stage, self._total, self._done = stage, total, done
        self._started = self._printed = self._recorded = time.monotonic()
        self._estimate = Estimate(total, done, self._started)
        self._record({"stage": stage, **self._estimate.at(done, self._started)})

    def at(self, done: int) -> None:
        self._done = done
        now = time.monotonic()
        figures = self._estimate.at(done, now)
        if now - self._recorded >= RECORD_EVERY:
            self._recorded = now
            self._record({"stage": self._stage, **figures})
        if now - self._printed >= LINE_EVERY:
            self._printed = now
            seconds = figures["seconds_left"]
            self.say(
                f"{self._stage}: {done:,} of {self._total:,}, {figures['per_second']:,.0f}/s"
                + (f", {seconds:.0f} s left" if seconds is not None else "")
            )

    def trouble(self, text: str | None) -> None:
        now = time.monotonic()
        if text is not None and (self._trouble is None or now - self._told >= LINE_EVERY):
            self._told = now
            self.say(text)
        elif text is None and self._trouble is not None:
            self.say(OVER)
        self._trouble = text

    def end(self) -> None:
        self._record(None)
        seconds = time.monotonic() - self._started
        if self._stage == "comparing":
            self.say(f"compared {self._total:,} customers in {seconds:.1f} s")
        else:
            self.say(f"{self._stage}: {self._done:,} of {self._total:,} in {seconds:.1f} s")


class Estimate:
    """The rate of a stage and the time that it still takes, by the last `WINDOW` seconds.

    Earlier work, such as that of an earlier process, says nothing about the present rate.
    """

    WINDOW = 30.0

    def __init__(self, total: int, done: int, now: float) -> None:
        self._total = total
        self._marks = deque([(now, done)])

    def at(self, done: int, now: float) -> dict[str, Any]:
        """Return the figures at a time in monotonic seconds."""
        if now - self._marks[-1][0] >= 0.5:
            self._marks.append((now, done))
        while len(self._marks) > 2 and now - self._marks[1][0] > self.WINDOW:
            self._marks.popleft()
        began, before = self._marks[0]
        rate = (done - before) / (now - began) if now > began else 0.0
        seconds = (self._total - done) / rate if rate > 0 else None
        return {
            "done": done,
            "total": self._total,
            "per_second": round(rate, 1),
            "seconds_left": None if seconds is None else round(seconds, 1),
        }
