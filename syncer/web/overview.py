"""Now: the schedule, the run that goes on, what waits to be sent, and what needs somebody."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from state import alerts, failures, holds, outbox, queue, runs
from state.db import workers
from syncer.web.context import Desk
from syncer.web.messages import Answer, Nothing, Page, Visit


def page(desk: Desk, visit: Visit) -> Answer:
    return Page("now.html", _facts(desk))


def live(desk: Desk, visit: Visit) -> Answer:
    """The part of the page that moves; nothing where it is as the browser has it already."""
    facts = _facts(desk)
    if visit.text("seen") == facts["seen"]:
        return Nothing()
    return Page("now_live.html", facts, part=True)


def tasks(desk: Desk, visit: Visit) -> Answer:
    """What was asked for and is under way; when it ended, the whole page is loaded again."""
    recent = desk.work.recent()
    if any(task.ended is None for task in recent):
        return Nothing()
    return Page("tasks.html", {"tasks": recent}, part=True, headers={"hx-refresh": "true"})


def _facts(desk: Desk) -> dict[str, Any]:
    daemons = [
        {**row, "doing": orjson.loads(row["doing"] or "{}")} for row in workers.daemons(desk.state)
    ]
    with desk.state.read() as connection:
        newest = runs.newest(connection, 2)
        oldest = [outbox.waits_since(connection)]
        held = holds.open_keys(connection)
        customers = outbox.backlog(connection)
        failed = failures.count(connection)
        active = alerts.active(connection)
    with desk.calls.read() as connection:
        calls = sum(queue.waiting(connection))
        oldest.append(queue.oldest_waiting(connection))
    since = min((one for one in oldest if one is not None), default=None)
    going_on = newest[0] if newest and newest[0]["state"] == runs.RUNNING else None
    rest = newest[1:] if going_on else newest
    facts: dict[str, Any] = {
        "going_on": going_on,
        "doing": orjson.loads(going_on["doing"]) if going_on and going_on["doing"] else None,
        "last": rest[0] if rest else None,
        "next": next((one["doing"] for one in daemons if one["doing"]), None),
        "daemons": daemons,
        "customers": customers,
        "calls": calls,
        "lag": 0.0 if since is None else max(0.0, (desk.clock() - since) / 1000),
        "held": sorted(held.items()),
        "failed": failed,
        "alerts": [{**one, "url": _where(one["name"], held)} for one in active],
    }
    seen = hashlib.sha256(orjson.dumps(facts, default=str)).hexdigest()[:16]
    return {**facts, "seen": seen}


def _where(alert: str, held: dict[str, int]) -> str | None:
    """The page on which something can be done about an alert."""
    kind, _, key = alert.partition(":")
    if kind == "held" and key in held:
        return f"/runs/{held[key]}"
    return {"failures": "/failures", "runs": "/runs"}.get(kind)


READS = {"/": page, "/now/live": live, "/tasks": tasks}
