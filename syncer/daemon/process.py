"""Processes beside the daemon's own. Each lives as long as its lifeline, a pipe that closes when
the daemon ends, however it ends; so none is left behind."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from syncer import log
from syncer.config import Config
from syncer.interpreter import set_for_throughput


class Beside:
    """A process that does `target(config, lifeline, *arguments)` until done or told to end."""

    def __init__(self, name: str, target: Callable[..., Any], config: Config, *arguments: Any):
        context = multiprocessing.get_context("spawn")
        theirs, self._ours = context.Pipe(duplex=False)
        self._process = context.Process(
            target=target, args=(config, theirs, *arguments), name=f"syncer-{name}"
        )
        self._closing = threading.Lock()
        self._process.start()
        theirs.close()

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def tell_to_end(self) -> None:
        """Close its lifeline: it drains and ends. Any thread may."""
        with self._closing:
            self._ours.close()

    def wait(self, seconds: float | None = None) -> int | None:
        """Until it ended, or so long; gives its exit status if it did."""
        self._process.join(seconds)
        return self._process.exitcode

    def end(self, seconds: float) -> None:
        """Tell it to end, and kill it where that takes longer: what it had under way is done again
        at the next start."""
        self.tell_to_end()
        if self.wait(seconds) is None:
            self._process.kill()
            self._process.join()


def settle_in(config: Config, lifeline: Connection) -> Callable[[], bool]:
    """The first thing in a process beside; gives a function that says whether to end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the daemon gets them and ends us
    log.set_up(config.log.format, config.log.level)
    set_for_throughput()
    ended = threading.Event()

    def wait_for_end() -> None:
        with suppress(EOFError, OSError):
            lifeline.recv()
        ended.set()

    threading.Thread(target=wait_for_end, name="lifeline", daemon=True).start()
    return ended.is_set
