"""The front page: the schedule, the current run, what waits to be sent, what needs a person."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Any

import orjson

from state import outbox
from syncer import status
from syncer.delivery.outlook import outlook
from syncer.web.context import Context
from syncer.web.messages import NoContent, Page, Redirect, Request, Response

#: The task that compares as the next run would.
PREVIEW = "preview"


def page(context: Context, request: Request) -> Response:
    return Page("now.html", _data(context))


def live(context: Context, request: Request) -> Response:
    """Answer with the part of the page that changes, unless the browser shows it already."""
    data = _data(context)
    if request.text("seen") == data["seen"]:
        return NoContent()
    return Page("now_live.html", data, part=True)


def tasks(context: Context, request: Request) -> Response:
    """Reload the whole page when all tasks have ended."""
    recent = context.tasks.recent()
    if any(task.ended is None for task in recent):
        return NoContent()
    return Page("tasks.html", {"tasks": recent}, part=True, headers={"hx-refresh": "true"})


def preview(context: Context, request: Request) -> Response:
    """Compare as the next run would, beside the page."""
    context.tasks.begin(PREVIEW, "what the next run would change", PREVIEW)
    return Redirect("/")


def _data(context: Context) -> dict[str, Any]:
    facts = status.gather(context.state, context.calls)
    daemons = status.daemons(context.state)
    with context.state.read() as connection:
        new = min(outbox.backlog_unknown(connection), facts.waiting_customers)
    rate = context.tasks.config.amberflo.rate
    estimate = outlook(context.state, new, facts.waiting_customers - new, rate)
    data: dict[str, Any] = {
        "current": facts.current_run,
        "last": facts.last_run,
        "overdue": (status.next_run(daemons) or 0) <= context.clock(),
        "scheduler": next((asdict(daemon) for daemon in daemons if daemon.schedules), None),
        "daemons": [asdict(daemon) for daemon in daemons],
        "customers": facts.waiting_customers,
        "estimate": str(estimate) if estimate.customers else "",
        "previewing": context.tasks.under_way(PREVIEW),
        "calls": facts.waiting_calls,
        "lag": facts.lag(context.clock()),
        "held": sorted(facts.held.items()),
        "failed": facts.failures,
        # Without `last_at`: as long as it is the same problem, the page need not be drawn anew.
        "problems": [
            {"part": it.part, "text": it.text, "since": it.since, "times": it.times}
            for it in facts.problems
        ],
        "alerts": [
            {**alert._asdict(), "url": _alert_url(alert.name, facts.held)}
            for alert in facts.alerts
            if not alert.name.startswith(status.OF_PROBLEM)
        ],
    }
    seen = hashlib.sha256(orjson.dumps(data, default=str)).hexdigest()[:16]
    return {**data, "seen": seen}


def _alert_url(name: str, held: dict[str, int]) -> str | None:
    """Return the page on which the cause of an alert can be settled."""
    kind, _, key = name.partition(":")
    if kind == "held" and key in held:
        return f"/runs/{held[key]}"
    return {"failures": "/failures", "calls": "/failures", "runs": "/runs"}.get(kind)


READS = {"/": page, "/now/live": live, "/tasks": tasks}
WRITES = {"/preview": preview}
