"""`verify`: what Amberflo holds now, against what it should hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import click

from syncer.cli import output
from syncer.cli.documents import said
from syncer.cli.options import application, config_option, json_option
from syncer.errors import EXIT_FAILED
from syncer.progress import say
from syncer.verify.result import Verification


@click.command()
@click.option("--customer", metavar="ID", help="Only this customer.")
@click.option(
    "--repair",
    is_flag=True,
    help="Compare with Engage anew and send what differs.",
)
@config_option
@json_option
def verify(config: Path | None, as_json: bool, customer: str | None, repair: bool) -> None:
    """Compare what Amberflo holds with what it should hold.

    Writes nothing anywhere without --repair.
    """
    app = application(config)
    with ExitStack() as held:
        if repair:
            runs = held.enter_context(app.runs())
            found = app.verify(runs.database, customer, repair=runs.repair)
        else:
            found = app.verify(held.enter_context(app.state(writes=False)), customer)
        with closing(found):
            if as_json:
                print_json(found)
            else:
                print_text(found)
            end(found, repair)


def print_json(found: Verification) -> None:
    document: dict[str, Any] = {
        "checked": found.checked,
        "equal": found.equal,
        "pending": found.pending,
        "repaired": found.repaired,
        "traits": [
            {"trait": trait, "equal": equal, "drifted": drifted}
            for trait, equal, drifted in found.traits()
        ],
    }
    output.print_json_with_lists(
        document,
        {
            "missing": found.findings.missing(),
            "drifted": (drift._asdict() for drift in found.drifts()),
            "extra": found.findings.extra(),
        },
    )


def print_text(found: Verification) -> None:
    for line in _lines(found):
        output.print_line(line)
    output.print_table(("trait", "equal", "drifted"), found.traits())
    output.stdout().print(
        f"{found.checked:,} customers checked: {found.equal:,} equal, {found.missing:,} missing, "
        f"{found.drifted:,} drifted, {found.pending:,} still to be sent"
    )
    if found.extra:
        output.stdout().print(
            f"{found.extra:,} more at Amberflo were never sent: --json lists them"
        )


def _lines(verification: Verification) -> Iterator[str]:
    for customer_id in verification.findings.missing():
        yield f"missing {customer_id}"
    for one in verification.drifts():
        found, expected = said(one.found), said(one.expected)
        yield f"drifted {one.customer_id}: {one.trait} is {found}, not {expected}"


def end(found: Verification, repair: bool) -> None:
    """Say what is left to do, and leave with status 1 if something is."""
    for problem in found.problems:
        say(f"error: {problem}")
    if repair:
        say(f"{found.repaired:,} of {found.missing + found.drifted:,} repaired")
    if found.good:
        return
    if not repair:
        say("`syncer verify --repair` sends again what is missing or differs")
    raise click.exceptions.Exit(EXIT_FAILED)
