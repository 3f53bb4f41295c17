"""Processes forked from the parent: it has imported everything, so one costs some milliseconds, and
a kill is a real one."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

#: Exit status of a child that broke in a way that the product does not know of.
BROKEN = 70


@dataclass
class Child:
    """A forked process. `told` is where it tells of calls that it sorted; closing `lifeline` asks a
    worker to end."""

    pid: int
    what: str
    log: Path
    told: int
    lifeline: int | None
    status: int | None = None

    def ended(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is not None

    def kill(self) -> None:
        if not self.ended():
            os.kill(self.pid, signal.SIGKILL)
            self.wait(10)

    def wait(self, seconds: float) -> bool:
        """Until it ended, or so long; gives whether it did."""
        until = time.monotonic() + seconds
        while not self.ended():
            if time.monotonic() > until:
                return False
            time.sleep(0.003)
        return True

    def let_end(self) -> None:
        """Tell a worker to end."""
        if self.lifeline is not None:
            os.close(self.lifeline)
            self.lifeline = None

    def calls_told(self) -> int:
        """How many of its calls were accepted; to be asked once, when it has ended."""
        with os.fdopen(self.told, "rb") as told:
            return len(told.read())


def fork(what: str, log: Path, target: Callable[[int, int], int]) -> Child:
    """Do `target(lifeline, tell)` in a child; its exit status is what that returns."""
    log.touch()  # a child may be killed before it opens it
    lifeline, ours = os.pipe()
    told, tell = os.pipe()
    pid = os.fork()
    if not pid:
        status = BROKEN
        try:
            _settle(log, {lifeline, tell})
            status = target(lifeline, tell)
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(lifeline)
    os.close(tell)
    return Child(pid, what, log, told, ours)


def _settle(log: Path, kept: Collection[int]) -> None:
    """Output to the log; nothing of the parent's open files, connections and handlers stays."""
    # Garbage of the parent that was collected here would close files by numbers that are ours now.
    gc.freeze()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(file, 1)
    os.dup2(file, 2)
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor > 2 and descriptor not in kept:
            with suppress(OSError):  # the one that listed them
                os.close(descriptor)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    logging.root.handlers.clear()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
