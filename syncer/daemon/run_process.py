"""The child process of one run.

Neither its memory nor its load affects the receiver, and its crash does not end the daemon.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from state import runs
from state.errors import Locked, StateError
from syncer.app import App
from syncer.clock import now_ms
from syncer.config import Config
from syncer.databases import open_database
from syncer.errors import ConfigError, Stopped
from syncer.process.child import EXIT_BUSY, keep_reporting, report
from syncer.process.unexpected import log_error
from syncer.progress import LineProgress
from syncer.sync.run_result import Result

log = logging.getLogger("syncer.run")


def run_once(config: Config, stop: Callable[[], bool], *, full: bool) -> None:
    """Make a run. Exits with 0, with 1 if it failed, or with EXIT_BUSY."""
    keep_reporting()
    app, began = App(config, LineProgress(log.info), stop), now_ms()
    try:
        with app.runs(recorded=True) as runner:
            runner.patience = 0.5  # who looks whether the lock is free takes it for an instant
            _report(runner.sync(full=full))
    except Locked as busy:
        log.info("%s", busy)
        sys.exit(EXIT_BUSY)
    except Stopped as stopped:
        log.info("%s", stopped)
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - it is on record
        _record(config, began, full, log_error(log, "the run failed", error))
        sys.exit(1)


def _record(config: Config, began: int, full: bool, error: str) -> None:
    """Record a run that failed before it could record itself."""
    kind = "reconcile" if full else "incremental"
    values = {"state": runs.FAILED, "ended_at": now_ms(), "error": error}
    try:
        with open_database(config, writes=True) as database, database.write() as connection:
            newest = runs.newest(connection, 1)
            if not newest or newest[0].started_at < began:
                runs.set_values(connection, runs.start(connection, kind, began, ""), values)
    except (StateError, ConfigError):
        report({"run": error})  # the daemon records it as soon as it can


def _report(result: Result) -> None:
    ids = {"run": result.run, "kind": result.kind, "state": result.state}
    delivery = result.delivery
    for key, reason in result.held.items():
        log.warning("held: %s: %s", key, reason, extra={"run": result.run, "audience": key})
    for notice in result.notices:
        log.warning("%s", notice, extra={"run": result.run})
    for problem in result.problems:
        log.error("%s", problem, extra={"run": result.run})
    log.info(
        "run ended: %s delivered (%s already right), %s refused",
        f"{delivery.delivered:,}",
        f"{delivery.already_right:,}",
        f"{delivery.failed:,}",
        extra=ids,
    )
    if result.problems:
        sys.exit(1)
