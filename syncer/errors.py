"""Every error this program raises on purpose, in one tree.

    Exception
     ├─ SyncerError              one line for the user, with the exit status it ends in
     │   ├─ ConfigError          a key is missing, unknown or wrong            exit 2
     │   ├─ SourceError          Engage's data cannot be read in full          exit 1
     │   ├─ AmberfloError        Amberflo cannot be used
     │   │   ├─ KeyRefused       the API key is wrong                          exit 1
     │   │   ├─ OtherAccount     not the account that the state is about       exit 1
     │   │   ├─ Refused          it does not take this request as it is
     │   │   └─ TryAgain         it did not take this request now; send it again later
     │   ├─ passthrough.parsing.BadRequest  a call that is refused whole, with its HTTP status
     │   ├─ Stopped              the user or the system asked us to stop       exit 1
     │   └─ NotFound             no such run, customer, audience or failure    exit 1
     └─ state.errors.StateError  the state database cannot be used             exit 1
         ├─ NotKept              a moment before the history begins          exit 2
         └─ Locked               another run is going on

`EXIT_HELD` is no error: the run went well and the guard kept something back.
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
    """Base of the tree. `str(error)` is one line, complete, without a secret."""

    exit_code = EXIT_FAILED


class ConfigError(SyncerError):
    """A setting is missing, unknown or wrong: file, key, what is wrong, what would be right."""

    exit_code = EXIT_USAGE


class SourceError(SyncerError):
    """The pull from Engage broke off or cannot start; nothing of it was taken."""


class AmberfloError(SyncerError):
    """Amberflo cannot be used at all; what was to be sent stays due."""


class KeyRefused(AmberfloError):
    """Amberflo answered 401 or 403, also to a request that only shows the key: every further
    request would fail the same way."""


class OtherAccount(AmberfloError):
    """Amberflo's URL or key changed, and what was acknowledged is not there: it would get nobody
    whom the state believes to be there already."""


class Refused(AmberfloError):
    """Amberflo refused one request: its `request`, the `status` and `body` it answered. That is a
    verdict on what was sent only while other requests like it get through."""

    def __init__(self, reason: str, *, request: str, status: int | None, body: str) -> None:
        super().__init__(reason)
        self.request, self.status, self.body = request, status, body

    @property
    def elsewhere(self) -> bool:
        """Whether it is a redirect: that tells where to go, and not what is wrong."""
        return self.status is not None and 300 <= self.status < 400


class TryAgain(AmberfloError):
    """A request did not get through (429, 5xx, network, an answer that is none): the `request`, the
    `status` and `body` of the answer where one came, and its Retry-After in seconds (`after`)."""

    def __init__(
        self,
        reason: str,
        *,
        request: str = "",
        status: int | None = None,
        body: str = "",
        after: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.request, self.status, self.body, self.after = request, status, body, after


class Stopped(SyncerError):
    """A stop was asked for; what is not done yet stays due."""


class NotFound(SyncerError):
    """What the command names is not there."""
