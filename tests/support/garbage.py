"""Garbage collection of a test session, whose heap is large: what stays is looked at once.

A session imports thousands of modules and keeps each compiled statement, so that a full collection
takes seconds of a core, and tests make many. Here it looks only at what a test file has made.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


def settle() -> None:
    """Collect the garbage, and do not look again at what is left."""
    gc.collect()
    gc.freeze()


def collect_seldom() -> None:
    """Collect by itself as seldom as the program does (`syncer.process.runtime`)."""
    gc.set_threshold(50_000, 20, 20)


@contextmanager
def unfrozen() -> Iterator[None]:
    """Let a command of the program freeze nothing, when it runs in this process.

    A command leaves its cycles to the end of its process (`syncer.process.runtime`); ours goes on.
    """
    thresholds, freeze = gc.get_threshold(), gc.freeze
    gc.freeze = lambda: None
    try:
        yield
    finally:
        gc.freeze = freeze
        gc.set_threshold(*thresholds)
