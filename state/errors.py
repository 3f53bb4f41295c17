"""Errors of the state database. `syncer.errors` draws the whole tree."""

from __future__ import annotations

from datetime import UTC, datetime


class StateError(Exception):
    """The state database cannot be used as it is; the message says what to do.

    `reason` is what the database itself said, where it said anything.
    """

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = message if reason is None else reason


class Busy(StateError):
    """Another process was writing for longer than we wait; the same can be tried again."""


class Unfit(StateError):
    """The database can be used, but it cannot hold what was written."""


class NotKept(StateError):
    """A question about a moment before the history begins.

    `known_since` (epoch milliseconds) is when it begins, None where nothing was ever recorded.
    `why` is what it begins with.
    """

    def __init__(self, known_since: int | None = None, why: str = "") -> None:
        super().__init__(
            "nothing is recorded yet"
            if known_since is None
            else f"the history begins {_text(known_since)} with {why}; it cannot tell who was in "
            "before"
        )
        self.known_since = known_since


class Locked(StateError):
    """Another process holds a lock that is needed."""


def _text(milliseconds: int) -> str:
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
