"""What is known of a load: by the config, by what the state saw in its last runs, or by neither."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from sqlalchemy import Connection

from state import outbox, queue, runs
from state.db import workers
from state.db.database import Database
from state.runs import RunRow
from syncer.capacity.forecast import DAY, Reading
from syncer.config import Config
from syncer.delivery.outlook import present_rate

HOUR = 3_600_000
#: Milliseconds of a week, whose runs say how much changes, and of the day for which calls are kept.
WEEK, KEPT = 7 * 24 * HOUR, 24 * HOUR


class Figure(NamedTuple):
    """A value of a load, and where it comes from."""

    value: float
    source: str


#: What is taken where nothing says it. The interval, the rate and the bounds are the config's own
#: defaults; of Amberflo's answers nothing is published.
ASSUMED = {
    "values": 10.0,
    "change": 0.02,
    "events": 0.0,
    "rate": 10.0,
    "latency": 0.1,
    "concurrency": 64.0,
    "every": 2.5 * 3600,
    "outage": DAY,
    "queue_limit": 1_000_000.0,
    "daemons": 1.0,
}


def configured(config: Config) -> dict[str, Figure]:
    """Return the figures that the config sets."""
    values = {
        "rate": config.amberflo.rate,
        "concurrency": config.amberflo.concurrency,
        "every": config.schedule.every,
        "queue_limit": config.passthrough.queue_limit,
    }
    return {name: Figure(value, "config") for name, value in values.items()}


@dataclass(frozen=True)
class Seen:
    """What a state saw: figures of the load, and what its newest full run took to read."""

    figures: dict[str, Figure]
    reading: Reading | None


def seen(state: Database, calls: Database, now: int, rate: float) -> Seen:
    """Return what a state and its queue of calls saw up to a moment (epoch milliseconds).

    `rate` is the configured one (requests a second, 0 is unlimited): a lower one at present is a
    figure, too.
    """
    with state.read() as connection:
        at_present = present_rate(connection, rate)
        customers = outbox.acknowledged_count(connection) + outbox.backlog_unknown(connection)
        whole = [run for run in runs.newest(connection, 1000) if _is_whole(run)]
    figures = {}
    if daemons := len(workers.daemons(state)):
        figures["daemons"] = Figure(daemons, "the state")
    if at_present != rate:
        figures["rate"] = Figure(at_present, "Amberflo's answers 429")
    full = next((run for run in whole if run.kind in ("initial", "reconcile")), None)
    if customers:
        figures["customers"] = Figure(customers, "the state")
        if full is not None and full.pulled:
            figures["values"] = Figure(full.pulled / customers, f"run {full.id}")
        if (change := _change(whole, customers, now)) is not None:
            figures["change"] = change
    with calls.read() as of_queue:
        if (events := _events(of_queue, now)) is not None:
            figures["events"] = events
    return Seen(figures, _reading(full, customers) if full and customers else None)


def _is_whole(run: RunRow) -> bool:
    """Return whether a run pulled for all customers and was committed."""
    return run.committed_at is not None and run.watermark is not None and run.state != runs.RUNNING


def _change(whole: list[RunRow], customers: int, now: int) -> Figure | None:
    """Return the part of the customers that changed in a day, by the runs of the last week.

    A run brings what changed since the one before; a resync brings more. Less than an hour says
    nothing.
    """
    newest_first = [
        (run, before) for run, before in pairwise(whole) if before.started_at > now - WEEK
    ]
    counted = [run for run, _ in newest_first if run.kind in ("incremental", "reconcile")]
    if not counted:
        return None
    first, last = newest_first[-1][1], newest_first[0][0]
    milliseconds = last.started_at - first.started_at
    if milliseconds < HOUR:
        return None
    changed = sum(run.delivered for run in counted)
    per_day = changed / customers / (milliseconds / 1000) * DAY
    return Figure(per_day, f"runs {counted[-1].id} to {counted[0].id}")


def _events(connection: Connection, now: int) -> Figure | None:
    """Return the meter calls of a second, by those of the last day; less than an hour says nothing.

    None is also what a queue says that has taken no call.
    """
    count, first = queue.received(connection, now - KEPT)
    if first is None or now - first < HOUR:
        return None
    return Figure(count / ((now - first) / 1000), "the last day")


def _reading(full: RunRow, customers: int) -> Reading:
    assert full.committed_at is not None
    seconds = (full.committed_at - full.started_at) / 1000
    initial = full.kind == "initial"
    return Reading(full.id, initial, customers, full.pulled, full.due, seconds)
