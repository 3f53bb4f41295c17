"""The facts of the service's state: for `status`, the page's overview and the alerts.

Times are epoch milliseconds.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from sqlalchemy import Connection

from state import alerts, claim, failures, holds, lanes, outbox, problems, queue, runs
from state.alerts import AlertRow
from state.db import workers
from state.db.database import Database
from state.db.driver_errors import shown
from state.db.workers import WorkerRow
from state.problems import ProblemRow
from state.runs import RunRow
from syncer.clock import now_ms

#: Bytes: where the disk of the state has less room, that is a problem which nobody can record.
LEAST_ROOM = 1 << 20
#: How the name of an alert about a problem begins.
OF_PROBLEM = "problem:"


@dataclass(frozen=True)
class Status:
    """The state at one moment. `held` maps the keys that the guard holds to the run since which."""

    current_run: RunRow | None
    last_run: RunRow | None
    held: dict[str, int]
    waiting_customers: int
    #: (a part of them) tried again by themselves, as Amberflo takes others: they are failures
    put_off: int
    waiting_calls: int
    #: see `oldest_waiting`
    waiting_since: int | None
    #: what Amberflo does not take, and (a part of it) calls that are invalid
    failures: int
    invalid_calls: int
    alerts: list[AlertRow]
    #: what keeps parts from their work now
    problems: list[ProblemRow]

    @property
    def refused(self) -> int:
        """How many customers and meter records Amberflo does not take."""
        return self.failures - self.invalid_calls

    def lag(self, now: int) -> float:
        """Return the seconds for which the oldest customer or call has waited to be sent."""
        if self.waiting_since is None:
            return 0.0
        return max(0.0, (now - self.waiting_since) / 1000)


def oldest_waiting(of_state: Connection, of_queue: Connection) -> int | None:
    """Return since when the oldest customer or call waits to be sent; None where none does.

    This is the one definition of lag. A customer waits since its oldest change that is not
    delivered, or since it was made due; a call since its receipt. Customers and meter records that
    were put off, as Amberflo takes others, do not count: they are failures.
    """
    since = (
        outbox.waits_since(of_state),
        queue.oldest_untried(of_queue),
        _oldest_tried(of_state, of_queue),
    )
    return min((moment for moment in since if moment is not None), default=None)


def _oldest_tried(of_state: Connection, of_queue: Connection) -> int | None:
    """Return when the oldest record was received that was sent before and is no failure."""
    for part in queue.tried(of_queue):
        refs = {failures.meter_ref(message_id, key): at for at, message_id, key in part}
        put_off = failures.listed(of_state, refs)
        if waiting := [at for ref, at in refs.items() if ref not in put_off]:
            return min(waiting)
    return None


def gather(state: Database, calls: Database) -> Status:
    """Read the status from the state and the queue of calls."""
    with state.read() as connection, calls.read() as of_queue:
        newest = runs.newest(connection, 2)
        held = holds.open_keys(connection)
        waiting_customers = outbox.backlog(connection)
        put_off = claim.CUSTOMERS.count_in(connection, lanes.PUT_OFF)
        failed = failures.count(connection)
        invalid_calls = failures.count_calls(connection)
        active = alerts.active(connection)
        lasting = problems.active(connection)
        waiting_calls = sum(queue.waiting(of_queue))
        waiting_since = oldest_waiting(connection, of_queue)
    newest = runs.as_they_are(state, newest)
    current = newest[0] if newest and newest[0].state == runs.RUNNING else None
    ended = newest if current is None else newest[1:]
    return Status(
        current_run=current,
        last_run=ended[0] if ended else None,
        held=held,
        waiting_customers=waiting_customers,
        put_off=put_off,
        waiting_calls=waiting_calls,
        waiting_since=waiting_since,
        failures=failed,
        invalid_calls=invalid_calls,
        alerts=active,
        problems=[*_full_disk(state), *lasting],
    )


def _full_disk(state: Database) -> list[ProblemRow]:
    """Return the problem that the disk of the state is full: then none of it is on record."""
    if state.folder is None:
        return []
    try:
        room = shutil.disk_usage(state.folder).free
    except OSError:  # what asks the database next says why
        return []
    if room >= LEAST_ROOM:
        return []
    text = (
        f"the disk of {shown(state.engine.url)} has {room:,} bytes left: make room; until then "
        "nothing is taken, sent or recorded"
    )
    return [ProblemRow("state", text, now := now_ms(), now, 1, None)]


@dataclass(frozen=True)
class Daemon:
    """A daemon that runs. Only the one that schedules knows when the `next_run` starts."""

    pid: int
    host: str
    started_at: int
    schedules: bool
    next_run: int | None
    next_is_full: bool | None


def next_run(running: list[Daemon]) -> int | None:
    """Return when the next run starts, by the daemon that schedules: None where none does.

    A time that is over is that of the run that is under way, or of one that waits for another.
    """
    return next((daemon.next_run for daemon in running if daemon.next_run), None)


def daemons(state: Database) -> list[Daemon]:
    """Return the daemons that run, the one that schedules first."""
    return [_daemon(row) for row in workers.daemons(state)]


def _daemon(row: WorkerRow) -> Daemon:
    plan = row.schedule or {}
    return Daemon(
        pid=row.pid,
        host=row.host,
        started_at=row.started_at,
        schedules=bool(plan),
        next_run=plan.get("next_run"),
        next_is_full=plan.get("full"),
    )
