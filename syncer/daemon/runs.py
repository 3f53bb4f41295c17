"""A run of the daemon: a process of its own, so that neither its memory nor its work is a burden to
the calls, and what becomes of it cannot take the daemon along."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

import orjson

from state import runs
from state.database import Database
from state.errors import Locked, StateError
from syncer.app import App
from syncer.config import Config
from syncer.daemon.process import settle_in
from syncer.errors import Stopped, SyncerError
from syncer.report import LineProgress
from syncer.sync.run import Result
from syncer.sync.schedule import Past

log = logging.getLogger("syncer.run")

#: Exit status of a run's process where another run was going on (EX_TEMPFAIL).
BUSY = 75


def run_once(config: Config, lifeline: Connection, full: bool) -> None:
    """The process of one run. Exits with 0, 1 where it failed, or `BUSY`."""
    stop = settle_in(config, lifeline)
    app = App(config, LineProgress(log.info), stop)
    try:
        with app.runs() as found:
            found.patience = 0.0
            found.progress = LineProgress(log.info, teller(found.database))
            _report(found.sync(full=full))
    except Locked as busy:
        log.info("%s", busy)
        sys.exit(BUSY)
    except Stopped as stopped:
        log.info("%s", stopped)
        sys.exit(1)
    except (SyncerError, StateError) as error:
        log.error("the run failed: %s", error)
        sys.exit(1)


def teller(database: Database) -> Any:
    """What puts a run's progress where `status` finds it."""

    def tell(doing: Mapping[str, Any] | None) -> None:
        with database.write() as connection:
            runs.tell(connection, None if doing is None else orjson.dumps(doing).decode())

    return tell


def _report(result: Result) -> None:
    ids = {"run": result.run, "kind": result.kind, "state": result.state}
    delivery = result.delivery
    for key, reason in result.held.items():
        log.warning("held: %s: %s", key, reason, extra={"run": result.run, "audience": key})
    for problem in result.problems:
        log.error("%s", problem, extra={"run": result.run})
    log.info(
        "run ended: %s delivered, %s refused",
        f"{delivery.delivered:,}",
        f"{delivery.failed:,}",
        extra=ids,
    )
    if result.problems:
        sys.exit(1)


def past(database: Database) -> Past:
    """When the last good run and the last good one that compared everything began."""
    with database.read() as connection:
        start, full = runs.last_good(connection, ()), runs.last_good(connection, runs.FULL)
    return Past(None if start is None else start / 1000, None if full is None else full / 1000)


def left_undone(database: Database) -> bool:
    """Whether the newest run was cut off, stopped or failed: the next start makes a run at once."""
    with database.read() as connection:
        newest = runs.newest(connection, 1)
    bad = (runs.RUNNING, runs.INTERRUPTED, runs.FAILED)
    return not newest or newest[0]["state"] in bad
