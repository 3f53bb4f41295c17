"""`failures`: what Amberflo refused for good, with retry and discard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from state import failures as records
from state.database import Database
from syncer import report
from syncer.cli.options import application, config_option, json_option, looking, wants_json
from syncer.errors import EXIT_FAILED, NotFound, SyncerError


@click.group(invoke_without_command=True)
@config_option
@json_option
@click.pass_context
def failures(context: click.Context, config: Path | None, as_json: bool) -> None:
    """What Amberflo refused for good, with the request and its answer."""
    if context.invoked_subcommand is None:
        list_failures(config, as_json)


@failures.command("list")
@config_option
@json_option
def failures_list(config: Path | None, as_json: bool) -> None:
    """The failures, oldest first."""
    list_failures(config, as_json)


def list_failures(config: Path | None, as_json: bool) -> None:
    with looking(config) as database, database.read() as connection:
        found = records.find(connection)
    if wants_json(as_json):
        report.print_json([{**row, "failed_at": report.iso(row["failed_at"])} for row in found])
        return
    columns = ("id", "kind", "customer", "status", "reason", "attempts", "failed at")
    names = ("kind", "customer_id", "status", "reason", "attempts")
    rows = [
        [str(row["id"]), *(row[name] for name in names), report.iso(row["failed_at"])]
        for row in found
    ]
    report.print_table(columns, rows)


def _chosen(database: Database, ids: tuple[int, ...], everything: bool) -> list[Any]:
    if bool(ids) == everything:
        raise click.UsageError("name failures by their numbers, or all of them with --all")
    with database.read() as connection:
        there = records.find(connection, None if everything else ids)
    missing = sorted(set(ids) - {row["id"] for row in there})
    if missing:
        raise NotFound(f"there is no failure {missing[0]}; `syncer failures` lists them")
    return there


@failures.command("retry")
@click.argument("ids", type=int, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@config_option
@json_option
def failures_retry(
    ids: tuple[int, ...], everything: bool, config: Path | None, as_json: bool
) -> None:
    """Send them again now; while a daemon runs, it sends the meter records."""
    app = application(config)
    with app.runs() as found:
        rows = _chosen(found.database, ids, everything)
        for row in rows:
            if records.only_discarded(row):
                raise SyncerError(
                    f"failure {row['id']} is a call that cannot be taken ({row['reason']}): "
                    "it can only be discarded"
                )
        delivery = app.retry(found, rows)
    if wants_json(as_json):
        report.print_json({"delivered": delivery.delivered, "failed": delivery.failed})
    report.say(f"{delivery.delivered:,} delivered, {delivery.failed:,} refused again")
    if delivery.problem:
        report.say(f"error: {delivery.problem}")
    if delivery.failed or delivery.problem or delivery.stopped:
        raise click.exceptions.Exit(EXIT_FAILED)


@failures.command("discard")
@click.argument("ids", type=int, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@config_option
@json_option
def failures_discard(
    ids: tuple[int, ...], everything: bool, config: Path | None, as_json: bool
) -> None:
    """Forget them; what they wanted is not sent until the customer changes or is resynced."""
    with application(config).state(writes=True) as database:
        chosen = [row["id"] for row in _chosen(database, ids, everything)]
        with database.write() as connection:
            removed = records.remove(connection, chosen)
    if wants_json(as_json):
        report.print_json({"discarded": removed})
    report.say(f"{removed:,} discarded")
