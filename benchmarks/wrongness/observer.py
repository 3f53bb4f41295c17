"""A perfect observer: for how long Amberflo has another value than Engage, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from benchmarks.wrongness.space import Pair, Value

#: Why Amberflo has another value, in the order of the tables.
SCHEDULE = "the wait for the next run"
LOAD = "Engage's load into the warehouse"
RATE = "Amberflo's rate"
HOLDS = "held until somebody decides"
AMBERFLO = "outages of Amberflo"
SOURCE = "outages of the source"
STOPS = "kills, restores, upgrades"
CALLS = "calls that came late"
OURS = "faults of ours"
CAUSES = (SCHEDULE, LOAD, RATE, HOLDS, AMBERFLO, SOURCE, STOPS, CALLS, OURS)
MILLION = 1_000_000


class Observer:
    """Counts minutes of customers' traits, all of them and the wrong ones by cause.

    `says` and `has` give the value of a trait at Engage and at Amberflo, `why` the cause of one
    that is wrong. All three are asked for the time up to `now`, before anything changes then.
    """

    def __init__(
        self,
        says: Callable[[Pair], Value],
        has: Callable[[Pair], Value],
        why: Callable[[Pair], str],
    ) -> None:
        self._says, self._has, self._why = says, has, why
        self._wrong: set[Pair] = set()
        self._now = self._pairs = 0
        self.minutes = 0
        self.wrong_minutes: Counter[str] = Counter()
        #: minutes for which Amberflo had what Engage takes for a mistake, and that it took back
        self.mistaken_minutes = 0
        self.mistakes: dict[Pair, Value] = {}
        self.examples: dict[str, tuple[int, Pair]] = {}

    def advance(self, now: int) -> None:
        """Count the time up to a minute."""
        passed, self._now = now - self._now, now
        if not passed:
            return
        self.minutes += passed * self._pairs
        for pair in self._wrong:
            cause = self._why(pair)
            self.wrong_minutes[cause] += passed
            self.examples.setdefault(cause, (now, pair))
        for pair, value in self.mistakes.items():
            if self._has(pair) == value:
                self.mistaken_minutes += passed

    def look(self, pairs: Iterable[Pair]) -> None:
        """See anew whether these are wrong."""
        for pair in pairs:
            if self._says(pair) == self._has(pair):
                self._wrong.discard(pair)
            else:
                self._wrong.add(pair)

    def add(self, pairs: int) -> None:
        """So many more traits are observed."""
        self._pairs += pairs

    def per_million(self, minutes: int) -> float:
        """Return wrong hours of a million hours of a customer's trait."""
        return minutes / self.minutes * MILLION if self.minutes else 0.0
