"""`forget`: erase a customer here, anonymize it at Amberflo, and keep it out."""

from __future__ import annotations

from pathlib import Path

import click

from state import suppression
from syncer.app import App
from syncer.cli import complete, console, output
from syncer.cli.options import application, config_option, confirm, json_option
from syncer.clock import iso
from syncer.errors import NotFound
from syncer.progress import say


@click.command()
@click.argument(
    "customer_id", metavar="[CUSTOMER]", required=False, shell_complete=complete.customers
)
@config_option
@json_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--undo", is_flag=True, help="Let the customer in again; erased data is not restored."
)
@click.option(
    "--pending",
    is_flag=True,
    help="The customers of Segment's deletes beyond passthrough.deletes_per_day.",
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

    At Amberflo its name becomes its id, and its email and the traits of identify calls are
    removed; usage and memberships stay, as Engage has them. Here everything is erased, with the
    history.

    Segment's delete calls do the same, up to a number a day. Further ones wait for `--pending`,
    which lists and erases those customers, or with `--undo` leaves them as they are.
    """
    if (customer_id is None) != pending:
        raise click.UsageError("name a customer, or use --pending")
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
            say("no deletion is pending")
            return
        if not as_json:
            rows = [[customer_id, iso(at)] for customer_id, at in waiting]
            console.print_table(("customer", "requested at"), rows)
        if not (yes or undo):
            confirm(
                f"Erase these {len(waiting):,} customers here, and their names, emails and "
                "identify traits at Amberflo? This cannot be undone."
            )
        forgetting = app.forget(state, calls)
        ids = [customer_id for customer_id, _ in waiting]
        erased, problem = (0, None) if undo else forgetting.forget_waiting(ids)
        if undo:
            for pending in ids:
                forgetting.lift(pending)
    if as_json:
        requests = [
            {"customer_id": customer_id, "asked_at": iso(at)} for customer_id, at in waiting
        ]
        output.print_json({"pending": requests, "forgotten": erased})
    say(f"{len(ids):,} stay as they are" if undo else f"{erased:,} customers are erased")
    if problem is not None:
        say(f"the daemon will erase the other {len(ids) - erased:,}: {problem}")


def _forget_one(app: App, customer_id: str, as_json: bool, *, yes: bool, undo: bool) -> None:
    if not (yes or undo):
        confirm(
            f"Erase customer {customer_id} here, and its name, email and identify traits at "
            "Amberflo? This cannot be undone."
        )
    with app.state(writes=True) as state, app.queue(writes=True) as calls:
        forgetting = app.forget(state, calls)
        if undo:
            if not forgetting.lift(customer_id):
                raise NotFound(f"the customer {customer_id!r} was not forgotten")
            if as_json:
                output.print_json({"customer_id": customer_id, "forgotten": False})
            say(
                "the customer is let in again: `syncer resync --customer` brings it back, or "
                "the next `syncer sync --full`"
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
    here = "the customer is erased" if erased.known else "the customer was unknown here"
    amberflo = "has only its id as its name" if at_amberflo else "does not know it"
    counts = f"{erased.changes:,} changes and {erased.failures:,} failures erased"
    say(f"{here}, Amberflo {amberflo}; {counts}")
    if not clean:
        say(
            "earlier calls wait to be delivered, or the database is being read: the daemon, or the "
            "next `syncer forget`, removes the traces in the files afterwards"
        )
