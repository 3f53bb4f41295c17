"""The daemon's own process: it receives calls, schedules runs, and supervises child processes.

The processes share nothing but the database, so neither a slow Amberflo nor a large run delays a
caller. The life of the service is `start`, `wait`, `drain`, `stop`.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

import uvloop
from prometheus_client import CollectorRegistry

from state import outbox, restored, runs
from state.db import workers
from state.db.database import Database
from state.db.locks import lock
from state.errors import Locked, StateError
from syncer import log as logs
from syncer.config import Config, ScheduleConfig, changes
from syncer.cron import CronLine
from syncer.daemon import reload
from syncer.daemon.alerts import Alerts
from syncer.daemon.metrics import StateCollector
from syncer.daemon.ops import Ops
from syncer.daemon.reload import Part
from syncer.daemon.schedule import AnotherRun, Past, Rhythm, Schedule, Slot
from syncer.databases import open_database
from syncer.errors import ConfigError
from syncer.passthrough.inbox import Inbox
from syncer.passthrough.receiver import Receiver
from syncer.process import systemd
from syncer.process.child import EXIT_BUSY, ChildProcess
from syncer.process.problem import ProblemLog
from syncer.process.runtime import tune_for_receiver
from syncer.process.server import bind, serve

log = logging.getLogger("syncer")

#: Seconds that child processes get to end after a stop; the whole daemon must end within 20.
CHILDREN_END_WITHIN = 16.0
#: Seconds between two checks of the clock, and between two searches for alerts.
CLOCK_EVERY, ALERTS_EVERY = 5.0, 10.0
#: Seconds between two attempts to become the daemon that schedules (the other may have died).
SUCCESSION_EVERY = 5.0
#: Seconds until the page's process is started again after it ended.
RESTART_PAGE_AFTER = 1.0


def run(
    config: Config,
    stop: Callable[[], bool],
    reread: Callable[[], Config | None] = lambda: None,
) -> None:
    """Receive, schedule and deliver until `stop` returns true.

    `reread` returns the new settings after a request to reload them (SIGHUP), else None; it raises
    `ConfigError` if they are wrong.
    """
    tune_for_receiver()
    with Service(config, stop, reread) as service:
        service.wait()
        service.drain()
    log.info("stopped")


class Service:
    """A context manager: entering it starts the service."""

    def __init__(
        self, config: Config, stop: Callable[[], bool], reread: Callable[[], Config | None]
    ) -> None:
        self._config, self._stop, self._reread = config, stop, reread
        self._resources = ExitStack()
        self._ending = threading.Event()
        self._schedule: Schedule | None = None
        self._run: ChildProcess | None = None
        self._page: ChildProcess | None = None
        self._page_listener: socket.socket | None = None
        self._replacing = False

    def __enter__(self) -> Service:
        try:
            self._start()
        except BaseException:
            self._ending.set()
            self._resources.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._resources.close()

    def _start(self) -> None:
        config, resources = self._config, self._resources
        self._state = resources.enter_context(open_database(config, writes=True))
        if self._state.engine.dialect.name == "sqlite":
            # It waits a moment: `status` takes the lock to see whether it is free.
            resources.enter_context(lock(self._state, "daemon", wait=0.5))
        self._calls = resources.enter_context(open_database(config, "queue", writes=True))
        self._listener = bind(*config.passthrough.address)
        resources.callback(self._listener.close)
        self._ops_listener = bind(*config.ops.address, "ops.listen")
        resources.callback(self._ops_listener.close)
        if config.web is not None:
            self._page_listener = bind(*config.web.address, "web.listen")
            resources.callback(self._page_listener.close)
        workers.prune_dead(self._state, self._calls)
        self._me = resources.enter_context(workers.register(self._state, workers.DAEMON))
        self._worker = ChildProcess("worker", config)
        self._start_page()
        resources.callback(self._end_children)
        self._inbox = Inbox(
            self._calls,
            config.passthrough.queue_limit,
            lambda: self._worker.wake(),
            ProblemLog("inbox", self._state),
            self._customers_waiting,
        )
        self._inbox.start()
        resources.callback(self._inbox.stop)
        self._collector = StateCollector(self._calls, self._state)
        registry = CollectorRegistry()
        registry.register(self._collector)
        self._receiver = Receiver(
            inbox=self._inbox, callers=(), webhook_secret=None, registry=registry
        )
        self._configure_receiver()
        self._ops = Ops(registry, self._problem)
        self._ops.start(self._ops_listener)
        resources.callback(self._ops.stop)
        self._alerts = Alerts(self._state, self._calls, config.alerts)
        for name, target in (("reload", self._watch), ("schedule", self._schedule_forever)):
            thread = threading.Thread(target=target, name=name, daemon=True)
            thread.start()
            resources.callback(thread.join, CHILDREN_END_WITHIN)

    def wait(self) -> None:
        """Serve until a stop is asked for."""
        log.info("health and metrics are at %s", _url(self._ops_listener))
        log.info("receiving on %s", _url(self._listener))
        if self._page_listener is not None:
            log.info("the page is at %s", _url(self._page_listener))
        systemd.notify("READY=1")
        watchdog = systemd.Watchdog()

        def over() -> bool:
            watchdog()  # from the event loop itself: systemd restarts us if it hangs
            self._ops.beat()
            if self._stop():
                self._ending.set()
                self._ask_children_to_end()
            return self._stop() or not self._worker_alive()

        receiver = self._receiver
        uvloop.run(serve(receiver.app(), self._listener, over, on_refused=receiver.refused))
        if not self._worker_alive() and not self._stop():
            raise StateError("the worker process ended unexpectedly; start the daemon again")

    def drain(self) -> None:
        """Let the work under way end; the rest stays due."""
        systemd.notify("STOPPING=1")
        log.info("stopping")
        self._ending.set()
        self._ask_children_to_end()

    def _customers_waiting(self) -> dict[str, int]:
        """Count the customers that calls of each key made due: they are part of its backlog."""
        with self._state.read() as connection:
            return outbox.backlog_by_key(connection)

    def _problem(self) -> str | None:
        """Return what keeps us from working; anybody may read it, so it has no path and no name."""
        if self._inbox.problem is not None or not self._inbox.alive:
            return "calls cannot be stored"
        if self._ending.is_set():
            return "stopping"
        return None if self._worker_alive() else "the worker process ended"

    # Child processes

    def _worker_alive(self) -> bool:
        return self._replacing or self._worker.alive

    def _ask_children_to_end(self) -> None:
        for child in (self._worker, self._run, self._page):
            if child is not None:
                child.ask_to_end()

    def _end_children(self) -> None:
        until = time.monotonic() + CHILDREN_END_WITHIN
        self._ask_children_to_end()
        for child in (self._run, self._worker, self._page):
            if child is not None:
                child.end(max(until - time.monotonic(), 1.0))

    def _start_page(self) -> None:
        """Start the page's process, if the config has a page. Its crash does not affect calls."""
        if self._page_listener is not None:
            number = self._page_listener.fileno()
            self._page = ChildProcess("page", self._config, str(number), inherit=number)

    # The schedule

    def _schedule_forever(self) -> None:
        """Schedule runs and find alerts, while no other daemon does."""
        problems = ProblemLog("schedule", self._state)
        while not self._ending.is_set():
            try:
                with lock(
                    self._state,
                    "schedule",
                    wait=3600,
                    every=SUCCESSION_EVERY / 2,
                    stop=self._ending.is_set,
                ) as check:
                    problems(None)
                    self._schedule_while(check)
            except Locked:
                pass
            except (StateError, ConfigError) as error:
                problems(str(error))
                self._ending.wait(SUCCESSION_EVERY)

    def _schedule_while(self, check: Callable[[], None]) -> None:
        schedule = Schedule(
            _rhythm(self._config.schedule),
            lambda: past(self._state),
            self._make_run,
            on_slot=self._record_slot,
        )
        problems, checked = ProblemLog("alerts", self._state), 0.0
        schedule.start(at_once=needs_run(self._state))
        self._schedule = schedule
        try:
            while not self._ending.wait(CLOCK_EVERY):
                check()
                schedule.check_clock()
                if time.monotonic() - checked >= ALERTS_EVERY:
                    checked = time.monotonic()
                    problems(self._check_alerts())
        finally:
            self._schedule = None
            if self._run is not None:
                self._run.end(CHILDREN_END_WITHIN)
            schedule.stop()

    def _check_alerts(self) -> str | None:
        try:
            self._alerts.check()
        except StateError as error:
            return str(error)
        return None

    def _make_run(self, full: bool) -> None:
        """Make a run in a child process."""
        if self._ending.is_set():
            return
        self._run = ChildProcess("run", self._config, *(["full"] if full else []))
        if self._ending.is_set():
            self._run.ask_to_end()
        status = self._run.wait()
        if status == EXIT_BUSY:
            raise AnotherRun
        if status not in (0, 1):
            log.error("the run's process ended with status %s", status)

    def _record_slot(self, slot: Slot) -> None:
        self._collector.slot = slot
        log.info(
            "the next run starts in %.0f minutes",
            max(slot.at - time.time(), 0) / 60,
            extra={"kind": "full" if slot.full else "incremental"},
        )
        plan = {"next_run": int(slot.at * 1000), "full": slot.full}
        try:
            with self._state.write() as connection:
                workers.set_schedule(connection, self._me.number, plan)
        except StateError as error:
            log.warning("%s", error)

    # Reloading

    def _configure_receiver(self) -> None:
        settings = self._config.passthrough
        secret = settings.webhook_secret
        self._receiver.callers = settings.callers
        self._receiver.webhook_secret = secret.get_secret_value() if secret else None
        self._receiver.public_url = settings.public_url
        self._inbox.limit, self._inbox.share = settings.queue_limit, settings.share

    def _watch(self) -> None:
        """Restart the page's process if it ended, and reload the config when asked to."""
        while not self._ending.wait(0.2):
            self._restart_page_if_ended()
            try:
                config = self._reread()
            except ConfigError as error:
                log.error("the reloaded config is wrong, the old one stays in effect: %s", error)
                continue
            if config is not None:
                systemd.reloading()
                self._reload(config)
                systemd.notify("READY=1")

    def _restart_page_if_ended(self) -> None:
        if self._page is None or self._page.alive or self._ending.is_set():
            return
        status = self._page.wait()
        log.error("the page's process ended with status %s; it is started again", status)
        if not self._ending.wait(RESTART_PAGE_AFTER):
            self._start_page()

    def _reload(self, config: Config) -> None:
        """Apply new settings, and log the keys that changed."""
        changed = changes(self._config, config)
        if not changed:
            log.info("the config was reloaded: nothing changed")
            return
        log.info("the config was reloaded; changed: %s", ", ".join(changed))
        for key in changed:
            if Part.DAEMON in reload.restarts(key):
                log.warning("%s takes effect when the daemon is started again", key)
        self._config = reload.applicable(self._config, config)
        logs.set_up(config.log.format, config.log.level)
        self._configure_receiver()
        self._alerts.config = config.alerts
        parts = reload.parts_to_restart(changed)
        if Part.WORKER in parts:
            self._replace_worker()
        if Part.PAGE in parts and self._page is not None:
            self._page.end(CHILDREN_END_WITHIN)
            self._start_page()
        if Part.SCHEDULE in parts and self._schedule is not None:
            self._schedule.change(_rhythm(config.schedule))

    def _replace_worker(self) -> None:
        self._replacing = True
        try:
            self._worker.end(CHILDREN_END_WITHIN)
            self._worker = ChildProcess("worker", self._config)
        finally:
            self._replacing = False


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _rhythm(settings: ScheduleConfig) -> Rhythm:
    return Rhythm(settings.every, settings.jitter, CronLine(settings.reconcile))


def past(database: Database) -> Past:
    """Return when the last good run began, and the last good one that compared everything."""
    with database.read() as connection:
        start, full = runs.last_good(connection, ()), runs.last_good(connection, runs.FULL)
    return Past(None if start is None else start / 1000, None if full is None else full / 1000)


def needs_run(database: Database) -> bool:
    """Whether to run at once: there is no run yet, or the newest was cut off, stopped or failed.

    A state that was restored waits for a run, too.
    """
    with database.read() as connection:
        newest = runs.newest(connection, 1)
        if restored.pending(connection) is not None:
            return True
    incomplete = (runs.RUNNING, runs.INTERRUPTED, runs.FAILED)
    return not newest or newest[0].state in incomplete
