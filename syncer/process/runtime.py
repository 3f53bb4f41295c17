"""The Python interpreter, set for throughput: called once at the start of each of our processes."""

from __future__ import annotations

import gc
import sys


def set_for_throughput() -> None:
    """Fewer garbage collections: a request makes hundreds of objects that go with it, so looking
    every 700 for more to free finds nothing and costs a tenth of the time (docs/benchmarks.md)."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def set_for_commits_beside_a_busy_loop() -> None:
    """A thread that commits must not wait 5 ms for the event loop each time it needs the
    interpreter. Only for the receiver: where the loop is all there is, hand-overs cost more."""
    sys.setswitchinterval(0.0005)
