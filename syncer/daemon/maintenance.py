"""The worker's periodic jobs: erase customers, remove their traces from the files, compact history.

Segment's delete calls name the customers to erase; `retention.history` says how old changes get.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from state.db.database import Database
from state.errors import Locked
from syncer.app import App
from syncer.errors import SyncerError
from syncer.process.problem import ProblemLog
from syncer.process.supervisor import Part
from syncer.process.unexpected import way_to, what_happened

log = logging.getLogger("syncer")

#: Seconds between two checks whether there is a customer to erase.
CHECK_EVERY = 1.0
#: Seconds until the files are scrubbed again after a success, and while something prevents it; and
#: how many times as long as it took, which for a large file is longer.
SCRUB_EVERY, RETRY_SCRUB_AFTER, SCRUB_REST = 600.0, 2.0, 20
#: Seconds between two compactions of the history.
COMPACT_EVERY = 86_400.0
#: Seconds until a job that failed is tried again.
RETRY_AFTER = 60.0


def run(app: App, state: Database, calls: Database, part: Part) -> None:
    """Do the jobs until the part shall end.

    It needs a thread of its own, as a job may take long. Of several workers a lock lets one at a
    time do a job.
    """
    forget = app.forget(state, calls, wait=0.0)

    def forget_customers() -> float:
        erased = forget.forget_all_asked()
        if erased:
            log.info("forget: %d customers erased", erased)
        return CHECK_EVERY

    def scrub_files() -> float:
        if not forget.traces():
            return CHECK_EVERY
        began = time.monotonic()
        pause = SCRUB_EVERY if forget.scrub() else RETRY_SCRUB_AFTER
        return max(pause, SCRUB_REST * (time.monotonic() - began))

    def compact_history() -> float:
        result = app.compact(state)
        if result.broken:
            raise SyncerError(f"nothing was removed, the seals do not match: {result.broken.what}")
        if result.removed:
            log.info("retention: %d changes removed, %d kept", result.removed, result.kept)
        return COMPACT_EVERY

    jobs = [
        _Job(name, do, ProblemLog(name, state))
        for name, do in (
            ("forget", forget_customers),
            ("traces", scrub_files),
            ("retention", compact_history),
        )
    ]
    while not part.wait(min(job.due_in() for job in jobs)):
        part.well()  # a job that fails is told by itself
        for job in jobs:
            job.do_if_due()


class _Job:
    """A periodic job: `do` returns in how many seconds it is due again."""

    def __init__(self, name: str, do: Callable[[], float], problems: ProblemLog) -> None:
        self._name, self._do, self._problems = name, do, problems
        self._next = 0.0

    def due_in(self) -> float:
        """Return in how many seconds it is due."""
        return self._next - time.monotonic()

    def do_if_due(self) -> None:
        if self.due_in() > 0:
            return
        try:
            pause = self._do()
            self._problems(None)
        except Locked:
            pause = CHECK_EVERY  # a run is going on, for instance
        except Exception as error:  # noqa: BLE001 - an odd one keeps no other job from its work
            self._problems(what_happened(error), way_to(error))
            pause = RETRY_AFTER
        self._next = time.monotonic() + pause
