"""Notices, while it lasts, that nothing gets through to Amberflo although something is tried.

Times are monotonic seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from syncer.amberflo.client import AmberfloClient
from syncer.errors import AmberfloError, KeyRefused, Refused, TryAgain
from syncer.rate_limit import RateLimiter

#: Seconds without a success after which trouble is told, and requests: a low rate allows few.
TELL_AFTER, REQUESTS = 5.0, 3
#: The patience lasts for at least this many requests, too.
PATIENT = 30

_LATER = "what is due stays due and is sent by itself when that is over"


class Trouble(NamedTuple):
    """Nothing has got through for `seconds`; why, and what would help.

    `patience` says after how many seconds the work gives up.
    """

    seconds: float
    cause: str
    helps: str
    patience: float

    @property
    def past(self) -> str:
        """The line for the end of the work."""
        return f"nothing got through to Amberflo for {self.seconds:.0f} s: {self.cause}"

    @property
    def line(self) -> str:
        """The line while it lasts."""
        return (
            f"nothing gets through to Amberflo for {self.seconds:.0f} s: {self.cause}; "
            f"trying on until {_span(self.patience)}"
        )

    @property
    def text(self) -> str:
        """What is on record: the same words as long as the cause is the same."""
        if not self.helps:
            return self.cause  # it says what to do
        return f"nothing gets through to Amberflo: {self.cause}; {self.helps}; {_LATER}"


#: Gets trouble while it lasts, again and again, and None when something gets through.
TellTrouble = Callable[[Trouble | None], None]


def ignore(trouble: Trouble | None) -> None:
    """Tell nobody."""


class Silence:
    """How long nothing has got through by `client` at `pace`, and why.

    `patience` is how many seconds of that are too long, at least the time of PATIENT requests.
    """

    def __init__(
        self, client: AmberfloClient, patience: float, pace: RateLimiter | None = None
    ) -> None:
        self._client, self._pace = client, pace or client.pace
        self._patience = patience
        self._through = self._failed = time.monotonic()
        self._problem: AmberfloError | None = None
        self._succeeded = False

    def succeeded(self) -> None:
        """Something got through."""
        self._through, self._succeeded = time.monotonic(), True

    def begin(self) -> None:
        """Begin a request: a rest before it does not count, unless something failed before."""
        if self._failed <= self._through and not self._client.unanswered(self._pace):
            self._through = time.monotonic()

    def failed(self, problem: AmberfloError) -> None:
        """Something did not get through."""
        self._failed, self._problem = time.monotonic(), problem

    @property
    def seconds(self) -> float:
        """For how long nothing has got through."""
        return time.monotonic() - self._through

    @property
    def patience(self) -> float:
        return max(self._patience, self._least(PATIENT))

    @property
    def too_long(self) -> bool:
        return self.seconds > self.patience

    def trouble(self, *, in_any_case: bool = False) -> Trouble | None:
        """Return the trouble that there is now; `in_any_case` also where it is short or unclear."""
        seconds = self.seconds
        if seconds < max(TELL_AFTER, self._least(REQUESTS)) and not in_any_case:
            return None
        if self._problem is not None and self._failed > self._through:
            cause, helps = self._problem.cause, _helps(self._problem)
        elif in_any_case or self._client.unanswered(self._pace) >= TELL_AFTER:
            cause = "no answer comes"
            helps = "Amberflo is slow, or the way to it; amberflo.timeout is how long we wait"
        else:
            return None
        return Trouble(seconds, cause, helps, self.patience)

    def tell(self, to: TellTrouble) -> None:
        """Tell the trouble that there is; or that there is none, once something got through."""
        trouble = self.trouble()
        if trouble is not None or self._succeeded:
            to(trouble)

    def _least(self, requests: int) -> float:
        """Return the seconds that so many requests take by themselves."""
        return requests / self._pace.rate if self._pace.limited else 0.0


def _helps(problem: AmberfloError) -> str:
    """Return what would help against a problem of all requests; "" if the problem says it."""
    if isinstance(problem, KeyRefused):
        return ""
    status = problem.status if isinstance(problem, TryAgain | Refused) else None
    if status is None:
        return "see that this machine reaches Amberflo: address, DNS, proxy, firewall"
    if status == 429:
        return "Amberflo wants fewer requests: lower amberflo.rate"
    if status >= 500:
        return "Amberflo itself fails, or what stands before it: its support knows more"
    if status < 300:
        return "something else answers, such as a proxy or a page to log in: see the URL"
    return "see the URL in the settings, and what the key may do"


def _span(seconds: float) -> str:
    """Write seconds as the settings do: 90s, 5m."""
    whole = round(seconds)
    return f"{whole // 60}m" if whole >= 60 and whole % 60 == 0 else f"{seconds:g}s"
