"""The product's clock, moved on: hours pass at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime as real_datetime
from datetime import timedelta
from typing import Any, cast

import syncer.engage.profiles_sync


class Clock:
    """By how many hours what the product takes for now is ahead of the machine's clock."""

    def __init__(self) -> None:
        self.hours = 0.0

    def move(self, hours: float) -> None:
        self.hours += hours


@contextmanager
def moved() -> Iterator[Clock]:
    """A clock that this process follows for the block. What is measured, not told, is as ever."""
    clock, source = Clock(), cast(Any, syncer.engage.profiles_sync)
    true_ns, true_time, true_datetime = time.time_ns, time.time, source.datetime

    class Shifted(real_datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return real_datetime.now(tz) + timedelta(hours=clock.hours)

    time.time_ns = lambda: true_ns() + int(clock.hours * 3600e9)
    time.time = lambda: true_time() + clock.hours * 3600
    source.datetime = Shifted
    try:
        yield clock
    finally:
        time.time_ns, time.time = true_ns, true_time
        source.datetime = true_datetime
