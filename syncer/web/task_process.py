"""The child process of one task of the page.

It writes its result to standard output: {"ok": …, "message": …}.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

import orjson

from state.errors import StateError
from syncer.app import App
from syncer.config import Config
from syncer.errors import SyncerError
from syncer.progress import LineProgress
from syncer.resend import resend
from syncer.sync.decision import Attribution
from syncer.sync.preview import preview
from syncer.sync.run_result import Result
from syncer.sync.runs import Runs

log = logging.getLogger("syncer.web")

#: Seconds to wait for the end of another run.
PATIENCE = 30.0
#: Names all failures, up to the newest one that the user saw.
ALL = "all"


@dataclass(frozen=True)
class Outcome:
    ok: bool
    message: str


def run_task(
    config: Config, stop: Callable[[], bool], action: str, arguments: Sequence[str]
) -> None:
    """Do `approve RUN BY BECAUSE`, `resync CUSTOMER_ID`, `retry FAILURE NEWEST` or `preview`.

    FAILURE may be ALL.
    """
    app = App(config, LineProgress(log.info), stop)
    try:
        if action == "preview":
            _write(_preview(app))
            return
        with app.runs(recorded=True) as runs:
            runs.patience = PATIENCE
            if action == "approve":
                run, by, because = arguments
                outcome = _of_run(runs.approve(int(run), Attribution(by, because)))
            elif action == "resync":
                outcome = _of_run(runs.resync(customer_id=arguments[0]))
            else:
                outcome = _retry(app, runs, arguments[0], int(arguments[1]))
    except (SyncerError, StateError) as error:
        outcome = Outcome(False, str(error))
    _write(outcome)


def _write(outcome: Outcome) -> None:
    sys.stdout.buffer.write(orjson.dumps(outcome))
    sys.stdout.flush()


def _preview(app: App) -> Outcome:
    """Compare as the next run would, and change nothing."""
    with app.runs(writes=False) as runs, closing(runs.diff()) as compared:
        would = preview(compared, runs.database, app.config.amberflo.rate)
        problems = compared.catalog.messages
        return Outcome(not problems, "; ".join([str(would), *problems]))


def _retry(app: App, runs: Runs, which: str, newest: int) -> Outcome:
    """Send failures again."""
    delivery = resend(app, runs, None if which == ALL else [int(which)], newest)
    message = f"{delivery.delivered:,} delivered, {delivery.failed:,} refused again"
    ok = not (delivery.failed or delivery.problem or delivery.stopped)
    return Outcome(ok, f"{message}; {delivery.problem}" if delivery.problem else message)


def _of_run(result: Result) -> Outcome:
    delivery = result.delivery
    message = f"run {result.run} {result.state}: {delivery.delivered:,} delivered"
    if delivery.already_right:
        message += f" ({delivery.already_right:,} already right)"
    if delivery.failed:
        message += f", {delivery.failed:,} refused"
    held = [f"{key} is held: {reason}" for key, reason in result.held.items()]
    return Outcome(not result.problems and not held, "; ".join([message, *held, *result.problems]))
