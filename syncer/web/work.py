"""What somebody asked for on the page and takes a while: each in a process of its own, as the
daemon's runs are. How it ended is kept until the page's process ends."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from state import failures
from state.errors import StateError
from syncer.app import App
from syncer.config import Config
from syncer.daemon.process import Beside, settle_in
from syncer.daemon.runs import teller
from syncer.errors import SyncerError
from syncer.report import LineProgress
from syncer.sync.run import Result, Runs

log = logging.getLogger("syncer.web")

#: Seconds that it waits for the end of a run that goes on, and that it gets to end when told to.
PATIENCE, DRAIN = 30.0, 10.0
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

    def begin(self, name: str, title: str, target: Callable[..., None], *arguments: Any) -> None:
        """Do `target(config, lifeline, outcome, *arguments)`, unless what has that name is under
        way already."""
        with self._lock:
            if self._ending or name in self._beside:
                return
            task = Task(name, title, _now())
            ours, theirs = get_context("spawn").Pipe(duplex=False)
            beside = Beside("asked", target, self.config, theirs, *arguments)
            theirs.close()
            self._beside[name] = beside
            self._tasks = [*self._tasks, task][-KEPT:]
        log.info("%s: began", title)
        threading.Thread(
            target=self._watch, args=(task, beside, ours), name="asked", daemon=True
        ).start()

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

    def _watch(self, task: Task, beside: Beside, outcome: Connection) -> None:
        with outcome:
            try:
                task.good, task.text = outcome.recv()
            except (EOFError, OSError):
                task.good, task.text = False, "it ended unexpectedly; the log says more"
        beside.end(DRAIN)
        task.ended = _now()
        with self._lock:
            del self._beside[task.name]
        log.log(logging.INFO if task.good else logging.ERROR, "%s: %s", task.title, task.text)


# The processes


def approve(config: Config, lifeline: Connection, outcome: Connection, run: int) -> None:
    """Let through what a run held."""
    _do(config, lifeline, outcome, lambda _app, found: _said(found.approve(run)))


def resync(config: Config, lifeline: Connection, outcome: Connection, customer_id: str) -> None:
    """Pull and send one customer again."""
    _do(
        config, lifeline, outcome,
        lambda _app, found: _said(found.resync(customer_id=customer_id)),
    )  # fmt: skip


def retry(
    config: Config, lifeline: Connection, outcome: Connection, ids: list[int] | None, newest: int
) -> None:
    """Send failures again: the numbered ones, or all up to the newest one that was seen."""

    def again(app: App, found: Runs) -> tuple[bool, str]:
        with found.database.read() as connection:
            rows = failures.find(connection, ids)
        rows = [row for row in rows if row["id"] <= newest and not failures.only_discarded(row)]
        delivery = app.retry(found, rows)
        text = f"{delivery.delivered:,} delivered, {delivery.failed:,} refused again"
        good = not (delivery.failed or delivery.problem or delivery.stopped)
        return good, f"{text}; {delivery.problem}" if delivery.problem else text

    _do(config, lifeline, outcome, again)


def _do(
    config: Config,
    lifeline: Connection,
    outcome: Connection,
    what: Callable[[App, Runs], tuple[bool, str]],
) -> None:
    """Do it and send how it ended: whether well, and a line."""
    app = App(config, LineProgress(log.info), settle_in(config, lifeline))
    try:
        with app.runs() as found:
            found.patience = PATIENCE
            found.progress = LineProgress(log.info, teller(found.database))
            ended = what(app, found)
    except (SyncerError, StateError) as error:
        ended = False, str(error)
    with suppress(OSError):  # the page's process is gone
        outcome.send(ended)


def _said(result: Result) -> tuple[bool, str]:
    delivery = result.delivery
    text = f"run {result.run} {result.state}: {delivery.delivered:,} delivered"
    if delivery.failed:
        text += f", {delivery.failed:,} refused"
    for reason in (
        *(f"{key} is held: {why}" for key, why in result.held.items()),
        *result.problems,
    ):
        text += f"; {reason}"
    return not result.problems and not result.held, text


def _now() -> int:
    return time.time_ns() // 1_000_000
