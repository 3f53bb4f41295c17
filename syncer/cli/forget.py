"""`forget`: erase a customer here and what is personal of it at Amberflo, and keep it out."""

from __future__ import annotations

from pathlib import Path

import click

from state import suppression
from syncer.app import App
from syncer.cli import output
from syncer.cli.options import application, config_option, json_option
from syncer.clock import iso
from syncer.errors import NotFound
from syncer.progress import say


@click.command()
@click.argument("customer_id", metavar="[CUSTOMER]", required=False)
@config_option
@json_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--undo", is_flag=True, help="Let the customer in again; what was erased is gone.")
@click.option(
    "--pending",
    is_flag=True,
    help="Those whom Segment's deletes beyond passthrough.deletes_per_day name.",
)
def forget(
    customer_id: str | None,
    config: Path | None,
    as_json: bool,
    yes: bool,
    undo: bool,
    pending: bool,
) -> None:
    """Erase a customer, and keep it out from then on.

    At Amberflo its name becomes its id, its email and the traits of identify calls go; usage and
    memberships stay, as Engage has them. Here everything goes, the history too.

    Segment's delete calls do the same, so many a day; what comes beyond waits for `--pending`,
    which lists whom and erases them, or with `--undo` leaves them as they are.
    """
    if (customer_id is None) != pending:
        raise click.UsageError("name one customer, or say --pending")
    app = application(config)
    if customer_id is None:
        _forget_pending(app, as_json, yes=yes, undo=undo)
    else:
        _forget_one(app, customer_id, as_json, yes=yes, undo=undo)


def _forget_pending(app: App, as_json: bool, *, yes: bool, undo: bool) -> None:
    with app.state(writes=True) as state, app.queue(writes=True) as calls:
        with state.read() as connection:
            waiting = suppression.waiting(connection)
        if not waiting:
            if as_json:
                output.print_json({"pending": [], "forgotten": 0})
            say("no deletion waits for a word")
            return
        if not as_json:
            rows = [[customer_id, iso(at)] for customer_id, at in waiting]
            output.print_table(("customer", "asked at"), rows)
        if not (yes or undo):
            click.confirm(
                f"Erase these {len(waiting):,} customers here, and their names, emails and "
                "identify traits at Amberflo? This cannot be undone.",
                abort=True,
                err=True,
            )
        forgetting = app.forget(state, calls)
        ids = [customer_id for customer_id, _ in waiting]
        erased, problem = (0, None) if undo else forgetting.forget_waiting(ids)
        if undo:
            for one in ids:
                forgetting.lift(one)
    if as_json:
        asked = [{"customer_id": one, "asked_at": iso(at)} for one, at in waiting]
        output.print_json({"pending": asked, "forgotten": erased})
    say(f"{len(ids):,} stay as they are" if undo else f"{erased:,} customers are erased")
    if problem is not None:
        say(f"a daemon erases the other {len(ids) - erased:,} when it can: {problem}")


def _forget_one(app: App, customer_id: str, as_json: bool, *, yes: bool, undo: bool) -> None:
    if not (yes or undo):
        click.confirm(
            f"Erase customer {customer_id} here, and its name, email and identify traits at "
            "Amberflo? This cannot be undone.",
            abort=True,
            err=True,
        )
    with app.state(writes=True) as state, app.queue(writes=True) as calls:
        forgetting = app.forget(state, calls)
        if undo:
            if not forgetting.lift(customer_id):
                raise NotFound(f"the customer {customer_id!r} is not forgotten")
            if as_json:
                output.print_json({"customer_id": customer_id, "forgotten": False})
            say(
                "it may come in again: `syncer resync --customer` brings it back, or the next "
                "`syncer sync --full`"
            )
            return
        erased, at_amberflo = forgetting.forget(customer_id)
        clean = forgetting.scrub()
    if as_json:
        output.print_json(
            {
                "customer_id": customer_id,
                "forgotten": True,
                "at_amberflo": at_amberflo,
                "erased": {
                    "customers": int(erased.known),
                    "changes": erased.changes,
                    "failures": erased.failures,
                },
                "traces": not clean,
            }
        )
    here = "the customer is erased" if erased.known else "it was not known here"
    there = "has its id for a name now and no email" if at_amberflo else "does not know it"
    gone = f"{erased.changes:,} changes and {erased.failures:,} failures erased"
    say(f"{here}, Amberflo {there}; {gone}")
    if not clean:
        say(
            "calls that were taken before wait to be delivered, or somebody reads the database: "
            "the daemon, or the next `syncer forget`, removes the traces in the files afterwards"
        )
