"""The daemon's own process: it receives calls, schedules runs, and keeps child processes going.

The processes share nothing but the database, so neither a slow Amberflo nor a large run delays a
caller. Each thread and each child process is a part of the supervisor's, which starts it again
when it ends. The life of the service is `start`, `wait`, `drain`, `stop`.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress

import uvloop
from prometheus_client import CollectorRegistry, Gauge, ProcessCollector

from state import outbox, restored, runs
from state.db import workers
from state.db.database import Database
from state.db.locks import Check, lock
from state.errors import Locked, StateError
from syncer import __version__
from syncer import log as logs
from syncer.config import Config, ScheduleConfig, changes
from syncer.cron import CronLine
from syncer.daemon import channels, reload
from syncer.daemon.alerts import Alerts
from syncer.daemon.metrics import StateCollector
from syncer.daemon.ops import Ops
from syncer.daemon.run_record import RunRecord, next_record, record_failed, took_nothing
from syncer.daemon.schedule import AnotherRun, Past, Rhythm, Schedule, Slot, TookNothing
from syncer.databases import open_database
from syncer.errors import ConfigError
from syncer.passthrough.inbox import Inbox
from syncer.passthrough.receiver import Receiver
from syncer.process import systemd
from syncer.process.child import BEAT, EXIT_BUSY, ChildProcess
from syncer.process.problem import ProblemLog
from syncer.process.runtime import tune_for_writers
from syncer.process.server import bind, serve
from syncer.process.supervisor import Part, Process, Supervisor
from syncer.process.unexpected import what_happened
from syncer.stop import Stop
from syncer.wakeup import Wakeup

log = logging.getLogger("syncer")

#: Seconds that child processes get to end after a stop; the whole daemon must end within 20.
CHILDREN_END_WITHIN = 16.0
#: Seconds between two checks of the clock, and between two searches for alerts.
CLOCK_EVERY, ALERTS_EVERY = 5.0, 10.0
#: Seconds between two attempts to become the daemon that schedules (the other may have died).
SUCCESSION_EVERY = 5.0


def run(config: Config, stop: Stop, reload: Wakeup, read: Callable[[], Config]) -> None:
    """Receive, schedule and deliver until the stop.

    `reload` asks for the settings to be read again (SIGHUP). `read` returns them, and raises
    `ConfigError` if they are wrong.
    """
    tune_for_writers()
    with Service(config, stop, reload, read) as service:
        service.wait()
        service.drain()
    log.info("stopped")


class Service:
    """A context manager: entering it starts the service."""

    def __init__(
        self, config: Config, stop: Stop, reload: Wakeup, read: Callable[[], Config]
    ) -> None:
        self._config, self._stop, self._reload, self._read = config, stop, reload, read
        self._resources = ExitStack()
        self._ending = Stop(after=stop)
        self._supervisor = Supervisor(self._ending, lambda name: ProblemLog(name, self._state))
        self._schedule: Schedule | None = None
        self._worker = Process(lambda: ChildProcess("worker", self._config))
        self._page = Process(self._start_page)
        self._page_listener: socket.socket | None = None
        self._run: ChildProcess | None = None
        #: runs that failed and are not on record yet, each with what happened
        self._unrecorded: list[tuple[RunRecord, str]] = []
        self._recording = threading.Lock()
        #: when children must have ended (monotonic); 0 until they are asked to
        self._end_by = 0.0

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
        resources.callback(self._end_children)
        self._supervisor.watch()
        self._supervisor.start("worker", self._worker)
        if self._page_listener is not None:
            self._supervisor.start("page", self._page)
        self._inbox = Inbox(
            self._calls,
            config.passthrough.queue_limit,
            self._worker.wake,
            ProblemLog("inbox", self._state),
            self._customers_waiting,
        )
        self._inbox.start(self._supervisor)
        resources.callback(self._inbox.stop)
        self._collector = StateCollector(self._calls, self._state)
        registry = CollectorRegistry()
        registry.register(self._collector)
        ProcessCollector(registry=registry)
        Gauge("syncer_build_info", "1, with the version", ["version"], registry=registry).labels(
            __version__
        ).set(1)
        self._receiver = Receiver(
            inbox=self._inbox, callers=(), webhook_secret=None, registry=registry
        )
        self._configure_receiver()
        self._ops = Ops(registry, self._problem, ProblemLog("metrics", self._state))
        self._ops.start(self._ops_listener, self._supervisor)
        resources.callback(self._ops.stop)
        self._alerts = Alerts(self._state, self._calls, config.alerts, self._supervisor.troubles)
        for name, work in (
            ("reload", self._watch),
            ("schedule", self._keep_schedule),
            ("alerts", self._keep_alerting),
        ):
            part = self._supervisor.start(name, work)
            resources.callback(self._join, part)

    def wait(self) -> None:
        """Serve until a stop is asked for."""
        log.info("health and metrics are at %s", _url(self._ops_listener))
        log.info("receiving on %s", _url(self._listener))
        if self._page_listener is not None:
            log.info("the page is at %s", _url(self._page_listener))
        systemd.notify("READY=1")
        self._supervisor.add("receiver", self._receive).keep()

    def _receive(self, part: Part) -> None:
        watchdog, receiver = systemd.Watchdog(), self._receiver
        # The server closes what it gets, and it may have to be started again.
        listener = self._listener.dup()

        def on_tick() -> None:
            watchdog()  # from the event loop itself: systemd restarts us if it hangs
            self._ops.beat()
            part.well()

        def on_stop() -> None:
            self._ask_children_to_end()
            # From its stop on nobody is kept waiting: no descriptor may listen any more.
            self._listener.close()

        uvloop.run(
            serve(
                receiver.app(),
                listener,
                self._stop,
                on_refused=receiver.refused,
                on_tick=on_tick,
                on_stop=on_stop,
            )
        )

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
        if self._ending():
            return "stopping"
        down = self._supervisor.down()
        ended = sorted(name for name, text in down.items() if text is not None)
        if ended:
            return f"does not work: {', '.join(ended)}"
        return f"starting: {', '.join(sorted(down))}" if down else None

    # Child processes

    def _ask_children_to_end(self) -> None:
        self._end_by = self._end_by or time.monotonic() + CHILDREN_END_WITHIN
        for child in (self._worker, self._run, self._page):
            if child is not None:
                child.ask_to_end()

    def _end_children(self) -> None:
        self._ask_children_to_end()
        for child in (self._run, self._worker, self._page):
            if child is not None:
                child.end(self._time_left())

    def _join(self, part: Part) -> None:
        self._ask_children_to_end()
        part.join(self._time_left())

    def _time_left(self) -> float:
        """Return how many seconds there are until all that runs must have ended."""
        return max(self._end_by - time.monotonic(), 1.0)

    def _start_page(self) -> ChildProcess:
        """Start the page's process. Its crash does not affect calls."""
        assert self._page_listener is not None
        number = self._page_listener.fileno()
        return ChildProcess("page", self._config, str(number), inherit=number)

    # The schedule

    def _keep_schedule(self, part: Part) -> None:
        """Schedule runs while no other daemon does."""
        while not part.ending():
            with suppress(Locked), self._alone("schedule", part) as check:
                self._schedule_while(check, part)

    def _alone(self, name: str, part: Part) -> AbstractContextManager[Check]:
        """Hold a lock that another daemon may hold for long; then this one stands by."""

        def standing_by() -> bool:
            part.well()
            return part.ending()

        return lock(self._state, name, wait=3600, every=SUCCESSION_EVERY / 2, stop=standing_by)

    def _schedule_while(self, check: Check, part: Part) -> None:
        schedule = Schedule(
            _rhythm(self._config.schedule),
            lambda: past(self._state),
            self._make_run,
            on_slot=self._record_slot,
        )
        schedule.start(at_once=needs_run(self._state))
        self._schedule = schedule
        try:
            part.well()
            while not part.wait(CLOCK_EVERY):
                check()
                schedule.check_clock()
                self._record_unrecorded()
                part.well()
        finally:
            self._schedule = None
            if self._run is not None:
                self._run.end(CHILDREN_END_WITHIN)
            schedule.stop()

    def _keep_alerting(self, part: Part) -> None:
        """Find and report alerts while no other daemon does."""
        try:
            while not part.ending():
                with suppress(Locked), self._alone("alerts", part) as check:
                    while True:
                        check()
                        self._alerts.check()
                        part.well()
                        if part.wait(ALERTS_EVERY):
                            return
        except StateError as error:
            self._alerts.state_gone(error)
            raise

    def _make_run(self, full: bool) -> None:
        """Make a run in a child process."""
        if self._ending():
            return
        record = next_record(self._state, full=full)
        try:
            child = self._run = ChildProcess("run", self._config, *(["full"] if full else []))
        except OSError as error:
            self._fail(record, f"its process cannot be started: {what_happened(error)}")
            raise TookNothing from None
        if self._ending():
            child.ask_to_end()
        reasons = [reason for said in child.reports() for reason in said.values() if reason]
        status = child.wait()
        if status == EXIT_BUSY:
            raise AnotherRun
        if status and not child.asked_to_end:
            self._look_into(record, child, status, reasons)
        else:
            self._supervisor.tell("run", None)

    def _look_into(
        self, record: RunRecord, child: ChildProcess, status: int, reasons: list[str]
    ) -> None:
        """See that a run that failed is on record; raise `TookNothing` if it left nothing due."""
        if status == 1 and not reasons:
            self._supervisor.tell("run", None)  # it is on record already, or will be now
            self._unrecorded.append((record, child.how_it_ended(status)))
            self._record_unrecorded()
        else:
            self._fail(record, reasons[0] if reasons else child.how_it_ended(status))
        if status != 1 or took_nothing(self._state, record):
            raise TookNothing

    def _fail(self, record: RunRecord, text: str) -> None:
        """Say that a run failed, of which nobody else can say so."""
        log.error("the run failed: %s", text)
        self._supervisor.tell("run", text)
        self._unrecorded.append((record, text))
        self._record_unrecorded()

    def _record_unrecorded(self) -> None:
        """Record the runs that failed without a record, now or as soon as the state can be used."""
        with self._recording, suppress(StateError):
            while self._unrecorded:
                record_failed(self._state, *self._unrecorded[0])
                del self._unrecorded[0]

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

    def _watch(self, part: Part) -> None:
        """Reload the config when asked to."""
        part.well()
        while not part.wait(BEAT, self._reload):
            part.well()
            if not self._reload.taken():
                continue
            try:
                config = self._read()
                channels.check(config.alerts)
            except ConfigError as error:
                log.error("the reloaded config is wrong, the old one stays in effect: %s", error)
                continue
            self._apply_or_keep(config)

    def _apply_or_keep(self, config: Config) -> None:
        """Apply new settings; where that fails keep the old ones, so that the next request can."""
        systemd.reloading()
        before = self._config
        try:
            self._apply(config)
        except Exception:
            self._config = before
            raise
        finally:
            systemd.notify("READY=1")

    def _apply(self, config: Config) -> None:
        """Apply new settings, and log the keys that changed."""
        changed = changes(self._config, config)
        if not changed:
            log.info("the config was reloaded: nothing changed")
            return
        log.info("the config was reloaded; changed: %s", ", ".join(changed))
        for key in changed:
            if reload.Part.DAEMON in reload.restarts(key):
                log.warning("%s takes effect when the daemon is started again", key)
        self._config = reload.applicable(self._config, config)
        logs.set_up(config.log.format, config.log.level)
        self._configure_receiver()
        self._alerts.configure(config.alerts)
        parts = reload.parts_to_restart(changed)
        if reload.Part.WORKER in parts:
            self._worker.end(CHILDREN_END_WITHIN)  # another one is started
        if reload.Part.PAGE in parts:
            self._page.end(CHILDREN_END_WITHIN)
        if reload.Part.SCHEDULE in parts and self._schedule is not None:
            self._schedule.change(_rhythm(config.schedule))


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
