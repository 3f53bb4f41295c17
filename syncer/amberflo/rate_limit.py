"""The pace of requests: a rate that goes down when Amberflo says 429 and comes back by itself.

Amberflo publishes no rate limit (docs/facts/amberflo.md §1.7), so the configured rate is a wish and
the answers decide. Pure: the clock (seconds, monotonic) is passed in.
"""

from __future__ import annotations

#: On 429 the rate is multiplied by this, at most once in `SETTLE` seconds; while none comes it is
#: multiplied by `RECOVER` every `SETTLE` seconds.
SLOW_DOWN, RECOVER, SETTLE = 0.5, 1.25, 1.0
SLOWEST = 0.2
#: Seconds over which the rate is measured where none is configured.
WINDOW = 5.0


class RateLimiter:
    """Gives each request its moment. `rate` is requests per second; 0 is as fast as it goes.

    Where several processes deliver, each takes its part of the configured rate (`divide`).

    A 429 now and then is its own customer's to wait for; all slow down when more than a `share` of
    the requests of a window, and at least `least`, are refused so.
    """

    def __init__(self, rate: float, *, share: float = 0.2, least: int = 4) -> None:
        self._whole = self._wanted = rate
        self._share, self._least, self._throttled = share, least, 0
        self._allowed: float | None = None  # set while Amberflo wants it slower
        self._ceiling = rate  # where an unlimited rate was when it was slowed down
        self._next = 0.0
        self._settled = 0.0
        # The measured rate: start and count of this window, rate of the one before
        self._window, self._before = (0.0, 0), 0.0

    @property
    def rate(self) -> float:
        """Requests per second now; 0 is unlimited."""
        return self._wanted if self._allowed is None else self._allowed

    @property
    def limited(self) -> bool:
        """Whether a rate is configured."""
        return self._whole > 0

    def divide(self, workers: int) -> None:
        """So many share the configured rate from now on."""
        wanted = self._whole / max(workers, 1)
        if self._whole and wanted != self._wanted:
            if self._allowed is not None:
                self._allowed = min(self._allowed, wanted)
            self._wanted = self._ceiling = wanted

    def reserve(self, now: float, requests: int = 1) -> float:
        """Take the next free moment for a request, or for several in a row; gives the seconds to
        wait for it."""
        started, count = self._window
        if now - started > WINDOW:
            self._window, self._before = (now, requests), count / (now - started)
            self._throttled = 0
        else:
            self._window = (started, count + requests)
        start = max(now, self._next)
        if self.rate > 0:
            self._next = start + requests / self.rate
        return start - now

    def backlog(self, now: float) -> float:
        """Seconds until the next free moment: for so long the requests that wait have work."""
        return max(self._next - now, 0.0)

    def slow_down(self, now: float, after: float | None) -> None:
        """Amberflo answered 429: when too many did, wait for `after` seconds if it says so, and go
        on slower."""
        self._throttled += 1
        if self._throttled < max(self._least, self._share * self._window[1]):
            return
        if after is not None:
            self._next = max(self._next, now + after)
        if now < self._settled:
            return
        if self._allowed is None:
            self._ceiling = self._wanted or self._measured(now)
        rate = self._allowed or self._ceiling
        self._allowed = min(rate, max(SLOWEST, rate * SLOW_DOWN))
        self._settled = now + (after or 0.0) + SETTLE

    def speed_up(self, now: float) -> None:
        """Amberflo took a request."""
        if self._allowed is None or now < self._settled:
            return
        self._allowed *= RECOVER
        self._settled = now + SETTLE
        if self._allowed >= self._ceiling:
            # Back where it was; an unlimited rate becomes unlimited again.
            self._allowed = None

    def _measured(self, now: float) -> float:
        started, count = self._window
        return max(self._before, count / max(now - started, 1.0))
