"""How many requests it takes to send customers to Amberflo, and how long that is at a rate. Pure.

Few customers are read one by one: one that Amberflo does not have is read and made, two requests;
one that it has is read, read once more right before it is overwritten, and put: three. Where many
are due, Amberflo's pages show them (page_walk.py): one that is missing is made with one request,
and one that differs is put after a look that it shares with its neighbours (page_writes.py). One
that is as it should be takes the first read alone. Repeats take more.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

#: Requests that it takes to make a customer that was read by itself, and to overwrite one.
MADE, OVERWRITTEN = 2, 3
#: Customers of a page, and how many must be due before pages are read at all.
PAGE, MANY = 1000, 250
#: Customers of a small page, and how many are written after one look at it, at most.
SMALL, MOST = 25, 16
#: Requests that show how many customers there are, and what pages contain.
TO_BEGIN = 4


def worth_pages(due: int, at_amberflo: int | None) -> bool:
    """Return whether it takes fewer requests to read pages than each due customer by itself.

    `at_amberflo` is how many customers Amberflo has; None: not known. A page saves a request of
    each due customer at least, and some of these may not be on any.
    """
    return due >= MANY and (at_amberflo is None or pages_of(at_amberflo) <= most_pages(due))


def most_pages(due: int) -> int:
    """Return how many pages are worth reading for so many due customers."""
    return due // 2


def pages_of(customers: int) -> int:
    """Return how many pages show so many customers."""
    return ceil(customers / PAGE)


@dataclass(frozen=True)
class Estimate:
    """Customers to send: `new` ones that Amberflo never acknowledged, and `known` ones.

    `rate` is in requests per second; 0 is unlimited. `at_amberflo` is how many customers Amberflo
    has, as far as the state knows.
    """

    new: int
    known: int
    rate: float
    at_amberflo: int = 0

    @property
    def customers(self) -> int:
        return self.new + self.known

    @property
    def by_pages(self) -> bool:
        """Whether Amberflo's pages are read, and not each customer by itself."""
        return worth_pages(self.customers, max(self.at_amberflo, self.known))

    @property
    def pages(self) -> int:
        """How many requests show who is there."""
        if not self.by_pages:
            return 0
        return TO_BEGIN + pages_of(max(self.at_amberflo, self.known)) + self._looks

    @property
    def _looks(self) -> int:
        """How many small pages are looked at right before the customers on them are written."""
        everybody = max(self.at_amberflo, self.known, 1)
        touched = everybody / SMALL * (1 - (1 - self.known / everybody) ** SMALL)
        return ceil(min(self.known, max(touched, self.known / MOST)))

    @property
    def requests(self) -> int:
        if self.by_pages:
            return self.customers + self.pages
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
        """Say it in words: "40 known × 3 = 120 requests, at rate 10 = 12 s".

        Where pages are read: "19,520 new × 1 + 4 for pages = 19,524 requests, …".
        """
        if not self.customers:
            return "nothing"
        made, overwritten = (1, 1) if self.by_pages else (MADE, OVERWRITTEN)
        parts = [(self.new, "new", made), (self.known, "known", overwritten)]
        terms = [f"{count:,} {word} × {each}" for count, word, each in parts if count]
        if self.by_pages:
            terms.append(f"{self.pages:,} for pages")
        if self.seconds is None:
            time = "the rate is not limited"
        else:
            time = f"at rate {self.rate:g} = {span(self.seconds)}"
        return f"{' + '.join(terms)} = {self.requests:,} requests, {time}"


def span(seconds: float) -> str:
    """Return a span of time in words, to two units."""
    remaining, words = max(1, round(seconds)), list[str]()
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, remaining = divmod(remaining, size)
        if count or words:
            words.append(f"{count} {unit}")
    return " ".join(words[:2])
