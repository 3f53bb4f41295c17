"""`sync`, `diff` and `resync`: make a run now, or show what it would change."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import click

from state import outbox, snapshot
from state import runs as run_records
from state.history import seal
from syncer.app import App
from syncer.cli import complete, console, output
from syncer.cli.documents import (
    change_json,
    first_contact_json,
    run_json,
    run_line,
    shown,
    trait_json,
)
from syncer.cli.options import application, config_option, confirm, json_option
from syncer.cli.parity import parity_json, parity_lists, print_parity
from syncer.cli.sums import held_lines, print_sums
from syncer.delivery.estimate import Estimate
from syncer.delivery.outlook import outlook
from syncer.errors import EXIT_FAILED, EXIT_HELD, EXIT_OK, SyncerError
from syncer.progress import say
from syncer.sync.changes import CustomerChange
from syncer.sync.compared import Compared
from syncer.sync.preview import preview
from syncer.sync.run_result import Result
from syncer.sync.runs import Runs


@click.command()
@config_option
@json_option
@click.option("--full", is_flag=True, help="Compare everything (a reconcile).")
@click.option("--dry-run", is_flag=True, help="Show what would change; change nothing anywhere.")
@click.option(
    "--new-account",
    is_flag=True,
    help="The settings are those of a new account: send every customer.",
)
def sync(config: Path | None, as_json: bool, full: bool, dry_run: bool, new_account: bool) -> None:
    """Make a run now, until delivered.

    The first run pulls everything, later ones what changed since.
    """
    app = application(config)
    if dry_run and new_account:
        raise click.UsageError(
            "--new-account cannot be combined with --dry-run: it sends every customer"
        )
    if dry_run:
        show_diff(app, full=full, customers=False, as_json=as_json)
        return
    with app.runs() as runs:
        result = runs.sync(full=full, new_account=new_account)
        forget_deleted(app, runs, result)
        exit_with(runs, result, as_json)


@click.command()
@config_option
@json_option
@click.option("--full", is_flag=True, help="Compare everything (a reconcile).")
@click.option("--customers", is_flag=True, help="List the customers that would change.")
@click.option("--all", "everything", is_flag=True, help="Also traits of which nothing would move.")
@click.option(
    "--amberflo",
    is_flag=True,
    help="Read Amberflo, too, and show what a full run would correct there.",
)
def diff(
    config: Path | None,
    as_json: bool,
    full: bool,
    customers: bool,
    everything: bool,
    amberflo: bool,
) -> None:
    """Show what the next run would change.

    It writes nothing. It asks Amberflo only with --amberflo, which compares each customer with what
    a full run would leave there, as `syncer adopt` does.
    """
    show_diff(
        application(config),
        full=full,
        customers=customers,
        as_json=as_json,
        everything=everything,
        amberflo=amberflo,
    )


@click.command()
@config_option
@json_option
@click.option(
    "--audience",
    metavar="KEY",
    shell_complete=complete.audiences,
    help="Only customers that are or were in this audience.",
)
@click.option(
    "--customer", metavar="ID", shell_complete=complete.customers, help="Only this customer."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
def resync(
    config: Path | None, as_json: bool, audience: str | None, customer: str | None, yes: bool
) -> None:
    """Pull everything and send it again, changed or not."""
    if audience and customer:
        raise click.UsageError("use either --audience or --customer")
    app = application(config)
    if not yes:
        confirm(f"Send {_whom(app, audience, customer)} to Amberflo again?")
    with app.runs() as runs:
        result = runs.resync(audience=audience, customer_id=customer)
        forget_deleted(app, runs, result)
        exit_with(runs, result, as_json)


def _whom(app: App, audience: str | None, customer: str | None) -> str:
    """Name the customers of a resync and, where they are many, what that costs."""
    if customer:
        return f"customer {customer}"
    rate = app.config.amberflo.rate
    with app.state(writes=False) as database:
        with database.read() as connection:
            sizes = {row.key: row.members for row in snapshot.traits(connection)}
            known, size = outbox.acknowledged_count(connection), snapshot.size(connection)
        if audience:
            estimate = outlook(database, 0, sizes.get(audience, 0), rate)
            return f"all customers that are or were in {audience} (those in it now: {estimate})"
        return f"every customer ({outlook(database, size - known, known, rate)})"


def forget_deleted(app: App, runs: Runs, result: Result) -> None:
    """Erase the customers that a run found deleted in Segment, if the config says so."""
    if not runs.selection.forget_deleted:
        return
    try:
        with app.queue(writes=True) as calls:
            erased = app.forget(runs.database, calls).forget_all_asked()
    except SyncerError as error:
        result.problems.append(
            f"customers that were deleted in Segment are not erased yet: {error}"
        )
    else:
        if erased:
            say(f"{erased:,} customers that were deleted in Segment are erased")


def exit_with(runs: Runs, result: Result, as_json: bool) -> NoReturn:
    """Report a run and exit with its status."""
    with runs.database.read() as connection:
        traits = run_records.traits(connection, result.run)
        head = seal.head(connection, result.run)
    record = result.record
    assert record is not None
    if as_json:
        output.print_json(
            {
                **run_json(record),
                "traits": [trait_json(row) for row in traits],
                "seal": head,
                "hold_reasons": result.held,
                "waiting": result.waiting,
                "mismatches": [asdict(mismatch) for mismatch in result.mismatches],
                "problems": result.problems,
                "notices": result.notices,
            }
        )
    else:
        print_sums(traits, hint=f"`syncer runs show {result.run} --all` shows them")
        console.stdout().print(run_line(record))
        console.stdout().print(f"seal {head}")
    say_what_needs_attention(result)
    if result.problems:
        raise click.exceptions.Exit(EXIT_FAILED)
    raise click.exceptions.Exit(EXIT_HELD if result.held else EXIT_OK)


def say_what_needs_attention(result: Result) -> None:
    """Say what of a run needs somebody."""
    without_customer_id = 0 if result.record is None else result.record.without_customer_id
    if without_customer_id:
        say(
            f"{without_customer_id:,} profiles have no customer id and cannot be billed: "
            "`syncer diff --full --customers` lists them"
        )
    for line in held_lines(result.held):
        say(f"held: {line}")
    if result.held:
        say(
            f"nothing that is held was sent: `syncer runs show {result.run}` says why, "
            f"`syncer runs approve {result.run}` lets it through"
        )
    for key, reason in result.waiting.items():
        say(f"waiting: {key}: {reason}")
    if result.waiting:
        say("while something waits, every run compares everything")
    for mismatch in result.mismatches:
        say(
            f"mismatch: {mismatch.key}: {mismatch.segment:,} members in Segment, "
            f"{mismatch.here:,} here"
        )
    for notice in result.notices:
        say(notice)
    for problem in result.problems:
        say(f"error: {problem}")


def show_diff(
    app: App,
    *,
    full: bool,
    customers: bool,
    as_json: bool,
    everything: bool = False,
    amberflo: bool = False,
) -> None:
    with ExitStack() as stack:
        runs = stack.enter_context(app.runs(writes=False))
        compared = stack.enter_context(closing(runs.diff(full=full, amberflo=amberflo)))
        _print_diff(runs, compared, customers, everything, as_json, app.config.amberflo.rate)
    say_of_comparison(compared)


def say_of_comparison(compared: Compared) -> None:
    """Say what of a comparison needs somebody: problems, and what would be held or wait."""
    for notice in compared.catalog.notices:
        say(notice)
    for message in compared.catalog.messages:
        say(f"error: {message}")
    for notice in compared.notices:
        say(notice)
    decision = compared.decision
    for line in held_lines(decision.held):
        say(f"would be held: {line}")
    if decision.deletions is not None:
        say(f"would be held: {decision.deletions}")
    for key, reason in decision.waiting.items():
        say(f"would wait: {key}: {reason}")
    if ignored := compared.catalog.ignored:
        names = ", ".join([*ignored[:10], *(["…"] if len(ignored) > 10 else [])])
        say(f"left out, as the Public API does not list it: {names}")


def _print_diff(
    runs: Runs, compared: Compared, customers: bool, everything: bool, as_json: bool, rate: float
) -> None:
    would, tally = preview(compared, runs.database, rate), compared.tally
    document = {
        "kind": compared.kind,
        "complete": True,
        "customers": {"new": tally.new, "changed": tally.changed, "unchanged": tally.unchanged},
        "to_send": would.estimate.document,
        "traits": [trait_json(row) for row in would.sums],
        "without_customer_id": compared.without_id.profiles,
        "deleted": would.deleted,
        "notices": compared.catalog.notices,
    }
    first, parity = compared.first_contact, compared.parity
    if first is not None:
        document["amberflo"] = first_contact_json(first)
    if parity is not None:
        document["parity"] = parity_json(parity)
    if as_json and not customers:
        output.print_json(document)
    elif as_json:
        output.print_json_with_lists(
            document,
            {
                "changes": (change_json(compared, change) for change in compared.changes),
                "profiles_without_customer_id": runs.without_customer_id(compared),
                **({} if parity is None else parity_lists(parity)),
            },
        )
    else:
        print_sums(would.sums, everything=everything, hint="--all shows them")
        _print_diff_lines(runs, compared, customers, would.estimate)


def _print_diff_lines(runs: Runs, compared: Compared, customers: bool, estimate: Estimate) -> None:
    """Print what a diff found in lines: what it costs to send, and with `customers` each."""
    stdout, tally = console.stdout(), compared.tally
    stdout.print(
        f"{compared.kind}: {tally.new:,} new customers, {tally.changed:,} changed, "
        f"{tally.unchanged:,} unchanged"
    )
    stdout.print(f"to send: {estimate}")
    if compared.without_id.profiles:
        stdout.print(
            f"{compared.without_id.profiles:,} profiles have no customer id and cannot be billed"
            + ("" if customers else "; --customers lists them")
        )
    if compared.parity is not None:
        print_parity(compared.parity, customers=customers)
    if compared.first_contact is not None:
        stdout.print(f"{compared.first_contact.unknown:,} customers at Amberflo are unknown here")
    if customers:
        for change in compared.changes:
            output.print_line(_change_line(compared, change))
        for profile in runs.without_customer_id(compared):
            output.print_line(f"no customer id: profile {profile}")


def _change_line(compared: Compared, change: CustomerChange) -> str:
    decision = compared.decision
    all_held = decision.holds_deletion(change)
    parts = []
    for difference in change.changes:
        held = all_held or decision.holds(difference)
        note = " (waiting)" if decision.waits(difference) else " (held)" if held else ""
        values = f"{shown(difference.before)} → {shown(difference.after)}"
        parts.append(f"{difference.trait}: {values}{note}")
    mark = "deleted" if change.deleted else "changed" if change.known else "new"
    return f"{mark} {change.customer_id}: {', '.join(parts) or 'name or email'}"
