"""The process of what somebody asked for on the page: does it, and says on standard output how it
ended: {"good": …, "says": …}."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import orjson

from state.errors import StateError
from syncer.app import App, teller
from syncer.config import Config
from syncer.errors import SyncerError
from syncer.progress import LineProgress
from syncer.sync.runs import Result, Runs

log = logging.getLogger("syncer.web")

#: Seconds that it waits for the end of a run that goes on.
PATIENCE = 30.0
#: What stands for all failures up to the newest one that was seen.
ALL = "all"


@dataclass(frozen=True)
class Outcome:
    good: bool
    says: str


def asked(config: Config, stop: Callable[[], bool], what: str, arguments: Sequence[str]) -> None:
    """ "approve" RUN, "resync" CUSTOMER_ID, or "retry" (a failure's number or ALL) NEWEST."""
    app = App(config, LineProgress(log.info), stop)
    try:
        with app.runs() as found:
            found.patience = PATIENCE
            found.progress = LineProgress(log.info, teller(found.database))
            if what == "approve":
                outcome = _of_run(found.approve(int(arguments[0])))
            elif what == "resync":
                outcome = _of_run(found.resync(customer_id=arguments[0]))
            else:
                outcome = _retry(app, found, arguments[0], int(arguments[1]))
    except (SyncerError, StateError) as error:
        outcome = Outcome(False, str(error))
    sys.stdout.buffer.write(orjson.dumps(outcome))
    sys.stdout.flush()


def _retry(app: App, found: Runs, which: str, newest: int) -> Outcome:
    """Send failures again."""
    delivery = app.retry(found, None if which == ALL else [int(which)], newest)
    says = f"{delivery.delivered:,} delivered, {delivery.failed:,} refused again"
    good = not (delivery.failed or delivery.problem or delivery.stopped)
    return Outcome(good, f"{says}; {delivery.problem}" if delivery.problem else says)


def _of_run(result: Result) -> Outcome:
    delivery = result.delivery
    says = f"run {result.run} {result.state}: {delivery.delivered:,} delivered"
    if delivery.failed:
        says += f", {delivery.failed:,} refused"
    held = [f"{key} is held: {why}" for key, why in result.held.items()]
    return Outcome(not result.problems and not held, "; ".join([says, *held, *result.problems]))
