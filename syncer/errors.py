"""Every error that this program raises on purpose, in one tree.

    Exception
     ├─ SyncerError              one line for the user, with the exit status it ends in
     │   ├─ ConfigError          a key is missing, unknown or wrong            exit 2
     │   ├─ SourceError          Engage's data cannot be read in full          exit 1
     │   ├─ AmberfloError        Amberflo cannot be used
     │   │   ├─ KeyRefused       the API key is wrong                          exit 1
     │   │   ├─ OtherAccount     not the account that the state belongs to     exit 1
     │   │   ├─ Refused          it refused this request
     │   │   └─ TryAgain         this request failed now; send it again later
     │   ├─ passthrough.parsing.BadRequest  a call that is refused whole, with its HTTP status
     │   ├─ Stopped              the user or the system asked for a stop       exit 1
     │   └─ NotFound             no such run, customer, audience or failure    exit 1
     └─ state.errors.StateError  the state database cannot be used             exit 1
         ├─ NotKept              a moment before the history begins          exit 2
         └─ Locked               another run is going on

`EXIT_HELD` is not an error: the run succeeded and the guard held something.
"""

from __future__ import annotations

from state.errors import Locked, NotKept, StateError

__all__ = [
    "EXIT_FAILED",
    "EXIT_HELD",
    "EXIT_OK",
    "EXIT_USAGE",
    "AmberfloError",
    "ConfigError",
    "KeyRefused",
    "Locked",
    "NotFound",
    "NotKept",
    "OtherAccount",
    "Refused",
    "SourceError",
    "StateError",
    "Stopped",
    "SyncerError",
    "TryAgain",
]

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_HELD = 0, 1, 2, 3


class SyncerError(Exception):
    """The base of the tree. `str(error)` is one complete line without a secret."""

    exit_code = EXIT_FAILED

    @property
    def lines(self) -> tuple[str, ...]:
        """What is wrong, a line each."""
        return (str(self),)


class ConfigError(SyncerError):
    """Settings are missing, unknown or wrong; each of the `lines` says what would be right."""

    exit_code = EXIT_USAGE

    def __init__(self, *lines: str) -> None:
        super().__init__("; ".join(lines))
        self._lines = lines

    @property
    def lines(self) -> tuple[str, ...]:
        return self._lines


class SourceError(SyncerError):
    """The pull from Engage failed; nothing of it was used."""


class AmberfloError(SyncerError):
    """Amberflo cannot be used; everything stays due."""

    @property
    def cause(self) -> str:
        """The reason without what differs from request to request."""
        return str(self)


class KeyRefused(AmberfloError):
    """Amberflo answers 401 or 403, also to a request that only tests the key."""

    #: how the line begins
    BEGINS = "Amberflo refuses the API key"


class OtherAccount(AmberfloError):
    """Amberflo's URL or key changed, and the new account lacks what the old one acknowledged.

    A run would send only what changed since, so most customers would be missing.
    """


class Refused(AmberfloError):
    """Amberflo refused a request: the `request`, and the `status` and `body` of the response.

    The refusal concerns the request's content only while similar requests succeed.
    """

    def __init__(
        self, reason: str, *, request: str, status: int | None, body: str, cause: str = ""
    ) -> None:
        super().__init__(reason)
        self.request, self.status, self.body, self._cause = request, status, body, cause

    @property
    def cause(self) -> str:
        return self._cause or str(self)

    @property
    def elsewhere(self) -> bool:
        """Whether it is a redirect, which says nothing about the content."""
        return self.status is not None and 300 <= self.status < 400


class TryAgain(AmberfloError):
    """A request failed for now: 429, 5xx, no connection, or a response that is not Amberflo's.

    It has the `request`, the `status` and `body` of the response if there was one, and its
    Retry-After in seconds (`after`).
    """

    def __init__(
        self,
        reason: str,
        *,
        request: str = "",
        status: int | None = None,
        body: str = "",
        after: float | None = None,
        cause: str = "",
    ) -> None:
        super().__init__(reason)
        self.request, self.status, self.body, self.after = request, status, body, after
        self._cause = cause

    @property
    def cause(self) -> str:
        return self._cause or str(self)


class Stopped(SyncerError):
    """A stop was asked for; the rest stays due."""


class NotFound(SyncerError):
    """The run, customer, audience or failure that a command names does not exist."""
