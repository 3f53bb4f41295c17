"""What the worker does now and then beside its work: erase whom Segment's delete calls name, clean
the files after that, and take out of the history what is older than it is to be kept."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from state.db.database import Database
from state.errors import Locked, StateError
from syncer.app import App
from syncer.errors import SyncerError
from syncer.process.problem import Trouble

log = logging.getLogger("syncer")

#: Seconds between two looks whether a customer is to be erased.
LOOK = 1.0
#: Seconds until the files are cleaned again after an erasure, and where that could not be yet.
SCRUB, SCRUB_AGAIN = 600.0, 2.0
#: Seconds between two compactions of the history, and after something of all this went wrong.
COMPACT, AFTER_TROUBLE = 86_400.0, 60.0


def do_all(app: App, state: Database, calls: Database, stop: Callable[[], bool]) -> None:
    """Do them until `stop`; in a thread of its own, as they may take long. Where several workers
    do, a lock lets one at a time."""
    forget = app.forget(state, calls, wait=0.0)

    def forget_all() -> float:
        erased = forget.forget_all_asked()
        if erased:
            log.info("forget: %d customers erased", erased)
        return LOOK

    def scrub() -> float:
        if not forget.traces():
            return LOOK
        return SCRUB if forget.scrub() else SCRUB_AGAIN

    def compact() -> float:
        done = app.compact(state)
        if done.broken:
            raise SyncerError(f"nothing is removed, the history does not hold: {done.broken.what}")
        if done.removed:
            log.info("retention: %d changes removed, %d kept", done.removed, done.kept)
        return COMPACT

    chores = [_Chore("forget", forget_all), _Chore("traces", scrub), _Chore("retention", compact)]
    while not stop():
        for chore in chores:
            chore()
        time.sleep(0.2)


class _Chore:
    """Something to do now and then: it says itself in how many seconds again."""

    def __init__(self, what: str, do: Callable[[], float]) -> None:
        self._do = do
        self._trouble = Trouble(what)
        self._next = 0.0

    def __call__(self) -> None:
        if time.monotonic() < self._next:
            return
        try:
            wait = self._do()
            self._trouble(None)
        except Locked:
            wait = LOOK  # a run is going on, for instance
        except (SyncerError, StateError) as error:
            self._trouble(str(error))
            wait = AFTER_TROUBLE
        self._next = time.monotonic() + wait
