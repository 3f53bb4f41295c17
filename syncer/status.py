"""The facts of the service's state: for `status`, the page's overview and the alerts.

Times are epoch milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from state import alerts, failures, holds, outbox, queue, runs
from state.alerts import AlertRow
from state.db import workers
from state.db.database import Database
from state.db.workers import WorkerRow
from state.runs import RunRow


@dataclass(frozen=True)
class Status:
    """The state at one moment. `held` maps the keys that the guard holds to the run since which."""

    current_run: RunRow | None
    last_run: RunRow | None
    held: dict[str, int]
    waiting_customers: int
    waiting_calls: int
    #: when the customer or call that waits longest began to wait
    waiting_since: int | None
    #: what Amberflo refused, and (a part of it) calls that are invalid
    failures: int
    invalid_calls: int
    alerts: list[AlertRow]

    def lag(self, now: int) -> float:
        """Return the seconds that the oldest waiting customer or call has waited."""
        if self.waiting_since is None:
            return 0.0
        return max(0.0, (now - self.waiting_since) / 1000)


def gather(state: Database, calls: Database) -> Status:
    """Read the status from the state and the queue of calls."""
    with state.read() as connection:
        newest = runs.newest(connection, 2)
        customers_since = outbox.waits_since(connection)
        held = holds.open_keys(connection)
        waiting_customers = outbox.backlog(connection)
        failed = failures.count(connection)
        invalid_calls = failures.count_calls(connection)
        active = alerts.active(connection)
    with calls.read() as connection:
        waiting_calls = sum(queue.waiting(connection))
        calls_since = queue.oldest_waiting(connection)
    current = newest[0] if newest and newest[0].state == runs.RUNNING else None
    ended = newest if current is None else newest[1:]
    return Status(
        current_run=current,
        last_run=ended[0] if ended else None,
        held=held,
        waiting_customers=waiting_customers,
        waiting_calls=waiting_calls,
        waiting_since=min(
            (since for since in (customers_since, calls_since) if since is not None), default=None
        ),
        failures=failed,
        invalid_calls=invalid_calls,
        alerts=active,
    )


@dataclass(frozen=True)
class Daemon:
    """A daemon that runs. Only the one that schedules knows when the `next_run` starts."""

    pid: int
    host: str
    started_at: int
    schedules: bool
    next_run: int | None
    next_is_full: bool | None


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
