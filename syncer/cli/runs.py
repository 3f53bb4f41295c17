"""`runs`: what each run did, and decisions on what the guard held."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from state import holds
from state import runs as run_records
from state.holds import Hold
from syncer.cli import output
from syncer.cli.documents import hold_json, run_json, run_line, trait_json
from syncer.cli.options import application, config_option, json_option, open_for_reading, wants_json
from syncer.cli.sync import exit_with, forget_deleted
from syncer.clock import iso
from syncer.errors import NotFound
from syncer.progress import say
from syncer.sync.decision import Attribution
from syncer.sync.runs import Runs


@click.group(invoke_without_command=True)
@config_option
@json_option
@click.option("--limit", type=click.IntRange(min=1), help="Only the newest N.")
@click.pass_context
def runs(context: click.Context, config: Path | None, as_json: bool, limit: int | None) -> None:
    """List the runs, and decide on what the guard held."""
    if context.invoked_subcommand is None:
        list_runs(config, as_json, limit)


@runs.command("list")
@config_option
@json_option
@click.option("--limit", type=click.IntRange(min=1), help="Only the newest N.")
def runs_list(config: Path | None, as_json: bool, limit: int | None) -> None:
    """List the runs, the newest first."""
    list_runs(config, as_json, limit)


def list_runs(config: Path | None, as_json: bool, limit: int | None) -> None:
    with open_for_reading(config) as database, database.read() as connection:
        records = run_records.newest(connection, limit)
    if wants_json(as_json):
        output.print_json([run_json(record) for record in records])
        return
    sums = ("entered", "exited", "changed", "due", "delivered", "failed", "held")
    rows = [
        [
            *(row.id, row.kind, row.state, iso(row.started_at)),
            *(getattr(row, name) for name in sums),
        ]
        for row in records
    ]
    output.print_table(("run", "kind", "state", "started", *sums), rows)


@runs.command("show")
@click.argument("run", type=int)
@config_option
@json_option
def runs_show(run: int, config: Path | None, as_json: bool) -> None:
    """Show a run with its sums by trait."""
    with open_for_reading(config) as database, database.read() as connection:
        record = run_records.get(connection, run)
        traits = run_records.traits(connection, run)
        run_holds = [
            (hold, holds.count(connection, hold.id)) for hold in holds.of_run(connection, run)
        ]
    if record is None:
        raise NotFound(f"there is no run {run}; `syncer runs` lists them")
    if wants_json(as_json):
        output.print_json(
            {
                **run_json(record),
                "traits": [trait_json(row) for row in traits],
                "holds": [hold_json(hold, customers) for hold, customers in run_holds],
            }
        )
        return
    output.print_table(output.TRAIT_COLUMNS, output.trait_rows(traits))
    for row in traits:
        for reason, count in row.reasons.items():
            output.stdout().print(f"{row.trait}: {count:,} skipped: {reason}")
        if row.waiting:
            output.stdout().print(f"{row.trait}: {row.waiting:,} wait for Segment")
    for hold, customers in run_holds:
        output.stdout().print(_hold_line(hold, customers))
    output.stdout().print(run_line(record))
    if record.error:
        output.stdout().print(record.error)


def _hold_line(hold: Hold, customers: int) -> str:
    decided = hold.decision or "open"
    if hold.decided_by:
        decided += f" by {hold.decided_by}"
    if hold.because:
        decided += f" ({hold.because})"
    return (
        f"hold {hold.id} of {hold.key}, {decided}: {hold.reason}; "
        f"{customers:,} customers, since run {hold.since_run}"
    )


def attribution_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add --by and --because: who decides, and why."""
    for option in (
        click.option("--because", metavar="TEXT", help="The reason; kept with the decision."),
        click.option("--by", metavar="NAME", help="Who decides; kept with the decision."),
    ):
        command = option(command)
    return command


@runs.command("approve")
@click.argument("run", type=int)
@attribution_options
@config_option
@json_option
def runs_approve(
    run: int, by: str | None, because: str | None, config: Path | None, as_json: bool
) -> None:
    """Let through what the guard held in a run.

    It compares everything again, and sends what was held as far as Engage still says it.
    """
    app = application(config)
    with app.runs() as runner:
        result = runner.approve(run, Attribution(by, because))
        forget_deleted(app, runner, result)
        exit_with(runner, result, wants_json(as_json))


@runs.command("reject")
@click.argument("run", type=int)
@attribution_options
@config_option
@json_option
def runs_reject(
    run: int, by: str | None, because: str | None, config: Path | None, as_json: bool
) -> None:
    """Keep what the guard held in a run from being sent.

    It lasts until Engage's data of a customer changes, or `runs lift` takes it back.
    """
    with application(config).runs() as runner:
        runner.reject(run, Attribution(by, because))
        _report(runner, run, as_json, "rejected: nothing that it held will be sent")


@runs.command("lift")
@click.argument("run", type=int)
@config_option
@json_option
def runs_lift(run: int, config: Path | None, as_json: bool) -> None:
    """Take back the rejection of what a run held; the next run decides again."""
    with application(config).runs() as runner:
        runner.lift(run)
        _report(runner, run, as_json, "lifted: the next run decides again on what it held")


def _report(runner: Runs, run: int, as_json: bool, outcome: str) -> None:
    with runner.database.read() as connection:
        record = run_records.get(connection, run)
    assert record is not None
    if wants_json(as_json):
        output.print_json(run_json(record))
    else:
        say(f"run {run} {outcome}")
