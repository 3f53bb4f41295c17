"""Tells while the source does not answer. In a thread, as the pull itself waits for the answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from syncer.process.problem import ProblemRecord
from syncer.progress import Progress

#: Seconds without an answer after which it is told, and after which it is a problem: a large
#: warehouse may well think for a while. Seconds between two looks.
TELL_AFTER, RECORD_AFTER, LOOK = 5.0, 60.0, 1.0

#: Gets for how many seconds the source has not answered, again and again; None when it answers.
Tell = Callable[[float | None], None]


class SourceWatch:
    """Watches the questions that are asked within `asking`."""

    def __init__(self, tell: Tell = lambda seconds: None) -> None:
        #: what is told of an answer that does not come
        self.tell = tell
        #: the rows that came: each is an answer
        self.rows = 0

    def answered(self) -> None:
        """Note a sign of life of the source."""
        self.rows += 1

    @contextmanager
    def asking(self) -> Iterator[SourceWatch]:
        """Watch what the block asks the source."""
        answered = threading.Event()
        thread = threading.Thread(target=self._watch, args=(answered,), name="source", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            answered.set()
            thread.join()

    def _watch(self, answered: threading.Event) -> None:
        since, rows, told = time.monotonic(), self.rows, False
        while not answered.wait(LOOK):
            now = time.monotonic()
            if self.rows != rows:
                since, rows = now, self.rows
            if now - since >= TELL_AFTER:
                self.tell(now - since)
                told = True
            elif told:
                self.tell(None)
                told = False
        if told:
            self.tell(None)


def telling(name: str, progress: Progress, record: ProblemRecord) -> Tell:
    """Return what shows on the progress that the source `name` does not answer, and records it.

    The record ends with the pull (run_problems.py), not with each answer.
    """

    def tell(seconds: float | None) -> None:
        if seconds is None:
            progress.trouble(None)
            return
        progress.trouble(f"the source has not answered for {seconds:.0f} s: {name}")
        if seconds >= RECORD_AFTER:
            record(
                f"the source does not answer: {name}; see whether the warehouse runs, and what "
                "else it works on; a run waits for it, and nothing is changed until then"
            )

    return tell
