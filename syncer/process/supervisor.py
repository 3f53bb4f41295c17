"""The supervisor: no thread and no child process ends unnoticed.

A part is what works on its own: the inbox, the schedule, the worker process. When it ends without
being asked to, the supervisor says so once, puts it on record, and starts it again after pauses
that grow (retry.py). Until the part itself says that it works, the process is not ready. A part
says so again and again; one that says it no more hangs, which is told like its end.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from state.problems import SAME_WITHIN, TOLD_FOR
from syncer import retry
from syncer.process.child import BEAT, ChildProcess, Down
from syncer.process.problem import ProblemLog
from syncer.process.unexpected import Died, log_error, way_to, what_happened
from syncer.stop import Stop
from syncer.wakeup import Wakeup

log = logging.getLogger("syncer")

#: Seconds after which a part that ends again begins with a short pause.
WELL_AFTER = 60.0
#: Seconds between two looks, and looks in a row without a word after which a part hangs. Counted by
#: looks, as time goes by for a process that was stopped itself, too.
LOOK, SILENT_LOOKS = BEAT, 8
#: What is wrong with a part that hangs.
HANGS = "it hangs"
#: The pause of a part where even to tell of its end fails.
LAST_PAUSE = 5.0

#: What a part does: it returns when it was asked to end, and calls `well` when it works.
Work = Callable[["Part"], None]


class Problems(Protocol):
    """Gets what is wrong with a part, and None when nothing is any more.

    `way` is the error behind it, where nobody expected that.
    """

    def __call__(self, problem: str | None, way: BaseException | None = None) -> None: ...


class Supervisor:
    """Keeps the parts of this process going until the stop `ending`.

    `problems` makes for a part what records its problem. `on_change` gets the parts that do not
    work, whenever they change, and again and again while `watch` goes on.
    """

    def __init__(
        self,
        ending: Stop | None = None,
        problems: Callable[[str], Problems] = ProblemLog,
        on_change: Callable[[Down], None] = lambda down: None,
    ) -> None:
        self.ending = ending or Stop()
        self._problems, self._on_change = problems, on_change
        self._lock, self._changing = threading.Lock(), threading.Lock()
        self._parts: dict[str, Part] = {}
        self._trouble: dict[str, _Trouble] = {}

    def add(self, name: str, work: Work, *, patient: bool = False) -> Part:
        """Add a part; it counts from now on, and begins with its `start` or `keep`.

        One that is `patient` may say nothing for long: it waits for others, or a job takes long.
        """
        part = self._parts[name] = Part(self, name, work, self._problems(name), patient=patient)
        return part

    def start(self, name: str, work: Work, *, patient: bool = False) -> Part:
        """Add a part, and keep it going in a thread of its own."""
        part = self.add(name, work, patient=patient)
        part.start()
        return part

    def watch(self) -> Part:
        """Look from now on, in a thread, which parts hang."""
        return self.start("supervisor", self._look)

    def _look(self, part: Part) -> None:
        while True:
            part.well()
            for other in list(self._parts.values()):
                other.look()
            self.changed()
            if part.wait(LOOK):
                return

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
        return now - self.over_at < more + TOLD_FOR / 1000


class Part:
    """One thread of work that is started again whenever it ends without being asked to."""

    def __init__(
        self,
        supervisor: Supervisor,
        name: str,
        work: Work,
        problems: Problems,
        *,
        patient: bool = False,
    ) -> None:
        self.name = name
        self._supervisor, self._work, self._problems = supervisor, work, problems
        self._asked = Stop(after=supervisor.ending)
        self.thread: threading.Thread | None = None
        #: whether it said that it works, and did not end since
        self.works = False
        #: how it ended last, until it works again
        self.trouble: str | None = None
        #: how many looks ago it last said that it works
        self._silent_looks, self._patient = 0, patient
        self._attempts = 0
        #: the parts inside of its process that do not work
        self.inside: Down = {}

    def ending(self) -> bool:
        """Whether it shall end."""
        return self._asked()

    def ask_to_end(self) -> None:
        """Let it end; it is not started again."""
        self._asked.set()

    def join(self, seconds: float | None = None) -> None:
        """Wait for its end."""
        if self.thread is not None and self.thread is not threading.current_thread():
            self.thread.join(seconds)

    def wait(self, seconds: float, *others: Wakeup) -> bool:
        """Sleep, but not beyond the end or what another wakes for; return whether it shall end."""
        return self._asked.wait(seconds, *others)

    def start(self) -> None:
        """Keep it going in a thread of its own."""
        self.thread = threading.Thread(target=self.keep, name=self.name, daemon=True)
        self.thread.start()

    def well(self) -> None:
        """Say that it works. It must be called again and again."""
        self._silent_looks = 0
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

    def look(self) -> None:
        """Note whether it has said of late that it works."""
        self._silent_looks += 1
        if self.works and self._silent_looks > SILENT_LOOKS and not self._patient:
            self._fall(f"{HANGS}: it has not moved for {LOOK * SILENT_LOOKS:.0f} s")

    def keep(self) -> None:
        """Work until asked to end; start again after a pause that grows where that fails often."""
        while not self.ending():
            try:
                self._work_once()
            except BaseException as error:  # noqa: BLE001 - in our own lines: no memory, for instance
                self.works = False
                with suppress(Exception):
                    self.trouble = what_happened(error)
                    log_error(log, self.name, error)
                self._asked.wait(LAST_PAUSE)

    def _work_once(self) -> None:
        began, ended_by = time.monotonic(), None
        try:
            self._work(self)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is noticed
            ended_by = error
            if self.ending():
                log_error(log, self.name, error)
        if self.ending():
            return
        self._attempts = 1 if time.monotonic() - began > WELL_AFTER else self._attempts + 1
        if ended_by is None:
            self._fall("it ended by itself")
        else:
            self._fall(what_happened(ended_by), way_to(ended_by))
        self.wait(retry.bound(self._attempts))

    def _fall(self, text: str, way: BaseException | None = None) -> None:
        self.works, self.trouble = False, text
        self._supervisor.tell(self.name, text)
        self._record(way)
        self.contains({})

    def _record(self, way: BaseException | None = None) -> None:
        """Put on record what is wrong with it, or that nothing is."""
        try:
            self._problems(self.trouble, way)
        except Exception as error:  # such as a record that cannot be written now
            log.debug("%s: its problem is not on record", self.name, exc_info=error)


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
                if any(text is not None and text.startswith(HANGS) for text in last.values()):
                    child.kill_hung()  # only a new process helps against that
            status = child.wait()
            if not child.asked_to_end:
                reasons = [
                    text if name == part.name else f"{name}: {text}"
                    for name, text in last.items()
                    if text
                ]
                raise Died(": ".join([child.how_it_ended(status), *reasons[:1]]))

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
