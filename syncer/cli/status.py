"""`status` and `check`: what goes on, and whether all is set up well."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import orjson

from state import alerts, failures, holds, outbox, queue, snapshot
from state import runs as run_records
from state.db import workers
from state.db.database import shown
from syncer.app import App
from syncer.cli import output
from syncer.cli.documents import run_json, run_line
from syncer.cli.options import config_option, json_option, settings, wants_json
from syncer.clock import iso
from syncer.databases import try_out
from syncer.engage.computations import AUDIENCE
from syncer.errors import EXIT_FAILED, StateError, SyncerError


@click.command()
@config_option
@json_option
def status(config: Path | None, as_json: bool) -> None:
    """The schedule, the last run, what waits to be sent, and what needs somebody."""
    app = App(settings(config), output.progress())
    with app.state(writes=False) as database:
        daemons = [_daemon_json(row) for row in workers.daemons(database)]
        with database.read() as connection:
            newest = run_records.newest(connection, 1)
            oldest = [outbox.waits_since(connection)]
            held = holds.open_keys(connection)
            customers = outbox.backlog(connection)
            failed = failures.count(connection)
            active = alerts.active(connection)
    with app.queue(writes=False) as database, database.read() as connection:
        events = sum(queue.waiting(connection))
        oldest.append(queue.oldest_waiting(connection))
    next_run = next((one["next_run"] for one in daemons if one["next_run"]), None)
    document = {
        "daemon": daemons[0] if daemons else None,
        "daemons": daemons,
        "next_run": next_run,
        "last_run": run_json(newest[0]) if newest else None,
        "backlog": {"customers": customers, "events": events},
        "failures": failed,
        "held": [{"key": key, "run": run} for key, run in sorted(held.items())],
        "alerts": [
            {"name": one["name"], "text": one["text"], "since": iso(one["since"])} for one in active
        ],
        "lag_seconds": _lag(min((one for one in oldest if one is not None), default=None)),
    }
    if wants_json(as_json):
        output.print_json(document)
    else:
        _print_status(document, newest)


def _daemon_json(row: Any) -> dict[str, Any]:
    doing = orjson.loads(row["doing"] or "{}")
    return {
        "pid": row["pid"],
        "host": row["host"],
        "started_at": iso(row["started_at"]),
        "schedules": bool(doing),
        "next_run": iso(doing.get("next_run")),
        "next_is_full": doing.get("full"),
    }


def _print_status(document: dict[str, Any], newest: Any) -> None:
    out = output.stdout()
    out.print(run_line(newest[0]) if newest else "no run yet")
    if newest and newest[0]["state"] == run_records.RUNNING and newest[0]["doing"]:
        doing = orjson.loads(newest[0]["doing"])
        left = doing["seconds_left"]
        out.print(
            f"{doing['stage']}: {doing['done']:,} of {doing['total']:,}"
            + (f", {left:,.0f} s left" if left is not None else "")
        )
    for one in document["daemons"]:
        out.print(f"the daemon runs: process {one['pid']} on {one['host']}")
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
    for one in document["held"]:
        run = one["run"]
        out.print(f"held: {one['key']}, since run {run}: `syncer runs approve {run}` or reject")
    for one in document["alerts"]:
        out.print(f"alert since {one['since']}: {one['text']}")


def _lag(oldest: int | None) -> float:
    if oldest is None:
        return 0.0
    return round(max(0.0, datetime.now(UTC).timestamp() - oldest / 1000), 3)


@click.command()
@config_option
@json_option
def check(config: Path | None, as_json: bool) -> None:
    """Config, source, Amberflo key and database: each a line, good or what to do."""
    app = App(settings(config), output.progress())
    results: list[dict[str, Any]] = [{"check": "config", "good": True, "says": "it can be read"}]
    tests = {"source": _check_source, "amberflo": _check_amberflo, "database": _check_database}
    if app.config.engage.public_api is not None:
        tests["catalog"] = _check_catalog
    for name, test in tests.items():
        try:
            results.append({"check": name, "good": True, "says": test(app)})
        except (SyncerError, StateError) as error:
            results.append({"check": name, "good": False, "says": str(error)})
    if wants_json(as_json):
        output.print_json(results)
    else:
        for row in results:
            output.print_line(f"{'good' if row['good'] else 'BAD '}  {row['check']}: {row['says']}")
    if not all(row["good"] for row in results):
        raise click.exceptions.Exit(EXIT_FAILED)


def _check_source(app: App) -> str:
    return app.source().check()


def _check_amberflo(app: App) -> str:
    app.check_amberflo()
    return f"the key is good at {app.config.amberflo.customers_url}"


def _check_catalog(app: App) -> str:
    public_api = app.public_api()
    assert public_api is not None
    found = public_api.computations()
    audiences = sum(one.kind == AUDIENCE for one in found)
    waiting = sum(one.exits_wait is not None for one in found)
    return (
        f"{audiences:,} audiences, {len(found) - audiences:,} computed traits, {waiting:,} not live"
    )


def _check_database(app: App) -> str:
    with app.state(writes=False) as database, database.read() as connection:
        known = snapshot.size(connection)
    try_out(app.config)
    return f"{shown(app.config.state.url)}: {known:,} customers known"
