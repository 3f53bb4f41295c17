"""`audit`: the history of customers, audiences and runs, and what Amberflo acknowledged."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click
import orjson
from sqlalchemy import Connection

from state import runs as run_records
from state import snapshot
from state.history import listings, past, retention
from state.history.listings import ENTERED, EXITED, MOVED, NEITHER, Entry, Moves
from state.runs import RunRow
from syncer.cli import complete, console, output
from syncer.cli.documents import entry_json, shown, undelivered_json, value
from syncer.cli.options import (
    config_option,
    csv_option,
    json_option,
    moment,
    open_for_reading,
    readable,
    run_or_last,
    wants_json,
)
from syncer.cli.seal import compact, seal
from syncer.clock import iso
from syncer.engage.computations import AUDIENCE
from syncer.errors import NotFound, NotKept
from syncer.json_text import to_json
from syncer.privacy.forget import check_not_forgotten
from syncer.progress import say
from syncer.sync.changes import ADOPTED

#: The rows of a table without --limit.
TABLE = 1000

TIMES = ("observed_at", "recorded_at", "delivered_at")
VALUES = ("trait", "key", "before", "after")
CHANGE = (*VALUES, "run", "source", "via", *TIMES)
MOVE = ("customer_id", *TIMES, "run", "source", "via")
CHANGE_OF_RUN = ("customer_id", *VALUES, "source", *TIMES)
UNDELIVERED = ("customer_id", *VALUES, "run", "source", "via", *TIMES[:2], "refused")

Row = dict[str, Any]

number = click.IntRange(min=1, max=2**63 - 1)

at_option = click.option(
    "--at", callback=moment, metavar="TIME", help="As recorded here by this time."
)
at_run_option = click.option("--at-run", type=number, metavar="N", help="As of the end of run N.")
since_option = click.option(
    "--since", callback=moment, metavar="TIME", help="Recorded at or after this."
)
until_option = click.option(
    "--until", callback=moment, metavar="TIME", help="Recorded before this."
)
key_option = click.option(
    "--key", callback=readable, metavar="KEY", help="Only this audience or computed trait."
)
limit_option = click.option(
    "--limit", type=number, help=f"At most so many [default: all; tables {TABLE:,}]."
)
newest_option = click.option(
    "--limit", type=number, help=f"Only the newest N [default: all; tables {TABLE:,}]."
)


@click.group()
@config_option
@json_option
def audit(config: Path | None, as_json: bool) -> None:
    """Show who was in which audience when, and when Amberflo acknowledged it."""


audit.add_command(seal)
audit.add_command(compact)


@audit.command("customer")
@click.argument("customer_id", metavar="ID", callback=readable, shell_complete=complete.customers)
@config_option
@json_option
@csv_option
@at_option
@at_run_option
@since_option
@until_option
@key_option
@newest_option
def audit_customer(
    customer_id: str,
    config: Path | None,
    as_json: bool,
    as_csv: bool,
    at: int | None,
    at_run: int | None,
    since: int | None,
    until: int | None,
    key: str | None,
    limit: int | None,
) -> None:
    """Show a customer's present traits and their history."""
    with _asking(config, as_json) as connection:
        check_not_forgotten(connection, customer_id)
        customer = snapshot.get(connection, customer_id)
        if customer is None:
            raise NotFound(f"the customer {customer_id!r} is unknown")
        at = _moment(connection, at, at_run, since, until)
        traits = orjson.loads(customer.traits)
        if at is not None:
            until = at + 1
            texts = past.traits_at(connection, customer_id, at)
            traits = {trait: value(text) for trait, text in sorted(texts.items())}
        else:
            _warn_if_compacted(connection, since)
        if key is not None:
            key = known_key(connection, key)
            rows = snapshot.traits(connection, released=True)
            names = {row.trait for row in rows if row.key == key}
            traits = {trait: present for trait, present in traits.items() if trait in names}
        ask = partial(
            listings.of_customer, connection, customer_id, key=key, since=since, until=until
        )
        if wants_json(as_json):
            document = {"customer_id": customer_id, "present": traits}
            output.print_json_with_lists(
                document if at is None else {**document, **_as_of(connection, at)},
                {"changes": _json(CHANGE, _newest(ask, limit))},
            )
        elif as_csv:
            output.print_csv(CHANGE, _cells(CHANGE, _newest(ask, limit)))
        else:
            when = "now" if at is None else f"at {iso(at)}"
            values = [[trait, shown(present)] for trait, present in traits.items()]
            console.print_table(("trait", "value"), values, title=f"{customer_id} {when}")
            total = sum(1 for _ in ask())
            _print_table(CHANGE, _newest(ask, limit or TABLE), total, limit, title="history")
            adopted = {(it.run, it.recorded_at) for it in ask() if it.source == ADOPTED}
            for run, moment in sorted(adopted):
                line = f"adopted at {iso(moment)} by run {run}, found equal: nothing was sent"
                console.stdout().print(line)


@audit.command("audience")
@click.argument("key", metavar="KEY", callback=readable, shell_complete=complete.audiences)
@config_option
@json_option
@csv_option
@since_option
@until_option
@click.option(
    "--at", callback=moment, metavar="TIME", help="Members as recorded here by this time."
)
@click.option("--at-run", type=number, metavar="N", help="Members as of the end of run N.")
@newest_option
def audit_audience(
    key: str,
    config: Path | None,
    as_json: bool,
    as_csv: bool,
    since: int | None,
    until: int | None,
    at: int | None,
    at_run: int | None,
    limit: int | None,
) -> None:
    """Show who entered and left an audience; with --at its members at a time."""
    with _asking(config, as_json) as connection:
        at = _moment(connection, at, at_run, since, until)
        key = known_key(connection, key)
        if at is not None:
            _print_members(connection, key, at, wants_json(as_json), as_csv, limit)
            return
        _warn_if_compacted(connection, since)
        ask = partial(listings.of_key, connection, key, since, until)
        if wants_json(as_json):
            output.print_json_with_lists(
                {"audience": key},
                {
                    side: _json(MOVE, _newest(partial(ask, deltas=(delta,)), limit))
                    for side, delta in (("entered", ENTERED), ("exited", EXITED))
                },
            )
            return
        columns, ask = ("change", *MOVE), partial(ask, deltas=MOVED)
        if as_csv:
            output.print_csv(columns, _cells(columns, _newest(ask, limit)))
            return
        moves = listings.key_moves(connection, key, since, until)
        total = moves.entered + moves.exited
        _print_table(columns, _newest(ask, limit or TABLE), total, limit)
        console.stdout().print(f"{moves.entered:,} entered {key}, {moves.exited:,} left it")


def _print_members(
    connection: Connection, key: str, at: int, as_json: bool, as_csv: bool, limit: int | None
) -> None:
    ask = partial(past.members_at, connection, key, at)
    if as_csv:
        output.print_csv(("customer_id",), ([customer_id] for customer_id in ask(limit=limit)))
        return
    count = past.count_at(connection, key, at)
    if as_json:
        document = {"audience": key, **_as_of(connection, at), "count": count}
        output.print_json_with_lists(document, {"members": ask(limit=limit)})
        return
    rows = ({"customer_id": customer_id} for customer_id in ask(limit=limit or TABLE))
    _print_table(("customer_id",), rows, count, limit)
    console.stdout().print(f"{count:,} in {key} at {iso(at)}")


@audit.command("run")
@click.argument(
    "which", metavar="N|last", callback=run_or_last, shell_complete=complete.runs_and_last
)
@config_option
@json_option
@csv_option
@key_option
@click.option("--entered", is_flag=True, help="Only memberships that became true.")
@click.option("--exited", is_flag=True, help="Only memberships that became false.")
@limit_option
def audit_run(
    which: int | None,
    config: Path | None,
    as_json: bool,
    as_csv: bool,
    key: str | None,
    entered: bool,
    exited: bool,
    limit: int | None,
) -> None:
    """Show all changes of a run, by audience or computed trait.

    `last` is the newest run that wrote something.
    """
    deltas = [delta for delta, chosen in ((ENTERED, entered), (EXITED, exited)) if chosen] or None
    with _asking(config, as_json) as connection:
        record = _run(connection, which)
        run = record.id
        key = None if key is None else known_key(connection, key)
        _warn_if_compacted(connection, record.committed_at)
        ask = partial(listings.of_run, connection, run, key=key, deltas=deltas)
        if wants_json(as_json):
            document = {
                "run": run,
                "kind": record.kind,
                "state": record.state,
                "held": record.held,
            }
            changes = _json(("customer_id", *CHANGE), map(entry_json, ask(limit=limit)))
            output.print_json_with_lists(document, {"changes": changes})
        elif as_csv:
            rows = map(entry_json, ask(limit=limit))
            output.print_csv(CHANGE_OF_RUN, _cells(CHANGE_OF_RUN, rows))
        else:
            moves = [
                move for move in listings.run_moves(connection, run) if key in (None, move.key)
            ]
            console.print_table(
                ("key", "entered", "exited", "other"),
                [[move.key, move.entered, move.exited, move.other] for move in moves],
                title=f"run {run} ({record.kind}) {record.state}",
            )
            total = sum(_count(move, deltas) for move in moves)
            rows = map(entry_json, ask(limit=limit or TABLE))
            _print_table(CHANGE_OF_RUN, rows, total, limit)
            if record.held:
                console.stdout().print(
                    f"of {record.held:,} more customers the guard held something: "
                    f"`syncer runs held {run}` lists them"
                )


def _run(connection: Connection, run: int | None) -> RunRow:
    """Return a run; None is the newest one that wrote something."""
    number = run_records.last_committed(connection) if run is None else run
    record = None if number is None else run_records.get(connection, number)
    if record is None:
        raise NotFound(
            "no run has written anything yet"
            if run is None
            else f"there is no run {run}; `syncer runs` lists them"
        )
    return record


def _count(move: Moves, deltas: Collection[int] | None) -> int:
    """Return how many changes of a key a listing with these `deltas` has."""
    counts = {ENTERED: move.entered, EXITED: move.exited, NEITHER: move.other}
    return sum(count for delta, count in counts.items() if deltas is None or delta in deltas)


@audit.command("undelivered")
@config_option
@json_option
@csv_option
@limit_option
def audit_undelivered(config: Path | None, as_json: bool, as_csv: bool, limit: int | None) -> None:
    """Show what Amberflo has not acknowledged, by customer."""
    with _asking(config, as_json) as connection:
        ask = partial(listings.undelivered, connection)
        if as_csv and not wants_json(as_json):
            rows = map(undelivered_json, ask(limit=limit))
            output.print_csv(UNDELIVERED, _cells(UNDELIVERED, rows))
            return
        count = listings.undelivered_count(connection)
        if wants_json(as_json):
            names = ("customer_id", *CHANGE, "refused")
            changes = _json(names, map(undelivered_json, ask(limit=limit)))
            output.print_json_with_lists({"count": count}, {"changes": changes})
        else:
            rows = map(undelivered_json, ask(limit=limit or TABLE))
            _print_table(UNDELIVERED, rows, count, limit)
            console.stdout().print(f"{count:,} changes that Amberflo has not acknowledged")


@audit.command("at")
@click.argument("at", metavar="TIME", callback=moment)
@config_option
@json_option
@csv_option
def audit_at(at: int, config: Path | None, as_json: bool, as_csv: bool) -> None:
    """Count the members of each audience, as recorded here by a time."""
    with _asking(config, as_json) as connection:
        as_of = _as_of(connection, at)
        audiences = [
            {
                "audience": row.key,
                "trait": row.trait,
                "count": past.count_at(connection, row.key, at),
            }
            for row in snapshot.traits(connection, released=True)
            if row.kind == AUDIENCE
        ]
    columns = ("audience", "trait", "count")
    if wants_json(as_json):
        output.print_json({**as_of, "audiences": audiences})
    else:
        print_rows = output.print_csv if as_csv else console.print_table
        print_rows(columns, _cells(columns, audiences))


@contextmanager
def _asking(config: Path | None, as_json: bool) -> Iterator[Connection]:
    """Open the history, as it is at one moment.

    It prints a JSON document for a time before the history begins, and raises `NotKept`.
    """
    with open_for_reading(config) as database, database.read() as connection:
        try:
            yield connection
        except NotKept as error:
            if wants_json(as_json):
                known_since = iso(error.known_since)
                output.print_json({"error": str(error), "known_since": known_since})
            raise


def _as_of(connection: Connection, at: int) -> Row:
    """Return the first fields of each answer as of a time; raises `NotKept` if there is none."""
    return {"at": iso(at), "known_since": iso(past.check_known(connection, at))}


def _moment(
    connection: Connection, at: int | None, at_run: int | None, *span: int | None
) -> int | None:
    """Return the time that --at or --at-run names."""
    if at is not None and at_run is not None:
        raise click.UsageError("use either --at or --at-run")
    if at_run is None:
        name = "--at"
    else:
        name = "--at-run"
        record = run_records.get(connection, at_run)
        if record is None:
            raise NotFound(f"there is no run {at_run}; `syncer runs` lists them")
        at = record.committed_at
        if at is None:
            raise NotFound(f"run {at_run} is {record.state}: it wrote nothing")
    if at is not None and any(bound is not None for bound in span):
        raise click.UsageError(f"{name} is one moment: use it without --since and --until")
    if at is not None:
        past.check_known(connection, at)
    return at


def known_key(connection: Connection, key_or_trait: str) -> str:
    """Return the key that a user names by it or by its name at Amberflo."""
    key = listings.key_of(connection, key_or_trait)
    if key is None:
        raise NotFound(
            f"no audience or computed trait with the key {key_or_trait!r} was ever synced"
        )
    return key


def _warn_if_compacted(connection: Connection, since: int | None) -> None:
    """Warn that a list is incomplete if it reaches into the compacted history."""
    begins = retention.begins(connection)
    if begins is not None and (since is None or since <= begins):
        say(
            f"the history begins at {iso(begins)}: of earlier changes only the last of each trait "
            "is kept"
        )


def _newest(ask: Callable[..., Iterable[Entry]], limit: int | None) -> Iterator[Row]:
    """Return all changes, or the newest ones; the oldest first either way."""
    if limit is None:
        return map(entry_json, ask())
    return map(entry_json, reversed(list(ask(newest_first=True, limit=limit))))


def _json(names: Sequence[str], rows: Iterable[Row]) -> Iterator[Row]:
    return ({name: row[name] for name in names} for row in rows)


def _cells(columns: Sequence[str], rows: Iterable[Row]) -> Iterator[list[Any]]:
    """Return rows of CSV or of a table: a trait's value as JSON, absent as empty."""
    for row in rows:
        yield [
            to_json(row[name])
            if name in ("before", "after") and row[name] is not None
            else row[name]
            for name in columns
        ]


def _print_table(
    columns: Sequence[str], rows: Iterable[Row], total: int, limit: int | None, title: str = ""
) -> None:
    """Print a table, and how many rows it leaves out."""
    console.print_table(columns, _cells(columns, rows), title=title)
    more = total - (limit or TABLE)
    if more > 0:
        console.stdout().print(f"and {more:,} more: --limit shows more, --csv and --json all")
