"""The faults of a stand-in: which requests fail and how, at random from a seed."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from itertools import accumulate

__all__ = ["Fault", "Faults"]

FAILURES = ("429", "500", "503", "drop_before", "drop_after", "drop")
"""A request has at most one of these, so their rates add up to at most 1."""
RATES = (*FAILURES, "slow")
SETTINGS = ("retry_after", "slow_seconds")
_GOOD = f"{', '.join(RATES)} (rates from 0 to 1), {' and '.join(SETTINGS)} (seconds)"


@dataclass(frozen=True, slots=True)
class Fault:
    """The fault of one request; `failure` is None if it is answered normally."""

    failure: str | None = None
    slow: bool = False


@dataclass(slots=True)
class Faults:
    """Rates of faults by name, drawn once a request from a generator of its own.

    - `429`, `500`, `503`: this status instead of an answer; 429 has `Retry-After: retry_after`;
    - `drop_before`: the connection is cut and the request not processed;
    - `drop_after`: the request is processed, then the connection is cut without an answer;
    - `drop`: one of the two, both equally likely;
    - `slow`: the answer, or the failure, comes `slow_seconds` late.
    """

    rates: dict[str, float] = field(default_factory=dict)
    retry_after: int = 1
    slow_seconds: float = 0.2
    seed: int = 0
    _random: random.Random = field(init=False, repr=False, compare=False)
    _limits: list[tuple[float, str]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        shares = {name: self.rates.get(name, 0.0) for name in FAILURES}
        half = shares.pop("drop") / 2
        shares["drop_before"] += half
        shares["drop_after"] += half
        self._limits = list(zip(accumulate(shares.values()), shares, strict=True))

    @classmethod
    def parse(cls, spec: str, seed: int = 0) -> Faults:
        """Read `"429=0.05,drop=0.01,slow=0.1,slow_seconds=2"`; an empty text means no faults.

        >>> Faults.parse("429=0.05, retry_after=2").retry_after
        2
        """
        values: dict[str, float] = {}
        for part in (part.strip() for part in spec.split(",") if spec.strip()):
            name, _, text = (piece.strip() for piece in part.partition("="))
            if name not in RATES + SETTINGS:
                raise ValueError(f"faults: {part!r} names no fault; good are {_GOOD}")
            if name in values:
                raise ValueError(f"faults: {part!r} sets {name} a second time; each goes in once")
            values[name] = _number(part, name, text)
        rates = {name: values[name] for name in RATES if name in values}
        total = sum(rates.get(name, 0.0) for name in FAILURES)
        if total > 1 + 1e-9:
            raise ValueError(
                f"faults: {spec.strip()!r} makes {total:g} of all requests fail; "
                f"{', '.join(FAILURES)} may add up to 1"
            )
        return cls(
            rates,
            retry_after=int(values.get("retry_after", 1)),
            slow_seconds=values.get("slow_seconds", 0.2),
            seed=seed,
        )

    def draw(self) -> Fault:
        """Draw the fault of the next request: always two numbers, so rates stay independent."""
        point, slow = self._random.random(), self._random.random() < self.rates.get("slow", 0.0)
        failure = next((name for limit, name in self._limits if point < limit), None)
        return Fault(failure, slow)

    def __str__(self) -> str:
        """Return the spec that `parse` reads."""
        settings = {"retry_after": self.retry_after, "slow_seconds": self.slow_seconds}
        return ",".join(f"{name}={value}" for name, value in (self.rates | settings).items())


def _number(part: str, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if name in RATES and not 0 <= value <= 1:
        raise ValueError(f"faults: {part!r} needs a rate from 0 to 1; good are {_GOOD}")
    if name in SETTINGS and not 0 <= value < math.inf:
        raise ValueError(f"faults: {part!r} needs seconds, 0 or more; good are {_GOOD}")
    if name == "retry_after" and value != int(value):
        raise ValueError(f"faults: {part!r} needs whole seconds, as the header does")
    return value
