"""Makes requests durable: each is answered after the commit that contains it is on disk.

One thread writes. All requests that arrive while it writes go into the next commit and share its
fsync (group commit).
"""

from __future__ import annotations

import asyncio
import queue as queues
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress

from sqlalchemy import Connection

from state import queue
from state.db.database import Database
from state.db.driver_errors import shown
from state.errors import StateError
from state.queue import Accepted
from syncer.process.supervisor import Part, Supervisor

#: The requests of one commit at most; and their bytes and their calls, give or take one request.
GROUP, GROUP_BYTES, GROUP_EVENTS = 512, 4 * 1024 * 1024, 10_000
#: Seconds that the first request of a commit waits for others.
GATHER = 0.002
#: Seconds between two counts of the calls that wait; of many it takes long, so they are counted
#: less often, as long as there is room: this part of the time, and once a minute at least.
COUNT_EVERY, COUNTING, COUNT_AT_LEAST = 2.0, 0.005, 60.0


#: A client that waits: its event loop, and the future of its answer.
Waiter = tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]
Write = Callable[[], AbstractContextManager[Connection]]


def _not_stored() -> StateError:
    """Return the answer while the writing thread is started again."""
    return StateError("calls are not stored for a moment")


class Full(Exception):
    """The queue is full, or the part of it that one key may fill."""


class Inbox:
    """Puts requests into the queue database, until `limit` calls wait there.

    One key may fill the part `share` of that. `on_commit` is called after each commit, `on_problem`
    with the reason when a commit fails, and with None when one succeeds. `elsewhere` returns the
    number of calls that wait in other places, by key.
    """

    def __init__(
        self,
        database: Database,
        limit: int,
        on_commit: Callable[[], None] = lambda: None,
        on_problem: Callable[[str | None], None] = lambda problem: None,
        elsewhere: Callable[[], Mapping[str, int]] = dict,
        share: float = 1.0,
    ) -> None:
        self._database = database
        self.limit, self._on_commit, self._on_problem = limit, on_commit, on_problem
        self.share, self._elsewhere = share, elsewhere
        self._arrived: queues.SimpleQueue[tuple[Accepted, Waiter] | None] = queues.SimpleQueue()
        self._part: Part | None = None
        #: calls that waited at `_counted_at`, by key, and calls that arrived since
        self._waiting, self._since = Counter[str](), Counter[str]()
        self._counted_at = self._count_took = 0.0
        #: whether a request was refused since the last count
        self._refused_some = False
        #: calls that wait elsewhere, as last counted
        self._last_elsewhere = Counter[str]()
        #: the error of the last commit; None if it succeeded
        self.problem: str | None = None
        #: whether the writing thread is at work
        self.alive = False

    def start(self, supervisor: Supervisor) -> None:
        """Start the writing thread."""
        self.alive = True
        self._part = supervisor.start("inbox writer", self._write_all)

    def stop(self) -> None:
        """Write the requests that have arrived, then end the thread."""
        assert self._part is not None
        self._part.ask_to_end()
        self._arrived.put(None)
        self._part.join()

    async def take(self, accepted: Accepted) -> None:
        """Return when the request is on disk; raise `Full`, or `StateError` if the commit fails."""
        if not self.alive:
            raise _not_stored()
        key, waiting = accepted.key, self._waiting.total() + self._since.total()
        of_key = self._waiting[key] + self._since[key]
        room = min(self.limit - waiting, self.limit * self.share - of_key)
        if accepted.events > room:
            self._refused_some = True
            raise Full
        self._since[key] += accepted.events
        loop = asyncio.get_running_loop()
        waiter: Waiter = (loop, loop.create_future())
        self._arrived.put((accepted, waiter))
        await waiter[1]

    def _write_all(self, part: Part) -> None:
        self.alive = True
        try:
            while not self._write_or_refuse(part):
                pass
        finally:
            self.alive = False
            self._refuse_all()

    def _write_or_refuse(self, part: Part) -> bool:
        """Commit until there is no connection, then tell the clients; return True at the end."""
        try:
            with self._database.writer() as write:
                return self._write_until_problem(write, part)
        except StateError as error:
            self._report(error)
            arrived, stop = self._next_group()
            _answer_all(arrived, error)
            return stop

    def _write_until_problem(self, write: Write, part: Part) -> bool:
        """Commit group by group; return True at the end, False if a new connection is needed."""
        while True:
            part.well()
            arrived, stop = self._next_group()
            due = bool(self._waiting or self._refused_some or self.problem) and not stop
            if arrived or due:
                error = self._commit_and_answer(write, arrived)
                if error is not None and not stop:
                    return False
            if stop:
                return True

    def _commit_and_answer(
        self, write: Write, arrived: list[tuple[Accepted, Waiter]]
    ) -> StateError | None:
        error: StateError | None = _not_stored()
        try:
            error = self._commit(write, [accepted for accepted, _ in arrived])
            self._report(error)
        finally:  # also where something unexpected happens
            _answer_all(arrived, error)
        if arrived and error is None:
            self._on_commit()
        return error

    def _refuse_all(self) -> None:
        """Answer who waits: nobody writes for a moment."""
        arrived = list[tuple[Accepted, Waiter]]()
        with suppress(queues.Empty):
            while (entry := self._arrived.get_nowait()) is not None:
                arrived.append(entry)
        _answer_all(arrived, _not_stored())

    def _report(self, error: StateError | None) -> None:
        self.problem = None
        if error is not None:
            where = shown(self._database.engine.url)
            self.problem = (
                f"cannot store calls: {error.reason} ({where}); callers get 503 and send them again"
            )
        self._on_problem(self.problem)

    def _next_group(self) -> tuple[list[tuple[Accepted, Waiter]], bool]:
        """Return the requests that have arrived, and whether the inbox stops after them.

        If none arrives for a while, there are none.
        """
        try:
            group = [self._arrived.get(timeout=COUNT_EVERY)]
        except queues.Empty:
            return [], False
        # Fewer commits take less of the interpreter from the event loop.
        time.sleep(GATHER)
        size = events = 0
        while len(group) < GROUP and not self._arrived.empty():
            if group[-1] is not None:
                size += len(group[-1][0].body)
                events += group[-1][0].events
            if size > GROUP_BYTES or events > GROUP_EVENTS:
                break
            group.append(self._arrived.get())
        return [entry for entry in group if entry is not None], None in group

    def _commit(self, write: Write, rows: list[Accepted]) -> StateError | None:
        count = self._count_is_due(time.monotonic())
        elsewhere = self._count_elsewhere() if count else Counter[str]()
        try:
            with write() as connection:
                if rows:
                    queue.accept(connection, rows)
                elif self.problem:
                    # While it is not ready no request may come, so try whether a write succeeds.
                    queue.probe(connection)
                if count:
                    began = time.monotonic()
                    counted = Counter(queue.waiting_by_key(connection))
                    self._waiting, self._since = counted + elsewhere, Counter()
                    self._counted_at, self._refused_some = time.monotonic(), False
                    self._count_took = self._counted_at - began
        except StateError as error:
            return error
        return None

    def _count_is_due(self, now: float) -> bool:
        """Whether to count who waits. What came since is counted anyway, but not what went."""
        pause = 0.0 if self._refused_some else min(self._count_took / COUNTING, COUNT_AT_LEAST)
        return now - self._counted_at > max(COUNT_EVERY, pause)

    def _count_elsewhere(self) -> Counter[str]:
        with suppress(StateError):  # the other place reports its own problems
            self._last_elsewhere = Counter(self._elsewhere())
        return self._last_elsewhere


def _answer_all(arrived: list[tuple[Accepted, Waiter]], error: StateError | None) -> None:
    """Answer the clients, each in the thread of its event loop."""
    waiters = [waiter for _, waiter in arrived]
    if waiters:
        waiters[0][0].call_soon_threadsafe(_answer, waiters, error)


def _answer(waiters: list[Waiter], error: StateError | None) -> None:
    for _, future in waiters:
        if future.done():
            continue  # its client went away
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
