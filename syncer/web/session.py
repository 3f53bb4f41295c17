"""Who may see the page: the token, the sessions that it opens, and how many wrong tries there are.

Nothing is stored: a session is a value that only we can have signed. All of them end when the token
is changed.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import deque
from collections.abc import Callable

#: Seconds that a session lasts.
LASTS = 12 * 3600
#: So many wrong tries in so many seconds; more are not looked at.
TRIES, PERIOD = 10, 60.0


class Sessions:
    """`clock` is epoch seconds."""

    def __init__(self, token: str, clock: Callable[[], float] = time.time) -> None:
        self._token, self._clock = _digest(token), clock
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
        """Whether a cookie's value is a session of ours that is not over."""
        text, _, signature = value.rpartition(".")
        if not hmac.compare_digest(self._signed("session", text).encode(), signature.encode()):
            return False
        return int(text.partition(".")[0]) > self._clock()

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
        """Seconds until a try is looked at again; 0: at once."""
        if len(self._wrong) < TRIES:
            return 0.0
        return max(0.0, self._wrong[0] + PERIOD - self._clock())


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
