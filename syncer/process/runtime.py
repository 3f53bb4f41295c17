"""Prepare the Python interpreter, at the start of each process."""

from __future__ import annotations

import atexit
import gc
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


def use_utc() -> None:
    """Make UTC the local time of this process and of those that it starts, whatever TZ says.

    All times of the program are UTC anyway; so no library sees a zone that it cannot read either.
    """
    os.environ["TZ"] = "UTC"
    time.tzset()


def tune_for_throughput() -> None:
    """Collect garbage less often.

    A request makes hundreds of objects that reference counting frees. The default collection after
    700 objects frees nothing and costs a tenth of the time (docs/benchmarks.md). And at the end of
    the process nothing is collected: all of it goes anyway.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    atexit.register(gc.freeze)


@contextmanager
def importing() -> Iterator[None]:
    """Collect no garbage in a block that imports modules, and never look at what they made."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()


def tune_for_writers() -> None:
    """Switch threads every 0.5 ms.

    Else a thread that writes to the database waits 5 ms for a busy one each time that it needs the
    interpreter, which it gives up for each row that it reads, and others wait for its lock
    meanwhile. Only for processes with such threads: in others, switches cost more.
    """
    sys.setswitchinterval(0.0005)
