"""Tasks that a user starts on the page and that take a while: each runs in a child process.

Results are kept until the page's process ends.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field

import orjson

from syncer.app import App
from syncer.config import Config
from syncer.process.child import ChildProcess
from syncer.progress import LineProgress
from syncer.sync.decision import Attribution

log = logging.getLogger("syncer.web")

#: Seconds that a task gets to end when it is asked to.
END_WITHIN = 10.0
#: Seconds for which a result is shown, and how many tasks are kept.
SHOWN_FOR, KEPT = 600.0, 5


@dataclass
class Task:
    """`text` is the result once the task has ended. Times are epoch milliseconds."""

    name: str
    title: str
    began: int
    text: str = ""
    ended: int | None = None
    ok: bool = True


@dataclass
class Tasks:
    """Starts child processes, and waits for each in a thread."""

    config: Config
    _tasks: list[Task] = field(default_factory=list)
    _children: dict[str, ChildProcess] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ending: bool = False

    def begin(self, name: str, title: str, action: str, *arguments: str) -> None:
        """Start an action of task_process.py, unless a task of that name is under way."""
        with self._lock:
            if self._ending or name in self._children:
                return
            task = Task(name, title, _now())
            child = self._children[name] = ChildProcess(action, self.config, *arguments)
            self._tasks = [*self._tasks, task][-KEPT:]
        log.info("%s: began", title)
        watch = threading.Thread(target=self._watch, args=(task, child), name="task", daemon=True)
        watch.start()

    def done(self, title: str, text: str) -> None:
        """Show the result of something that took no time."""
        log.info("%s: %s", title, text)
        with self._lock:
            self._tasks = [*self._tasks, Task(title, title, _now(), text, _now())][-KEPT:]

    def reject(self, run: int, attribution: Attribution) -> None:
        """Reject what a run holds; raises `Locked` while another run is going on."""
        with App(self.config, LineProgress(log.info)).runs() as runs:
            runs.reject(run, attribution)

    def under_way(self, name: str) -> bool:
        return name in self._children

    def recent(self) -> list[Task]:
        """Return the tasks that are under way or ended recently, the newest first."""
        since = _now() - SHOWN_FOR * 1000
        return [task for task in reversed(self._tasks) if task.ended is None or task.ended > since]

    def close(self) -> None:
        """End all tasks."""
        with self._lock:
            self._ending = True
            children = list(self._children.values())
        for child in children:
            child.ask_to_end()
        for child in children:
            child.end(END_WITHIN)

    def _watch(self, task: Task, child: ChildProcess) -> None:
        try:
            result = orjson.loads(child.result())
            task.ok, task.text = bool(result["ok"]), str(result["message"])
        except Exception:  # noqa: BLE001 - it wrote no result, or something else
            task.ok, task.text = False, "it ended unexpectedly; see the log"
        child.end(END_WITHIN)
        task.ended = _now()
        with self._lock:
            del self._children[task.name]
        log.log(logging.INFO if task.ok else logging.ERROR, "%s: %s", task.title, task.text)


def _now() -> int:
    return time.time_ns() // 1_000_000
