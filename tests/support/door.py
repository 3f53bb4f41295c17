"""`python -m tests.support.door daemon …`: the program, with a door into its threads.

A test writes the name of a thread into the file that $DOOR names; an error that nobody expects then
ends what that thread does just now. So each thread of a real daemon can be made to die.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

import syncer.process.child
from syncer.cli import main


class Broken(Exception):
    """No part expects it."""


def _open(door: Path) -> None:
    while True:
        time.sleep(0.05)
        if door.exists():
            name = door.read_text(encoding="utf-8")
            door.unlink()
            _break(name)


def _break(name: str) -> None:
    """Raise in the thread of that name; the receiver has the main one. What an event loop works on
    is cancelled: the loop itself would bear an error."""
    threads = {thread.name: thread.ident or 0 for thread in threading.enumerate()}
    number = threads["MainThread" if name == "receiver" else name]
    if name not in ("ops", "receiver"):
        broken = ctypes.py_object(Broken)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(number), broken)
        return
    for task in list(asyncio.tasks._all_tasks):  # type: ignore[attr-defined]
        if task.get_coro().__name__ == "wrapper":  # all that uvloop runs
            with suppress(RuntimeError):  # it has ended
                task.get_loop().call_soon_threadsafe(_cancel_in, number, task)


def _cancel_in(number: int, task: asyncio.Task[None]) -> None:
    if threading.get_ident() == number:
        task.cancel()


if __name__ == "__main__":
    syncer.process.child.BEAT, syncer.process.child.MISSED = 1.0, 5
    threading.Thread(target=_open, args=(Path(os.environ["DOOR"]),), daemon=True).start()
    main()
