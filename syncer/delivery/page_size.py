"""How many due customers a delivery claims at a time.

What is claimed goes before all that comes later, however urgent. So of a limited rate, no more is
claimed than keeps the rate busy.
"""

from __future__ import annotations

from dataclasses import dataclass

from syncer.rate_limit import RateLimiter

#: The most customers that are claimed at a time, and seconds' worth of work.
PAGE, PAGE_SECONDS = 500, 0.5


@dataclass
class PageSize:
    """The size of the next page. `concurrency` workers share the queue; times are monotonic."""

    pace: RateLimiter
    concurrency: int
    claimed_at: float

    def __post_init__(self) -> None:
        self.size = self.least

    @property
    def least(self) -> int:
        """The smallest page: one customer for each worker, or some seconds' worth of a rate.

        A customer takes two requests.
        """
        if not self.pace.limited:
            return self.concurrency
        return max(1, min(PAGE, int(self.pace.rate * PAGE_SECONDS / 2)))

    def is_low(self, queued: int, now: float) -> bool:
        """Return whether the workers will soon run out of the `queued` customers."""
        if queued >= min(self.concurrency, self.size):
            return False
        return not self.pace.limited or self.pace.backlog(now) < PAGE_SECONDS

    def next(self, now: float) -> int:
        """Return how many to claim now: what was worked off of late in PAGE_SECONDS."""
        lasted, self.claimed_at = now - self.claimed_at, now
        if self.pace.limited:
            self.size = self.least
        elif lasted < PAGE_SECONDS:
            self.size = min(self.size * 2, PAGE)
        elif lasted > 2 * PAGE_SECONDS:
            self.size = max(self.size // 2, self.least)
        return self.size
