"""Progress of a run in the middle of which a test does something."""

from __future__ import annotations

from collections.abc import Callable

from syncer.progress import LineProgress


class Interrupted(LineProgress):
    """Progress in the middle of which something happens."""

    def __init__(self, happens: Callable[[], None]) -> None:
        super().__init__()
        self._happens = [happens]

    def end(self) -> None:
        super().end()
        if self._happens:
            self._happens.pop()()
