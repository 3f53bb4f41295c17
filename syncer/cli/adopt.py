"""`adopt`: take over what Segment's hosted destination wrote, and see before what differs."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import click

from syncer.app import App
from syncer.cli import console, output
from syncer.cli.documents import run_json, run_line
from syncer.cli.options import application, config_option, json_option
from syncer.cli.parity import parity_json, parity_lists, print_parity
from syncer.cli.sync import say_of_comparison, say_what_needs_attention
from syncer.delivery.outlook import outlook
from syncer.errors import EXIT_FAILED, EXIT_HELD, EXIT_OK
from syncer.passthrough.mapping import METERED, meter_of
from syncer.passthrough.scopes import SIGNED
from syncer.progress import say
from syncer.sync.parity import Parity
from syncer.sync.run_result import Result
from syncer.sync.runs import Runs

#: Stands for the name of a track call's event.
EVENT = "(the event)"


@click.command()
@click.option(
    "--apply",
    "applies",
    is_flag=True,
    help="Record what is equal as acknowledged, so that the first sync sends only what differs.",
)
@click.option("--customers", is_flag=True, help="List every difference, customer by customer.")
@config_option
@json_option
def adopt(config: Path | None, as_json: bool, applies: bool, customers: bool) -> None:
    """Compare what Amberflo holds with Engage, to take it over from Segment's own destination.

    Nothing is sent. Without --apply nothing is written either.
    """
    app = application(config)
    with ExitStack() as stack:
        runs = stack.enter_context(app.runs(writes=applies))
        if applies:
            result = runs.adopt()
            parity = result.parity
            assert parity is not None
            stack.enter_context(closing(parity))
            _print(app, runs, parity, customers, as_json, result)
            say_what_needs_attention(result)
            _exit_applied(result, parity)
        if runs.account is not None:
            runs.account.recorded()
        compared = stack.enter_context(closing(runs.diff(amberflo=True)))
        parity = compared.parity
        assert parity is not None
        _print(app, runs, parity, customers, as_json)
        say_of_comparison(compared)
        _exit_report(parity, first=compared.kind == "initial")


def _exit_report(parity: Parity, *, first: bool) -> None:
    """Say what to do next, and exit with status 1 if something differs."""
    differing = parity.differ + parity.missing
    if not parity.compared:
        say("error: Engage has nobody to compare: `syncer check` says what the source has")
    elif first:
        say(
            f"{differing:,} customers differ: `syncer adopt --apply` records the others as "
            "acknowledged, and the first sync sends only these"
            if differing
            else "nothing differs: `syncer adopt --apply` records that, and the first sync sends "
            "nobody"
        )
    elif differing:
        say(f"{differing:,} customers differ: `syncer sync --full` corrects them")
    else:
        say("nothing differs")
    if not parity.good:
        raise click.exceptions.Exit(EXIT_FAILED)


def _exit_applied(result: Result, parity: Parity) -> None:
    adopted = 0 if result.record is None else result.record.already_right
    remaining = parity.compared - adopted
    say(
        f"adopted {adopted:,} customers that are equal"
        + (f"; {remaining:,} more wait: `syncer sync` sends what differs" if remaining else "")
    )
    if result.problems:
        raise click.exceptions.Exit(EXIT_FAILED)
    raise click.exceptions.Exit(EXIT_HELD if result.held else EXIT_OK)


def _print(
    app: App,
    runs: Runs,
    parity: Parity,
    customers: bool,
    as_json: bool,
    result: Result | None = None,
) -> None:
    new, known, at_amberflo = parity.missing, parity.differ, parity.at_amberflo
    estimate = outlook(runs.database, new, known, app.config.amberflo.rate, at_amberflo)
    meters = passthrough_meters(app)
    record = None if result is None else result.record
    if as_json:
        document: dict[str, Any] = {
            "parity": parity_json(parity),
            "meters": [meter._asdict() for meter in meters],
            "to_send": estimate.document,
            "run": None if record is None else run_json(record),
        }
        output.print_json_with_lists(document, parity_lists(parity) if customers else {})
        return
    print_parity(parity, customers=customers)
    for meter in meters:
        output.print_line(
            f"meters: {meter.call} feeds {meter.meter}, as the hosted destination does"
            if meter.meter == meter.hosted
            else f"meters: {meter.call} feeds {meter.meter}, hosted {meter.hosted}"
        )
    if not meters:
        output.print_line("meters: the config has no write key or webhook that may feed one")
    console.stdout().print(f"to send: {estimate}")
    if record is not None:
        console.stdout().print(run_line(record))


class MeterSpelling(NamedTuple):
    """The meter that a type of call feeds here, and what the hosted destination calls it."""

    call: str
    meter: str
    hosted: str


#: What the hosted destination names a meter (docs/facts/segment.md §7).
HOSTED = {"page": "page", "screen": "screen", "track": EVENT}


def passthrough_meters(app: App) -> list[MeterSpelling]:
    """Return the meters that calls may feed by the config."""
    passthrough = app.config.passthrough
    may = {scope for caller in passthrough.callers for scope in caller.may}
    if passthrough.webhook_secret is not None:
        may |= SIGNED.may
    return [MeterSpelling(it, meter_of(it, EVENT), HOSTED[it]) for it in METERED if it in may]
