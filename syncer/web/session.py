"""Who may see the page: the token, the sessions that it opens, and how many wrong tries there are.

A session is a value that only we can have signed; what is stored are those that were ended before
their time. All of them end when the token is changed.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import deque
from collections.abc import Callable

from syncer.web.revoked import Ended

#: Seconds that a session lasts.
LASTS = 12 * 3600
#: So many wrong tries in so many seconds are answered as such; more are told to wait.
TRIES, PERIOD = 10, 60.0


class Sessions:
    """`clock` is epoch seconds."""

    def __init__(
        self,
        token: str,
        clock: Callable[[], float] = time.time,
        ended: Ended | None = None,
    ) -> None:
        self._token, self._clock = _digest(token), clock
        self._ended = ended or Ended(clock)
        # Slow to compute: who sees a cookie shall not find the token by trying.
        self._key = hashlib.scrypt(
            token.encode(), salt=b"syncer page session", n=2**14, r=8, p=1, dklen=32
        )

    def matches(self, token: str) -> bool:
        """Whether it is the token; takes as long for a wrong one."""
        return hmac.compare_digest(_digest(token), self._token)

    def open(self) -> str:
        """The value of a new session's cookie."""
        text = f"{int(self._clock()) + LASTS}.{secrets.token_hex(16)}"
        return f"{text}.{self._signed('session', text)}"

    def holds(self, value: str) -> bool:
        """Whether a cookie's value is a session of ours that is not over and was not ended."""
        over = self._over(value)
        return over is not None and over > self._clock() and not self._ended.has(_name(value))

    def end(self, value: str) -> None:
        """End a session, if it is one: its value is good for nothing from now on."""
        over = self._over(value)
        if over is not None and over > self._clock():
            self._ended.add(_name(value), over)

    def _over(self, value: str) -> int | None:
        """When a session of ours is over; None: it is none."""
        text, _, signature = value.rpartition(".")
        good = hmac.compare_digest(self._signed("session", text).encode(), signature.encode())
        return int(text.partition(".")[0]) if good else None

    def form_token(self, value: str) -> str:
        """What every form of a session must carry: no other site can know it."""
        return self._signed("form", value)

    def _signed(self, what: str, text: str) -> str:
        return hmac.new(self._key, f"{what}:{text}".encode(), hashlib.sha256).hexdigest()


class Tries:
    """Counts wrong tries. `clock` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wrong: deque[float] = deque(maxlen=TRIES)

    def wrong(self) -> None:
        self._wrong.append(self._clock())

    def pause(self) -> float:
        """Seconds until a wrong try is answered as such again; 0: at once."""
        if len(self._wrong) < TRIES:
            return 0.0
        return max(0.0, self._wrong[0] + PERIOD - self._clock())


def _name(session: str) -> str:
    """What may be stored of a session: nobody gets in by it."""
    return hashlib.sha256(session.encode()).hexdigest()[:32]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
