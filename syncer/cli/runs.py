"""`runs`: what each run did, and decisions on what the guard held."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import click

from state import hold_evidence, holds
from state import runs as run_records
from state.holds import Hold
from syncer.cli import complete, console, output
from syncer.cli.documents import (
    decision_line,
    held_json,
    hold_json,
    run_json,
    run_line,
    trait_json,
)
from syncer.cli.options import (
    application,
    config_option,
    confirm,
    csv_option,
    json_option,
    open_for_reading,
    wants_json,
    words,
)
from syncer.cli.sums import LINES, named, print_sums, skipped_lines
from syncer.cli.sync import exit_with, forget_deleted
from syncer.clock import iso
from syncer.display import shrinking
from syncer.errors import NotFound
from syncer.json_text import to_json_or_none
from syncer.progress import say
from syncer.sync.decision import Attribution
from syncer.sync.runs import Runs

#: The fields of a change that a hold keeps back, and the rows of a table without --limit.
HELD = ("customer_id", "trait", "key", "before", "after", "observed_at", "hold")
TABLE = 1000

number = click.IntRange(min=1, max=2**63 - 1)
limit_option = click.option(
    "--limit",
    type=number,
    help=f"At most so many [default: all; tables {TABLE:,}].",
)


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
    with open_for_reading(config) as database:
        with database.read() as connection:
            records = run_records.newest(connection, limit)
        records = run_records.as_they_are(database, records)
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
    console.print_table(("run", "kind", "state", "started", *sums), rows)


@runs.command("show")
@click.argument("run", type=number, shell_complete=complete.runs)
@click.option(
    "--all", "everything", is_flag=True, help="Also traits of which nothing moved; each hold."
)
@config_option
@json_option
def runs_show(run: int, everything: bool, config: Path | None, as_json: bool) -> None:
    """Show a run with its sums by trait, and what it held and let through."""
    with open_for_reading(config) as database:
        with database.read() as connection:
            record = run_records.get(connection, run)
            traits = run_records.traits(connection, run)
            run_holds = holds.of_run(connection, run)
            approved = hold_evidence.let_through(connection, run)
            every = (*run_holds, *approved)
            now = {hold.id: holds.count(connection, hold.id) for hold in every}
            kept = {hold.id: hold_evidence.count_kept(connection, hold) for hold in every}
        if record is None:
            raise NotFound(f"there is no run {run}; `syncer runs` lists them")
        (record,) = run_records.as_they_are(database, [record])
    if wants_json(as_json):
        output.print_json(
            {
                **run_json(record),
                "traits": [trait_json(row) for row in traits],
                "holds": [hold_json(hold, now[hold.id]) for hold in run_holds],
                "let_through": [hold_json(hold, now[hold.id]) for hold in approved],
            }
        )
        return
    print_sums(traits, everything=everything, hint="--all shows them")
    for line in skipped_lines(traits):
        console.stdout().print(line)
    for line in _hold_lines(run_holds, kept, everything):
        console.stdout().print(line)
    if run_holds:
        console.stdout().print(f"`syncer runs held {run}` lists the customers")
    for hold in approved:
        console.stdout().print(
            f"it let through hold {hold.id} of {hold.key}, which run {hold.since_run} found: "
            f"{kept[hold.id]:,} customers, {decision_line(hold)}"
        )
    if record.without_customer_id:
        console.stdout().print(
            f"{record.without_customer_id:,} profiles have no customer id and cannot be billed"
        )
    console.stdout().print(run_line(record))
    if record.error:
        console.stdout().print(record.error)


def _hold_lines(
    run_holds: Sequence[Hold], kept: Mapping[int, int], everything: bool
) -> Iterator[str]:
    """Yield a line for each hold; more than a few are summed up in one.

    `kept` has the customers of each, by its number.
    """
    if len(run_holds) > LINES and not everything:
        keys = named(hold.key for hold in run_holds)
        customers = sum(kept[hold.id] for hold in run_holds)
        waiting = sum(hold.decision is None for hold in run_holds)
        yield (
            f"{len(run_holds):,} holds ({keys}), {waiting:,} open, {customers:,} customers: "
            "--all shows each"
        )
        return
    for hold in run_holds:
        yield _hold_line(hold, kept[hold.id])


def _hold_line(hold: Hold, customers: int) -> str:
    sizes = shrinking(hold.members, hold.leaving)
    return (
        f"hold {hold.id} of {hold.key}, {decision_line(hold)}: {hold.reason}; "
        f"{sizes and sizes + '; '}{customers:,} customers, since run {hold.since_run}"
    )


@runs.command("held")
@click.argument("run", type=number, shell_complete=complete.runs)
@config_option
@json_option
@csv_option
@limit_option
def runs_held(
    run: int, config: Path | None, as_json: bool, as_csv: bool, limit: int | None
) -> None:
    """List what the guard held in a run, customer by customer: the evidence to decide on.

    It stays on record after the decision.
    """
    with open_for_reading(config) as database, database.read() as connection:
        if run_records.get(connection, run) is None:
            raise NotFound(f"there is no run {run}; `syncer runs` lists them")
        run_holds = holds.of_run(connection, run)
        changes = (
            held_json(hold, change)
            for hold in run_holds
            for change in hold_evidence.each_kept(connection, hold)
        )
        if wants_json(as_json):
            documents = [hold_json(hold, holds.count(connection, hold.id)) for hold in run_holds]
            output.print_json_with_lists(
                {"run": run, "holds": documents}, {"changes": islice(changes, limit)}
            )
        elif as_csv:
            output.print_csv(HELD, map(_cells, islice(changes, limit)))
        else:
            total = sum(hold_evidence.count_kept(connection, hold) for hold in run_holds)
            console.print_table(HELD, map(_cells, islice(changes, limit or TABLE)))
            if (more := total - (limit or TABLE)) > 0:
                console.stdout().print(
                    f"and {more:,} more: --limit shows more, --csv and --json all"
                )


def _cells(change: dict[str, Any]) -> list[Any]:
    """Return a row of CSV or of a table: a trait's value as JSON, absent as empty."""
    return [
        to_json_or_none(change[name]) if name in ("before", "after") else change[name]
        for name in HELD
    ]


def attribution_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add --yes, --by and --because: who decides, and why."""
    for option in (
        click.option("--yes", is_flag=True, help="Do not ask."),
        click.option(
            "--because",
            metavar="TEXT",
            callback=words,
            help="The reason; kept with the decision.",
        ),
        click.option(
            "--by", metavar="NAME", callback=words, help="Who decides; kept with the decision."
        ),
    ):
        command = option(command)
    return command


@runs.command("approve")
@click.argument("run", type=number, shell_complete=complete.runs)
@attribution_options
@config_option
@json_option
def runs_approve(
    run: int,
    by: str | None,
    because: str | None,
    yes: bool,
    config: Path | None,
    as_json: bool,
) -> None:
    """Let through what the guard held in a run.

    It shows what that is and asks. Then it compares everything again, and sends what was held as
    far as Engage still says it.
    """
    app = application(config)
    with app.runs() as runner:
        if not yes:
            _show_evidence(runner, run)
            confirm(f"Approve what run {run} holds?")
        result = runner.approve(run, Attribution(by, because))
        forget_deleted(app, runner, result)
        exit_with(runner, result, wants_json(as_json))


@runs.command("reject")
@click.argument("run", type=number, shell_complete=complete.runs)
@attribution_options
@config_option
@json_option
def runs_reject(
    run: int,
    by: str | None,
    because: str | None,
    yes: bool,
    config: Path | None,
    as_json: bool,
) -> None:
    """Keep what the guard held in a run from being sent.

    It shows what that is and asks. It lasts until Engage's data of a customer changes, or
    `runs lift` takes it back.
    """
    with application(config).runs() as runner:
        if not yes and any(hold.decision is None for hold in runner.undecided(run)):
            _show_evidence(runner, run)
            confirm(f"Reject what run {run} holds?")
        runner.reject(run, Attribution(by, because))
        _report(runner, run, as_json, "rejected: nothing that it held will be sent")


def _show_evidence(runner: Runs, run: int) -> None:
    """Say what a decision on a run is about; raises `NotFound` if there is nothing to decide."""
    for hold in runner.undecided(run):
        with runner.database.read() as connection:
            say(_hold_line(hold, hold_evidence.count_kept(connection, hold)))
    say(f"`syncer runs held {run}` lists the customers")


@runs.command("lift")
@click.argument("run", type=number, shell_complete=complete.runs)
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
