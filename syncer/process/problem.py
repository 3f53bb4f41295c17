"""What keeps a part of the service from its work: logged once, and in the state while it lasts."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from state import problems
from state.db.database import Database
from syncer.clock import iso, now_ms

log = logging.getLogger("syncer")

#: Seconds between two records of a problem that lasts, and between two looks for one that another
#: process left; seconds after which a problem that nobody reports any more is nobody's.
RECORD_EVERY, LOOK_EVERY, STALE = 3.0, 30.0, 120.0
#: Seconds until a record that failed is tried again, and that the end of a process waits for one.
RETRY_AFTER, SETTLE = 5.0, 2.0
#: The customer that the URL of a request names.
_NAMED = re.compile(r"customerId=[^\s&;,:]+")


class ProblemRecord:
    """Keeps the problem of a part in the state.

    Call it with the problem each time it shows, and with None each time there is none. A thread
    writes: the part never waits for the state, and never fails because of it. Without a `database`
    nothing is kept.
    """

    def __init__(self, part: str, database: Database | None = None) -> None:
        self._part, self._database = part, database
        self._lock = threading.Lock()
        self._problem: str | None = None
        self._next = float("-inf")
        self._unrecorded = False
        #: whether what is on record is of this process, or of one that may be gone
        self._ours = True
        self._thread: threading.Thread | None = None

    def __call__(self, problem: str | None) -> None:
        if self._database is None:
            return
        now = time.monotonic()
        with self._lock:
            turned = (problem is None) != (self._problem is None)
            self._problem = problem
            if not turned and now < self._next:
                return
            self._next = now + (LOOK_EVERY if problem is None else RECORD_EVERY)
            self._unrecorded = True
            if self._thread is None:
                thread = threading.Thread(
                    target=self._write_all, name=f"problem of {self._part}", daemon=True
                )
                with suppress(RuntimeError):  # no thread is to be had: the next call tries again
                    thread.start()
                    self._thread = thread

    def settle(self) -> None:
        """Wait a moment for what is not on record yet, at the end of a process."""
        thread = self._thread
        if thread is not None:
            thread.join(SETTLE)

    def _write_all(self) -> None:
        assert self._database is not None
        while True:
            with self._lock:
                if not self._unrecorded:
                    self._thread = None
                    return
                self._unrecorded, problem = False, self._problem
            try:
                self._write(self._database, problem)
            except Exception:  # noqa: BLE001 - it may be the very problem: the log has it
                with self._lock:
                    self._unrecorded = True
                time.sleep(RETRY_AFTER)

    def _write(self, database: Database, problem: str | None) -> None:
        now = now_ms()
        if problem is not None:
            with database.write() as connection:
                problems.report(connection, self._part, _naming_nobody(problem), now)
            self._ours = True
            return
        with database.read() as connection:
            row = problems.get(connection, self._part)
        if row is not None and row.ended_at is None:
            if not self._ours and now - row.last_at < STALE * 1000:
                return  # another process has it just now
            with database.write() as connection:
                problems.over(connection, self._part, now)
        self._ours = False


def _naming_nobody(problem: str) -> str:
    """Return a problem without the customer of a request: the log has it.

    Who is forgotten must be found nowhere (docs/audit.md), and the alerts copy what they read here,
    which may be just before a customer is erased.
    """
    return _NAMED.sub("customerId=…", problem)


class ProblemLog:
    """Logs a problem once when it begins and once when it is over, and keeps it in the state.

    Call it with the problem each time it shows, and with None each time there is none. A problem
    that comes and goes is logged as that, once in ten minutes. Of an error that nobody expected the
    log has the way, too, once as long as it is the same problem. Without a `database` it only logs.
    """

    def __init__(
        self,
        part: str,
        database: Database | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._part, self._clock = part, clock
        self._record = ProblemRecord(part, database)
        self._problem: str | None = None
        #: how often it came since (epoch milliseconds), and when it ended last
        self._times, self._since = 0, 0
        self._ended = float("-inf")
        #: when the log last said that it comes and goes; None if it does not
        self._flapping: float | None = None
        #: the problems of which the log has the way
        self._ways: set[str] = set()

    def __call__(self, problem: str | None, way: BaseException | None = None) -> None:
        """Note the problem; `way` is an unexpected error that made it."""
        now = self._clock()
        if problem is not None and self._problem is None:
            self._begins(problem, now, way)
        elif problem is not None and self._is_new_way(problem, way):
            log.error("%s: %s", self._part, problem, exc_info=way)
        elif problem is None and self._problem is not None:
            self._ended = now
            if self._flapping is None:
                log.info("%s: it works again", self._part)
        elif problem is None and self._flapping is not None and self._is_new(now):
            self._flapping = None
            log.info("%s: it works again, for ten minutes now", self._part)
        self._problem = problem
        self._record(problem)

    def _is_new(self, now: float) -> bool:
        """Whether a problem that begins now would be another one."""
        return now - self._ended > problems.SAME_WITHIN / 1000

    def _is_new_way(self, problem: str, way: BaseException | None) -> bool:
        """Whether the log has not shown the way to the problem yet; from now on it has."""
        if way is None or problem in self._ways:
            return False
        self._ways.add(problem)
        return True

    def _begins(self, problem: str, now: float, way: BaseException | None) -> None:
        if self._is_new(now):
            self._times, self._since, self._flapping = 1, now_ms(), None
            self._ways.clear()
        else:
            self._times += 1
        way = way if self._is_new_way(problem, way) else None
        if self._times == 1:
            log.error("%s: %s", self._part, problem, exc_info=way)
        elif (
            way is not None
            or self._flapping is None
            or now - self._flapping >= problems.SAME_WITHIN / 1000
        ):
            self._flapping = now
            log.error(
                "%s: it comes and goes, %s times since %s: %s",
                self._part,
                f"{self._times:,}",
                iso(self._since),
                problem,
                exc_info=way,
            )
