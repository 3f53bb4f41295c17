"""Authentication of the page: its token, the sessions that it opens, and a limit on wrong tokens.

A session is a signed value; only revoked sessions are stored. Changing the token ends all sessions.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import deque
from collections.abc import Callable

from syncer.web.revoked import RevokedSessions

#: The lifetime of a session, in seconds.
LIFETIME = 12 * 3600
#: Wrong tokens allowed per period (seconds); further ones must wait.
ATTEMPTS, ATTEMPT_PERIOD = 10, 60.0


class Sessions:
    """Opens, checks and ends sessions. `clock` returns epoch seconds."""

    def __init__(
        self,
        token: str,
        clock: Callable[[], float] = time.time,
        revoked: RevokedSessions | None = None,
    ) -> None:
        self._token, self._clock = _digest(token), clock
        self._revoked = revoked or RevokedSessions(clock)
        # Slow to compute, so that a stolen cookie does not let anybody guess the token.
        self._key = hashlib.scrypt(
            token.encode(), salt=b"syncer page session", n=2**14, r=8, p=1, dklen=32
        )

    def matches(self, token: str) -> bool:
        """Whether it is the token; in constant time."""
        return hmac.compare_digest(_digest(token), self._token)

    def open(self) -> str:
        """Open a session; return the value of its cookie."""
        text = f"{int(self._clock()) + LIFETIME}.{secrets.token_hex(16)}"
        return f"{text}.{self._signed('session', text)}"

    def holds(self, value: str) -> bool:
        """Whether a cookie's value is a session of ours, neither expired nor revoked."""
        expiry = self._expiry(value)
        return expiry is not None and expiry > self._clock() and not self._revoked.has(_name(value))

    def end(self, value: str) -> None:
        """Revoke a session, if the value is one."""
        expiry = self._expiry(value)
        if expiry is not None and expiry > self._clock():
            self._revoked.add(_name(value), expiry)

    def _expiry(self, value: str) -> int | None:
        """When a session of ours expires; None if the value is not one."""
        text, _, signature = value.rpartition(".")
        genuine = hmac.compare_digest(self._signed("session", text).encode(), signature.encode())
        return int(text.partition(".")[0]) if genuine else None

    def form_token(self, value: str) -> str:
        """Return the token that every form of a session carries; no other site can know it."""
        return self._signed("form", value)

    def _signed(self, purpose: str, text: str) -> str:
        return hmac.new(self._key, f"{purpose}:{text}".encode(), hashlib.sha256).hexdigest()


class LoginThrottle:
    """Counts wrong tokens. `clock` returns monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: deque[float] = deque(maxlen=ATTEMPTS)

    def add_failure(self) -> None:
        self._failures.append(self._clock())

    def pause(self) -> float:
        """Return the seconds until the next attempt is allowed; 0 if it is now."""
        if len(self._failures) < ATTEMPTS:
            return 0.0
        return max(0.0, self._failures[0] + ATTEMPT_PERIOD - self._clock())


def _name(session: str) -> str:
    """Return a session's name: it can be stored, as it opens nothing."""
    return hashlib.sha256(session.encode()).hexdigest()[:32]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
