"""The worker process: processes accepted calls, and delivers meter records and customers.

Its parts are the processing of calls, the delivery and the maintenance, each kept going by itself.
Each daemon has a worker. Several daemons on one PostgreSQL deliver side by side; only one of their
workers processes calls.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

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
from syncer.process.child import Down, Lifeline
from syncer.process.problem import ProblemLog
from syncer.process.supervisor import Part, Supervisor
from syncer.progress import LineProgress
from syncer.stop import Stop

#: How long a messageId is remembered, in milliseconds.
DEDUPLICATED = 24 * 3600 * 1000
#: Seconds until the next attempt to deliver customers after a failure that concerns all.
RETRY_AFTER = 5.0
#: Seconds between two queries for due customers while no event announces any.
DUE_EVERY = 2.0
#: Seconds between two checks of the other workers, and of the inbox while no event announces calls.
CHECK_EVERY = 1.0
#: Seconds between two updates of the request counters, and between two deletions of messageIds.
COUNT_EVERY, PURGE_EVERY = 5.0, 60.0


def work(
    config: Config, lifeline: Lifeline, on_change: Callable[[Down], None] = lambda down: None
) -> None:
    """Process and deliver until the lifeline ends; `on_change` gets the parts that do not work."""
    app, arrivals = App(config, LineProgress(), lifeline.ended), Arrivals(lifeline.ended)
    with app.state(writes=True) as state, app.queue(writes=True) as calls:
        calls.give_way()  # to the receiver, whose callers wait
        processor = app.processor(calls, state)
        supervisor = Supervisor(lifeline.ended, lambda name: ProblemLog(name, state), on_change)
        process = partial(_process_all, processor, lifeline.woken, arrivals.announce)
        threads = [
            supervisor.add("calls", process, patient=True),  # it waits for a run that commits
            supervisor.add(
                "maintenance", partial(maintenance.run, app, state, calls), patient=True
            ),
        ]
        delivery = supervisor.add("delivery", partial(_deliver, app, state, calls, arrivals))
        supervisor.watch()
        for part in threads:
            part.start()
        delivery.keep()
        supervisor.join()


def _deliver(app: App, state: Database, calls: Database, arrivals: Arrivals, part: Part) -> None:
    """Deliver under a number of our own; what a failure leaves in work is free again after it."""
    workers.prune_dead(state, calls)
    with workers.register(state, "worker", calls) as worker:
        uvloop.run(_deliver_all(app, state, calls, worker, arrivals, part))


async def _deliver_all(
    app: App, state: Database, calls: Database, worker: Worker, arrivals: Arrivals, part: Part
) -> None:
    async with app.client() as client, asyncio.TaskGroup() as tasks:
        meters = MeterDelivery(
            calls, state, worker.number, client, app.stop, ProblemLog("meters", state)
        )
        customers_due = asyncio.Event()
        arrivals.connect(asyncio.get_running_loop(), [meters.arrived, customers_due])
        for task in (
            meters.run(),
            _deliver_customers(app, state, worker, client, customers_due),
            _supervise(arrivals.stop, state, calls, worker, client, part),
            _announce_stop(arrivals),
        ):
            tasks.create_task(task)


class Arrivals:
    """Wakes the deliveries when there may be something to deliver. Any thread may announce.

    `stop` is this process's: the deliveries are to see it, too.
    """

    def __init__(self, stop: Stop) -> None:
        self.stop = stop
        self._loop: asyncio.AbstractEventLoop | None = None
        self._events: list[asyncio.Event] = []

    def connect(self, loop: asyncio.AbstractEventLoop, events: list[asyncio.Event]) -> None:
        """Wake these from now on."""
        self._loop, self._events = loop, events

    def announce(self) -> None:
        """Say that something may have come."""
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # the delivery ended just now; it looks when it begins
                loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for event in self._events:
            event.set()


async def _announce_stop(arrivals: Arrivals) -> None:
    await arrivals.stop.made()
    arrivals.announce()


def _process_all(
    processor: Processor, woken: threading.Event, announce: Callable[[], None], part: Part
) -> None:
    """Process calls as they come. Only one process at a time does, so that they stay in order."""

    def standing_by() -> bool:
        part.well()  # another daemon processes
        return part.ending()

    while not part.ending():
        with (
            suppress(Locked),
            lock(processor.state_database, "sorting", wait=5, every=1, stop=standing_by) as check,
        ):
            _process_while(processor, woken, announce, check, part)


def _process_while(
    processor: Processor,
    woken: threading.Event,
    announce: Callable[[], None],
    check: Callable[[], None],
    part: Part,
) -> None:
    checked = 0.0
    while not part.ending():
        if time.monotonic() - checked > CHECK_EVERY:
            check()
            processor.apply_early_calls()
            checked = time.monotonic()
        woken.clear()
        if processor.process():
            announce()
        else:
            woken.wait(CHECK_EVERY)
        part.well()


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
    stop: Stop,
    state: Database,
    calls: Database,
    worker: Worker,
    client: AmberfloClient,
    part: Part,
) -> None:
    """Check our registration, clean up after dead workers, update counters, drop messageIds."""
    problems, counted, purged = ProblemLog("queue", state), 0.0, 0.0

    def look() -> None:
        nonlocal counted, purged
        worker.check()
        part.well()
        now = time.monotonic()
        try:
            workers.prune_dead(state, calls)
            if now - counted > COUNT_EVERY:
                counted = now
                _count(calls, client)
            if now - purged > PURGE_EVERY:
                purged = now
                _purge(calls)
            problems(None)
        except StateError as error:
            problems(str(error))

    while not stop():
        await asyncio.to_thread(look)
        await stop.made(CHECK_EVERY)
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
