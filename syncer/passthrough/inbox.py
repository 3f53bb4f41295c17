"""The durable door: a request is in once the commit that holds it is on disk.

One thread writes; all requests that came in while it wrote go into the next commit, so they share
its fsync (group commit).
"""

from __future__ import annotations

import asyncio
import queue as queues
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress

from sqlalchemy import Connection

from state import queue
from state.db.database import Database
from state.errors import StateError
from state.queue import Accepted

#: Requests that one commit takes at most; their bytes and their calls, give or take one request.
GROUP, GROUP_BYTES, GROUP_EVENTS = 512, 4 * 1024 * 1024, 10_000
#: Seconds that the first request of a commit waits for others.
GATHER = 0.002
#: Seconds between two counts of what waits.
COUNT_EVERY = 2.0


class Full(Exception):
    """The queue is at its bound, or what one key may have of it."""


class Inbox:
    """Takes requests into the queue database until `limit` calls wait there, of which one key may
    have the part `share`. `came` is told of each commit, `trouble` of what keeps it from writing,
    and with None that nothing does; `beside` gives what waits elsewhere, by key."""

    def __init__(
        self,
        database: Database,
        limit: int,
        came: Callable[[], None] = lambda: None,
        trouble: Callable[[str | None], None] = lambda problem: None,
        beside: Callable[[], Mapping[str, int]] = dict,
        share: float = 1.0,
    ) -> None:
        self._database = database
        self.limit, self._came, self._trouble = limit, came, trouble
        self.share, self._beside = share, beside
        self._arrived: queues.SimpleQueue[tuple[Accepted, Waiter] | None] = queues.SimpleQueue()
        self._thread = threading.Thread(target=self._write_all, name="inbox", daemon=True)
        #: calls that wait, by key, as counted at `_counted_at`; and those that came since
        self._waiting, self._since = Counter[str](), Counter[str]()
        self._counted_at = 0.0
        #: somebody was refused since; what waits elsewhere, as last seen
        self._again, self._there = False, Counter[str]()
        #: the last commit's error; None while all is well
        self.problem: str | None = None

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it takes requests."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Writes what has arrived, then ends."""
        self._arrived.put(None)
        self._thread.join()

    async def take(self, accepted: Accepted) -> None:
        """Returns when the request is on disk; raises `Full`, or `StateError`."""
        key, waiting = accepted.key, self._waiting.total() + self._since.total()
        of_key = self._waiting[key] + self._since[key]
        left = min(self.limit - waiting, self.limit * self.share - of_key)
        if accepted.events > left:
            self._again = True
            raise Full
        self._since[key] += accepted.events
        loop = asyncio.get_running_loop()
        written: Waiter = (loop, loop.create_future())
        self._arrived.put((accepted, written))
        await written[1]

    def _write_all(self) -> None:
        while True:
            try:
                with self._database.writer() as write:
                    if self._write_until_trouble(write):
                        return
            except StateError as error:  # no connection to be had: say so to who waits
                self._says(error)
                arrived, stop = self._next_group()
                _answer_all(arrived, error)
                if stop:
                    return

    def _write_until_trouble(self, write: Write) -> bool:
        """Commit group by group; gives True when it is to stop, False for a fresh connection."""
        while True:
            arrived, stop = self._next_group()
            if arrived or ((self._waiting or self._again or self.problem) and not stop):
                error = self._commit(write, [accepted for accepted, _ in arrived])
                self._says(error)
                _answer_all(arrived, error)
                if arrived and error is None:
                    self._came()
                if error is not None and not stop:
                    return False
            if stop:
                return True

    def _says(self, error: StateError | None) -> None:
        self.problem = None if error is None else str(error)
        self._trouble(self.problem)

    def _next_group(self) -> tuple[list[tuple[Accepted, Waiter]], bool]:
        """What has arrived, nothing after a while without; and whether that was the end."""
        try:
            group = [self._arrived.get(timeout=COUNT_EVERY)]
        except queues.Empty:
            return [], False
        # The fewer commits, the less of the interpreter they take from the event loop.
        time.sleep(GATHER)
        size = events = 0
        while len(group) < GROUP and not self._arrived.empty():
            if group[-1] is not None:
                size += len(group[-1][0].body)
                events += group[-1][0].events
            if size > GROUP_BYTES or events > GROUP_EVENTS:
                break
            group.append(self._arrived.get())
        return [one for one in group if one is not None], None in group

    def _commit(self, write: Write, rows: list[Accepted]) -> StateError | None:
        count = time.monotonic() - self._counted_at > COUNT_EVERY
        elsewhere = self._elsewhere() if count else Counter[str]()
        try:
            with write() as connection:
                if rows:
                    queue.accept(connection, rows)
                elif self.problem:  # nobody may come while it is not ready: see whether it is
                    queue.probe(connection)
                if count:
                    counted = Counter(queue.waiting_by_key(connection))
                    self._waiting, self._since = counted + elsewhere, Counter()
                    self._counted_at, self._again = time.monotonic(), False
        except StateError as error:
            return error
        return None

    def _elsewhere(self) -> Counter[str]:
        with suppress(StateError):  # that is another's trouble
            self._there = Counter(self._beside())
        return self._there


Waiter = tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]
Write = Callable[[], AbstractContextManager[Connection]]


def _answer_all(arrived: list[tuple[Accepted, Waiter]], error: StateError | None) -> None:
    """Wake who waits, in its own thread."""
    waiters = [waiter for _, waiter in arrived]
    if waiters:
        waiters[0][0].call_soon_threadsafe(_answer, waiters, error)


def _answer(waiters: list[Waiter], error: StateError | None) -> None:
    for _, written in waiters:
        if written.done():
            continue  # its client went away
        if error is None:
            written.set_result(None)
        else:
            written.set_exception(error)
