"""Pauses that end early when the user asks to stop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

#: Seconds after which a pause of a run looks whether to stop; what waits for days is woken
#: (stop.py). A power of two: its sums are exact, so that a pause of a minute is not a hair shorter
#: than a server asked for.
LOOK = 0.125


async def sleep(seconds: float, stop: Callable[[], bool]) -> None:
    """Sleep for that many seconds, or until `stop` returns true."""
    until = time.monotonic() + seconds
    while not stop() and (rest := until - time.monotonic()) > 0:
        await asyncio.sleep(min(rest, LOOK))


def sleep_thread(
    seconds: float, stop: Callable[[], bool], sleep: Callable[[float], None] = time.sleep
) -> None:
    """Let this thread sleep for that many seconds, or until `stop` returns true."""
    while seconds > 0 and not stop():
        sleep(min(seconds, LOOK))
        seconds -= LOOK
