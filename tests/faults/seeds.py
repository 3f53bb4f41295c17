"""One seed: draw, play, and what to say of it."""

from __future__ import annotations

import os
import traceback
from contextlib import nullcontext

from tests.support.postgres import database

from . import daemon
from .checks import Evidence
from .runner import Outcome, Performance, play
from .scenario import draw


def run_seed(seed: int, postgres: bool, of_daemon: bool) -> tuple[bool, str, str]:
    """Whether it went wrong, what to say of it, and what its processes said."""
    scenario = (daemon.draw if of_daemon else draw)(seed, postgres=postgres)

    def how(performance: Performance) -> Evidence:
        return daemon.play(performance, seed) if of_daemon else performance.play()

    place = database(os.environ["TEST_POSTGRES_URL"]) if postgres else nullcontext(None)
    try:
        with place as url:
            outcome = play(scenario, url, how)
    except Exception:  # one that cannot be played must not keep back what the others gave
        return True, f"seed {seed}: cannot be played\n{traceback.format_exc()}", ""
    return bool(outcome.violations), told(outcome, of_daemon), outcome.log


def told(outcome: Outcome, of_daemon: bool) -> str:
    """A line; with violations, all that is needed to look into them."""
    scenario, evidence = outcome.scenario, outcome.evidence
    runs = evidence.tables["run"]
    cut = sum(run["state"] in ("interrupted", "failed") for run in runs)
    line = (
        f"seed {scenario.seed}: {len(scenario.rounds)} rounds, {len(runs)} runs ({cut} cut off or "
        f"failed), {len(evidence.writes)} writes, {len(evidence.records)} meters, "
        f"{outcome.seconds:.1f} s"
    )
    if not outcome.violations:
        return line + ", good"
    more = (" --postgres" if scenario.postgres else "") + (" --daemon" if of_daemon else "")
    return "\n".join(
        [
            f"{line}, {len(outcome.violations)} VIOLATIONS",
            scenario.words(),
            *(f"  ! {violation}" for violation in outcome.violations),
            f"  again: python -m tests.faults --seed {scenario.seed}{more}",
        ]
    )
