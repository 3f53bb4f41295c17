"""`status`: the state of the service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from syncer import status as facts
from syncer.cli import output
from syncer.cli.documents import daemon_json, problem_json, run_json, run_line
from syncer.cli.options import config_option, json_option, settings, wants_json
from syncer.cli.sums import LINES, named
from syncer.clock import iso, now_ms
from syncer.databases import open_database


@click.command()
@config_option
@json_option
def status(config: Path | None, as_json: bool) -> None:
    """Show the schedule, the last run, what waits to be sent, and what needs a person.

    It exits with 0 whatever it shows: a script reads `problems` and `alerts` of --json.
    """
    chosen = settings(config)
    with (
        open_database(chosen, writes=False) as state,
        open_database(chosen, "queue", writes=False) as calls,
    ):
        daemons = facts.daemons(state)
        now = facts.gather(state, calls)
    newest = now.current_run or now.last_run
    document = {
        "daemon": daemon_json(daemons[0]) if daemons else None,
        "daemons": [daemon_json(daemon) for daemon in daemons],
        "next_run": iso(facts.next_run(daemons)),
        "last_run": run_json(newest) if newest else None,
        "backlog": {"customers": now.waiting_customers, "events": now.waiting_calls},
        "failures": now.failures,
        "invalid_calls": now.invalid_calls,
        "held": [{"key": key, "run": run} for key, run in sorted(now.held.items())],
        "alerts": [
            {"name": alert.name, "text": alert.text, "since": iso(alert.since)}
            for alert in now.alerts
        ],
        "problems": [problem_json(problem) for problem in now.problems],
        "lag_seconds": round(now.lag(now_ms()), 3),
    }
    if wants_json(as_json):
        output.print_json(document)
    else:
        _print_status(document, now, facts.next_run(daemons))


def _print_status(document: dict[str, Any], now: facts.Status, next_run: int | None) -> None:
    newest = now.current_run or now.last_run
    output.print_text(run_line(newest) if newest else "no run yet")
    progress = now.current_run and now.current_run.progress
    if progress is not None:
        seconds = progress["seconds_left"]
        output.print_text(
            f"{progress['stage']}: {progress['done']:,} of {progress['total']:,}"
            + (f", {seconds:,.0f} s left" if seconds is not None else "")
        )
    for daemon in document["daemons"]:
        output.print_text(f"the daemon runs: process {daemon['pid']} on {daemon['host']}")
    if not document["daemons"]:
        output.print_text("no daemon is running")
    if next_run is not None and next_run > now_ms():
        output.print_text(f"the next run starts at {iso(next_run)}")
    elif next_run is not None:
        current = now.current_run
        output.print_text(
            f"the next run is planned when run {current.id} has ended"
            if current
            else "the next run is due"
        )
    output.print_text(
        f"{now.waiting_customers - now.put_off:,} customers and {now.waiting_calls:,} calls wait "
        f"to be sent, {document['lag_seconds']:.0f} s behind"
        + (f"; {now.put_off:,} customers are put off: see the failures" if now.put_off else "")
    )
    output.print_text(
        f"{document['failures']:,} failures: {now.refused:,} that Amberflo does not take, "
        f"{now.invalid_calls:,} invalid calls"
        if now.failures
        else "0 failures"
    )
    for line in _held_lines(document["held"]):
        output.print_text(f"held: {line}")
    for problem in document["problems"]:
        times = f", {problem['times']:,} times" if problem["times"] > 1 else ""
        what = f"{problem['part']}: {problem['text']}"
        output.print_line(f"problem since {problem['since']}{times}: {what}")
    for alert in document["alerts"]:
        if not alert["name"].startswith(facts.OF_PROBLEM):
            output.print_text(f"alert since {alert['since']}: {alert['text']}")


def _held_lines(held: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a line for each held key; more than a few are one line for each run."""
    by_run: dict[int, list[str]] = {}
    for hold in held:
        by_run.setdefault(hold["run"], []).append(hold["key"])
    for run, keys in by_run.items():
        how = f"since run {run}: `syncer runs approve {run}` or reject"
        if len(held) > LINES:
            yield f"{len(keys):,} traits ({named(keys)}), {how}"
        else:
            yield from (f"{key}, {how}" for key in keys)
