"""How many requests may be under way at the same time: as many as the server answers without delay.

What a rate needs is the latency times the rate, and neither is known before. So the limit grows
while all of it is in use and answers come as fast as ever, and falls when they come much later or
are refused as too many (additive increase, multiplicative decrease; RFC 5681 has the same for
packets). Pure: the clock (seconds, monotonic) is passed in.
"""

from __future__ import annotations

#: The limit at first; answers that are late do not lower it beneath.
START = 4
#: An answer is late that took LATE times as long as the quickest of its kind, and SLACK seconds
#: longer.
LATE, SLACK = 2.0, 0.025
#: Seconds after which a quickest answer is forgotten, at the latest twice as many. Where answers
#: are later than QUEUE then, the limit halves for a moment: a queue that we fill ourselves must not
#: pass for the server's own time.
WINDOW, QUEUE = 30.0, 0.6
#: The weight of the newest answer among the last ones, and the part of these that is too many when
#: the server refuses them.
WEIGHT, SHARE = 0.1, 0.2
#: What late answers, and refused ones, multiply the limit by, at most once in a round trip.
SLOWER, MUCH_SLOWER = 0.8, 0.5


class InFlight:
    """The limit of requests under way: between 1 and `most`."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._limit = float(min(START, most))
        self._fast_to = float(
            most
        )  # up to this it doubles in a round trip: nothing spoke against it
        #: by kind: the quickest answer of this window and of the one before
        self._quickest: dict[str, tuple[float, float]] = {}
        self._window = float("-inf")
        #: of the last answers: how late they came (over 1: too late), and which part was refused
        self._lateness = self._refused = 0.0
        self._settled = float("-inf")  # when the limit may fall again

    @property
    def limit(self) -> int:
        return int(self._limit)

    def answered(self, now: float, kind: str, seconds: float, under_way: int) -> None:
        """Note an answer that took `seconds`, of this `kind` of request.

        So many requests were `under_way` with it: a limit that nobody needs does not grow.
        """
        late = self._late(now, kind, seconds)
        self._lateness += WEIGHT * (min(late, 2.0) - self._lateness)
        self._refused -= WEIGHT * self._refused
        if self._lateness > 1.0:
            self._fall(now, seconds, SLOWER, min(START, self._limit))
        elif under_way >= self.limit:
            self._limit += 1.0 if self._limit < self._fast_to else 1.0 / self._limit
            self._limit = min(self._limit, float(self.most))

    def refused(self, now: float, seconds: float) -> None:
        """Note that the server wants fewer requests, or gave no answer within `seconds`."""
        self._refused += WEIGHT * (1.0 - self._refused)
        if self._refused > SHARE:
            self._fall(now, seconds, MUCH_SLOWER, 1.0)

    def _fall(self, now: float, seconds: float, times: float, least: float) -> None:
        if now >= self._settled:
            self._limit = self._fast_to = max(least, self._limit * times)
            self._settled = now + seconds

    def _late(self, now: float, kind: str, seconds: float) -> float:
        """Return how late an answer is: over 1 is late."""
        if now - self._window > WINDOW:
            if self._lateness > QUEUE and self._limit > START:
                self._fast_to = max(self._fast_to, self._limit)
                self._limit /= 2
            self._window, none = now, float("inf")
            self._quickest = {name: (none, this) for name, (this, _) in self._quickest.items()}
        this, before = self._quickest.get(kind, (seconds, seconds))
        self._quickest[kind] = min(this, seconds), before
        quickest = min(this, before, seconds)
        return seconds / max(LATE * quickest, quickest + SLACK)
