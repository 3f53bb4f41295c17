"""A model of the hosted Amberflo destination, as Segment's documentation describes it.

No part of it was tried against Segment. What is a fact, with its source, and what is an assumption
is in docs/explanation/wrongness.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random

from benchmarks.wrongness.space import Pair, Value
from benchmarks.wrongness.year import HOUR

#: Why Amberflo has another value than Engage.
FIRST = "the first sync"
WAITS = "the wait for the next sync"
DOWN = "outages of Amberflo"
LATE = "calls that came late"
LOST = "calls that were lost"
REPLACED = "replaced by the write of another trait"
#: Its newest word is at Amberflo.
THERE = ""
CAUSES = (FIRST, WAITS, DOWN, LATE, LOST, REPLACED)

FIRST_SYNC, SYNC_LEAST, SYNC_MOST, RETRIED = 6 * HOUR, 2 * HOUR, 3 * HOUR, 4 * HOUR


class Hosted:
    """Calls of Engage to Amberflo, one for each value; `replaces` says what a PUT does.

    `later(minute, call)` has `arrive` called then. No difference is looked for, nothing is held,
    and what is lost stays lost until Engage says something else.
    """

    def __init__(
        self, seed: int, replaces: bool, later: Callable[[int, tuple[Pair, Value, int]], None]
    ) -> None:
        self._rng, self._replaces, self._later = Random(f"{seed}/hosted"), replaces, later
        self._has: dict[str, dict[str, Value]] = {}
        self._next_sync = FIRST_SYNC
        #: the newest word of each trait: when Engage said it, and what became of it
        self._word: dict[Pair, tuple[int, str]] = {}

    def has(self, pair: Pair) -> Value:
        """Return what Amberflo has."""
        return self._has.get(pair[0], {}).get(pair[1])

    def why(self, pair: Pair) -> str:
        """Return why it has another value than Engage."""
        return self._word[pair][1] if pair in self._word else WAITS

    def begin(self, values: Iterable[tuple[Pair, Value]]) -> None:
        """Send every value within the first sync."""
        for pair, value in values:
            if value is not None:
                self._word[pair] = (0, FIRST)
                self._later(self._rng.randrange(1, FIRST_SYNC), (pair, value, 0))

    def say(self, now: int, pair: Pair, value: Value, delay: int | None, late: bool) -> None:
        """Engage says a new value: it goes out with the next sync, `delay` minutes later.

        None: the call is lost.
        """
        while self._next_sync <= now:
            self._next_sync += self._rng.randrange(SYNC_LEAST, SYNC_MOST + 1)
        if delay is None:
            self._word[pair] = (now, LOST)
            return
        self._word[pair] = (now, LATE if late else WAITS)
        self._later(self._next_sync + (delay if late else 0), (pair, value, now))

    def arrive(self, now: int, call: tuple[Pair, Value, int], down_until: int) -> list[Pair]:
        """A call comes to Amberflo; return the traits that it changes there."""
        pair, value, said = call
        newest = self._word[pair][0] == said
        if down_until > now:
            if down_until - now <= RETRIED:
                self._later(down_until, call)
            if newest:
                self._word[pair] = (said, DOWN)
            return []
        customer, key = pair
        record = self._has.setdefault(customer, {})
        gone = [other for other in record if other != key] if self._replaces else []
        for other in gone:
            del record[other]
            self._was_there((customer, other), REPLACED)
        record[key] = value
        if newest:
            self._word[pair] = (said, THERE)
        else:
            self._was_there(pair, LATE)  # it overwrites what is newer
        return [pair, *((customer, other) for other in gone)]

    def _was_there(self, pair: Pair, why: str) -> None:
        """The newest word of a trait is at Amberflo no more, if it was."""
        said, status = self._word[pair]
        self._word[pair] = (said, why if status == THERE else status)
