"""Errors of the state database. `syncer.errors` draws the whole tree."""

from __future__ import annotations

from datetime import UTC, datetime


class StateError(Exception):
    """The state database cannot be used as it is; the message says what to do."""


class Busy(StateError):
    """Another process was writing for longer than we wait; the same can be tried again."""


class Unfit(StateError):
    """The database can be used; what was to be written is nothing that it can hold."""


class NotKept(StateError):
    """A question about a moment (epoch milliseconds) before the history begins."""

    def __init__(self, begins: int) -> None:
        moment = datetime.fromtimestamp(begins / 1000, UTC)
        text = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        super().__init__(f"the history begins at {text}: nothing older is kept")
        self.begins = begins


class Locked(StateError):
    """Another process holds a lock that has to be had."""
