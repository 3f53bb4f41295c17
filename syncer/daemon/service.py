"""The daemon's own process: it receives calls, keeps the schedule and the processes beside it.

The processes share nothing but the database, so neither a slow Amberflo nor a large run keeps a
caller waiting. Its life is `start`, `wait`, `drain`, `stop`.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

import orjson
import uvloop
from prometheus_client import CollectorRegistry

from state import outbox, runs
from state.db import workers
from state.db.database import Database
from state.db.locks import lock
from state.errors import Locked, StateError
from syncer import log as logs
from syncer.config import Config, ScheduleConfig, changes
from syncer.cron import CronLine
from syncer.daemon.alerts import Alerts
from syncer.daemon.metrics import Figures
from syncer.daemon.ops import Ops
from syncer.daemon.schedule import Busy, Past, Rhythm, Schedule, Slot
from syncer.databases import opened
from syncer.errors import ConfigError
from syncer.passthrough.inbox import Inbox
from syncer.passthrough.receiver import Receiver
from syncer.process import systemd
from syncer.process.child import BUSY, Beside
from syncer.process.problem import Trouble
from syncer.process.runtime import set_for_commits_beside_a_busy_loop
from syncer.process.server import bind, serve

log = logging.getLogger("syncer")

#: Seconds that the processes beside get to end after a stop; the whole must not take 20.
DRAIN = 16.0
#: Seconds between two looks at the clock and at what there is to alert of.
GLANCE, LOOK = 5.0, 10.0
#: Seconds between two tries to become the daemon that schedules (others may have died).
SUCCESSION = 5.0
#: Seconds until the page is shown again after its process ended.
PAGE_AGAIN = 1.0
#: Settings that take a new start.
FIXED = ("passthrough.listen", "ops.listen", "state.url", "web", "web.listen")


def run(
    config: Config,
    stop: Callable[[], bool],
    reread: Callable[[], Config | None] = lambda: None,
) -> None:
    """Receive, schedule and deliver until `stop` says so. `reread` gives the settings anew when
    somebody asked for that (SIGHUP), None else; it raises `ConfigError` where they are wrong."""
    set_for_commits_beside_a_busy_loop()
    with Service(config, stop, reread) as service:
        service.wait()
        service.drain()
    log.info("stopped")


class Service:
    """Use as a context manager: entering starts it."""

    def __init__(
        self, config: Config, stop: Callable[[], bool], reread: Callable[[], Config | None]
    ) -> None:
        self._config, self._stop, self._reread = config, stop, reread
        self._held = ExitStack()
        self._ending = threading.Event()
        self._schedule: Schedule | None = None
        self._run: Beside | None = None
        self._page: Beside | None = None
        self._page_listener: socket.socket | None = None
        self._replacing = False

    def __enter__(self) -> Service:
        try:
            self._start()
        except BaseException:
            self._ending.set()
            self._held.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._held.close()

    def _start(self) -> None:
        config, held = self._config, self._held
        self._state = held.enter_context(opened(config, writes=True))
        if self._state.engine.dialect.name == "sqlite":
            # A moment's patience: `status` takes it to see whether it is free.
            held.enter_context(lock(self._state, "daemon", wait=0.5))
        self._calls = held.enter_context(opened(config, "queue", writes=True))
        self._listener = bind(*config.passthrough.address)
        held.callback(self._listener.close)
        self._ops_listener = bind(*config.ops.address, "ops.listen")
        held.callback(self._ops_listener.close)
        if config.web is not None:
            self._page_listener = bind(*config.web.address, "web.listen")
            held.callback(self._page_listener.close)
        workers.bury(self._state, self._calls)
        self._me = held.enter_context(workers.join(self._state, workers.DAEMON))
        self._worker = Beside("worker", config)
        self._show_page()
        held.callback(self._end_beside)
        self._inbox = Inbox(
            self._calls,
            config.passthrough.queue_limit,
            lambda: self._worker.ring(),
            Trouble("inbox"),
            self._customers_waiting,
        )
        self._inbox.start()
        held.callback(self._inbox.stop)
        self._figures = Figures(self._calls, self._state)
        registry = CollectorRegistry()
        registry.register(self._figures)
        self._receiver = Receiver(
            inbox=self._inbox, callers=(), webhook_secret=None, registry=registry
        )
        self._let_callers_in()
        self._ops = Ops(registry, self._problem)
        self._ops.start(self._ops_listener)
        held.callback(self._ops.stop)
        self._alerts = Alerts(self._state, self._calls, config.alerts)
        for name, target in (("reload", self._reload_when_asked), ("schedule", self._schedule_all)):
            thread = threading.Thread(target=target, name=name, daemon=True)
            thread.start()
            held.callback(thread.join, DRAIN)

    def wait(self) -> None:
        """Serve until somebody wants us to stop."""
        log.info("health and metrics are at %s", _url(self._ops_listener))
        log.info("receiving on %s", _url(self._listener))
        if self._page_listener is not None:
            log.info("the page is at %s", _url(self._page_listener))
        systemd.notify("READY=1")
        watchdog = systemd.Watchdog()

        def over() -> bool:
            watchdog()  # from the loop itself: where that hangs, nobody hears us
            self._ops.beat()
            if self._stop():
                self._ending.set()
                self._tell_beside_to_end()
            return self._stop() or not self._alive()

        receiver = self._receiver
        uvloop.run(serve(receiver.app(), self._listener, over, refused=receiver.refused))
        if not self._alive() and not self._stop():
            raise StateError("the worker process ended unexpectedly; start the daemon again")

    def drain(self) -> None:
        """Let end what is under way; what has not begun stays due."""
        systemd.notify("STOPPING=1")
        log.info("stopping")
        self._ending.set()
        self._tell_beside_to_end()

    def _customers_waiting(self) -> dict[str, int]:
        """Customers that calls made due, by key: they count as what waits of it."""
        with self._state.read() as connection:
            return outbox.backlog_by_key(connection)

    def _problem(self) -> str | None:
        """What keeps us from working, in words for anybody: no path, no name."""
        if self._inbox.problem is not None or not self._inbox.alive:
            return "calls cannot be stored"
        if self._ending.is_set():
            return "stopping"
        return None if self._alive() else "the worker process ended"

    # The processes beside

    def _alive(self) -> bool:
        return self._replacing or self._worker.alive

    def _tell_beside_to_end(self) -> None:
        for process in (self._worker, self._run, self._page):
            if process is not None:
                process.tell_to_end()

    def _end_beside(self) -> None:
        until = time.monotonic() + DRAIN
        self._tell_beside_to_end()
        for process in (self._run, self._worker, self._page):
            if process is not None:
                process.end(max(until - time.monotonic(), 1.0))

    def _show_page(self) -> None:
        """Serve the page, where there is one; what becomes of it is no concern of the calls."""
        if self._page_listener is not None:
            number = self._page_listener.fileno()
            self._page = Beside("page", self._config, str(number), keeps=number)

    # The schedule

    def _schedule_all(self) -> None:
        """Schedule runs and alert, while no other daemon does."""
        trouble = Trouble("schedule")
        while not self._ending.is_set():
            try:
                with lock(
                    self._state, "schedule", wait=3600, every=SUCCESSION / 2, stop=self._is_ending
                ) as check:
                    trouble(None)
                    self._schedule_while(check)
            except Locked:
                pass
            except (StateError, ConfigError) as error:
                trouble(str(error))
                self._ending.wait(SUCCESSION)

    def _is_ending(self) -> bool:
        return self._ending.is_set()

    def _schedule_while(self, check: Callable[[], None]) -> None:
        schedule = Schedule(
            _rhythm(self._config.schedule),
            lambda: past(self._state),
            self._make_run,
            tell=self._tell_slot,
        )
        trouble, looked = Trouble("alerts"), 0.0
        schedule.start(at_once=left_undone(self._state))
        self._schedule = schedule
        try:
            while not self._ending.wait(GLANCE):
                check()
                schedule.glance()
                if time.monotonic() - looked >= LOOK:
                    looked = time.monotonic()
                    trouble(self._look())
        finally:
            self._schedule = None
            if self._run is not None:
                self._run.end(DRAIN)
            schedule.stop()

    def _look(self) -> str | None:
        try:
            self._alerts.look()
        except StateError as error:
            return str(error)
        return None

    def _make_run(self, full: bool) -> None:
        """Make a run in a process of its own."""
        if self._ending.is_set():
            return
        self._run = Beside("run", self._config, *(["full"] if full else []))
        if self._ending.is_set():
            self._run.tell_to_end()
        status = self._run.wait()
        if status == BUSY:
            raise Busy
        if status not in (0, 1):
            log.error("the run's process ended with status %s", status)

    def _tell_slot(self, slot: Slot) -> None:
        self._figures.slot = slot
        log.info(
            "the next run starts in %.0f minutes", max(slot.at - time.time(), 0) / 60,
            extra={"kind": "full" if slot.full else "incremental"},
        )  # fmt: skip
        doing = orjson.dumps({"next_run": int(slot.at * 1000), "full": slot.full}).decode()
        try:
            with self._state.write() as connection:
                workers.tell(connection, self._me.number, doing)
        except StateError as error:
            log.warning("%s", error)

    # Reloading

    def _let_callers_in(self) -> None:
        settings = self._config.passthrough
        secret = settings.webhook_secret
        self._receiver.callers = settings.callers
        self._receiver.webhook_secret = secret.get_secret_value() if secret else None
        self._receiver.public_url = settings.public_url
        self._inbox.limit, self._inbox.share = settings.queue_limit, settings.share

    def _reload_when_asked(self) -> None:
        while not self._ending.wait(0.2):
            self._look_after_page()
            try:
                config = self._reread()
            except ConfigError as error:
                log.error("the config was read again and is wrong, the old one stays: %s", error)
                continue
            if config is not None:
                systemd.reloading()
                self._take_config(config)
                systemd.notify("READY=1")

    def _look_after_page(self) -> None:
        if self._page is None or self._page.alive or self._ending.is_set():
            return
        status = self._page.wait()
        log.error("the page's process ended with status %s; it is started again", status)
        if not self._ending.wait(PAGE_AGAIN):
            self._show_page()

    def _take_config(self, config: Config) -> None:
        """Go on with new settings, and say which changed."""
        changed = changes(self._config, config)
        if not changed:
            log.info("the config was read again: nothing changed")
            return
        log.info("the config was read again; changed: %s", ", ".join(changed))
        for key in set(changed) & set(FIXED):
            log.warning("%s stays as it was until the daemon is started again", key)
        kept = {"state": self._config.state, "ops": self._config.ops}
        passthrough = config.passthrough.model_copy(
            update={"listen": self._config.passthrough.listen}
        )
        web = config.web
        if web is None or self._config.web is None:
            web = self._config.web
        else:
            web = web.model_copy(update={"listen": self._config.web.listen})
        self._config = config.model_copy(update={**kept, "passthrough": passthrough, "web": web})
        sections = {key.partition(".")[0] for key in changed}
        logs.set_up(config.log.format, config.log.level)
        self._let_callers_in()
        self._alerts.config = config.alerts
        if sections & {"amberflo", "engage", "log", "retention"}:
            self._replace_worker()
        if self._page is not None and sections & {"web", "amberflo", "engage", "guard", "log"}:
            self._page.end(DRAIN)
            self._show_page()
        if "schedule" in sections and self._schedule is not None:
            self._schedule.change(_rhythm(config.schedule))

    def _replace_worker(self) -> None:
        self._replacing = True
        try:
            self._worker.end(DRAIN)
            self._worker = Beside("worker", self._config)
        finally:
            self._replacing = False


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _rhythm(settings: ScheduleConfig) -> Rhythm:
    return Rhythm(settings.every, settings.jitter, CronLine(settings.reconcile))


def past(database: Database) -> Past:
    """When the last good run and the last good one that compared everything began."""
    with database.read() as connection:
        start, full = runs.last_good(connection, ()), runs.last_good(connection, runs.FULL)
    return Past(None if start is None else start / 1000, None if full is None else full / 1000)


def left_undone(database: Database) -> bool:
    """Whether the newest run was cut off, stopped or failed: the next start makes a run at once."""
    with database.read() as connection:
        newest = runs.newest(connection, 1)
    bad = (runs.RUNNING, runs.INTERRUPTED, runs.FAILED)
    return not newest or newest[0]["state"] in bad
