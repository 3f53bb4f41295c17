"""The program on a terminal, where somebody answers its questions."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import termios
from types import TracebackType
from typing import Self

from tests.support.processes import start

#: Seconds in which a program shows something or ends.
BOUND = 60.0


class Terminal:
    """A command of `syncer` on a terminal of its own; `options` go to the process."""

    def __init__(self, *command: str, columns: int = 80, **options: object) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
        self._process = start("-m", "syncer", *command, **streams, **options)
        os.close(theirs)
        #: all that it showed
        self.shown = ""
        self._answered = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)

    def answer(self, question: str, text: str) -> None:
        """Type a line once the program shows a question, or once it starts (an empty one)."""
        while question not in self.shown[self._answered :]:
            assert self._read(), f"{question!r} was not asked:\n{self.shown}"
        self._answered = len(self.shown)
        os.write(self._ours, f"{text}\n".encode())

    def end(self) -> int:
        """Wait for the end of the program; return its exit status."""
        while self._read():
            pass
        return int(self._process.wait(30))

    def _read(self) -> bool:
        readable, _, _ = select.select([self._ours], [], [], BOUND)
        assert readable, f"nothing came for {BOUND:g} s:\n{self.shown}"
        try:
            piece = os.read(self._ours, 4096)
        except OSError:  # the terminal ends with its process
            return False
        self.shown += piece.decode(errors="replace").replace("\r\n", "\n")
        return bool(piece)
