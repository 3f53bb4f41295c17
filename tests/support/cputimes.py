"""A plugin that says which tests cost most: `pytest -p no:xdist -p tests.support.cputimes tests/…`.

It counts the processor's time of this process, and of the processes that it waited for; not that of
PostgreSQL. Other than the time that a clock shows, it hardly depends on what else the machine does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

#: So many are shown.
MOST = 25


class Cost(NamedTuple):
    """What a test took, in seconds, with its fixtures."""

    here: float
    processes: float
    clock: float
    test: str

    @property
    def cpu(self) -> float:
        return self.here + self.processes


_costs: list[Cost] = []


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    before, began = os.times(), time.monotonic()
    result = yield
    after, clock = os.times(), time.monotonic() - began
    _costs.append(
        Cost(
            after.user + after.system - before.user - before.system,
            after.children_user
            + after.children_system
            - before.children_user
            - before.children_system,
            clock,
            item.nodeid,
        )
    )
    return result


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"{sum(cost.cpu for cost in _costs):.1f} s of CPU; the dearest:")
    for cost in sorted(_costs, key=lambda cost: -cost.cpu)[:MOST]:
        terminalreporter.write_line(
            f"{cost.here:6.2f} here, {cost.processes:6.2f} in processes, "
            f"{cost.clock:6.2f} by the clock: {cost.test}"
        )
