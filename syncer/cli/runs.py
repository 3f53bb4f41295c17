"""`runs`: what every run did, and the decision on what the guard held."""

from __future__ import annotations

from pathlib import Path

import click
import orjson

from state import runs as run_records
from syncer import report
from syncer.cli.options import application, config_option, json_option, looking, wants_json
from syncer.cli.shapes import run_json, run_line, trait_json
from syncer.cli.sync import end
from syncer.errors import NotFound


@click.group(invoke_without_command=True)
@config_option
@json_option
@click.option("--limit", type=click.IntRange(min=1), help="Only the newest so many.")
@click.pass_context
def runs(context: click.Context, config: Path | None, as_json: bool, limit: int | None) -> None:
    """The runs, the newest first; and what the guard held."""
    if context.invoked_subcommand is None:
        list_runs(config, as_json, limit)


@runs.command("list")
@config_option
@json_option
@click.option("--limit", type=click.IntRange(min=1), help="Only the newest so many.")
def runs_list(config: Path | None, as_json: bool, limit: int | None) -> None:
    """The runs, the newest first."""
    list_runs(config, as_json, limit)


def list_runs(config: Path | None, as_json: bool, limit: int | None) -> None:
    with looking(config) as database, database.read() as connection:
        records = run_records.newest(connection, limit)
    if wants_json(as_json):
        report.print_json([run_json(record) for record in records])
        return
    sums = ("entered", "exited", "changed", "due", "delivered", "failed", "held")
    rows = [
        [
            *(row["id"], row["kind"], row["state"], report.iso(row["started_at"])),
            *(row[name] for name in sums),
        ]
        for row in records
    ]
    report.print_table(("run", "kind", "state", "started", *sums), rows)


@runs.command("show")
@click.argument("run", type=int)
@config_option
@json_option
def runs_show(run: int, config: Path | None, as_json: bool) -> None:
    """One run with its sums by trait."""
    with looking(config) as database, database.read() as connection:
        record = run_records.get(connection, run)
        traits = run_records.traits(connection, run)
    if record is None:
        raise NotFound(f"there is no run {run}; `syncer runs` lists them")
    if wants_json(as_json):
        report.print_json({**run_json(record), "traits": [trait_json(row) for row in traits]})
        return
    report.print_table(report.TRAIT_COLUMNS, report.trait_rows(traits))
    for row in traits:
        for reason, count in orjson.loads(row["reasons"]).items():
            report.stdout().print(f"{row['trait']}: {count:,} skipped: {reason}")
        if row["waiting"]:
            report.stdout().print(f"{row['trait']}: {row['waiting']:,} wait for Segment")
    report.stdout().print(run_line(record))
    if record["error"]:
        report.stdout().print(record["error"])


@runs.command("approve")
@click.argument("run", type=int)
@config_option
@json_option
def runs_approve(run: int, config: Path | None, as_json: bool) -> None:
    """Let through what the guard held in a run.

    Compares everything anew, so that what is sent is what Engage says now.
    """
    with application(config).runs() as found:
        end(found, found.approve(run), wants_json(as_json))


@runs.command("reject")
@click.argument("run", type=int)
@config_option
@json_option
def runs_reject(run: int, config: Path | None, as_json: bool) -> None:
    """Leave what the guard held in a run as it is."""
    with application(config).runs() as found:
        found.reject(run)
        with found.database.read() as connection:
            record = run_records.get(connection, run)
    if wants_json(as_json):
        report.print_json(run_json(record))
    else:
        report.say(f"run {run} rejected: nothing of what it held will be sent")
