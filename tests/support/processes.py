"""Processes of the program, and what a test sees of processes."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.forkserver import Forked, Forker

_forker: Forker | None = None


def start(*words: object, **options: Any) -> subprocess.Popen[Any]:
    """Start `python` with these words (`-m module …` or `-c text …`); `options` go to Popen.

    The process is forked from one that has imported the program. A test of how the program starts
    uses `subprocess` instead.
    """
    global _forker
    if _forker is None:
        _forker = Forked.forker = Forker.start()
    return Forked([sys.executable, *map(str, words)], **options)


@contextmanager
def other_forker() -> Iterator[None]:
    """Start processes from a fork server of their own for the block, which has its environment."""
    global _forker
    kept, _forker = _forker, None
    try:
        yield
    finally:
        end_forker()
        _forker = kept
        if kept is not None:
            Forked.forker = kept


def end_forker() -> None:
    """End the fork server, if there is one; for the end of a test session."""
    global _forker
    if _forker is not None:
        _forker.close()
        _forker = None


def free_port() -> int:
    """A port of loopback that nobody listens on just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until(true: Callable[[], object], seconds: float = 30.0, *, what: str = "it") -> None:
    """Wait until `true()` is true; an assertion fails where that takes longer than `seconds`."""
    end = time.monotonic() + seconds
    while True:
        asked = time.monotonic()
        if true():
            return
        now = time.monotonic()
        assert now < end, f"{what} did not come within {seconds:g} s"
        # A question that costs much is asked less often: what is waited for needs the processor.
        time.sleep(min(max(0.01, 3 * (now - asked)), 0.3))


def descendants(process: int) -> set[int]:
    """The numbers of the processes below a process."""
    parents: dict[int, int] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(status.parent.name)] = int(fields[1])
    family, before = {process}, set[int]()
    while family != before:
        before = set(family)
        family |= {child for child, parent in parents.items() if parent in family}
    return family - {process}


def is_running(process: int) -> bool:
    """Whether the process exists and has not ended (a zombie has)."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def beside(daemon: int, name: str) -> list[int]:
    """The processes of this name (`worker`, `run`, `page`) below a daemon, in the order of their
    numbers."""
    return sorted(process for process in descendants(daemon) if _name(process) == name)


def _name(process: int) -> str:
    """What a process of a daemon is for: the fork server writes it, else it stands in the command
    line after `syncer.daemon`."""
    try:
        words = Path(f"/proc/{process}/cmdline").read_text().split("\0")
        if "syncer.daemon" in words:
            return words[words.index("syncer.daemon") + 1]
        return Path(f"/proc/{process}/comm").read_text().strip()
    except OSError:
        return ""
