"""What a kill leaves behind, and what the next run makes of it.

Real processes that die at real moments. Whatever happens, in the end Amberflo holds what Engage
says, every change has its delivery, and the history tells nothing that did not happen.
"""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from syncer.sandbox.engage import EngageSandbox
from syncer.sandbox.faults import Faults
from tests.e2e.crashes.helpers import (
    SLOW,
    WORKERS,
    State,
    Traits,
    differences,
    ended,
    no_traceback,
    traits_of,
    wait_until,
    writes,
)
from tests.support.installation import Installation, expected_records


@dataclass
class Killing:
    """Rounds of a changing source and a `sync` that is killed, with what must have come of it."""

    installation: Installation
    engage: EngageSandbox
    state: State
    rng: random.Random
    #: what the last committed pull saw
    known: Traits = field(default_factory=dict)
    #: by run, what its history must be
    histories: dict[int, set[tuple[str, str, str, str]]] = field(default_factory=dict)
    #: customers that committed runs changed, and kills while one was at work
    changed: int = 0
    killed: int = 0
    killed_in: set[str] = field(default_factory=set)

    def round(self, moment: str) -> None:
        """One `sync`, killed at a moment of this kind."""
        before = len(self.state.runs())
        with self._source_locked(moment == "pull"):
            process = self.installation.start("sync")
            with ended(process):
                self._wait(moment, process, before)
                process.kill()
                _, said = process.communicate(timeout=30)
        no_traceback(said)
        if process.returncode == -signal.SIGKILL:
            self.killed += 1
            self.killed_in.add(self._phase(before))
        self._look(before)
        self._check_acknowledged()

    @contextmanager
    def _source_locked(self, lock: bool) -> Iterator[None]:
        """A pull waits while it is."""
        path = self.installation.folder / "engage.db"
        with closing(sqlite3.connect(path, isolation_level=None)) as source:
            if lock:
                source.execute("BEGIN EXCLUSIVE")
            yield

    def _wait(self, moment: str, process: subprocess.Popen[str], before: int) -> None:
        if moment == "start":
            time.sleep(self.rng.uniform(0.1, 0.9))
        elif moment in ("pull", "commit"):
            wait_until(lambda: len(self.state.runs()) > before, process)
            time.sleep(self.rng.uniform(0.0, 0.15))
        else:
            enough = writes(self.installation) + self.rng.randrange(1, 40)
            wait_until(lambda: writes(self.installation) >= enough, process)

    def _phase(self, before: int) -> str:
        if len(self.state.runs()) == before:
            return "before"
        return "delivery" if self.state.runs()[-1]["committed_at"] else "pull"

    def _look(self, before: int) -> None:
        """A run that committed has taken the whole pull; one that did not has taken nothing."""
        for run in self.state.runs()[before:]:
            now = traits_of(self.engage)
            if run["committed_at"]:
                self.histories[run["id"]] = differences(self.known, now)
                self.changed += int(run["due"])
                self.known = now
                self.engage.observe()
        rows = self.state.rows("SELECT customer_id, traits FROM customer")
        assert {row["customer_id"]: json.loads(row["traits"]) for row in rows} == self.known

    def _check_acknowledged(self) -> None:
        """What the state says Amberflo has is there."""
        customers = self.installation.amberflo.customers
        for row in self.state.rows("SELECT * FROM customer WHERE acked_rev = rev"):
            assert customers[row["customer_id"]]["traits"] == at_amberflo(json.loads(row["traits"]))

    def finish(self) -> None:
        """The next run ends it all."""
        self.installation.amberflo.faults = Faults()
        before = len(self.state.runs())
        assert self.installation.json("sync")["state"] == "done"
        self._look(before)
        assert self.installation.holds() == expected_records(self.engage)
        assert self.installation.json("sync", "--full")["due"] == 0
        assert self.installation.amberflo.stats()["overlapping_writes"] == 0

        *killed, _last, _full = self.state.runs()
        unfinished = [run for run in killed if run["state"] != "done"]
        assert {run["state"] for run in unfinished} <= {"interrupted"}
        assert all(run["ended_at"] and run["error"] for run in unfinished)
        assert 0 < len(unfinished) <= self.killed

        changes = self.state.rows("SELECT * FROM change ORDER BY id")
        assert all(change["delivered_at"] for change in changes)
        told: dict[int, list[tuple[str, str, str, str]]] = {}
        replayed: Traits = {}
        for change in changes:
            traits = replayed.setdefault(change["customer_id"], {})
            values = [json.loads(change[side] or "null") for side in ("before", "after")]
            assert traits.get(change["trait"]) == values[0], change
            traits[change["trait"]] = values[1]
            told.setdefault(change["run"], []).append(
                (change["customer_id"], change["trait"], *map(json.dumps, values))
            )
        assert replayed == self.known
        assert {run: set(lines) for run, lines in told.items()} == {
            run: lines for run, lines in self.histories.items() if lines
        }
        assert all(len(set(lines)) == len(lines) for lines in told.values())

        # Only what was under way at a kill is sent twice.
        sent = sum(self.installation.puts().values())
        assert sent <= self.changed + self.killed * WORKERS


def at_amberflo(traits: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.replace("/", "_").replace("|", "_") if isinstance(value, str) else value
        for name, value in traits.items()
    }


def test_a_run_may_be_killed_at_any_moment(
    installation: Installation, engage: EngageSandbox
) -> None:
    kill_often(installation, engage, f"sqlite:///{installation.folder / 'syncer.db'}", 10, seed=1)


def test_a_run_may_be_killed_at_any_moment_on_postgresql(
    installation: Installation, engage: EngageSandbox, postgres_url: str
) -> None:
    kill_often(installation, engage, postgres_url, 4, seed=2)


def kill_often(
    installation: Installation, engage: EngageSandbox, url: str, rounds: int, *, seed: int
) -> None:
    installation.configure(state=url, concurrency=WORKERS)
    installation.amberflo.faults = Faults.parse(SLOW)
    engage.fill(120, 5)
    moments = ["delivery", "pull", "commit", "commit", "start"]
    with closing(State(url)) as state:
        killing = Killing(installation, engage, state, random.Random(seed))
        for number in range(rounds):
            killing.round(moments[number % len(moments)])
            if number % 3 != 1:
                engage.evolve(fraction=0.15)
        assert {"pull", "delivery"} <= killing.killed_in
        killing.finish()
