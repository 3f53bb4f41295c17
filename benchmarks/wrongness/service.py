"""The program of a simulation: its real parts in a folder, and an Amberflo over HTTP."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import orjson
import uvloop
from aiohttp import web
from apscheduler.schedulers.base import BaseScheduler

import syncer.daemon.schedule
from benchmarks.wrongness.clock import MINUTE, Clock
from benchmarks.wrongness.space import Pair, Value
from state import queue
from state.db import workers
from state.db.database import Database
from state.queue import Accepted
from state.transfer import restore as restoring
from state.transfer.backup import back_up
from syncer import egress
from syncer.app import App
from syncer.clock import now_ms
from syncer.config import Config, load
from syncer.daemon.run_record import next_record, record_failed, took_nothing
from syncer.daemon.schedule import Past, Rhythm, Schedule, TookNothing
from syncer.daemon.service import _rhythm, needs_run, past
from syncer.databases import open_database
from syncer.errors import StateError, SyncerError
from syncer.progress import LineProgress
from syncer.sandbox.amberflo import Call, running
from syncer.sandbox.faults import Faults
from tests.faults import points
from tests.faults.amberflo import Recorder, Write
from tests.faults.fork import fork
from tests.support.hurry import hurry

KEY = "the-key"
CONFIG = """\
[amberflo]
api_key = "{key}"
customers_url = "{amberflo}/customers"
ingest_url = "{amberflo}/ingest"
rate = 0
concurrency = 1
patience = "60s"
[engage]
computed_traits = ["total_revenue_*"]
[engage.profiles_sync]
url = "sqlite:///{folder}/engage.db"
[state]
url = "sqlite:///{folder}/syncer.db"
[passthrough]
webhook_secret = "shared-secret-of-a-simulation"
"""
#: How often the worker looks while somebody is due, and real seconds between two looks.
LOOKS, BETWEEN = 50, 0.05
#: Where a run may be killed.
POINTS = (
    *("pull.after", "commit.before", "commit.middle", "commit.last", "commit.after"),
    *("claim.after", "put.before", "put.after", "outcome.before", "finish.before"),
)


class Known(NamedTuple):
    """What the state has: of each customer's trait, who is due, and what is held or rejected.

    `called` has the traits that a call set, with the minute that the call is of.
    """

    traits: dict[Pair, Value]
    due: frozenset[str]
    kept: frozenset[Pair]
    called: dict[Pair, float]


class Jobs(BaseScheduler):  # type: ignore[misc]  # APScheduler has no types
    """APScheduler's jobs for the schedule, which the simulation starts when their minute comes."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self.minute: int | None = None

    def start(self, paused: bool = False) -> None:
        """Do nothing: the simulation starts what is due."""

    def shutdown(self, wait: bool = True) -> None:
        self.minute = None

    def wakeup(self) -> None:
        """Do nothing: see `start`."""

    def add_job(self, func: Callable[[], None], trigger: Any, **options: Any) -> Any:
        at: datetime = trigger.run_date
        self.minute = -int(-(at.timestamp() - self._clock.begin) // MINUTE)  # not before its time
        self._take = func
        return self

    def remove(self) -> None:
        self.minute = None

    def take(self) -> None:
        """Start what is due."""
        self.minute = None
        self._take()


class Daemon(App):
    """The program with its databases kept open, as in a process that lives long."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, LineProgress(lambda line: None))
        self._open: dict[str, Database] = {}
        self._stack = ExitStack()

    def state(self, *, writes: bool) -> AbstractContextManager[Database]:
        return nullcontext(self._kept("state"))

    def queue(self, *, writes: bool) -> AbstractContextManager[Database]:
        return nullcontext(self._kept("queue"))

    def _kept(self, part: str) -> Database:
        if part not in self._open:
            opened = open_database(self.config, part, writes=True)
            self._open[part] = self._stack.enter_context(opened)
        return self._open[part]

    def close(self) -> None:
        """Close the databases."""
        self._stack.close()
        self._open.clear()


class Amberflo(Recorder):
    """Amberflo, which in a bad hour refuses the first write of each customer and takes the second.

    So plays are equal: with failures by chance, who is put off depends on the machine's time.
    """

    bad = False

    def __init__(self) -> None:
        super().__init__(KEY)
        self.refused: set[str] = set()

    def _odd_answer(self, request: web.BaseRequest, call: Call) -> web.Response | None:
        if self.bad and request.method in ("PUT", "POST"):
            first = self._ids(call) - self.refused
            self.refused |= first
            if first:
                return self._fail("503")
        return super()._odd_answer(request, call)


class Service:
    """The program in a folder. Each method does one thing, and takes no simulated time."""

    def __init__(self, folder: Path, clock: Clock, amberflo: Amberflo, url: str, seed: int) -> None:
        self._folder, self._clock, self.amberflo = folder, clock, amberflo
        config = folder / "config.toml"
        config.write_text(CONFIG.format(key=KEY, amberflo=url, folder=folder), "utf-8")
        self._app = Daemon(load(config, {}))
        self._patience = self._app.config.amberflo.patience
        self._chance = Random(f"{seed}/schedule")
        self._taken = self.backups = 0
        self.jobs = Jobs(clock)
        self._schedule: Schedule | None = None
        self.kill_at: str | None = None
        #: how the last run ended: "good", "failed" or "killed"
        self.last_run = "good"
        #: what went wrong with the simulation itself
        self.broken = ""

    # The daemon

    def start(self) -> None:
        """Start the schedule, as a daemon that begins does."""
        rhythm: Rhythm = _rhythm(self._app.config.schedule)
        self.jobs = Jobs(self._clock)
        chance = self._chance.random
        self._schedule = Schedule(
            rhythm, self._past, self._make_run, chance=chance, scheduler=self.jobs
        )
        with self._app.state(writes=True) as database:
            at_once = needs_run(database)
        self._schedule.start(at_once=at_once)

    def stop(self) -> None:
        """End the schedule."""
        if self._schedule is not None:
            self._schedule.stop()
        self._app.close()

    def _past(self) -> Past:
        """Return the runs on record, at the whole minute in which each began."""
        with self._app.state(writes=False) as database:
            start, full = past(database)
        return Past(*(None if at is None else at // MINUTE * MINUTE for at in (start, full)))

    def meet(self, *, down: bool, bad: bool) -> None:
        """Let Amberflo be down, or have a bad hour. While it is down, nobody waits long for it.

        Else everything gets through in the end, however busy the machine is: so plays are equal.
        """
        self.amberflo.faults = DOWN if down else WELL
        if bad and not self.amberflo.bad:
            self.amberflo.refused.clear()
        self.amberflo.bad = bad
        patience = HOPELESS if down else self._patience
        amberflo = self._app.config.amberflo.model_copy(update={"patience": patience})
        self._app.config = self._app.config.model_copy(update={"amberflo": amberflo})

    # Runs

    def _make_run(self, full: bool) -> None:
        """Make a run, as the daemon's process of a run does; a kill is a real one."""
        with self._clock.going():
            with self._app.state(writes=True) as database:
                record = next_record(database, full=full)
            self.last_run = self._killed() if self.kill_at else run(self._app, full)
            if self.last_run == "good":
                return
            with self._app.state(writes=True) as database:
                record_failed(database, record, self.last_run)
                if self.last_run == "killed" or took_nothing(database, record):
                    raise TookNothing

    def _killed(self) -> str:
        """Make a run in a process that is killed at a point, if it comes there."""
        point, self.kill_at = self.kill_at, None
        self._app.close()  # no connection outlives a fork

        def go(_lifeline: int, _tell: int) -> int:
            points.patch(lambda reached, _hit: os._exit(9) if reached == point else None)
            return 1 if run(self._app, full=False) == "failed" else 0

        child = fork("run", self._folder / "killed.log", go)
        child.calls_told()
        if not child.wait(120):
            child.kill()
        child.let_end()
        if child.status not in (0, 1, 9):
            self.broken = (self._folder / "killed.log").read_text() or "a run hangs"
            return "failed"
        return {0: "good", 1: "failed", 9: "killed"}[child.status]

    def decide(self, run: int, approve: bool) -> None:
        """Approve or reject what a run holds."""
        with self._clock.going(), self._app.runs() as maker:
            if approve:
                maker.approve(run)
            else:
                maker.reject(run)

    def waiting(self) -> list[tuple[int, str]]:
        """Return the run and the trait of each hold that waits for somebody."""
        with closing(self._read()) as state:
            return list(state.execute("SELECT since_run, trait FROM hold WHERE decision IS NULL"))

    # Calls, and the worker

    def call(self, events: list[dict[str, Any]]) -> None:
        """Accept calls of Engage, and process them."""
        with (
            self._clock.going(),
            self._app.queue(writes=True) as calls,
            self._app.state(writes=True) as state,
        ):
            with calls.write() as connection:
                accepted = [
                    Accepted("identify", orjson.dumps(event), 1, now_ms()) for event in events
                ]
                queue.accept(connection, accepted)
            processor = self._app.processor(calls, state)
            processor.apply_early_calls()
            while processor.process():
                pass

    def deliver(self) -> None:
        """Deliver who is due as the worker does, which looks again while somebody is."""
        with self._clock.going(), self._app.state(writes=True) as state:
            try:
                account = self._app.account(state).check()
                workers.prune_dead(state)
                with workers.register(state, "worker") as worker:
                    for _ in range(LOOKS):
                        uvloop.run(self._deliver(state, worker, account))
                        if self.amberflo.faults is DOWN or not self.known().due:
                            break
                        time.sleep(BETWEEN)
            except (StateError, SyncerError):
                return

    async def _deliver(self, state: Any, worker: Any, account: str | None) -> None:
        async with self._app.client() as client:
            delivery = self._app.customer_delivery(state, worker, client, account)
            await replace(delivery).run()

    # Backups

    def back_up(self) -> None:
        """Write a backup, in place of the last one."""
        with (
            self._clock.going(),
            self._app.state(writes=True) as state,
            self._app.queue(writes=True) as calls,
        ):
            back_up(state, calls, self._folder / "backup", now_ms, force=True)
        self.backups += 1

    def lose(self) -> None:
        """Lose the state."""
        for path in self._folder.glob("syncer*.db*"):
            path.unlink()

    def restore(self) -> None:
        """Put the last backup in place."""
        with self._clock.going():
            restoring.restore(self._app.config.state.url, self._folder / "backup", now_ms)

    # What is to be seen of it

    def writes(self) -> list[Write]:
        """Return the writes that Amberflo took since the last time."""
        new = self.amberflo.writes[self._taken :]
        self._taken = len(self.amberflo.writes)
        return new

    def pulled(self) -> bool:
        """Whether the newest run took over what it pulled."""
        with closing(self._read()) as state:
            newest = state.execute("SELECT committed_at FROM run ORDER BY id DESC LIMIT 1")
            return any(row[0] is not None for row in newest)

    def known(self) -> Known:
        """Return what the state has."""
        traits: dict[Pair, Value] = {}
        due, called = set(), {}
        with closing(self._read()) as state:
            rows = state.execute(
                "SELECT customer_id, traits, event_times, rev, acked_rev FROM customer"
            )
            for customer, text, times, rev, acked in rows:
                for key, value in orjson.loads(text).items():
                    traits[customer, key] = None if value is False else value
                for key, (at, *_) in orjson.loads(times or "{}").items():
                    called[customer, key] = (at / 1000 - self._clock.begin) / MINUTE
                if rev != acked:
                    due.add(customer)
            kept = state.execute(
                "SELECT customer_id, held_change.trait FROM held_change "
                "JOIN hold ON hold.id = held_change.hold "
                "WHERE ended_at IS NULL AND (decision IS NULL OR decision = 'rejected')"
            )
            return Known(traits, frozenset(due), frozenset(kept.fetchall()), called)

    def _read(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{self._folder / 'syncer.db'}?mode=ro", uri=True)


def run(app: App, full: bool) -> str:
    """Make a run; return whether it was "good" or "failed"."""
    try:
        with app.runs() as maker:
            return "failed" if maker.sync(full=full).problems else "good"
    except (StateError, SyncerError):
        return "failed"


@contextmanager
def installed(folder: Path, clock: Clock, seed: int) -> Iterator[Service]:
    """Yield the program in a folder, with an Amberflo that listens on loopback."""
    amberflo = Amberflo()
    with _hurried(), _without(egress.CERTIFICATES), running(amberflo) as url:
        yield Service(folder, clock, amberflo, url, seed)


@contextmanager
def _without(variables: Iterable[str]) -> Iterator[None]:
    """Leave certificates alone: all is on loopback, and reading them takes longer than a run."""
    kept = {name: os.environ.pop(name) for name in variables if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


@contextmanager
def _hurried() -> Iterator[None]:
    """Shorten the waits that take the machine's time; those of the schedule take simulated time."""
    kept: list[tuple[Any, str, float]] = []

    def shorten(module: Any, name: str, seconds: float) -> None:
        if module is not syncer.daemon.schedule:
            kept.append((module, name, getattr(module, name)))
            setattr(module, name, seconds / 10)

    hurry(shorten)
    try:
        yield
    finally:
        for module, name, seconds in kept:
            setattr(module, name, seconds)


#: Seconds after which who is told nothing but 503 gives up.
HOPELESS = 0.1
#: Amberflo as it is when it is well, and when it is down.
WELL, DOWN = Faults(), Faults.parse("503=1")
