"""Plays a scenario against real databases and a real server on loopback.

What a run committed is looked at after each round; when the faults are over, clean runs follow
until all is done; then the checks judge what is left.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from state import due, lanes
from syncer.sandbox.faults import Faults

from . import checks
from .child import Play
from .fork import Child
from .scenario import Process, Round, Scenario, SourceFault
from .world import BOUND, World, now

#: Seconds a worker gets to go on when the runs beside it are over.
LINGER = 0.3
#: Milliseconds after which a record is put off that is due then.
SOON = 120_000


@dataclass
class Outcome:
    """How a scenario ended; `log` is what its processes said."""

    scenario: Scenario
    violations: list[str]
    log: str
    seconds: float
    evidence: checks.Evidence


def play(
    scenario: Scenario,
    postgres_url: str | None = None,
    how: Callable[[Performance], checks.Evidence] = lambda performance: performance.play(),
) -> Outcome:
    """Play it, or what `how` does. With `scenario.postgres` the state is in the (empty) database at
    this URL."""
    began = time.monotonic()
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir=where))
    try:
        with Performance.open(scenario, folder, postgres_url) as performance:
            evidence = how(performance)
            log = performance.log()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Outcome(scenario, checks.violations(evidence), log, time.monotonic() - began, evidence)


@dataclass
class Performance(World):
    """One scenario being played."""

    #: the newest run that was looked at
    looked: int = 0

    def play(self) -> checks.Evidence:
        self.model.look(0)
        for number, plan in enumerate(self.scenario.rounds):
            self._round(number, plan)
        self._end_well()
        return self.evidence()

    def _round(self, number: int, plan: Round) -> None:
        rng = Random(f"{self.scenario.seed}/{number}")
        if plan.hours:
            self.engage.evolve(plan.hours, plan.fraction, vanish=plan.vanish)
            self.model.look(len(self.amberflo.writes))
        if number == 1:
            self.poison(rng)
        self.call(rng, plan.calls)
        self.amberflo.faults = Faults.parse(plan.amberflo, seed=self.scenario.seed + number)
        crossing = self.model.crossing(rng, now())
        lies = plan.source is not None and plan.source.lies
        if lies and (not self.model.all_seen() or self._kept_back()):
            # Who is pulled for the first time, or was held until now, is not known better.
            plan = replace(plan, source=None)
        before = len(self.amberflo.writes)
        with ExitStack() as stack:
            stack.enter_context(self.source(plan.source))
            if plan.locked is not None and not self.scenario.postgres:
                self.lock_for(plan.locked)
            workers = [
                self._start(process, plan, None)
                for process in plan.processes
                if process.kind == "worker"
            ]
            runs = [
                self._start(process, plan, crossing if place == 0 else None)
                for place, process in enumerate(
                    process for process in plan.processes if process.kind != "worker"
                )
            ]
            self._meanwhile(rng, plan, [*runs, *workers])
            for child in runs:
                self.end_of(child)
            for child in workers:
                child.wait(LINGER)
                child.let_end()
            for child in workers:
                self.end_of(child)
            self._afterwards(plan)
        if runs[0].calls_told() and crossing is not None:
            self.model.accepted([crossing], before)
        self._look(plan.source)

    def _afterwards(self, plan: Round) -> None:
        """Somebody decides, and runs follow, each in peace but for what the source says."""
        if plan.decision is None and not plan.follow:
            return
        self.amberflo.faults = Faults()
        if plan.decision is not None:
            for run in self._undecided():
                self._command(f"runs {plan.decision} {run} --yes", (0, 1, 3))
        for kind in plan.follow:
            self._command(kind, (0, 1, 3))

    def _start(self, process: Process, plan: Round, crossing: dict[str, Any] | None) -> Child:
        config = self.config("usual" if process.right_key else "wrong-key")
        play = Play(
            process,
            config,
            self.folder / "temporary",
            plan.source,
            plan.locked is not None,
            crossing,
        )
        return self.fork_off(process.kind, play)

    def _meanwhile(self, rng: Random, plan: Round, children: list[Child]) -> None:
        """What comes from outside while the processes work, each at its moment."""
        moments: list[tuple[float, Callable[[], None]]] = []
        runs = [process for process in plan.processes if process.kind != "worker"]
        workers = [process for process in plan.processes if process.kind == "worker"]
        for child, process in zip(children, [*runs, *workers], strict=True):
            if process.killed_after is not None:
                moments.append((process.killed_after, child.kill))
        if plan.calls_during:
            moments.append((rng.uniform(0, 0.3), lambda: self.call(rng, plan.calls_during)))
        if plan.ended is not None:
            moments.append((plan.ended, self.end_connections))
        began = time.monotonic()
        for at, do in sorted(moments, key=lambda moment: moment[0]):
            while time.monotonic() - began < at and not all(c.ended() for c in children):
                time.sleep(0.005)
            do()

    # What is looked at

    def _look(self, source: SourceFault | None) -> None:
        """A run that committed wrote what Engage said, and what counts as acknowledged is there."""
        tables = self.tables("customer", "change", "run")
        truth = {customer.customer_id: customer.traits for customer in self.engage.expected()}
        runs = [row for row in tables["run"] if row["id"] > self.looked]
        self.looked = max((row["id"] for row in runs), default=self.looked)
        for row in tables["change"]:
            if row["run"] is None or row["run"] not in {run["id"] for run in runs}:
                continue
            if (row["customer_id"], row["key"]) in self.model.memberships:
                continue  # a call may be newer
            if row["trait"] in ("customerName", "customerEmail"):
                continue
            after = json.loads(row["after"] or "null")
            says = truth.get(row["customer_id"], {}).get(row["trait"])
            if json.dumps(after) != json.dumps(says):
                self.notes.append(
                    f"run {row['run']} wrote {row['trait']} of {row['customer_id']!r} is {after}, "
                    f"Engage says {says}"
                )
        lies = source is not None and source.lies
        if any(row["kind"] == "resync" and row["committed_at"] for row in runs):
            self.model.resynced()
        if not lies and any(row["committed_at"] for row in runs):
            self.model.observe()
        self._check_acknowledged(tables["customer"])

    def _check_acknowledged(self, customers: list[checks.Row]) -> None:
        holds = self.amberflo.customers
        for row in customers:
            if row["acked_rev"] != row["rev"]:
                continue
            traits = json.loads(row["traits"])
            held = holds.get(row["customer_id"], {}).get("traits", {})
            wrong = [
                name
                for name, value in traits.items()
                if isinstance(value, bool) and held.get(name) is not value
            ]
            if wrong:
                self.notes.append(
                    f"{row['customer_id']!r} counts as acknowledged and is not at Amberflo: "
                    f"{ {name: (traits[name], held.get(name)) for name in wrong} }"
                )

    # The end

    def _end_well(self) -> None:
        """The faults are over: clean runs until nothing is left to do."""
        self.amberflo.faults = Faults()
        for customer_id in self.poisoned:
            self.amberflo.customers[customer_id].pop("strange", None)
        self._work_off()
        for run in self._rejected():
            self._command(f"runs lift {run}", (0,))
        self._command("full", (0, 1, 3))
        self._look(None)
        for _ in range(6):
            undecided = self._undecided()
            if not undecided:
                break
            self._command(f"runs approve {undecided[0]} --yes", (0, 1, 3))
            self._look(None)
        if self.tables("failure")["failure"]:
            self._command("failures retry --all", (0,))
        self._work_off()
        self._command("full", (0,))
        self._look(None)
        last = self.tables("run")["run"][-1]
        if last["due"]:
            self.notes.append(f"the last run had nothing to do and found {last['due']} due")

    def _undecided(self) -> list[int]:
        """The runs that found what waits for a decision."""
        rows = self.tables("hold")["hold"]
        return sorted({row["since_run"] for row in rows if row["decision"] is None})

    def _rejected(self) -> list[int]:
        """The runs that found what is rejected and still in force."""
        tables = self.tables("hold", "held_change")
        held = {row["hold"] for row in tables["held_change"] if row["ended_at"] is None}
        return sorted(
            {
                row["since_run"]
                for row in tables["hold"]
                if row["decision"] == "rejected" and row["id"] in held
            }
        )

    def _kept_back(self) -> bool:
        return bool(self._undecided() or self._rejected())

    def _command(self, kind: str, good: tuple[int, ...]) -> None:
        child = self.fork_off(kind, self._patient(kind))
        self.end_of(child)
        if child.status not in good:
            self.notes.append(f"the clean {kind} gave {child.status}: {child.log.read_text()}")

    def _work_off(self) -> None:
        """A worker until nothing is due and who died is buried, at most `BOUND` seconds; none where
        nothing is to be done."""
        if not self._waiting() and not self.tables("worker")["worker"]:
            return
        child = self.fork_off("worker", self._patient("worker"))
        until = time.monotonic() + BOUND
        while not child.ended() and time.monotonic() < until:
            dead = [row for row in self.tables("worker")["worker"] if row["pid"] != child.pid]
            if not dead and not self._waiting():
                break
            time.sleep(0.02)
        child.let_end()
        self.end_of(child)

    def _waiting(self) -> bool:
        tables = self.tables("customer", "event", "inbox", "early_call", "trait")
        # What was put off waits for the runs, or for somebody who sends it again.
        customers = [row for row in tables["customer"] if row["line"] != lanes.PUT_OFF]
        events = [row for row in tables["event"] if _comes(row["due_at"] or 0)]
        rows = [row for row in customers + events if row["due_at"] is not None]
        keys = {row["key"] for row in tables["trait"]}
        early = [row for row in tables["early_call"] if row["key"] in keys]
        return bool(rows or tables["inbox"] or early)

    def _patient(self, kind: str) -> Play:
        config, temporary = self.config("patient"), self.folder / "temporary"
        return Play(Process(kind), config, temporary, None, False, None)


def _comes(due_at: int) -> bool:
    """Whether it is due soon, or was put off by a clock that was wrong, so is due at once."""
    return due_at < now() + SOON or due_at > now() + due.LONGEST
