"""`status` and `check`: what goes on, and whether all is set up well."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from state import failures, queue, snapshot
from state import runs as run_records
from state.database import shown
from syncer import report
from syncer.app import App
from syncer.cli.options import config_option, json_option, settings, wants_json
from syncer.cli.shapes import run_json, run_line
from syncer.engage.listing import AUDIENCE
from syncer.errors import EXIT_FAILED, StateError, SyncerError


@click.command()
@config_option
@json_option
def status(config: Path | None, as_json: bool) -> None:
    """The last run, what waits to be sent, and what needs somebody."""
    app = App(settings(config), report.progress())
    with app.state(writes=False) as database, database.read() as connection:
        newest = run_records.newest(connection, 1)
        oldest_customer = snapshot.oldest_due(connection)
        held = run_records.held_keys(connection)
        customers = snapshot.backlog(connection)
        failed = failures.count(connection)
        daemon = app.daemon_process(database)
    with app.queue(writes=False) as database, database.read() as connection:
        events = sum(queue.waiting(connection))
        oldest_event = queue.oldest_waiting(connection)
    waiting = [one for one in (oldest_customer, oldest_event) if one is not None]
    lag = _lag(min(waiting, default=None))
    if wants_json(as_json):
        report.print_json(
            {
                "daemon": daemon,
                "next_run": None,
                "last_run": run_json(newest[0]) if newest else None,
                "backlog": {"customers": customers, "events": events},
                "failures": failed,
                "held": [{"key": key, "run": run} for key, run in sorted(held.items())],
                "lag_seconds": lag,
            }
        )
        return
    out = report.stdout()
    out.print(run_line(newest[0]) if newest else "no run yet")
    out.print(f"the daemon runs: process {daemon['pid']}" if daemon else "no daemon is running")
    out.print(f"{customers:,} customers and {events:,} calls wait to be sent, {lag:.0f} s behind")
    out.print(f"{failed:,} failures")
    for key, run in sorted(held.items()):
        out.print(f"held: {key}, since run {run}: `syncer runs approve {run}` or reject")


def _lag(oldest: int | None) -> float:
    if oldest is None:
        return 0.0
    return round(max(0.0, datetime.now(UTC).timestamp() - oldest / 1000), 3)


@click.command()
@config_option
@json_option
def check(config: Path | None, as_json: bool) -> None:
    """Config, source, Amberflo key and database: each a line, good or what to do."""
    app = App(settings(config), report.progress())
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
        report.print_json(results)
    else:
        for row in results:
            print(f"{'good' if row['good'] else 'BAD '}  {row['check']}: {row['says']}")
    if not all(row["good"] for row in results):
        raise click.exceptions.Exit(EXIT_FAILED)


def _check_source(app: App) -> str:
    return app.source().check()


def _check_amberflo(app: App) -> str:
    asyncio.run(app.check_amberflo())
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
        return f"{shown(app.config.state.url)}: {snapshot.size(connection):,} customers known"
