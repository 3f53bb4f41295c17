"""Where long work tells how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Where long work tells how far it is."""

    def say(self, text: str) -> None:
        """One line for the user."""

    def begin(self, stage: str, total: int, done: int = 0) -> None:
        """A stage begins that will do `total` customers; so many were done before."""

    def at(self, done: int) -> None:
        """So many are done."""

    def end(self) -> None:
        """The stage ended."""
