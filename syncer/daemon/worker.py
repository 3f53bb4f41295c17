"""The worker process: processes accepted calls, and delivers meter records and customers.

Each daemon has a worker. Several daemons on one PostgreSQL deliver side by side; only one of their
workers processes calls.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import uvloop

from state import outbox, queue
from state.db import workers
from state.db.database import Database
from state.db.locks import lock
from state.db.workers import Worker
from state.errors import Locked, StateError
from syncer.amberflo.client import AmberfloClient
from syncer.amberflo.silence import Trouble
from syncer.app import App
from syncer.config import Config
from syncer.daemon import maintenance
from syncer.delivery import trouble
from syncer.delivery.meters import MeterDelivery
from syncer.errors import SyncerError
from syncer.passthrough.processor import Processor
from syncer.pause import sleep
from syncer.process.child import Lifeline
from syncer.process.problem import ProblemLog
from syncer.progress import LineProgress

#: How long a messageId is remembered, in milliseconds.
DEDUPLICATED = 24 * 3600 * 1000
#: Seconds until the next attempt after a failure that concerns everything.
RETRY_AFTER = 5.0
#: Seconds between two queries for due customers while no event announces any.
DUE_EVERY = 2.0
#: Seconds between two checks of the other workers, and of the inbox while no event announces calls.
CHECK_EVERY = 1.0
#: Seconds between two updates of the request counters, and between two deletions of messageIds.
COUNT_EVERY, PURGE_EVERY = 5.0, 60.0


def work(config: Config, lifeline: Lifeline) -> None:
    """Process and deliver until the lifeline ends."""
    stop = lifeline.ended
    app = App(config, LineProgress(), stop)
    with app.state(writes=True) as state, app.queue(writes=True) as calls:
        problems = ProblemLog("worker", state)
        while not stop():
            try:
                workers.prune_dead(state, calls)
                with workers.register(state, "worker", calls) as worker:
                    problems(None)
                    uvloop.run(_work(app, state, calls, worker, lifeline.woken))
            except* StateError as errors:  # such as a broken connection
                problems(str(errors.exceptions[0]))
                _wait(RETRY_AFTER, stop)


async def _work(
    app: App, state: Database, calls: Database, worker: Worker, woken: threading.Event
) -> None:
    processor, broken = app.processor(calls, state), threading.Event()

    def stop() -> bool:
        # A thread is not cancelled with its task group, so it has to ask.
        return app.stop() or broken.is_set()

    try:
        async with app.client() as client, asyncio.TaskGroup() as tasks:
            meters = MeterDelivery(
                calls, state, worker.number, client, app.stop, ProblemLog("meters", state)
            )
            customers_due = asyncio.Event()
            arrivals = Arrivals(asyncio.get_running_loop(), [meters.arrived, customers_due])
            tasks.create_task(
                asyncio.to_thread(_process_all, processor, woken, arrivals.announce, stop)
            )
            tasks.create_task(asyncio.to_thread(maintenance.run, app, state, calls, stop))
            tasks.create_task(_announce_stop(arrivals, app.stop))
            for task in (
                meters.run(),
                _deliver_customers(app, state, worker, client, customers_due),
                _supervise(app, state, calls, worker, client),
            ):
                tasks.create_task(_until_broken(task, broken))
    finally:
        broken.set()


@dataclass(frozen=True)
class Arrivals:
    """Wakes the deliveries when there may be something to deliver. Any thread may announce."""

    loop: asyncio.AbstractEventLoop
    events: list[asyncio.Event]

    def announce(self) -> None:
        for event in self.events:
            self.loop.call_soon_threadsafe(event.set)


async def _announce_stop(arrivals: Arrivals, stop: Callable[[], bool]) -> None:
    while not stop():
        await asyncio.sleep(0.25)
    arrivals.announce()


async def _until_broken(task: Coroutine[Any, Any, None], broken: threading.Event) -> None:
    """Await the task; if it fails, tell the threads at once: the group waits for them."""
    try:
        await task
    except BaseException:
        broken.set()
        raise


def _process_all(
    processor: Processor,
    woken: threading.Event,
    announce: Callable[[], None],
    stop: Callable[[], bool],
) -> None:
    """Process calls as they come. Only one process at a time does, so that they stay in order."""
    problems = ProblemLog("calls", processor.state_database)
    while not stop():
        try:
            with lock(processor.state_database, "sorting", wait=5, every=1, stop=stop) as check:
                _process_while(processor, woken, announce, check, problems, stop)
        except Locked:
            pass  # another daemon processes
        except StateError as error:
            problems(str(error))
            _wait(1.0, stop)


def _process_while(
    processor: Processor,
    woken: threading.Event,
    announce: Callable[[], None],
    check: Callable[[], None],
    problems: Callable[[str | None], None],
    stop: Callable[[], bool],
) -> None:
    checked = 0.0
    while not stop():
        if time.monotonic() - checked > CHECK_EVERY:
            check()
            processor.apply_early_calls()
            checked = time.monotonic()
        woken.clear()
        if processor.process():
            announce()
        else:
            woken.wait(CHECK_EVERY)
        problems(None)


async def _deliver_customers(
    app: App, state: Database, worker: Worker, client: AmberfloClient, arrived: asyncio.Event
) -> None:
    """Deliver whenever customers are due."""
    problems = ProblemLog(trouble.PART, state)

    def tell(now: Trouble | None) -> None:
        problems(None if now is None else now.text)

    while not app.stop():
        arrived.clear()
        pause = DUE_EVERY
        try:
            with state.read() as connection:
                due = outbox.any_due(connection, int(time.time() * 1000))
                nothing = not due and outbox.oldest_due(connection) is None
            if nothing:
                problems(None)  # a run may have delivered what we could not
            elif due:
                account = await asyncio.to_thread(app.account(state).check)
                delivery = app.customer_delivery(state, worker, client, account)
                result = await replace(delivery, trouble=tell).run()
                if result.problem or result.delivered:
                    problems(result.on_record)
                pause = RETRY_AFTER if result.problem else 0.0
        except (StateError, SyncerError) as error:
            problems(str(error))
            pause = RETRY_AFTER
        if pause == RETRY_AFTER:
            await sleep(pause, app.stop)
        else:
            with suppress(TimeoutError):
                await asyncio.wait_for(arrived.wait(), pause)


async def _supervise(
    app: App, state: Database, calls: Database, worker: Worker, client: AmberfloClient
) -> None:
    """Check our registration, clean up after dead workers, update counters, drop messageIds."""
    problems, counted, purged = ProblemLog("queue", state), 0.0, 0.0
    while not app.stop():
        await asyncio.to_thread(worker.check)
        now = time.monotonic()
        try:
            await asyncio.to_thread(workers.prune_dead, state, calls)
            if now - counted > COUNT_EVERY:
                counted = now
                await asyncio.to_thread(_count, calls, client)
            if now - purged > PURGE_EVERY:
                purged = now
                await asyncio.to_thread(_purge, calls)
            problems(None)
        except StateError as error:
            problems(str(error))
        await asyncio.sleep(CHECK_EVERY)
    _count(calls, client)


def _count(calls: Database, client: AmberfloClient) -> None:
    """Add the requests to Amberflo since the last time to the counters."""
    answers, client.answers = client.answers, Counter()
    if answers:
        with calls.write() as connection:
            queue.count(
                connection, {("amberflo", answer): number for answer, number in answers.items()}
            )


def _purge(calls: Database) -> None:
    """Delete messageIds after a day."""
    with calls.write() as connection:
        queue.purge(connection, int(time.time() * 1000) - DEDUPLICATED)


def _wait(seconds: float, stop: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while not stop() and time.monotonic() < until:
        time.sleep(0.05)
