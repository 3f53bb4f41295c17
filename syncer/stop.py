"""The request to stop. It wakes whoever waits; nobody needs to look for it again and again."""

from __future__ import annotations

import asyncio
import os
import select
import time
from contextlib import suppress

from syncer.wakeup import Wakeup

#: Seconds of one wait for the kernel at most; it takes milliseconds as a number of 32 bits.
LONGEST = 86_400.0


class Stop(Wakeup):
    """A request that is made once, by `set`; call it to learn whether it was made.

    With `after` it is also made when that one is.
    """

    def __init__(self, after: Stop | None = None) -> None:
        super().__init__()
        self._after, self._made = after, False

    def __call__(self) -> bool:
        return self._made or (self._after is not None and self._after())

    def set(self) -> None:
        """Make the request. Nobody takes it from the pipe: it wakes all who wait, now and later."""
        if not self._made:
            self._made = True
            super().set()

    def wait(self, seconds: float | None = None, *others: Wakeup) -> bool:
        """Let this thread wait until it is made, for some seconds at most; return whether it is.

        The wait also ends when one of the others is set.
        """
        poll, until = select.poll(), None if seconds is None else time.monotonic() + seconds
        for number in (*self.numbers(), *(other.fileno() for other in others)):
            poll.register(number, select.POLLIN)
        rest = LONGEST
        while until is None or (rest := until - time.monotonic()) > 0:
            if poll.poll(min(rest, LONGEST) * 1000):
                break
        return self()

    async def made(self, seconds: float | None = None) -> bool:
        """Let this task wait until it is made, for some seconds at most; return whether it is."""
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        # Copies: a loop has one reader of a descriptor, and several tasks may wait.
        numbers = [os.dup(number) for number in self.numbers()]
        try:
            for number in numbers:
                loop.add_reader(number, woken.set)
            with suppress(TimeoutError):
                await asyncio.wait_for(woken.wait(), seconds)
        finally:
            for number in numbers:
                loop.remove_reader(number)
                os.close(number)
        return self()

    def numbers(self) -> list[int]:
        """Return the descriptors that can be read from once it is made."""
        return [self.fileno(), *(self._after.numbers() if self._after is not None else ())]
