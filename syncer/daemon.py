"""The daemon: a process that receives calls, and one beside it that works them off.

They share nothing but the database, so neither a slow Amberflo nor a large run keeps a caller
waiting. The worker ends when the receiver does, however that ends.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection

import uvloop
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from state import failures, queue, snapshot
from state.database import Database
from state.errors import Locked, StateError
from state.lock import lock
from syncer.amberflo.meters import MeterDelivery
from syncer.app import App
from syncer.config import Config
from syncer.errors import SyncerError
from syncer.interpreter import set_for_commits_beside_a_busy_loop, set_for_throughput
from syncer.passthrough.inbox import Inbox
from syncer.passthrough.receiver import Receiver
from syncer.passthrough.server import bind, serve
from syncer.report import LineProgress
from syncer.sync.realtime import Sorter

log = logging.getLogger("syncer")

#: How long a messageId is known, in milliseconds.
DEDUPLICATED = 24 * 3600 * 1000
#: Seconds that a new worker waits for the one of a daemon that was killed.
SUCCESSION = 60.0
#: Seconds between two tries after something went wrong for all.
PAUSE_AFTER_TROUBLE = 5.0
#: Seconds between two looks whether a customer is to be erased.
LOOK_EVERY = 1.0
#: Seconds until the files are cleaned again after an erasure, and where that could not be yet.
SCRUB_EVERY, SCRUB_AGAIN = 600.0, 2.0
#: Seconds between two compactions of the history, and after something of this went wrong.
COMPACT_EVERY, CHORE_AFTER_TROUBLE = 86_400.0, 60.0


def run(config: Config, stop: Callable[[], bool]) -> None:
    """Receive and work until `stop` says so."""
    set_for_commits_beside_a_busy_loop()
    app = App(config, LineProgress(), stop)
    with ExitStack() as held:
        state = held.enter_context(app.state(writes=True))
        if state.engine.dialect.name == "sqlite":
            held.enter_context(lock(state, "daemon"))
        calls = held.enter_context(app.queue(writes=True))
        listener = bind(*config.passthrough.address)
        held.callback(listener.close)
        worker = held.enter_context(_Worker(config))
        inbox = Inbox(calls, config.passthrough.queue_limit)
        inbox.start()
        held.callback(inbox.stop)
        registry = CollectorRegistry()
        registry.register(_Counters(calls, state))
        secret = config.passthrough.webhook_secret
        receiver = Receiver(
            inbox=inbox,
            write_keys=tuple(key.get_secret_value() for key in config.passthrough.write_keys),
            webhook_secret=secret.get_secret_value() if secret else None,
            problem=lambda: None if worker.alive else "the worker process ended",
            registry=registry,
        )
        host, port = listener.getsockname()[:2]
        log.info("receiving on http://%s:%s", f"[{host}]" if ":" in host else host, port)
        uvloop.run(serve(receiver.app(), listener, lambda: stop() or not worker.alive))
        if not worker.alive and not stop():
            raise StateError("the worker process ended unexpectedly; start the daemon again")
        log.info("stopping")
    log.info("stopped")


class _Worker:
    """The process beside. It lives as long as its lifeline, which closes when we die too."""

    def __init__(self, config: Config) -> None:
        context = multiprocessing.get_context("spawn")
        self._theirs, self._ours = context.Pipe(duplex=False)
        self._process = context.Process(
            target=work, args=(config, self._theirs), name="syncer-worker"
        )

    def __enter__(self) -> _Worker:
        self._process.start()
        self._theirs.close()
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()
        self._process.join(timeout=18)
        if self._process.is_alive():
            self._process.kill()  # what it had under way is done again at the next start
            self._process.join()

    @property
    def alive(self) -> bool:
        return self._process.is_alive()


def work(config: Config, lifeline: Connection) -> None:
    """The worker process: sort calls, deliver meters and customers, until the lifeline ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the receiver gets them and ends us
    set_up_logging()
    set_for_throughput()
    ended = threading.Event()

    def wait_for_end() -> None:
        with suppress(EOFError, OSError):
            lifeline.recv()
        ended.set()

    threading.Thread(target=wait_for_end, name="lifeline", daemon=True).start()
    app = App(config, LineProgress(), ended.is_set)
    with app.state(writes=True) as state, app.queue(writes=True) as calls:
        trouble = Trouble("worker")
        while not ended.is_set():
            try:
                with lock(state, "worker", wait=SUCCESSION, stop=ended.is_set):
                    trouble(None)
                    uvloop.run(_work(app, state, calls))
            except Locked as busy:
                trouble(str(busy))


async def _work(app: App, state: Database, calls: Database) -> None:
    sorter = app.sorter(calls, state)
    async with app.client() as client, asyncio.TaskGroup() as tasks:
        meters = MeterDelivery(calls, state, client, app.stop, Trouble("meters"))
        tasks.create_task(asyncio.to_thread(_sort_all, sorter, app.stop))
        tasks.create_task(asyncio.to_thread(_forget_and_compact, app, state, calls))
        tasks.create_task(asyncio.to_thread(_forget_and_compact, app, state, calls))
        tasks.create_task(meters.run())
        tasks.create_task(_deliver_customers(app, state))
        tasks.create_task(_purge(calls, app.stop))


def _sort_all(sorter: Sorter, stop: Callable[[], bool]) -> None:
    trouble = Trouble("calls")
    while not stop():
        try:
            sorted_any = sorter.sort()
            trouble(None)
        except StateError as error:
            trouble(str(error))
            time.sleep(1.0)
            continue
        if not sorted_any:
            time.sleep(0.02)


async def _deliver_customers(app: App, state: Database) -> None:
    """Deliver whenever customers are due, one delivery at a time over all processes."""
    trouble = Trouble("customers")
    while not app.stop():
        pause = 0.1
        try:
            with state.read() as connection:
                oldest = snapshot.oldest_due(connection)
            if oldest is not None and oldest <= time.time() * 1000:
                with lock(state, "delivery"):
                    result = await app.deliver_customers(state)
                trouble(result.problem)
                pause = PAUSE_AFTER_TROUBLE if result.problem else pause
        except Locked:
            pass  # a run is delivering; it takes what is due
        except StateError as error:
            trouble(str(error))
            pause = 1.0
        until = time.monotonic() + pause
        while not app.stop() and time.monotonic() < until:
            await asyncio.sleep(0.05)


async def _purge(calls: Database, stop: Callable[[], bool]) -> None:
    """Forget messageIds after a day."""
    last = 0.0
    while not stop():
        if time.monotonic() - last > 60:
            last = time.monotonic()
            try:
                with calls.write() as connection:
                    queue.purge(connection, int(time.time() * 1000) - DEDUPLICATED)
            except StateError as error:
                log.warning("%s", error)
        await asyncio.sleep(0.1)


def _forget_and_compact(app: App, state: Database, calls: Database) -> None:
    """Erase whom Segment's delete calls name, and history that is older than it is to be kept."""
    forget = app.forget(state, calls, wait=0.0)

    def forget_all() -> float:
        forget.forget_all_asked()
        return LOOK_EVERY

    def scrub() -> float:
        if not forget.traces():
            return LOOK_EVERY
        return SCRUB_EVERY if forget.scrub() else SCRUB_AGAIN

    def compact() -> float:
        done = app.compact(state)
        if done.broken:
            raise SyncerError(f"nothing is removed, the history does not hold: {done.broken.what}")
        if done.removed:
            log.info("retention: %d changes removed, %d kept", done.removed, done.kept)
        return COMPACT_EVERY

    chores = [_Chore("forget", forget_all), _Chore("traces", scrub), _Chore("retention", compact)]
    while not app.stop():
        for chore in chores:
            chore()
        time.sleep(0.2)


class _Chore:
    """Something to do now and then: it says itself in how many seconds again."""

    def __init__(self, what: str, do: Callable[[], float]) -> None:
        self._do = do
        self._trouble = Trouble(what)
        self._next = 0.0

    def __call__(self) -> None:
        if time.monotonic() < self._next:
            return
        try:
            wait = self._do()
            self._trouble(None)
        except Locked:
            wait = LOOK_EVERY  # a run is going on, for instance
        except (SyncerError, StateError) as error:
            self._trouble(str(error))
            wait = CHORE_AFTER_TROUBLE
        self._next = time.monotonic() + wait


class Trouble:
    """Says once what is wrong for a whole path, and once that it is over."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._said: str | None = None

    def __call__(self, problem: str | None) -> None:
        if problem is not None and self._said is None:
            log.error("%s: %s", self._what, problem)
        elif problem is None and self._said is not None:
            log.info("%s: it works again", self._what)
        self._said = problem


class _Counters:
    """The counters and sizes in the database, for Prometheus."""

    def __init__(self, calls: Database, state: Database) -> None:
        self._calls, self._state = calls, state

    def collect(self) -> Iterator[Metric]:
        with self._calls.read() as connection:
            counters = queue.counters(connection)
            inbox, records = queue.waiting(connection)
            oldest = queue.oldest_waiting(connection)
        with self._state.read() as connection:
            customers = snapshot.backlog(connection)
            failed = failures.count(connection)
        calls = CounterMetricFamily(
            "syncer_calls", "Calls by what became of them", None, ["what", "reason"]
        )
        for (what, reason), value in sorted(counters.items()):
            calls.add_metric([what, reason], value)
        yield calls
        yield GaugeMetricFamily("syncer_calls_unsorted", "Calls in the inbox", inbox)
        yield GaugeMetricFamily("syncer_meters_waiting", "Meter records to deliver", records)
        yield GaugeMetricFamily("syncer_customers_waiting", "Customers to deliver", customers)
        yield GaugeMetricFamily("syncer_failures", "Failures that wait for somebody", failed)
        lag = 0.0 if oldest is None else max(0.0, time.time() - oldest / 1000)
        yield GaugeMetricFamily("syncer_lag_seconds", "Age of the oldest waiting call", lag)


def set_up_logging() -> None:
    """One event a line on stderr."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
