"""Processes beside the daemon's own: `python -m syncer.daemon worker` and `… run`.

Each gets the settings and what it is to do through its standard input, so that nothing of a
customer stands in the list of processes. That stays open as its lifeline: it closes when the daemon
ends, however it ends, so no process is left behind.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from contextlib import suppress

from syncer import log
from syncer.config import Config
from syncer.process.runtime import set_for_throughput

#: Exit status of a run's process where another run was going on (EX_TEMPFAIL).
BUSY = 75
#: Processes that say on their standard output how they ended.
TELL = frozenset({"approve", "resync", "retry"})


class Beside:
    """A process that does what its name says until it is done or told to end."""

    def __init__(
        self, name: str, config: Config, *arguments: str, keeps: int | None = None
    ) -> None:
        """`keeps` is a file that it inherits."""
        # Without -P it would import what lies in the folder that the daemon was started in.
        command = [sys.executable, "-P", "-m", "syncer.daemon", name]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if name in TELL else None,
            pass_fds=() if keeps is None else (keeps,),
        )
        assert self._process.stdin is not None
        self._lifeline, self._closing = self._process.stdin, threading.Lock()
        with suppress(BrokenPipeError):  # it ended at once; `alive` says so
            pickle.dump((config, arguments), self._lifeline)
            self._lifeline.flush()
        os.set_blocking(self._lifeline.fileno(), False)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ring(self) -> None:
        """Say that there is something to do. Where it was told often and did not listen yet, it
        knows."""
        with self._closing, suppress(BlockingIOError, BrokenPipeError, ValueError):
            os.write(self._lifeline.fileno(), b"!")

    def told(self) -> bytes:
        """What it says until it ends, where its name is in TELL."""
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            return stream.read()

    def tell_to_end(self) -> None:
        """Close its lifeline: it drains and ends. Any thread may."""
        with self._closing, suppress(BrokenPipeError):
            self._lifeline.close()

    def wait(self, seconds: float | None = None) -> int | None:
        """Until it ended, or so long; gives its exit status if it did."""
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        self.tell_to_end()  # closes our end
        return status

    def end(self, seconds: float) -> None:
        """Tell it to end, and kill it where that takes longer: what it had under way is done again
        at the next start."""
        self.tell_to_end()
        if self.wait(seconds) is None:
            self._process.kill()
            self.wait()


class Lifeline:
    """The other end: `ended()` says whether to end, `rung` is set when there is something to do."""

    def __init__(self) -> None:
        self.rung = threading.Event()
        self._ended = threading.Event()
        threading.Thread(target=self._listen, name="lifeline", daemon=True).start()

    def ended(self) -> bool:
        return self._ended.is_set()

    def _listen(self) -> None:
        while os.read(sys.stdin.fileno(), 4096):
            self.rung.set()
        self._ended.set()
        self.rung.set()


def settle_in() -> tuple[Config, tuple[str, ...], Lifeline]:
    """The first thing in a process beside: gives the settings, what its name needs besides, and our
    end of the lifeline."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the daemon gets them and ends us
    config, arguments = pickle.load(sys.stdin.buffer)
    log.set_up(config.log.format, config.log.level)
    set_for_throughput()
    return config, arguments, Lifeline()
