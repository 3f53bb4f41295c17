"""The supervisor: no thread and no child process ends unnoticed.

A part is what works on its own: the inbox, the schedule, the worker process. When it ends without
being asked to, the supervisor says so once, puts it on record, and starts it again after pauses
that grow (retry.py). Until the part itself says that it works, the process is not ready.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from state.problems import SAME_WITHIN
from syncer import retry
from syncer.pause import sleep_thread
from syncer.process.child import ChildProcess, Down, how_it_ended
from syncer.process.problem import ProblemLog
from syncer.process.unexpected import Died, is_expected, log_error, what_happened

log = logging.getLogger("syncer")

#: Seconds after which a part that ends again begins with a short pause.
WELL_AFTER = 60.0
#: Seconds for which trouble that is over is still told, so that nobody misses a short one.
TOLD_FOR = 60.0

#: What a part does: it returns when it was asked to end, and calls `well` when it works.
Work = Callable[["Part"], None]
#: Gets what is wrong with a part, and None when nothing is any more.
Problems = Callable[[str | None], None]


class Supervisor:
    """Keeps the parts of this process going until `ending` returns true.

    `problems` makes for a part what records its problem. `on_change` gets the parts that do not
    work, whenever they change.
    """

    def __init__(
        self,
        ending: Callable[[], bool] = lambda: False,
        problems: Callable[[str], Problems] = ProblemLog,
        on_change: Callable[[Down], None] = lambda down: None,
    ) -> None:
        self.ending = ending
        self._problems, self._on_change = problems, on_change
        self._lock, self._changing = threading.Lock(), threading.Lock()
        self._parts: dict[str, Part] = {}
        self._trouble: dict[str, _Trouble] = {}

    def add(self, name: str, work: Work) -> Part:
        """Add a part; it counts from now on, and begins with its `start` or `keep`."""
        part = self._parts[name] = Part(self, name, work, self._problems(name))
        return part

    def start(self, name: str, work: Work) -> Part:
        """Add a part, and keep it going in a thread of its own."""
        part = self.add(name, work)
        part.start()
        return part

    def down(self) -> Down:
        """Return the parts that do not work now, also those inside of a child process."""
        down: Down = {}
        for part in list(self._parts.values()):
            if not part.works:
                down[part.name] = part.trouble
            down |= part.inside
        return down

    def troubles(self) -> dict[str, str]:
        """Return what happened to parts that do not work, or began to only a moment ago."""
        now = time.monotonic()
        with self._lock:
            return {name: it.text for name, it in self._trouble.items() if it.is_told(now)}

    def tell(self, name: str, text: str | None) -> None:
        """Note trouble; None says that it is over."""
        with self._lock:
            trouble, now = self._trouble.get(name), time.monotonic()
            if text is None:
                if trouble is not None and trouble.over_at is None:
                    trouble.over_at = now
            elif trouble is None or not trouble.is_same(now):
                self._trouble[name] = _Trouble(text)
            else:
                times = trouble.times + (trouble.over_at is not None)
                self._trouble[name] = _Trouble(text, times)

    def changed(self) -> None:
        """Say which parts do not work: the newest word is the last."""
        with self._changing:
            self._on_change(self.down())

    def join(self, seconds: float | None = None) -> None:
        """Wait until the threads of all parts have ended, each for some seconds at most."""
        for part in list(self._parts.values()):
            part.join(seconds)


@dataclass
class _Trouble:
    """What happened to a part, how often, and when that was over (by the monotonic clock)."""

    text: str
    times: int = 1
    over_at: float | None = None

    def is_same(self, now: float) -> bool:
        """Whether trouble that begins now would be the same that came again."""
        return self.over_at is None or now - self.over_at <= SAME_WITHIN / 1000

    def is_told(self, now: float) -> bool:
        """Whether it lasts, was over a moment ago, or comes and goes."""
        if self.over_at is None:
            return True
        # What comes and goes is told for longer than its problem is: that is no second alert.
        more = SAME_WITHIN / 1000 if self.times > 1 else 0.0
        return now - self.over_at < more + TOLD_FOR


class Part:
    """One thread of work that is started again whenever it ends without being asked to."""

    def __init__(self, supervisor: Supervisor, name: str, work: Work, problems: Problems) -> None:
        self.name = name
        self._supervisor, self._work, self._problems = supervisor, work, problems
        self._asked = threading.Event()
        self.thread: threading.Thread | None = None
        #: whether it said that it works, and did not end since
        self.works = False
        #: how it ended last, until it works again
        self.trouble: str | None = None
        #: unexpected errors of which the log has the way, since it last worked for long
        self._logged: set[str] = set()
        #: the parts inside of its process that do not work
        self.inside: Down = {}

    def ending(self) -> bool:
        """Whether it shall end."""
        return self._asked.is_set() or self._supervisor.ending()

    def ask_to_end(self) -> None:
        """Let it end; it is not started again."""
        self._asked.set()

    def join(self, seconds: float | None = None) -> None:
        """Wait for its end."""
        if self.thread is not None and self.thread is not threading.current_thread():
            self.thread.join(seconds)

    def wait(self, seconds: float) -> bool:
        """Sleep, but not beyond the end; return whether it shall end."""
        sleep_thread(seconds, self.ending)
        return self.ending()

    def start(self) -> None:
        """Keep it going in a thread of its own."""
        self.thread = threading.Thread(target=self.keep, name=self.name, daemon=True)
        self.thread.start()

    def well(self) -> None:
        """Say that it works. It may be called often."""
        if self.works:
            self._record()  # what a process of before left behind is over, too
            return
        self.works, self.trouble = True, None
        self._supervisor.tell(self.name, None)
        self._record()
        self._supervisor.changed()

    def contains(self, down: Down) -> None:
        """Note which parts inside of its process do not work."""
        for name in self.inside.keys() - down.keys():
            self._supervisor.tell(name, None)
        for name, text in down.items():
            if text is not None and text != self.inside.get(name):
                self._supervisor.tell(name, text)
        self.inside = down
        self._supervisor.changed()

    def keep(self) -> None:
        """Work until asked to end; start again after a pause that grows where that fails often."""
        attempts = 0
        while not self.ending():
            began = time.monotonic()
            try:
                self._work(self)
                text = "it ended by itself"
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is noticed
                if time.monotonic() - began > WELL_AFTER:
                    self._logged.clear()
                text = self._describe(error)
                if self.ending():
                    log.error("%s: %s", self.name, text)
            if self.ending():
                return
            attempts = 1 if time.monotonic() - began > WELL_AFTER else attempts + 1
            self._fall(text)
            self.wait(retry.bound(attempts))

    def _fall(self, text: str) -> None:
        self.works, self.trouble = False, text
        self._supervisor.tell(self.name, text)
        self._record()
        self.contains({})

    def _record(self) -> None:
        """Put on record what is wrong with it, or that nothing is."""
        try:
            self._problems(self.trouble)
        except Exception as error:  # such as a record that cannot be written now
            log.debug("%s: its problem is not on record", self.name, exc_info=error)

    def _describe(self, error: BaseException) -> str:
        """Return what happened in a line; log the way to an error that nobody expected, once."""
        text = what_happened(error)
        if not is_expected(error) and text not in self._logged:
            self._logged.add(text)
            log_error(log, self.name, error)
        return text


class Process:
    """The work of a part that is a child process: starts it, and listens to what it reports."""

    def __init__(self, start: Callable[[], ChildProcess]) -> None:
        self._start = start
        self.child: ChildProcess | None = None

    def __call__(self, part: Part) -> None:
        while not part.ending():
            child = self.child = self._start()
            if part.ending():
                child.ask_to_end()
            last: Down = {}
            for last in child.reports():
                # A child that was replaced while all was well may start in peace.
                part.contains({name: last[name] for name in last if last[name] or not part.works})
                if None not in last.values():
                    part.well()
            status = child.wait()
            if not child.asked_to_end:
                reasons = [reason for reason in last.values() if reason]
                raise Died(": ".join([how_it_ended(status), *reasons[:1]]))

    def wake(self) -> None:
        """Signal that there is work."""
        if self.child is not None:
            self.child.wake()

    def ask_to_end(self) -> None:
        """Let the child end; its part starts another one, unless it shall end, too."""
        if self.child is not None:
            self.child.ask_to_end()

    def end(self, seconds: float) -> None:
        """Ask the child to end, and kill it after some seconds."""
        if self.child is not None:
            self.child.end(seconds)
