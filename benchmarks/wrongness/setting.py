"""What a simulation is given, and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.wrongness.observer import Observer
from benchmarks.wrongness.year import Rates


@dataclass(frozen=True)
class Setting:
    """What is simulated: so many days from a seed, with Engage's calls or by the schedule alone.

    One customer stands for so many, as far as Amberflo's `rate` (requests a second) goes.
    """

    seed: int = 1
    days: float = 365.0
    rates: Rates = field(default_factory=Rates)
    calls: bool = True
    stands_for: int = 3_000
    rate: float = 50.0


@dataclass
class Outcome:
    """Wrong hours of a million by cause, of the program and of the two models beside it."""

    ours: Observer
    hosted: dict[str, Observer]
    happened: dict[str, int]
