"""A sweep: every profile is asked for by the ids that are known, at the rate that Segment allows.

The Profile API lists no profiles, so somebody must know the ids. A sweep that is stopped or killed
goes on where it was. An id that cannot be read, while others can, is noted and left alone; if no id
can be read any more, the sweep ends with the reason, and the next one goes on.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from syncer import retry
from syncer.clock import iso, now_ms
from syncer.clock import read as read_time
from syncer.engage.profile_client import ProfileClient, Trait, TryAgain, Unreadable
from syncer.engage.sweep_file import FAILED, READ, REFUSED, UNKNOWN, SweepFile
from syncer.errors import SourceError, Stopped
from syncer.pause import sleep
from syncer.progress import Progress
from syncer.rate_limit import RateLimiter

Answer = TypeVar("Answer")

#: The part of the limit that is used, and the part of a second that may be made up for.
SHARE, CATCH_UP = 0.96, 0.05
#: Seconds that count as one: the network delivers some requests closer together than they were
#: sent.
SECOND = 1.03
#: Ids in work at the same time: enough for answers that take half a second.
AT_A_TIME = 64
#: Tries of one id while others get through; ids in a row that Segment refuses, and nobody gets
#: through, before the refusal is taken for one of everybody.
TRIES, REFUSALS = 6, 20
#: Seconds between two times that what was read is stored.
STORE = 1.0


def run(work: Awaitable[Answer]) -> Answer:
    """Return what asynchronous work returns, whatever this thread does."""

    async def awaited() -> Answer:
        return await work

    with ThreadPoolExecutor(1, thread_name_prefix="profile-api") as pool:
        return pool.submit(asyncio.run, awaited()).result()


class Pace:
    """Lets requests through, one after the other, so that no second has more than `rate`.

    They are spread evenly. What this machine lost because it was busy is made up for, as far as the
    last second has room. `clock` (seconds) and `sleep` can be set by tests.
    """

    def __init__(
        self,
        rate: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._limiter = RateLimiter(rate * SHARE, share=0.02, least=2, burst=int(rate * CATCH_UP))
        #: when the last requests began, as many as a second may have
        self._last: deque[float] = deque(maxlen=max(int(rate), 1))
        self._second = max(1.0, 1.0 / rate) * SECOND
        self._turn = asyncio.Lock()
        self._clock, self._sleep = clock, sleep

    async def permit(self) -> None:
        """Wait for the next free moment."""
        async with self._turn:
            wait = self._limiter.reserve(self._clock())
            if len(self._last) == self._last.maxlen:
                wait = max(wait, self._last[0] + self._second - self._clock())
            if wait > 0:
                await self._sleep(wait)
            self._last.append(self._clock())

    def throttled(self) -> None:
        """Note an answer 429: somebody else uses the limit, too."""
        self._limiter.slow_down(self._clock(), None)

    def succeeded(self) -> None:
        """Note any other answer."""
        self._limiter.speed_up(self._clock())


@dataclass
class Reader:
    """Reads profiles and insists: a request that failed is made again after a pause that grows.

    `patience` is the seconds without any answer after which it gives up. `answered` is called for
    each id that is settled.
    """

    client: ProfileClient
    pace: Pace
    patience: float
    stop: Callable[[], bool]
    answered: Callable[[], None] = lambda: None
    chance: Callable[[], float] = random.random
    #: when the newest request began that was answered (seconds, monotonic)
    last_success: float = field(default_factory=time.monotonic)
    #: whether any id got through, and refusals in a row since
    got_through: bool = False
    _refusals: int = 0

    async def traits(self, customer_id: str) -> list[Trait] | None:
        """Return what `ProfileClient.traits` does, after as many tries as it needs.

        Raise `TryAgain` or `Unreadable` if this id fails while others get through.
        """
        began, attempts = time.monotonic(), 0
        while True:
            check_stop(self.stop)
            attempts += 1
            now = time.monotonic()
            try:
                traits = await self.client.traits(customer_id)
            except Unreadable as problem:
                self._note_refusal(problem)
                raise
            except TryAgain as problem:
                if problem.throttled:
                    self.pace.throttled()
                if attempts >= TRIES and await self._others_get_through(began):
                    raise
                if time.monotonic() - self.last_success > self.patience:
                    raise SourceError(
                        f"the Profile API sent no usable answer for {self.patience:g} s: "
                        f"{problem}; what was read is kept, and the next run goes on from there"
                    ) from None
                await sleep(retry.wait(attempts, self.chance()), self.stop)
            else:
                self.pace.succeeded()
                self.last_success = max(self.last_success, now)
                self.got_through, self._refusals = True, 0
                self.answered()
                return traits

    async def _others_get_through(self, began: float) -> bool:
        """Return whether another request was answered since `began`; if none was, one is made."""
        if self.last_success > began:
            return True
        now = time.monotonic()
        try:
            await self.client.check()
        except (TryAgain, Unreadable):
            return False
        self.last_success = max(self.last_success, now)
        return True

    def _note_refusal(self, problem: Unreadable) -> None:
        self._refusals += 1
        if not self.got_through and self._refusals >= REFUSALS:
            raise SourceError(
                f"the Profile API refuses every id: {problem}; see whether engage.customer_id is "
                "an external id type of the space"
            ) from None


@dataclass
class Sweep:
    """Sweeps all ids of a file through `reader`; `id_type` is their external id type."""

    file: SweepFile
    reader: Reader
    id_type: str
    progress: Progress
    clock: Callable[[], int] = now_ms
    _done: int = 0

    async def run(self) -> None:
        """Ask for every id that was not asked for yet; those that failed get a second chance."""
        counts = self.file.counts()
        total = sum(counts.values())
        self._done = total - counts.get(None, 0)
        if self._done:
            self.progress.say(
                f"a sweep was cut off after {self._done:,} of {total:,} profiles: it goes on"
            )
        self.progress.begin("reading profiles", total, self._done)
        try:
            await self._ask_for_all()
            if failed := self.file.ask_again():
                self._done -= failed
                await self._ask_for_all()
        finally:
            self.file.store(self.file.take(), self.clock())
            self.progress.end()

    async def _ask_for_all(self) -> None:
        ids = self.file.pending()

        async def take_the_next() -> None:
            for customer_id in ids:
                await self._ask_for(customer_id)

        over = asyncio.Event()

        async def store() -> None:
            # In a thread: the disk keeps no request waiting, so that they stay spread evenly. It is
            # never cancelled: what was taken and waits for its thread would be lost.
            while not over.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(over.wait(), STORE)
                await asyncio.to_thread(self.file.store, self.file.take(), self.clock())
                self.progress.at(self._done)

        working = [asyncio.create_task(take_the_next()) for _ in range(AT_A_TIME)]
        storing: asyncio.Future[Any] = asyncio.create_task(store())
        all_work: asyncio.Future[Any] = asyncio.gather(*working)
        try:
            await asyncio.wait([all_work, storing], return_when=asyncio.FIRST_COMPLETED)
        finally:
            over.set()
            for task in working:
                task.cancel()
            ended = await asyncio.gather(*working, storing, all_work, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                raise error
        self.file.store(self.file.take(), self.clock())

    async def _ask_for(self, customer_id: str) -> None:
        at = str(iso(self.clock()))
        try:
            traits = await self.reader.traits(customer_id)
        except Unreadable as problem:
            self.file.settle(customer_id, REFUSED, str(problem))
        except TryAgain as problem:
            self.file.settle(customer_id, FAILED, str(problem))
        else:
            if traits is None:
                self.file.settle(customer_id, UNKNOWN)
            else:
                self.file.put(customer_id, self.id_type, map(stored, traits), at)
        self._done += 1


def check_stop(stop: Callable[[], bool]) -> None:
    """Raise `Stopped` if the user asked to stop."""
    if stop():
        raise Stopped(
            "stopped before every profile was read; what was read is kept, and the next run goes "
            "on from there"
        )


def stored(trait: Trait) -> tuple[str, Any, str | None]:
    """Return a trait as a stage has it; a time that cannot be read is none."""
    return trait.name, trait.value, iso(read_time(trait.updated_at))


def whole(counts: dict[str | None, int], reason: str | None, space_id: str) -> None:
    """Raise `SourceError` if a sweep that came to its end says nothing of anybody."""
    asked = sum(counts.values())
    if not asked or counts.get(READ):
        return
    unread = counts.get(FAILED, 0) + counts.get(REFUSED, 0)
    if unread:
        raise SourceError(f"the Profile API let none of {asked:,} profiles be read: {reason}")
    raise SourceError(
        f"the Profile API knows none of the {asked:,} customer ids in the space {space_id!r}: set "
        "engage.profile_api.space_id to the space of these customers, and engage.customer_id to "
        "the external id type that their ids have"
    )


def from_file(path: str) -> Iterator[str]:
    """Yield the ids of a file, one a line; blank lines are none."""
    try:
        with open(path, encoding="utf-8-sig", newline=None) as file:
            for line in file:
                if customer_id := line.strip():
                    yield customer_id
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise SourceError(
            f"engage.profile_api.ids_file: {path} cannot be read ({reason}); it must hold one "
            "customer id a line"
        ) from None
