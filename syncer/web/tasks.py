"""What somebody asked for on the page and takes a while: each in a process of its own, as the
daemon's runs are. How it ended is kept until the page's process ends."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field

import orjson

from syncer.app import App
from syncer.config import Config
from syncer.process.child import Beside
from syncer.progress import LineProgress

log = logging.getLogger("syncer.web")

#: Seconds that it gets to end when told to.
DRAIN = 10.0
#: Seconds for which how it ended is shown, and how many are remembered.
SHOWN, KEPT = 600.0, 5


@dataclass
class Task:
    """`text` says how it ended, once it did."""

    name: str
    title: str
    began: int
    text: str = ""
    ended: int | None = None
    good: bool = True


@dataclass
class Work:
    """Makes processes, and watches them in threads."""

    config: Config
    _tasks: list[Task] = field(default_factory=list)
    _beside: dict[str, Beside] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ending: bool = False

    def begin(self, name: str, title: str, what: str, *arguments: str) -> None:
        """Do it (see asked.py), unless what has that name is under way already."""
        with self._lock:
            if self._ending or name in self._beside:
                return
            task = Task(name, title, _now())
            beside = self._beside[name] = Beside(what, self.config, *arguments)
            self._tasks = [*self._tasks, task][-KEPT:]
        log.info("%s: began", title)
        watch = threading.Thread(target=self._watch, args=(task, beside), name="asked", daemon=True)
        watch.start()

    def done(self, title: str, text: str) -> None:
        """Show that something was done at once."""
        log.info("%s: %s", title, text)
        with self._lock:
            self._tasks = [*self._tasks, Task(title, title, _now(), text, _now())][-KEPT:]

    def reject(self, run: int) -> None:
        """Leave what a run held as it is; raises `Locked` where another run goes on."""
        with App(self.config, LineProgress(log.info)).runs() as found:
            found.reject(run)

    def under_way(self, name: str) -> bool:
        return name in self._beside

    def recent(self) -> list[Task]:
        """What goes on or ended not long ago, the newest first."""
        since = _now() - SHOWN * 1000
        return [one for one in reversed(self._tasks) if one.ended is None or one.ended > since]

    def close(self) -> None:
        """Tell all to end, and see that they do."""
        with self._lock:
            self._ending = True
            there = list(self._beside.values())
        for one in there:
            one.tell_to_end()
        for one in there:
            one.end(DRAIN)

    def _watch(self, task: Task, beside: Beside) -> None:
        try:
            ended = orjson.loads(beside.told())
            task.good, task.text = bool(ended["good"]), str(ended["says"])
        except orjson.JSONDecodeError:
            task.good, task.text = False, "it ended unexpectedly; the log says more"
        beside.end(DRAIN)
        task.ended = _now()
        with self._lock:
            del self._beside[task.name]
        log.log(logging.INFO if task.good else logging.ERROR, "%s: %s", task.title, task.text)


def _now() -> int:
    return time.time_ns() // 1_000_000
