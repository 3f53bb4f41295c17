"""`runs`: what every run did, and the decision on what the guard held."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import orjson

from state import holds
from state import runs as run_records
from state.holds import Hold
from syncer.cli import output
from syncer.cli.documents import hold_json, run_json, run_line, trait_json
from syncer.cli.options import application, config_option, json_option, looking, wants_json
from syncer.cli.sync import end, forget_deleted
from syncer.clock import iso
from syncer.errors import NotFound
from syncer.progress import say
from syncer.sync.runs import Attribution, Runs


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
        output.print_json([run_json(record) for record in records])
        return
    sums = ("entered", "exited", "changed", "due", "delivered", "failed", "held")
    rows = [
        [
            *(row["id"], row["kind"], row["state"], iso(row["started_at"])),
            *(row[name] for name in sums),
        ]
        for row in records
    ]
    output.print_table(("run", "kind", "state", "started", *sums), rows)


@runs.command("show")
@click.argument("run", type=int)
@config_option
@json_option
def runs_show(run: int, config: Path | None, as_json: bool) -> None:
    """One run with its sums by trait."""
    with looking(config) as database, database.read() as connection:
        record = run_records.get(connection, run)
        traits = run_records.traits(connection, run)
        found = [(one, holds.count(connection, one.id)) for one in holds.of_run(connection, run)]
    if record is None:
        raise NotFound(f"there is no run {run}; `syncer runs` lists them")
    if wants_json(as_json):
        output.print_json(
            {
                **run_json(record),
                "traits": [trait_json(row) for row in traits],
                "holds": [hold_json(one, customers) for one, customers in found],
            }
        )
        return
    output.print_table(output.TRAIT_COLUMNS, output.trait_rows(traits))
    for row in traits:
        for reason, count in orjson.loads(row["reasons"]).items():
            output.stdout().print(f"{row['trait']}: {count:,} skipped: {reason}")
        if row["waiting"]:
            output.stdout().print(f"{row['trait']}: {row['waiting']:,} wait for Segment")
    for one, customers in found:
        output.stdout().print(_hold_line(one, customers))
    output.stdout().print(run_line(record))
    if record["error"]:
        output.stdout().print(record["error"])


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


def word_options(command: Callable[..., None]) -> Callable[..., None]:
    """`--by` and `--because`: who decides, and why."""
    for option in (
        click.option("--because", metavar="TEXT", help="Why; it is kept with the decision."),
        click.option("--by", metavar="NAME", help="Who decides; it is kept with the decision."),
    ):
        command = option(command)
    return command


@runs.command("approve")
@click.argument("run", type=int)
@word_options
@config_option
@json_option
def runs_approve(
    run: int, by: str | None, because: str | None, config: Path | None, as_json: bool
) -> None:
    """Let through what the guard held in a run.

    Compares everything anew, and sends of what was held as much as Engage still says.
    """
    app = application(config)
    with app.runs() as found:
        result = found.approve(run, Attribution(by, because))
        forget_deleted(app, found, result)
        end(found, result, wants_json(as_json))


@runs.command("reject")
@click.argument("run", type=int)
@word_options
@config_option
@json_option
def runs_reject(
    run: int, by: str | None, because: str | None, config: Path | None, as_json: bool
) -> None:
    """Keep what the guard held in a run from being sent.

    It lasts until Engage says something else of a customer, or `runs lift` takes it back.
    """
    with application(config).runs() as found:
        found.reject(run, Attribution(by, because))
        _tell(found, run, as_json, "rejected: nothing of what it held will be sent")


@runs.command("lift")
@click.argument("run", type=int)
@config_option
@json_option
def runs_lift(run: int, config: Path | None, as_json: bool) -> None:
    """Take back the rejection of what a run held; the next run judges it anew."""
    with application(config).runs() as found:
        found.lift(run)
        _tell(found, run, as_json, "lifted: the next run judges anew what it held")


def _tell(found: Runs, run: int, as_json: bool, what: str) -> None:
    with found.database.read() as connection:
        record = run_records.get(connection, run)
    if wants_json(as_json):
        output.print_json(run_json(record))
    else:
        say(f"run {run} {what}")
