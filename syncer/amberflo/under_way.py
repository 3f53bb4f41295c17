"""The requests under way: how many may be, since when the oldest waits, an end for the overdue.

A request gets `timeout` seconds. They all get as many, so the oldest is overdue first and one timer
serves all of them: a timer each costs more than anything else that a request needs beside HTTP
(docs/benchmarks.md).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

from syncer.in_flight import InFlight

#: Statuses that ask for fewer requests.
TOO_MANY = frozenset({429, 503})


class UnderWay:
    """The requests under way of one event loop; each is a context: `with under_way.begin():`.

    At most `most` of those that wait for their `turn` are under way at a time (in_flight.py).
    """

    def __init__(self, timeout: float, most: int) -> None:
        self.timeout = timeout
        self.in_flight = InFlight(most)
        #: who has a turn, and who waits for one
        self._taken, self._waiting = 0, deque[asyncio.Future[None]]()
        #: the oldest first
        self._requests: dict[_Request, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._requests)

    async def turn(self, *, at_once: bool = False) -> None:
        """Wait for a turn, `at_once` for none: take it. Whoever has one calls `leave` after it."""
        if at_once or (not self._waiting and self._taken < self.in_flight.limit):
            self._taken += 1
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        """End a turn, and let those who wait begin theirs."""
        self._taken -= 1
        while self._waiting and self._taken < self.in_flight.limit:
            waiter = self._waiting.popleft()
            if not waiter.done():
                self._taken += 1
                waiter.set_result(None)

    def answered(self, request: _Request, kind: str, status: int) -> None:
        """Note when a request of this kind was answered, and with which status."""
        now = time.monotonic()
        if status in TOO_MANY:
            self.in_flight.refused(now, now - request.began)
        else:
            self.in_flight.answered(now, kind, now - request.began, self._taken)

    def begin(self) -> _Request:
        """Return a context for one request; it raises `TimeoutError` where that takes too long."""
        return _Request(self)

    @property
    def longest(self) -> float:
        """For how many seconds the oldest has had no answer."""
        oldest = next(iter(self._requests), None)
        return 0.0 if oldest is None else time.monotonic() - oldest.began

    def add(self, request: _Request) -> None:
        self._requests[request] = None
        if self._timer is None:
            self._wake_in(self.timeout)

    def remove(self, request: _Request) -> None:
        del self._requests[request]

    def _wake_in(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._end_overdue)

    def _end_overdue(self) -> None:
        """End what is overdue, and come again when the next one may be."""
        self._timer, now = None, time.monotonic()
        for request in self._requests:
            rest = request.began + self.timeout - now
            if rest > 0:
                return self._wake_in(rest)
            request.end()
        return None


class _Request:
    """One request under way, of the task that enters it."""

    __slots__ = ("_all", "_cancelling", "_overdue", "_task", "began")

    def __init__(self, requests: UnderWay) -> None:
        self._all = requests

    def __enter__(self) -> _Request:
        task = asyncio.current_task()
        assert task is not None
        self._task, self._cancelling, self._overdue = task, task.cancelling(), False
        self.began = time.monotonic()
        self._all.add(self)
        return self

    def end(self) -> None:
        """Cancel it: it is overdue."""
        if not self._overdue:
            self._overdue = True
            self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, error: object, where: object) -> None:
        self._all.remove(self)
        # As asyncio.timeout does: who cancelled the task beside us gets a cancelled task.
        if (
            self._overdue
            and self._task.uncancel() <= self._cancelling
            and kind is asyncio.CancelledError
        ):
            self._all.in_flight.refused(time.monotonic(), self._all.timeout)
            raise TimeoutError
