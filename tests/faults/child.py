"""A process of the product in a forked child, where things befall it.

What is patched here is patched in the child only: hooks at named points, the clock, waits that
would only make a scenario longer, and what SQLite takes for the size of the disk.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime as real_datetime
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Engine, event

import state.db.database
import syncer.daemon.worker
import syncer.delivery.customers
import syncer.delivery.meters
import syncer.delivery.rate_share
import syncer.engage.profiles_sync
import syncer.retry
from state import queue
from state.db.database import Database
from state.errors import StateError
from state.queue import Accepted
from syncer.app import App
from syncer.cli import main
from syncer.config import Config, load
from syncer.daemon.run_process import run_once
from syncer.engage.profiles_sync import ProfilesSyncPull
from syncer.errors import SyncerError
from syncer.log import set_up as set_up_log
from syncer.passthrough.processor import Processor
from syncer.process.child import Lifeline
from syncer.progress import LineProgress
from tests.support.hurry import hurry

from . import points
from .scenario import Act, Process, SourceFault

#: Seconds that a writer waits for another one, where a scenario lets one hold the state for longer.
SHORT = 0.3
#: What of the program a kind of process is, where it is not what it says.
_COMMANDS = {"full": "sync --full", "resync": "resync --yes"}


@dataclass
class Play:
    """What a child needs of the scenario."""

    process: Process
    config: Path
    temporary: Path
    source: SourceFault | None
    short_wait: bool
    #: a call of Engage that comes in where an act says so
    call: dict[str, Any] | None

    def __call__(self, lifeline: int, tell: int) -> int:
        self._tell = tell
        tempfile.tempdir = str(self.temporary)
        self._clock = _Clock(self.process.clock)
        _hurry()
        if self.short_wait:
            state.db.database.BUSY = SHORT  # type: ignore[assignment]
        if self.process.pages is not None:
            _fill_the_disk(self.process.pages)
        if self.source is not None and self.source.kind in ("breaks", "ends"):
            _break_the_source(self.source)
        # Threads may tell; only one thing happens at a time.
        self._happening = threading.RLock()
        self._end: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGTERM)
        points.patch(self._reached)
        if self.process.kind == "worker":
            return self._work(self._lifeline(lifeline))
        if self.process.kind.startswith("run "):
            full = self.process.kind == "run full"
            run_once(self._settings, self._lifeline(lifeline).ended, full=full)
            return 0
        words = _COMMANDS.get(self.process.kind, self.process.kind).split()
        sys.argv = ["syncer", *words, "--config", str(self.config)]
        main()

    def _work(self, lifeline: Lifeline) -> int:
        try:
            syncer.daemon.worker.work(self._settings, lifeline)
        except (SyncerError, StateError) as error:  # the daemon says so and ends
            print(f"error: {error}", file=sys.stderr)
            return 1
        return 0

    @property
    def _settings(self) -> Config:
        return load(self.config, {})

    def _lifeline(self, parents: int) -> Lifeline:
        """As a process beside the daemon settles in; an act may end its lifeline too."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        set_up_log()
        os.dup2(parents, 0)
        lifeline = Lifeline()

        def end() -> None:
            lifeline.ended.set()
            lifeline.woken.set()

        self._end = end
        return lifeline

    def _reached(self, point: str, hit: int) -> None:
        for act in self.process.acts:
            if (act.point, act.hit) == (point, hit):
                with self._happening:
                    self._do(act)

    def _do(self, act: Act) -> None:
        print(f"[{act}]", file=sys.stderr, flush=True)
        if act.what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)
        elif act.what == "term":
            self._end()
        elif act.what == "clock":
            self._clock.hours += act.hours
        elif self.call is not None:
            call, self.call = self.call, None
            try:
                self._take(call)
            except StateError as error:
                print(f"[{error}]", file=sys.stderr)

    def _take(self, call: dict[str, Any]) -> None:
        """Bring a call in and sort it, as receiver and worker would."""
        app = App(self._settings, LineProgress())
        with app.queue(writes=True) as calls, app.state(writes=True) as database:
            accept(calls, [call])
            os.write(self._tell, b".")
            processor: Processor = app.processor(calls, database)
            while processor.process():
                pass


def accept(calls: Database, events: list[dict[str, Any]]) -> None:
    """Put calls into the inbox, one request each."""
    now = time.time_ns() // 1_000_000
    with calls.write() as connection:
        for payload in events:
            queue.accept(
                connection, [Accepted("batch", orjson.dumps({"batch": [payload]}), 1, now)]
            )


class _Clock:
    """The child's clock, off by `hours`."""

    def __init__(self, hours: float) -> None:
        self.hours = hours
        true_ns = time.time_ns
        offset = self._offset = lambda: int(self.hours * 3600e9)
        time.time_ns = lambda: true_ns() + offset()
        time.time = lambda: time.time_ns() / 1e9

        class Shifted(real_datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return real_datetime.now(tz) + timedelta(microseconds=offset() // 1000)

        syncer.engage.profiles_sync.datetime = Shifted  # type: ignore[attr-defined]


def _hurry() -> None:
    """Shorter waits; nothing else changes."""
    hurry()
    syncer.delivery.customers.DRAIN = 2.0
    syncer.daemon.worker.CHECK_EVERY = syncer.daemon.worker.DUE_EVERY = (
        syncer.delivery.meters.EMPTY
    ) = 0.05


def _fill_the_disk(pages: int) -> None:
    """SQLite finds no room after so many pages more in each file, and says so itself."""

    @event.listens_for(Engine, "connect")
    def bound(connection: Any, _record: Any) -> None:
        if isinstance(connection, sqlite3.Connection):
            size = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {max(1, size + pages)}")


def _once() -> Callable[[], int]:
    """What makes SQLite itself give up, once."""
    answers = iter([1])
    return lambda: next(answers, 0)


def _break_the_source(fault: SourceFault) -> None:
    """The driver breaks off, or the stream ends, after so many rows."""
    customers = ProfilesSyncPull.customers

    def broken(self: ProfilesSyncPull, keys: Any) -> Any:
        for number, row in enumerate(customers(self, keys)):
            if number == fault.rows:
                if fault.kind == "ends":
                    return
                driver: Any = self._connection.connection.driver_connection
                driver.set_progress_handler(_once(), 1)
            yield row

    ProfilesSyncPull.customers = broken  # type: ignore[method-assign]
