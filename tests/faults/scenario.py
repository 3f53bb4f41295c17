"""A scenario: what happens, in which order, and what goes wrong meanwhile. Drawn from one seed.

A scenario is a list of rounds. In each, time may pass at Engage, calls may come in, and one or more
processes of the product work side by side while faults befall them, Amberflo, the source and the
state. Nothing here does anything; runner.py plays it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal

#: Where something may befall a process: see points.py.
RUN_POINTS = {
    "pull.before": 1,
    "pull.row": 30,
    "pull.after": 1,
    "commit.before": 1,
    "commit.middle": 1,
    "commit.last": 1,
    "commit.after": 1,
    "finish.before": 1,
    "finish.after": 1,
}
DELIVERY_POINTS = {
    "join.after": 1,
    "claim.inside": 3,
    "claim.after": 3,
    "get.after": 30,
    "put.before": 30,
    "put.after": 30,
    "outcome.before": 12,
    "outcome.inside": 12,
    "outcome.after": 12,
    "drain": 1,
    "leave.before": 1,
}
WORKER_POINTS = {
    "process.applied": 2,
    "process.between": 2,
    "process.after": 2,
    "ingest.before": 2,
    "ingest.after": 2,
    "meters.before": 2,
    "meters.after": 2,
}

#: `sync`, `full`, `resync`; `run changes`, `run full` and `worker` of the daemon; or a command of
#: the program as it is.
Kind = str
SourceKind = Literal["breaks", "ends", "missing", "empty", "partial"]
What = Literal["kill", "term", "clock", "call"]
Decision = Literal["approve", "reject"]


@dataclass(frozen=True)
class Act:
    """When a process reaches `point` for the `hit`-th time: it is killed, is told to end, its clock
    moves by `hours`, or a call of Engage comes in and is sorted right there."""

    point: str
    hit: int
    what: What
    hours: float = 0.0

    def __str__(self) -> str:
        does = {
            "kill": "killed",
            "term": "told to end",
            "clock": f"its clock moves by {self.hours:+.1f} h",
            "call": "a newer call of Engage is processed",
        }[self.what]
        return f"{does} at {self.point} (time {self.hit})"


@dataclass(frozen=True)
class Process:
    """A process of the product: `sync`, `sync --full` and `resync` as the command line has them,
    the daemon's own run, or its worker. `clock` is by how many hours its clock is wrong from the
    start; `pages` is how many pages (of 4 KiB) the disk has left for it; `killed_after` seconds it
    is killed wherever it is."""

    kind: Kind
    acts: tuple[Act, ...] = ()
    clock: float = 0.0
    pages: int | None = None
    killed_after: float | None = None
    right_key: bool = True

    def __str__(self) -> str:
        parts = [str(act) for act in self.acts]
        if self.clock:
            parts.append(f"clock {self.clock:+.1f} h off")
        if self.pages is not None:
            parts.append(f"disk full after {self.pages} pages")
        if self.killed_after is not None:
            parts.append(f"killed after {self.killed_after:.2f} s")
        if not self.right_key:
            parts.append("with a wrong key")
        return self.kind + (f": {', '.join(parts)}" if parts else "")


@dataclass(frozen=True)
class SourceFault:
    """What is wrong with the source for a round: the driver breaks off after `rows` rows, the
    stream ends after them as if all were there, a table is missing, all trait rows are gone, or
    most of those of one audience."""

    kind: SourceKind
    rows: int = 0

    @property
    def lies(self) -> bool:
        """Whether a pull that succeeds does not see what Engage says."""
        return self.kind in ("empty", "partial")

    def __str__(self) -> str:
        return {
            "breaks": f"the source breaks off after {self.rows} rows",
            "ends": f"the stream ends after {self.rows} rows",
            "missing": "a table is missing",
            "empty": "the source is empty",
            "partial": "most rows of an audience are gone",
        }[self.kind]


@dataclass(frozen=True)
class Round:
    """What passes at Engage before (`hours`, 0: nothing), `calls` that come in before and while the
    processes work, and the faults. `amberflo` is a spec of `Faults`; `locked` says for how many
    seconds another program holds the state; `ended` after how many the server cuts all off.

    When the processes are over, somebody may decide on what is held, and runs `follow`, one after
    the other: with the source as it was, and Amberflo well again."""

    processes: tuple[Process, ...]
    hours: float = 0.0
    fraction: float = 0.0
    vanish: int = 0
    calls: int = 0
    calls_during: int = 0
    amberflo: str = ""
    source: SourceFault | None = None
    locked: float | None = None
    ended: float | None = None
    decision: Decision | None = None
    follow: tuple[Kind, ...] = ()

    def words(self) -> Iterator[str]:
        if self.hours:
            yield f"{self.hours:.1f} h pass, {self.fraction:.0%} change, {self.vanish} vanish"
        if self.calls or self.calls_during:
            yield f"{self.calls} calls before, {self.calls_during} during"
        if self.amberflo:
            yield f"Amberflo {self.amberflo}"
        if self.source is not None:
            yield str(self.source)
        if self.locked is not None:
            yield f"another program holds the state for {self.locked:.1f} s"
        if self.ended is not None:
            yield f"the state's server cuts all off after {self.ended:.2f} s"
        yield from map(str, self.processes)
        if self.decision is not None:
            yield f"then somebody decides: {self.decision}"
        if self.follow:
            yield f"then {', '.join(self.follow)}"


@dataclass(frozen=True)
class Scenario:
    """All that a seed decides. `poisoned` customers are such as Amberflo refuses until the end."""

    seed: int
    postgres: bool
    profiles: int
    audiences: int
    concurrency: int
    rate: int
    put_unknown: Literal["create", "refuse"]
    poisoned: int
    rounds: tuple[Round, ...]

    def words(self) -> str:
        """The scenario for people."""
        lines = [
            f"{self.profiles} profiles, {self.audiences} audiences, {self.concurrency} at a time, "
            f"rate {self.rate or 'unlimited'}, PUT of an unknown customer: {self.put_unknown}, "
            f"{self.poisoned} refused, state on {'PostgreSQL' if self.postgres else 'SQLite'}"
        ]
        for number, plan in enumerate(self.rounds, 1):
            lines += [f"round {number}: " + "; ".join(plan.words())]
        return "\n".join(f"  {line}" for line in lines)


def draw(seed: int, *, postgres: bool = False, short: bool = False) -> Scenario:
    """The scenario of a seed; a `short` one has fewer people and two rounds."""
    rng = Random(f"scenario/{seed}")
    return Scenario(
        seed=seed,
        postgres=postgres,
        profiles=rng.randint(20, 40) if short else rng.randint(30, 120),
        audiences=rng.randint(3, 6),
        concurrency=rng.choice((1, 3, 8, 16)),
        rate=rng.choice((0, 0, 0, 300)),
        put_unknown=rng.choice(("create", "create", "refuse")),
        poisoned=rng.choice((0, 0, 0, 0, 1, 3)),
        rounds=tuple(
            _round(rng, number, postgres) for number in range(2 if short else rng.randint(3, 5))
        ),
    )


def _round(rng: Random, number: int, postgres: bool) -> Round:
    source = _source(rng)
    lies = source is not None and source.lies
    passes = number > 0 and rng.random() < 0.85 and not lies
    locked = rng.uniform(0.4, 0.9) if number and rng.random() < 0.12 else None
    ended = rng.uniform(0.02, 0.4) if postgres and rng.random() < 0.3 else None
    kinds: list[Kind] = [rng.choice(_RUNS) if number else rng.choice(("sync", "run changes"))]
    if rng.random() < 0.08:
        kinds.append("sync")
    if rng.random() < 0.5:
        kinds += ["worker"] * (rng.choice((1, 2)) if postgres else 1)
    amberflo = _amberflo(rng)
    if lies and rng.random() < 0.5:
        # What is found then is held by a run whose delivery may fail.
        kinds[0], amberflo = rng.choice(("full", "resync")), rng.choice((amberflo, "500=1"))
    decision, follow = _afterwards(rng, lies)
    return Round(
        processes=tuple(_process(rng, kind, postgres) for kind in kinds),
        hours=rng.uniform(0.3, 5.0) if passes else 0.0,
        # Now and then so many leave that the guard holds what is true.
        fraction=rng.uniform(0.5, 0.9) if rng.random() < 0.15 else rng.uniform(0.02, 0.15),
        vanish=rng.choice((0, 0, 2, 5)),
        calls=rng.choice((0, 0, 3, 12)),
        calls_during=rng.choice((0, 3)) if "worker" in kinds else 0,
        amberflo=amberflo,
        source=source,
        locked=locked,
        ended=ended,
        decision=decision,
        follow=follow,
    )


def _afterwards(rng: Random, lies: bool) -> tuple[Decision | None, tuple[Kind, ...]]:
    """What somebody decides, and the runs after that. Nobody approves a source that lies."""
    decisions: tuple[Decision | None, ...] = (None, "reject" if lies else "approve", "reject")
    often = lies or rng.random() < 0.3
    decision = rng.choice(decisions) if often else None
    return decision, tuple(rng.choice(_RUNS) for _ in range(rng.choice((0, 1, 2, 3)) * often))


_RUNS: tuple[Kind, ...] = (
    *(
        "sync",
        "sync",
        "sync",
        "sync",
        "full",
        "full",
        "resync",
        "run changes",
        "run changes",
        "run full",
    ),
)


def _process(rng: Random, kind: Kind, postgres: bool) -> Process:
    points = DELIVERY_POINTS | (WORKER_POINTS if kind == "worker" else RUN_POINTS)
    acts: list[Act] = []
    if rng.random() < 0.55:
        point = rng.choice(tuple(points))
        hit = rng.randint(1, points[point])
        if point in ("drain", "leave.before") and rng.random() < 0.7:
            acts.append(Act(rng.choice(("put.before", "get.after")), rng.randint(1, 20), "term"))
        acts.append(Act(point, hit, rng.choice(("kill", "kill", "kill", "term"))))
    if rng.random() < 0.15:
        point = rng.choice(tuple(points))
        hours = rng.choice((-1, 1)) * rng.uniform(0.5, 8.0)
        acts.append(Act(point, rng.randint(1, points[point]), "clock", hours))
    if kind != "worker" and rng.random() < 0.2:
        point = rng.choice(("commit.before", "pull.row", "commit.after", "pull.after"))
        acts.append(Act(point, 1, "call"))
    return Process(
        kind=kind,
        acts=tuple(acts),
        clock=rng.choice((-1, 1)) * rng.uniform(0.5, 8.0) if rng.random() < 0.12 else 0.0,
        pages=rng.randint(0, 40) if not postgres and rng.random() < 0.12 else None,
        killed_after=rng.uniform(0.01, 0.8) if rng.random() < 0.12 else None,
        right_key=kind == "worker" or rng.random() > 0.05,
    )


_SOURCES: tuple[SourceKind, ...] = ("breaks", "breaks", "ends", "missing", "empty", "partial")


def _source(rng: Random) -> SourceFault | None:
    if rng.random() > 0.25:
        return None
    return SourceFault(rng.choice(_SOURCES), rng.randrange(30))


def _amberflo(rng: Random) -> str:
    """A spec of `Faults`. A request may take 0.3 s (runner.py), so 0.45 s is too slow."""
    if rng.random() < 0.07:
        return rng.choice(("500=1", "drop_before=1", "429=1,retry_after=1", "drop_after=1"))
    faults = []
    for name, most in (("429", 0.25), ("500", 0.2), ("503", 0.1), ("drop_after", 0.3)):
        if rng.random() < 0.25:
            faults.append(f"{name}={rng.uniform(0.01, most):.2f}")
    if rng.random() < 0.15:
        faults.append(f"drop_before={rng.uniform(0.01, 0.1):.2f}")
    if rng.random() < 0.4:
        seconds = rng.choice((0.03, 0.03, 0.45))
        share = rng.uniform(0.02, 0.15 if seconds > 0.3 else 0.6)
        faults.append(f"slow={share:.2f},slow_seconds={seconds}")
    if any(fault.startswith("429") for fault in faults):
        faults.append(f"retry_after={rng.choice((0, 0, 0, 1))}")
    return ",".join(faults)


#: One in which nothing befalls.
CALM = Scenario(
    seed=1, postgres=False, profiles=25, audiences=3, concurrency=8, rate=0, put_unknown="create",
    poisoned=0,
    rounds=(
        Round((Process("sync"),)),
        Round((Process("sync"), Process("worker")), hours=2.5, fraction=0.3, calls=20),
        Round((Process("sync"),), hours=2.5, fraction=0.3),
    ),
)  # fmt: skip
