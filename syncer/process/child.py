"""Child processes of the daemon: `python -m syncer.daemon worker`, `… run`, `… page` and tasks.

A child reads its settings and arguments from standard input, so that the list of processes shows no
customer's data. Standard input stays open as a lifeline: it closes when the daemon ends, however it
ends, so that no child is left behind.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import orjson

from syncer import log
from syncer.config import Config
from syncer.errors import SyncerError
from syncer.process.runtime import tune_for_throughput
from syncer.stop import Stop

#: The exit status of a run's process if another run was going on (EX_TEMPFAIL of sysexits.h).
EXIT_BUSY = 75
#: Names of children that write a result to standard output.
WITH_RESULT = frozenset({"approve", "resync", "retry", "preview"})
#: Names of children that report there which of their parts work (`report`).
REPORTING = frozenset({"worker", "page", "run"})
#: Seconds between two reports, be there news or not. A child that has reported and then misses so
#: many of them hangs, as does one that has not begun to after so many.
BEAT, MISSED, MISSED_FIRST = 5.0, 6, 24
#: The parts of a process that do not work, each with the reason, or None: it has only started.
Down = dict[str, str | None]


class ChildProcess:
    """A child that runs until its work is done or it is asked to end."""

    def __init__(
        self, name: str, config: Config, *arguments: str, inherit: int | None = None
    ) -> None:
        """Start it. `inherit` is a file descriptor that it keeps open."""
        # Without -P it would import modules from the folder in which the daemon was started.
        command = [sys.executable, "-P", "-m", "syncer.daemon", name]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if name in WITH_RESULT | REPORTING else None,
            pass_fds=() if inherit is None else (inherit,),
        )
        assert self._process.stdin is not None
        self._lifeline, self._closing = self._process.stdin, threading.Lock()
        #: whether it was asked to end, so that its end is no accident
        self.asked_to_end = False
        #: whether it was killed as it said nothing any more
        self.hung = False
        with suppress(BrokenPipeError):  # it ended at once; `alive` shows that
            pickle.dump((config, arguments), self._lifeline)
            self._lifeline.flush()
        os.set_blocking(self._lifeline.fileno(), False)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def wake(self) -> None:
        """Signal that there is work. A full pipe means that it has unread signals already."""
        with self._closing, suppress(BlockingIOError, BrokenPipeError, ValueError):
            os.write(self._lifeline.fileno(), b"!")

    def result(self) -> bytes:
        """Wait until it ends; return what it wrote. Only for names in WITH_RESULT."""
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            return stream.read()

    def reports(self) -> Iterator[Down]:
        """Yield what it reports (see `report`), until it ends; kill it when it reports no more.

        Only for names in REPORTING.
        """
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            poll, missed, line, most = select.poll(), 0, b"", MISSED_FIRST
            poll.register(stream, select.POLLIN)
            while True:
                # By the number of waits: time goes by while this process is stopped, too.
                if not poll.poll(BEAT * 1000):
                    missed += 1
                    if missed >= most:
                        self.kill_hung()
                    continue
                missed, most = 0, MISSED
                text = os.read(stream.fileno(), 65_536)
                if not text:
                    return
                *lines, line = (line + text).split(b"\n")
                for down in map(_read_report, lines):
                    if down is not None:
                        yield down

    def kill_hung(self) -> None:
        """Kill it, as it hangs. The next start redoes unfinished work."""
        self.hung = True
        self._process.kill()

    def ask_to_end(self) -> None:
        """Close its lifeline, upon which it drains and ends. Any thread may call this."""
        self.asked_to_end = True
        self._close()

    def _close(self) -> None:
        with self._closing, suppress(BrokenPipeError):
            self._lifeline.close()

    def wait(self, seconds: float | None = None) -> int | None:
        """Wait for its end; return its exit status, or None if it still runs after `seconds`."""
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        self._close()
        return status

    def end(self, seconds: float) -> None:
        """Ask it to end, and kill it after `seconds`. The next start redoes unfinished work."""
        self.ask_to_end()
        if self.wait(seconds) is None:
            self._process.kill()
            self.wait()

    def how_it_ended(self, status: int | None) -> str:
        """Return in words how it ended, with this exit status."""
        if self.hung:
            return "its process hung, and was killed"
        return how_it_ended(status)


class Lifeline:
    """The child's end of the pipe: `woken` is set when there is work or the daemon wants an end."""

    def __init__(self) -> None:
        self.woken = threading.Event()
        #: set when this process shall end
        self.ended = Stop()
        threading.Thread(target=self._listen, name="lifeline", daemon=True).start()

    def _listen(self) -> None:
        try:
            while os.read(sys.stdin.fileno(), 4096):
                self.woken.set()
        finally:  # without its lifeline it would never end
            self.ended.set()
            self.woken.set()


def report(down: Down) -> None:
    """Report to the daemon which parts of this process do not work."""
    with suppress(OSError):  # the daemon ended
        os.write(1, orjson.dumps(down) + b"\n")


def _read_report(line: bytes) -> Down | None:
    try:
        down = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None  # a library printed something
    return down if isinstance(down, dict) else None


def keep_reporting() -> None:
    """Report from now on that this process lives, where it has no supervisor that does."""

    def beat() -> None:
        while True:
            report({})
            time.sleep(BEAT)

    threading.Thread(target=beat, name="beat", daemon=True).start()


def how_it_ended(status: int | None) -> str:
    """Return in words how a process ended: `status` is that of `subprocess`, negative a signal."""
    if status is None or status >= 0:
        return f"its process ended with status {status}"
    hint = " (out of memory?)" if status == -signal.SIGKILL else ""
    return f"its process was killed by signal {-status}{hint}"


def join_parent() -> tuple[Config, tuple[str, ...], Lifeline]:
    """Begin a child process: return its settings, its arguments and its lifeline.

    Raises `SyncerError` where the daemon's settings are those of another version.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the daemon handles them and ends us
    try:
        config, arguments = pickle.load(sys.stdin.buffer)
    except (AttributeError, ImportError, TypeError):
        raise SyncerError(
            "another version of the program was installed while the daemon runs: restart the daemon"
        ) from None
    log.set_up(config.log.format, config.log.level)
    tune_for_throughput()
    return config, arguments, Lifeline()
