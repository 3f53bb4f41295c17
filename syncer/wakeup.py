"""What ends the waits of threads and event loops at once; a signal handler may set it, too."""

from __future__ import annotations

import os
import weakref
from contextlib import suppress


class Wakeup:
    """A pipe: whoever polls its `fileno` is woken when it is set.

    A lock of `threading` is no way for a signal handler to wake a thread: the handler may interrupt
    the very thread that holds it.
    """

    def __init__(self) -> None:
        self._reading, self._writing = ends = os.pipe()
        weakref.finalize(self, _close, ends)
        for end in ends:
            os.set_blocking(end, False)

    def set(self) -> None:
        """Wake who waits for it now, or waits for it next."""
        with suppress(BlockingIOError):  # it is full of what nobody has taken yet
            os.write(self._writing, b"!")

    def taken(self) -> bool:
        """Return whether it was set since the last call."""
        try:
            return bool(os.read(self._reading, 4096))
        except BlockingIOError:
            return False

    def fileno(self) -> int:
        """Return the descriptor that can be read from while it is set."""
        return self._reading


def _close(ends: tuple[int, int]) -> None:
    for end in ends:
        os.close(end)
