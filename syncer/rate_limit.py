"""The rate of requests: it falls when the server answers 429, and recovers by itself.

Amberflo publishes no rate limit (docs/facts/amberflo.md §1.7), so the configured rate is an upper
bound and the answers decide; Segment's Profile API has a hard one (docs/facts/segment.md §1.1).
Pure: the clock (seconds, monotonic) is passed in.
"""

from __future__ import annotations

#: A 429 multiplies the rate by `SLOW_DOWN`, at most once in `SETTLE` seconds. Without a 429 the
#: rate is multiplied by `RECOVER` every `SETTLE` seconds.
SLOW_DOWN, RECOVER, SETTLE = 0.5, 1.25, 1.0
SLOWEST = 0.2
#: Seconds over which the rate is measured if none is configured.
WINDOW = 5.0


class RateLimiter:
    """Decides when each request may start. `rate` is requests per second; 0 is unlimited.

    If several processes deliver, each uses its part of the configured rate (`divide`).

    A single 429 delays its own customer only. All requests slow down once more than the part
    `share` of a window's requests, and at least `least` of them, are answered with 429.

    A request that starts late moves those after it. With `burst`, up to so many of them start at
    once to make up for it.
    """

    def __init__(self, rate: float, *, share: float = 0.2, least: int = 4, burst: int = 0) -> None:
        self._whole = self._wanted = rate
        self._burst = burst
        self._share, self._least, self._throttled = share, least, 0
        self._allowed: float | None = None  # the rate while Amberflo wants fewer requests
        self._ceiling = rate  # for an unlimited rate: the measured one before it was slowed down
        self._next = 0.0  # when the next request may start
        self._settled = 0.0  # when the rate may change again
        # The measured rate: the start and the count of this window, the rate of the last one
        self._window, self._before = (0.0, 0), 0.0

    @property
    def rate(self) -> float:
        """Requests per second now; 0 is unlimited."""
        return self._wanted if self._allowed is None else self._allowed

    @property
    def limited(self) -> bool:
        """Whether a rate is configured."""
        return self._whole > 0

    @property
    def slowed(self) -> bool:
        """Whether answers have slowed the rate down, and it did not come back yet."""
        return self._allowed is not None

    def divide(self, workers: int) -> None:
        """Share the configured rate among so many workers from now on."""
        wanted = self._whole / max(workers, 1)
        if self._whole and wanted != self._wanted:
            if self._allowed is not None:
                self._allowed = min(self._allowed, wanted)
            self._wanted = self._ceiling = wanted

    def reserve(self, now: float, requests: int = 1) -> float:
        """Reserve the next free moment for one request, or for several in a row.

        Return the seconds to wait for it.
        """
        started, count = self._window
        if now - started > WINDOW:
            self._window, self._before = (now, requests), count / (now - started)
            self._throttled = 0
        else:
            self._window = (started, count + requests)
        late = self._burst / self.rate if self.rate > 0 and self._next else 0.0
        start = max(now - late, self._next)
        if self.rate > 0:
            self._next = start + requests / self.rate
        return max(start - now, 0.0)

    def backlog(self, now: float) -> float:
        """Return the seconds until the next free moment, which is the time of waiting requests."""
        return max(self._next - now, 0.0)

    def slow_down(self, now: float, after: float | None) -> None:
        """Note a 429; if there are too many, lower the rate.

        `after` is the number of seconds that Amberflo asks to wait, if it does.
        """
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
        """Note a request that Amberflo accepted; raise the rate if it was lowered."""
        if self._allowed is None or now < self._settled:
            return
        self._allowed *= RECOVER
        self._settled = now + SETTLE
        if self._allowed >= self._ceiling:
            # The rate is as before; an unlimited rate becomes unlimited again.
            self._allowed = None

    def _measured(self, now: float) -> float:
        started, count = self._window
        return max(self._before, count / max(now - started, 1.0))
