"""`forget`: erase a customer here and what is personal of it at Amberflo, and keep it out."""

from __future__ import annotations

from pathlib import Path

import click

from syncer import report
from syncer.cli.options import application, config_option, json_option
from syncer.errors import NotFound


@click.command()
@click.argument("customer_id", metavar="CUSTOMER")
@config_option
@json_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--undo", is_flag=True, help="Let the customer in again; what was erased is gone.")
def forget(customer_id: str, config: Path | None, as_json: bool, yes: bool, undo: bool) -> None:
    """Erase a customer, and keep it out from then on.

    At Amberflo its name becomes its id, its email and the traits of identify calls go; usage and
    memberships stay, as Engage has them. Here everything goes, the history too.
    """
    app = application(config)
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
                report.print_json({"customer_id": customer_id, "forgotten": False})
            report.say(
                "it may come in again: `syncer resync --customer` brings it back, or the next "
                "`syncer sync --full`"
            )
            return
        erased, at_amberflo = forgetting.forget(customer_id)
        clean = forgetting.scrub()
    if as_json:
        report.print_json(
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
    report.say(f"{here}, Amberflo {there}; {gone}")
    if not clean:
        report.say(
            "calls that were taken before wait to be delivered, or somebody reads the database: "
            "the daemon, or the next `syncer forget`, removes the traces in the files afterwards"
        )
