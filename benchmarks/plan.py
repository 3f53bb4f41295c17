"""Does `syncer plan` tell the truth? Real syncs against the sandbox, and what it says of them.

    chrt -f 10 python -m benchmarks.plan [--times 1] [--constants]

First measures this machine, as `syncer plan --calibrate` does, then makes syncs of other sizes at
several rates, and brings events to Amberflo. Prints what was seen, what the plan says, and the
ratio, which is between 0.8 and 1.2 (the bound) for what takes a second or more. `--constants`
prints the constants of this machine, which `syncer/capacity/machine.py` has as its table, and ends.
`chrt` keeps other work of the machine away. Each measurement is made so many `--times`, and the
one that took least counts.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from syncer.capacity import calibration
from syncer.capacity.calibration import installed, measure, seconds_of_an_event, whole
from syncer.capacity.forecast import DAY, Forecast, Load
from syncer.capacity.machine import Machine
from syncer.process.runtime import tune_for_throughput

#: Profiles, audiences and the rate (0: unlimited) of each sync, and the events.
SYNCS = (
    (500, 10, 50.0),
    (1500, 10, 200.0),
    (5000, 10, 800.0),
    (5000, 10, 0.0),
    (3000, 30, 0.0),
)
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
    machine: Machine, profiles: int, audiences: int, rate: float, times: int
) -> Iterator[tuple[str, float, float]]:
    """What was done, the seconds that were seen, and those that the plan says."""
    every = [see(profiles, audiences, rate) for _ in range(times if not rate else 1)]
    values, seen = every[0][0], [min(part) for part in zip(*(it for _, it in every), strict=True)]
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
        )
        return {step.name: step.seconds or 0.0 for step in Forecast(load, machine).steps()}

    none, some, more = steps(0), steps(changed), steps(last)
    yield f"first sync of {customers:,}", initial, none["initial"]
    yield "full run, none changed", full, none["full"]
    yield f"run of {changed:,} changed", run, some["incremental"]
    yield f"full run, {last:,} changed", changed_full, more["catch_up"]
    yield "verify", verified, none["verify"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--constants", action="store_true")
    parser.add_argument("--times", type=int, default=1)
    options = parser.parse_args()
    tune_for_throughput()
    machine = calibration.calibrate(times=options.times)
    if options.constants:
        for name, value in vars(machine).items():
            print(f"    {name}={value},")
        return
    ratios = []

    def row(audiences: object, rate: str, what: str, seen: float, told: float) -> None:
        ratio = told / seen
        ratios.extend([ratio] * (seen >= 1))
        times = f"{seen:.2f} s | {told:.2f} s | {ratio:.2f}"
        print(f"| {audiences} | {rate} | {what} | {times} |", flush=True)

    print(f"| audiences | rate | what | seen | plan | ratio |\n|{'---|' * 6}")
    for profiles, audiences, rate in SYNCS:
        for what, seen, told in compared(machine, profiles, audiences, rate, options.times):
            row(audiences, f"{rate:,g}" if rate else "none", what, seen, told)
    seen = min(_events() for _ in range(options.times))
    row("", "", f"{EVENTS:,} events", seen, EVENTS * machine.event)
    print(f"of a second or more: ratios from {min(ratios):.2f} to {max(ratios):.2f} (0.8 to 1.2)")


def _events() -> float:
    with installed(10, 1) as installation:
        return EVENTS * seconds_of_an_event(installation, EVENTS)


if __name__ == "__main__":
    main()
