"""`status` and `check`: the state of the service, and whether its set-up works."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from state import snapshot
from state.db.database import shown
from syncer import status as facts
from syncer.app import App
from syncer.cli import output
from syncer.cli.documents import daemon_json, run_json, run_line
from syncer.cli.options import config_option, json_option, settings, wants_json
from syncer.cli.progress_bar import progress
from syncer.clock import iso
from syncer.databases import check_databases
from syncer.engage.computations import AUDIENCE
from syncer.errors import EXIT_FAILED, StateError, SyncerError


@click.command()
@config_option
@json_option
def status(config: Path | None, as_json: bool) -> None:
    """Show the schedule, the last run, what waits to be sent, and what needs a person."""
    app = App(settings(config), progress())
    with app.state(writes=False) as state, app.queue(writes=False) as calls:
        daemons = facts.daemons(state)
        now = facts.gather(state, calls)
    newest = now.current_run or now.last_run
    document = {
        "daemon": daemon_json(daemons[0]) if daemons else None,
        "daemons": [daemon_json(daemon) for daemon in daemons],
        "next_run": next((iso(daemon.next_run) for daemon in daemons if daemon.next_run), None),
        "last_run": run_json(newest) if newest else None,
        "backlog": {"customers": now.waiting_customers, "events": now.waiting_calls},
        "failures": now.failures,
        "held": [{"key": key, "run": run} for key, run in sorted(now.held.items())],
        "alerts": [
            {"name": alert.name, "text": alert.text, "since": iso(alert.since)}
            for alert in now.alerts
        ],
        "lag_seconds": round(now.lag(time.time_ns() // 1_000_000), 3),
    }
    if wants_json(as_json):
        output.print_json(document)
    else:
        _print_status(document, now)


def _print_status(document: dict[str, Any], now: facts.Status) -> None:
    out = output.stdout()
    newest = now.current_run or now.last_run
    out.print(run_line(newest) if newest else "no run yet")
    progress = now.current_run and now.current_run.progress
    if progress is not None:
        seconds = progress["seconds_left"]
        out.print(
            f"{progress['stage']}: {progress['done']:,} of {progress['total']:,}"
            + (f", {seconds:,.0f} s left" if seconds is not None else "")
        )
    for daemon in document["daemons"]:
        out.print(f"the daemon runs: process {daemon['pid']} on {daemon['host']}")
    if not document["daemons"]:
        out.print("no daemon is running")
    if document["next_run"]:
        out.print(f"the next run starts at {document['next_run']}")
    backlog = document["backlog"]
    out.print(
        f"{backlog['customers']:,} customers and {backlog['events']:,} calls wait to be sent, "
        f"{document['lag_seconds']:.0f} s behind"
    )
    out.print(f"{document['failures']:,} failures")
    for hold in document["held"]:
        run = hold["run"]
        out.print(f"held: {hold['key']}, since run {run}: `syncer runs approve {run}` or reject")
    for alert in document["alerts"]:
        out.print(f"alert since {alert['since']}: {alert['text']}")


@click.command()
@config_option
@json_option
def check(config: Path | None, as_json: bool) -> None:
    """Test the config, the source, the Amberflo key and the database: a line for each."""
    app = App(settings(config), progress())
    results: list[dict[str, Any]] = [{"check": "config", "ok": True, "message": "it can be read"}]
    tests = {"source": _check_source, "amberflo": _check_amberflo, "database": _check_database}
    if app.config.engage.public_api is not None:
        tests["catalog"] = _check_catalog
    for name, test in tests.items():
        try:
            results.append({"check": name, "ok": True, "message": test(app)})
        except (SyncerError, StateError) as error:
            results.append({"check": name, "ok": False, "message": str(error)})
    if wants_json(as_json):
        output.print_json(results)
    else:
        for result in results:
            verdict = "ok  " if result["ok"] else "FAIL"
            output.print_line(f"{verdict}  {result['check']}: {result['message']}")
    if not all(result["ok"] for result in results):
        raise click.exceptions.Exit(EXIT_FAILED)


def _check_source(app: App) -> str:
    return app.source().check()


def _check_amberflo(app: App) -> str:
    app.check_amberflo()
    return f"the key is good at {app.config.amberflo.customers_url}"


def _check_catalog(app: App) -> str:
    public_api = app.public_api()
    assert public_api is not None
    computations = public_api.computations()
    audiences = sum(computation.kind == AUDIENCE for computation in computations)
    not_live = sum(computation.exits_wait is not None for computation in computations)
    return (
        f"{audiences:,} audiences, {len(computations) - audiences:,} computed traits, "
        f"{not_live:,} not live"
    )


def _check_database(app: App) -> str:
    with app.state(writes=False) as database, database.read() as connection:
        known = snapshot.size(connection)
    check_databases(app.config)
    return f"{shown(app.config.state.url)}: {known:,} customers known"
