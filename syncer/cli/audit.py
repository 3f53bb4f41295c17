"""`audit`: who was in which audience, when, and when Amberflo learned of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import orjson
from sqlalchemy import Connection

from state import history, retention
from syncer import report
from syncer.cli.options import config_option, json_option, looking, moment, wants_json
from syncer.cli.shapes import history_json, value
from syncer.errors import NotFound
from syncer.sync.forget import check_not_forgotten


@click.group()
@config_option
@json_option
def audit(config: Path | None, as_json: bool) -> None:
    """Who was in which audience, when, and when Amberflo learned of it."""


csv_option = click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
CHANGE_COLUMNS = (
    *("trait", "key", "before", "after", "run"),
    *("observed_at", "recorded_at", "delivered_at"),
)


@audit.command("customer")
@click.argument("customer_id", metavar="ID")
@config_option
@json_option
@csv_option
@click.option("--at", callback=moment, metavar="TIME", help="As recorded here by then.")
def audit_customer(
    customer_id: str, config: Path | None, as_json: bool, as_csv: bool, at: int | None
) -> None:
    """A customer's present traits and their history."""
    with looking(config) as database, database.read() as connection:
        check_answerable(connection, at)
        check_not_forgotten(connection, customer_id)
        present = history.present(connection, customer_id)
        rows = history.of_customer(connection, customer_id)
    if present is None:
        raise NotFound(f"the customer {customer_id!r} is not known here")
    traits = orjson.loads(present)
    if at is not None:
        rows = [row for row in rows if row["recorded_at"] <= at]
        traits = {row["trait"]: value(row["after"]) for row in rows if row["after"] is not None}
        for row in rows:
            if row["after"] is None:
                traits.pop(row["trait"], None)
            else:
                traits[row["trait"]] = value(row["after"])
    changes = [history_json(row) for row in rows]
    if wants_json(as_json):
        document = {"customer_id": customer_id, "present": traits, "changes": changes}
        report.print_json(document if at is None else {**document, "at": report.iso(at)})
        return
    cells = [
        [
            orjson.dumps(row[name]).decode() if name in ("before", "after") else row[name]
            for name in CHANGE_COLUMNS
        ]
        for row in changes
    ]
    if as_csv:
        report.print_csv(CHANGE_COLUMNS, cells)
        return
    when = "now" if at is None else f"at {report.iso(at)}"
    report.print_table(
        ("trait", "value"),
        [[name, orjson.dumps(value).decode()] for name, value in sorted(traits.items())],
        title=f"{customer_id} {when}",
    )
    report.print_table(CHANGE_COLUMNS, cells, title="history")


@audit.command("audience")
@click.argument("key", metavar="KEY")
@config_option
@json_option
@csv_option
@click.option("--since", callback=moment, metavar="TIME", help="Recorded at or after this.")
@click.option("--until", callback=moment, metavar="TIME", help="Recorded before this.")
@click.option("--at", callback=moment, metavar="TIME", help="Who was in, as recorded here by then.")
def audit_audience(
    key: str,
    config: Path | None,
    as_json: bool,
    as_csv: bool,
    since: int | None,
    until: int | None,
    at: int | None,
) -> None:
    """Who entered and left an audience; or with --at who was in."""
    if at is not None and (since is not None or until is not None):
        raise click.UsageError("--at is one moment: leave --since and --until out")
    with looking(config) as database, database.read() as connection:
        found = history.key_of(connection, key)
        if found is None:
            raise NotFound(f"no audience with the key {key!r} was ever synced")
        check_answerable(connection, at, since)
        if at is not None:
            members = history.members_at(connection, found, at)
            rows: list[dict[str, Any]] = []
        else:
            rows = [
                history_json(row) | {"customer_id": row["customer_id"]}
                for row in history.of_key(connection, found, since, until)
            ]
    if at is not None:
        if wants_json(as_json):
            report.print_json(
                {"audience": found, "at": report.iso(at), "count": len(members), "members": members}
            )
        elif as_csv:
            report.print_csv(("customer_id",), [[one] for one in members])
        else:
            report.print_table(("customer_id",), [[one] for one in members])
            report.stdout().print(f"{len(members):,} in {found} at {report.iso(at)}")
        return
    moved = [(side, row) for row in rows if (side := _side(row)) is not None]
    columns = ("customer_id", "observed_at", "recorded_at", "delivered_at", "run")
    if wants_json(as_json):
        sides: dict[str, list[dict[str, Any]]] = {"entered": [], "exited": []}
        for side, row in moved:
            sides[side].append({name: row[name] for name in columns})
        report.print_json({"audience": found, **sides})
        return
    cells = [[side, *(row[name] for name in columns)] for side, row in moved]
    (report.print_csv if as_csv else report.print_table)(("what", *columns), cells)


def check_answerable(connection: Connection, at: int | None, since: int | None = None) -> None:
    """Raises when a compaction has taken what a question about a moment needs; a list that reaches
    further back is told to be a part."""
    begins = retention.begins(connection)
    if begins is None:
        return
    if at is not None and at < begins:
        raise NotFound(f"the history begins at {report.iso(begins)}: nothing older is kept")
    if at is None and (since is None or since < begins):
        report.say(
            f"the history begins at {report.iso(begins)}: of what was before only the last change "
            "of each trait is kept"
        )


def _side(row: dict[str, Any]) -> str | None:
    if row["after"] is True:
        return "entered"
    return "exited" if row["before"] is True else None
