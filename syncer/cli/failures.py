"""`failures`: what Amberflo does not take, to send again or to discard, and invalid calls."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from state import failures as records
from state.db.database import Database
from state.discard import discard
from syncer.cli import complete, console, output
from syncer.cli.documents import failure_json
from syncer.cli.options import (
    application,
    config_option,
    json_option,
    open_for_reading,
    readable,
    wants_json,
)
from syncer.clock import iso
from syncer.errors import EXIT_FAILED, NotFound, SyncerError
from syncer.progress import say
from syncer.resend import resend

#: The rows of a table without --limit.
TABLE = 1000

customer_option = click.option(
    "--customer",
    metavar="ID",
    callback=readable,
    shell_complete=complete.customers,
    help="Only failures of this customer.",
)
newest_option = click.option(
    "--limit",
    type=click.IntRange(min=1, max=2**63 - 1),
    help=f"Only the newest N [default: all; tables {TABLE:,}].",
)


@click.group(invoke_without_command=True)
@config_option
@json_option
@customer_option
@newest_option
@click.pass_context
def failures(
    context: click.Context,
    config: Path | None,
    as_json: bool,
    customer: str | None,
    limit: int | None,
) -> None:
    """List what Amberflo does not take, with the request and the response, and invalid calls.

    Of invalid calls only the newest are kept.
    """
    if context.invoked_subcommand is None:
        list_failures(config, as_json, customer, limit)


@failures.command("list")
@config_option
@json_option
@customer_option
@newest_option
def failures_list(
    config: Path | None, as_json: bool, customer: str | None, limit: int | None
) -> None:
    """List the failures, oldest first."""
    list_failures(config, as_json, customer, limit)


def list_failures(
    config: Path | None, as_json: bool, customer: str | None, limit: int | None
) -> None:
    with open_for_reading(config) as database, database.read() as connection:
        each = partial(records.each, connection, customer_id=customer)
        if wants_json(as_json):
            rows = each(limit=limit)
            output.print_json_list(failure_json(row) for row in rows)
            return
        names = ("customer_id", "event", "message_id", "status", "reason", "attempts")
        console.print_table(
            ("id", "customer", "event", "message", "status", "reason", "attempts", "failed at"),
            [
                [str(row.id), *(getattr(row, name) for name in names), iso(row.failed_at)]
                for row in each(limit=limit or TABLE)
            ],
        )
        more = records.count_of(connection, customer) - (limit or TABLE)
    if more > 0:
        console.stdout().print(f"and {more:,} older ones: --limit shows more, --json all")


def _check_chosen(database: Database, ids: tuple[int, ...], everything: bool) -> int:
    """Return the number of the newest failure; raises if a named one does not exist."""
    if bool(ids) == everything:
        raise click.UsageError("name failures by their numbers, or use --all")
    with database.read() as connection:
        missing = set(ids) - {row.id for row in records.find(connection, ids)}
        if missing:
            raise NotFound(f"there is no failure {min(missing)}; `syncer failures` lists them")
        return records.newest(connection)


@failures.command("retry")
@click.argument("ids", type=int, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All failures.")
@config_option
@json_option
def failures_retry(
    ids: tuple[int, ...], everything: bool, config: Path | None, as_json: bool
) -> None:
    """Send failures again now; while a daemon runs, it sends the meter records.

    A call that was invalid stays invalid: it can only be discarded.
    """
    app = application(config)
    with app.runs() as runs:
        newest = _check_chosen(runs.database, ids, everything)
        _check_sendable(runs.database, ids)
        delivery = resend(app, runs, None if everything else ids, newest)
    if wants_json(as_json):
        output.print_json({"delivered": delivery.delivered, "failed": delivery.failed})
    say(f"{delivery.delivered:,} delivered, {delivery.failed:,} refused again")
    if delivery.problem:
        say(f"error: {delivery.problem}")
    if delivery.failed or delivery.problem or delivery.stopped:
        raise click.exceptions.Exit(EXIT_FAILED)


def _check_sendable(database: Database, ids: tuple[int, ...]) -> None:
    with database.read() as connection:
        for row in records.find(connection, ids):
            if row.only_discarded:
                raise SyncerError(
                    f"failure {row.id} is an invalid call ({row.reason}): it can only be discarded"
                )
        if not ids and (calls := records.count_calls(connection)):
            say(f"{calls:,} calls are invalid: no retry helps, they stay until discarded")


@failures.command("discard")
@click.argument("ids", type=int, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All failures.")
@config_option
@json_option
def failures_discard(
    ids: tuple[int, ...], everything: bool, config: Path | None, as_json: bool
) -> None:
    """Discard failures; their content is not sent until the customer changes or is resynced."""
    app = application(config)
    with app.state(writes=True) as database, app.queue(writes=True) as calls:
        newest = _check_chosen(database, ids, everything)
        removed = discard(database, calls, None if everything else ids, newest)
    if wants_json(as_json):
        output.print_json({"discarded": removed})
    say(f"{removed:,} discarded")
