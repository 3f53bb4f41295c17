"""What happens in a simulated time, drawn from a seed before it is played."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

from benchmarks.wrongness.space import AUDIENCES, COMPUTED

HOUR, DAY = 60, 24 * 60


@dataclass(frozen=True)
class Rates:
    """How often things happen. `changes` are those of a customer in a day; the others are days
    between two of a kind."""

    customers: int = 200
    changes: float = 0.06
    births: float = 1.0
    merges: float = 4.0
    mass: float = 15.0
    amberflo_down: float = 20.0
    amberflo_bad: float = 10.0
    warehouse_down: float = 30.0
    sync_stalls: float = 30.0
    kills: float = 3.5
    losses: float = 40.0
    upgrades: float = 20.0
    #: of the calls
    lost: float = 0.01
    late: float = 0.03
    doubled: float = 0.03


class Event(NamedTuple):
    """Something that happens at a minute; of one minute, the lower `order` is first."""

    minute: int
    order: int
    what: str
    data: tuple[Any, ...] = ()


#: What comes first of what happens in one minute.
ORDER = {
    name: number
    for number, name in enumerate(
        (
            *("restore", "up", "change", "born", "merge", "mass", "load", "stall", "warehouse"),
            *("amberflo", "effect", "call", "slot", "deliver", "decide", "backup"),
            *("kill", "lost", "upgrade", "hosted"),
        )
    )
}


def event(minute: int, what: str, *data: Any) -> Event:
    """Return an event, with its place among those of its minute."""
    return Event(minute, ORDER[what], what, data)


def draw(seed: int, days: float, rates: Rates) -> list[Event]:
    """Return all that is drawn ahead, in order."""
    end = int(days * DAY)
    events = [*_changes(seed, end, rates), *_loads(seed, end), *_troubles(seed, end, rates)]
    return sorted(entry for entry in events if entry.minute < end)


def _changes(seed: int, end: int, rates: Rates) -> Iterator[Event]:
    """Entries, exits and values as Engage computes them.

    Who is meant is drawn as a part of 1, as their number is not known yet. Two audiences are
    computed in real time, one every eight hours, the computed trait every hour.
    """
    rng = Random(f"{seed}/changes")
    minute = 0.0
    while (minute := minute + rng.expovariate(rates.customers * rates.changes / DAY)) < end:
        key = rng.choices((*AUDIENCES, COMPUTED), (3, 3, 2, 2))[0]
        at = int(minute)
        if key == "churn_risk":
            at = (at // (8 * HOUR) + 1) * 8 * HOUR + 20
        elif key == COMPUTED:
            at = (at // HOUR + 1) * HOUR + 5
        yield event(at, "change", key, rng.random(), rng.randrange(1, 5000))
    for what, days in (("born", rates.births), ("merge", rates.merges)):
        for at in _times(Random(f"{seed}/{what}"), days, end):
            yield event(at, what, rng.random(), rng.random())


def _loads(seed: int, end: int) -> Iterator[Event]:
    """Profiles Sync loads each hour what was computed before it; sometimes hours later."""
    rng = Random(f"{seed}/loads")
    for hour in range(HOUR, end, HOUR):
        lag = rng.randrange(60, 180) if rng.random() < 0.03 else rng.randrange(10, 41)
        yield event(hour + lag, "load", hour)


def _troubles(seed: int, end: int, rates: Rates) -> Iterator[Event]:
    lasting = (
        ("amberflo", "down", rates.amberflo_down, 20, 12 * HOUR),
        ("amberflo", "bad", rates.amberflo_bad, HOUR, 4 * HOUR),
        ("warehouse", "down", rates.warehouse_down, HOUR, 18 * HOUR),
        ("stall", "down", rates.sync_stalls, 2 * HOUR, 24 * HOUR),
    )
    for what, how, days, shortest, longest in lasting:
        rng = Random(f"{seed}/{what}/{how}")
        for at in _times(rng, days, end):
            length = rng.randrange(shortest, longest)
            yield event(at, what, how, length)
    for what, days in (("kill", rates.kills), ("upgrade", rates.upgrades)):
        rng = Random(f"{seed}/{what}")
        for at in _times(rng, days, end):
            yield event(at, what, rng.random(), rng.randrange(5, 16))
    rng = Random(f"{seed}/losses")
    for at in _times(rng, rates.losses, end):
        yield event(at, "lost", rng.randrange(HOUR, 6 * HOUR))
    rng = Random(f"{seed}/mass")
    for at in _times(rng, rates.mass, end):
        mistake = rng.random() < 0.5
        yield event(
            at,
            "mass",
            rng.choice(AUDIENCES),
            mistake,
            rng.randrange(8 * HOUR, 48 * HOUR),
            rng.randrange(HOUR, 16 * HOUR),
        )
    for at in range(3 * HOUR, end, DAY):
        yield event(at, "backup")


def _times(rng: Random, days: float, end: int) -> list[int]:
    """Return minutes that lie so many days apart, on average."""
    minutes, at = [], 0.0
    while (at := at + rng.uniform(0.5, 1.5) * days * DAY) < end:
        minutes.append(int(at))
    return minutes
