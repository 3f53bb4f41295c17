"""The worker: a process that processes accepted calls, and delivers meter records and customers.

Several daemons on one PostgreSQL have one each: all of them deliver, one processes calls.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import uvloop

from state import outbox, queue
from state.db import workers
from state.db.database import Database
from state.db.locks import lock
from state.db.workers import Worker
from state.errors import Locked, StateError
from syncer.amberflo.client import AmberfloClient
from syncer.app import App
from syncer.config import Config
from syncer.daemon import maintenance
from syncer.delivery.meters import MeterDelivery
from syncer.errors import SyncerError
from syncer.passthrough.processor import Processor
from syncer.process.child import Lifeline
from syncer.process.problem import Trouble
from syncer.progress import LineProgress

#: How long a messageId is known, in milliseconds.
DEDUPLICATED = 24 * 3600 * 1000
#: Seconds between two tries after something went wrong for all.
PAUSE_AFTER_TROUBLE = 5.0
#: Seconds between two looks for what is due, where nothing says that there is something.
DUE = 2.0
#: Seconds between two looks after the other workers and into an inbox that nobody told of, and
#: between two counts for the metrics.
LOOK, COUNT = 1.0, 5.0


def work(config: Config, lifeline: Lifeline) -> None:
    """Sort and deliver until the lifeline ends."""
    stop = lifeline.ended
    app = App(config, LineProgress(), stop)
    trouble = Trouble("worker")
    with app.state(writes=True) as state, app.queue(writes=True) as calls:
        while not stop():
            try:
                workers.bury(state, calls)
                with workers.join(state, "worker", calls) as worker:
                    trouble(None)
                    uvloop.run(_work(app, state, calls, worker, lifeline.rung))
            except* StateError as problem:  # such as a connection that broke
                trouble(str(problem.exceptions[0]))
                _wait(PAUSE_AFTER_TROUBLE, stop)


async def _work(
    app: App, state: Database, calls: Database, worker: Worker, rung: threading.Event
) -> None:
    processor, broken = app.processor(calls, state), threading.Event()
    try:
        async with app.client() as client, asyncio.TaskGroup() as tasks:
            meters = MeterDelivery(calls, state, worker.number, client, app.stop, Trouble("meters"))
            news = News(asyncio.get_running_loop(), [meters.arrived, asyncio.Event()])
            # A thread is not cancelled with its group: it has to be told.
            stop = lambda: app.stop() or broken.is_set()  # noqa: E731
            tasks.create_task(asyncio.to_thread(_process_all, processor, rung, news.came, stop))
            tasks.create_task(asyncio.to_thread(maintenance.do_all, app, state, calls, stop))
            tasks.create_task(_wake_at_the_end(news, app.stop))
            for work in (
                meters.run(),
                _deliver_customers(app, state, worker, client, news.events[1]),
                _look_after(app, state, calls, worker, client),
            ):
                tasks.create_task(_until_broken(work, broken))
    finally:
        broken.set()


@dataclass(frozen=True)
class News:
    """Wakes who waits for something to deliver; any thread may say that something came."""

    loop: asyncio.AbstractEventLoop
    events: list[asyncio.Event]

    def came(self) -> None:
        for one in self.events:
            self.loop.call_soon_threadsafe(one.set)


async def _wake_at_the_end(news: News, stop: Callable[[], bool]) -> None:
    while not stop():
        await asyncio.sleep(0.25)
    news.came()


async def _until_broken(work: Coroutine[Any, Any, None], broken: threading.Event) -> None:
    """Do it; where it breaks, say so at once: the group ends only when all of it has."""
    try:
        await work
    except BaseException:
        broken.set()
        raise


def _process_all(
    processor: Processor, rung: threading.Event, came: Callable[[], None], stop: Callable[[], bool]
) -> None:
    """Sort calls as they come; one process at a time does, so that they stay in order."""
    trouble = Trouble("calls")
    while not stop():
        try:
            with lock(processor.state_database, "sorting", wait=5, every=1, stop=stop) as check:
                _process_while(processor, rung, came, check, trouble, stop)
        except Locked:
            pass  # another daemon does
        except StateError as error:
            trouble(str(error))
            _wait(1.0, stop)


def _process_while(
    processor: Processor,
    rung: threading.Event,
    came: Callable[[], None],
    check: Callable[[], None],
    trouble: Callable[[str | None], None],
    stop: Callable[[], bool],
) -> None:
    checked = 0.0
    while not stop():
        if time.monotonic() - checked > LOOK:
            check()
            processor.settle_early()
            checked = time.monotonic()
        rung.clear()
        if processor.process():
            came()
        else:
            rung.wait(LOOK)
        trouble(None)


async def _deliver_customers(
    app: App, state: Database, worker: Worker, client: AmberfloClient, arrived: asyncio.Event
) -> None:
    """Deliver whenever customers are due."""
    trouble = Trouble("customers")
    while not app.stop():
        arrived.clear()
        pause = DUE
        try:
            with state.read() as connection:
                due = outbox.any_due(connection, int(time.time() * 1000))
                nothing = not due and outbox.oldest_due(connection) is None
            if nothing:
                trouble(None)  # a run may have delivered what we could not
            elif due:
                account = await asyncio.to_thread(app.account(state).check)
                result = await app.customer_delivery(state, worker, client, account).run()
                trouble(result.problem)
                pause = PAUSE_AFTER_TROUBLE if result.problem else 0.0
        except (StateError, SyncerError) as error:
            trouble(str(error))
            pause = PAUSE_AFTER_TROUBLE
        if pause == PAUSE_AFTER_TROUBLE:
            await _sleep(pause, app.stop)
        else:
            with suppress(TimeoutError):
                await asyncio.wait_for(arrived.wait(), pause)


async def _sleep(seconds: float, stop: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while not stop() and time.monotonic() < until:
        await asyncio.sleep(0.1)


async def _look_after(
    app: App, state: Database, calls: Database, worker: Worker, client: AmberfloClient
) -> None:
    """Still live for the others? Take over from the dead; count; forget old messageIds."""
    trouble, counted, purged = Trouble("queue"), 0.0, 0.0
    while not app.stop():
        await asyncio.to_thread(worker.check)
        now = time.monotonic()
        try:
            await asyncio.to_thread(workers.bury, state, calls)
            if now - counted > COUNT:
                counted = now
                await asyncio.to_thread(_count, calls, client)
            if now - purged > 60:
                purged = now
                await asyncio.to_thread(_purge, calls)
            trouble(None)
        except StateError as error:
            trouble(str(error))
        await asyncio.sleep(LOOK)
    _count(calls, client)


def _count(calls: Database, client: AmberfloClient) -> None:
    """Add the requests to Amberflo since the last time to the counters."""
    answers, client.answers = client.answers, Counter()
    if answers:
        with calls.write() as connection:
            queue.count(connection, {("amberflo", what): n for what, n in answers.items()})


def _purge(calls: Database) -> None:
    """Forget messageIds after a day."""
    with calls.write() as connection:
        queue.purge(connection, int(time.time() * 1000) - DEDUPLICATED)


def _wait(seconds: float, stop: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while not stop() and time.monotonic() < until:
        time.sleep(0.05)
