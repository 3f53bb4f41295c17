"""`verify`: compare what Amberflo holds with what it should hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import click

from state import restored
from syncer.cli import complete, console, output
from syncer.cli.documents import drift_json, shown
from syncer.cli.options import application, config_option, json_option
from syncer.errors import EXIT_FAILED
from syncer.progress import say
from syncer.verify.result import Verification


@click.command()
@click.option(
    "--customer", metavar="ID", shell_complete=complete.customers, help="Only this customer."
)
@click.option(
    "--repair",
    is_flag=True,
    help="Compare with Engage again and send what differs.",
)
@config_option
@json_option
def verify(config: Path | None, as_json: bool, customer: str | None, repair: bool) -> None:
    """Compare what Amberflo holds with what it should hold.

    It writes nothing without --repair.
    """
    app = application(config)
    with ExitStack() as stack:
        if repair:
            runs = stack.enter_context(app.runs())
            with runs.database.read() as connection:
                restored.check(connection)
            verification = app.verify(runs.database, customer, repair=runs.repair)
        else:
            verification = app.verify(stack.enter_context(app.state(writes=False)), customer)
        with closing(verification):
            if as_json:
                print_json(verification)
            else:
                print_text(verification)
            exit_with(verification, repair)


def print_json(verification: Verification) -> None:
    document: dict[str, Any] = {
        "checked": verification.checked,
        "equal": verification.equal,
        "pending": verification.pending,
        "repaired": verification.repaired,
        "traits": [
            {"trait": trait, "equal": equal, "drifted": drifted}
            for trait, equal, drifted in verification.traits()
        ],
    }
    output.print_json_with_lists(
        document,
        {
            "missing": verification.findings.missing(),
            "drifted": map(drift_json, verification.findings.drifts()),
            "extra": verification.findings.extra(),
        },
    )


def print_text(verification: Verification) -> None:
    for line in _lines(verification):
        output.print_line(line)
    console.print_table(("trait", "equal", "drifted"), verification.traits())
    console.stdout().print(
        f"{verification.checked:,} customers checked: {verification.equal:,} equal, "
        f"{verification.missing:,} missing, {verification.drifted:,} drifted, "
        f"{verification.pending:,} still to be sent"
    )
    if verification.extra:
        console.stdout().print(
            f"{verification.extra:,} more at Amberflo were never sent by us: --json lists them"
        )


def _lines(verification: Verification) -> Iterator[str]:
    for customer_id in verification.findings.missing():
        yield f"missing {customer_id}"
    for drift in verification.findings.drifts():
        actual, expected = shown(drift.found), shown(drift.expected)
        yield f"drifted {drift.customer_id}: {drift.trait} is {actual}, not {expected}"


def exit_with(verification: Verification, repair: bool) -> None:
    """Report what is left to do, and exit with status 1 if something is."""
    for problem in verification.problems:
        say(f"error: {problem}")
    if repair:
        say(
            f"{verification.repaired:,} of {verification.missing + verification.drifted:,} repaired"
        )
    if verification.good:
        return
    if not repair:
        say("`syncer verify --repair` sends what is missing or differs")
    raise click.exceptions.Exit(EXIT_FAILED)
