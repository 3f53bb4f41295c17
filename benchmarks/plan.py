"""Does `syncer plan` tell the truth? Real syncs against the sandbox, and what it says of them.

    python -m benchmarks.plan [--under "chrt -f 10"] [--constants]

First measures this machine, as `syncer plan --calibrate` does, then makes syncs of other sizes at
several rates, and brings events to Amberflo. Prints what was seen, what the plan says, and the
ratio, which is between 0.8 and 1.2 (the bound) for what takes a second or more. `--constants`
prints the constants of this machine, which `syncer/capacity/machine.py` has as its table, and ends.
Each part runs in a process of its own under the command `--under`, for less than 45 seconds, so
that it can keep other work of the machine away.
"""

from __future__ import annotations

import argparse
import pickle
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

from syncer.capacity import calibration
from syncer.capacity.calibration import (
    Measured,
    installed,
    machine_of,
    measure,
    seconds_of_an_event,
    whole,
)
from syncer.capacity.forecast import DAY, Forecast, Load
from syncer.capacity.machine import Machine
from syncer.process.runtime import tune_for_throughput

#: Profiles, audiences and the rate of each sync; those without a rate; and the events.
SYNCS = ((600, 10, 50.0), (1500, 10, 200.0))
WITHOUT_RATE = ((5000, 10), (3000, 30))
EVENTS = 40_000
#: The part of the customers that changes.
CHANGED = 0.05


Seen = list[tuple[int, float]]


def see(profiles: int, audiences: int, rate: float) -> tuple[float, Seen]:
    """The values of a customer, and what was done: customers that were sent, and seconds.

    A first sync, a full run of nobody changed, a run of those who changed, another full run, and a
    verify of all.
    """
    with installed(profiles, audiences, rate) as installation:
        seen = measure(installation, CHANGED)
        installation.engage.observe()
        installation.engage.evolve(fraction=CHANGED)
        last = installation.sync(full=True)
    runs = [(run.due, whole(run)) for run in (seen.initial, seen.full, seen.incremental, last)]
    return seen.initial.pulled / seen.initial.due, [*runs, (0, seen.verified)]


def compared(
    machine: Machine, values: float, seen: Seen, rate: float
) -> Iterator[tuple[str, float, float]]:
    """What was done, the seconds that were seen, and those that the plan says."""
    (customers, initial), (_, full), (changed, run), (last, changed_full), (_, verified) = seen

    def steps(changed: int) -> dict[str, float]:
        """The plan's seconds, where so many change between two runs and in an outage."""
        load = Load(
            customers=customers,
            values=values,
            change=changed / customers,
            events=0.0,
            rate=rate,
            latency=0.0,
            concurrency=16,
            every=DAY,
            outage=DAY,
            queue_limit=1,
            daemons=0,
        )
        return {step.name: step.seconds or 0.0 for step in Forecast(load, machine).steps()}

    none, some, more = steps(0), steps(changed), steps(last)
    yield f"first sync of {customers:,}", initial, none["initial"]
    yield "full run, none changed", full, none["full"]
    yield f"run of {changed:,} changed", run, some["incremental"]
    yield f"full run, {last:,} changed", changed_full, more["catch_up"]
    yield "verify", verified, none["verify"]


def shapes() -> list[Measured]:
    """What a calibration measures of runs."""
    measured = []
    for customers, audiences in calibration.SHAPES:
        with installed(customers, audiences) as installation:
            measured.append(measure(installation))
    return measured


def events() -> list[float]:
    """Seconds of an event, as a calibration measures them, and of twice as many."""
    seconds = []
    for count in (calibration.EVENTS, EVENTS):
        with installed(1, 1) as installation:
            seconds.append(seconds_of_an_event(installation, count))
    return seconds


def unbound() -> list[tuple[float, Seen]]:
    """What was seen of the syncs without a rate."""
    return [see(profiles, audiences, 0.0) for profiles, audiences in WITHOUT_RATE]


def bound() -> list[tuple[float, Seen]]:
    """What was seen of the syncs with a rate."""
    return [see(profiles, audiences, rate) for profiles, audiences, rate in SYNCS]


PARTS: dict[str, Callable[[], Any]] = {
    "shapes": shapes,
    "events": events,
    "unbound": unbound,
    "bound": bound,
}


def apart(under: str, part: str) -> Any:
    """What a part returns that runs in a process of its own, under a command."""
    program = [*shlex.split(under), sys.executable, "-m", "benchmarks.plan", "--part", part]
    return pickle.loads(subprocess.run(program, check=True, stdout=subprocess.PIPE).stdout)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--constants", action="store_true")
    parser.add_argument("--under", default="")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    tune_for_throughput()
    if options.part:
        sys.stdout.buffer.write(pickle.dumps(PARTS[options.part]()))
        return
    event, event_of_more = apart(options.under, "events")
    machine = machine_of(apart(options.under, "shapes"), event)
    if options.constants:
        for name, value in vars(machine).items():
            print(f"    {name}={value},")
        return
    print(machine, file=sys.stderr)
    ratios = []

    def row(audiences: object, rate: str, what: str, seen: float, told: float) -> None:
        ratio = told / seen
        ratios.extend([ratio] * (seen >= 1))
        times = f"{seen:.2f} s | {told:.2f} s | {ratio:.2f}"
        print(f"| {audiences} | {rate} | {what} | {times} |", flush=True)

    print(f"| audiences | rate | what | seen | plan | ratio |\n|{'---|' * 6}")
    syncs = [(audiences, 0.0) for _, audiences in WITHOUT_RATE]
    results = list(zip(syncs, apart(options.under, "unbound"), strict=True))
    syncs = [(audiences, rate) for _, audiences, rate in SYNCS]
    results += zip(syncs, apart(options.under, "bound"), strict=True)
    for (audiences, rate), (values, seen) in results:
        for what, took, told in compared(machine, values, seen, rate):
            row(audiences, f"{rate:,g}" if rate else "none", what, took, told)
    row("", "", f"{EVENTS:,} events", EVENTS * event_of_more, EVENTS * event)
    print(f"of a second or more: ratios from {min(ratios):.2f} to {max(ratios):.2f} (0.8 to 1.2)")


if __name__ == "__main__":
    main()
