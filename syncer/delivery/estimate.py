"""How many requests it takes to send customers to Amberflo, and how long that is at a rate. Pure.

A customer that Amberflo does not have is read and made: two requests. One that it has is read,
read once more right before it is overwritten, and put: three. (See `amberflo.writer`. One that it
has as it should be takes the first read alone, and repeats take more.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: Requests that it takes to make a customer, and to overwrite one.
MADE, OVERWRITTEN = 2, 3


@dataclass(frozen=True)
class Estimate:
    """Customers to send: `new` ones that Amberflo never acknowledged, and `known` ones.

    `rate` is in requests per second; 0 is unlimited.
    """

    new: int
    known: int
    rate: float

    @property
    def customers(self) -> int:
        return self.new + self.known

    @property
    def requests(self) -> int:
        return MADE * self.new + OVERWRITTEN * self.known

    @property
    def seconds(self) -> float | None:
        """How long the requests take at the rate; None where it is not limited."""
        return self.requests / self.rate if self.rate else None

    @property
    def document(self) -> dict[str, Any]:
        """The estimate as JSON."""
        return {
            "customers": self.customers,
            "requests": self.requests,
            "rate": self.rate,
            "seconds": self.seconds,
        }

    def __str__(self) -> str:
        """Say it in words: "19,520 new × 2 = 39,040 requests, at rate 10 = 1 h 5 min"."""
        if not self.customers:
            return "nothing"
        parts = [(self.new, "new", MADE), (self.known, "known", OVERWRITTEN)]
        terms = [f"{count:,} {word} × {each}" for count, word, each in parts if count]
        if self.seconds is None:
            time = "the rate is not limited"
        else:
            time = f"at rate {self.rate:g} = {span(self.seconds)}"
        return f"{' + '.join(terms)} = {self.requests:,} requests, {time}"


def span(seconds: float) -> str:
    """Return a span of time in words, to two units."""
    left, words = max(1, round(seconds)), list[str]()
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or words:
            words.append(f"{count} {unit}")
    return " ".join(words[:2])
