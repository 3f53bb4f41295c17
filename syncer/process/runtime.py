"""Prepare the Python interpreter, at the start of each process."""

from __future__ import annotations

import gc
import os
import sys
import time


def use_utc() -> None:
    """Make UTC the local time of this process and of those that it starts, whatever TZ says.

    All times of the program are UTC anyway; so no library sees a zone that it cannot read either.
    """
    os.environ["TZ"] = "UTC"
    time.tzset()


def tune_for_throughput() -> None:
    """Collect garbage less often.

    A request makes hundreds of objects that reference counting frees. The default collection after
    700 objects frees nothing and costs a tenth of the time (docs/benchmarks.md).
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def tune_for_receiver() -> None:
    """Switch threads every 0.5 ms.

    Else a thread that commits waits 5 ms for the event loop each time that it needs the
    interpreter. Only for the receiver: in a process without such a thread, switches cost more.
    """
    sys.setswitchinterval(0.0005)
