"""`traits`: which traits at Amberflo are ours, and giving one back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from state import ownership, snapshot
from state.db.locks import run_lock
from state.snapshot import TraitRow
from syncer.cli import output
from syncer.cli.options import (
    application,
    config_option,
    json_option,
    readable,
    settings,
    wants_json,
)
from syncer.clock import iso
from syncer.config import EngageConfig
from syncer.databases import opened
from syncer.engage.selection import KeySelection, named
from syncer.errors import ConfigError, NotFound
from syncer.progress import say

#: Seconds to wait for the end of another run, such as a short one of the daemon.
PATIENCE = 2.0

COLUMNS = ("key", "trait", "kind", "members", "status", "released_at")


@click.group(invoke_without_command=True)
@config_option
@json_option
@click.pass_context
def traits(context: click.Context, config: Path | None, as_json: bool) -> None:
    """The traits at Amberflo that are ours, and those that were given back."""
    if context.invoked_subcommand is None:
        list_traits(config, as_json)


@traits.command("list")
@config_option
@json_option
def traits_list(config: Path | None, as_json: bool) -> None:
    """The traits by their key."""
    list_traits(config, as_json)


def list_traits(config: Path | None, as_json: bool) -> None:
    found = settings(config)
    with opened(found, writes=False) as database, database.read() as connection:
        rows = snapshot.traits(connection, released=True)
    documents = [_json(row, found.engage) for row in rows]
    if wants_json(as_json):
        output.print_json(documents)
    else:
        output.print_table(COLUMNS, [[one[name] for name in COLUMNS] for one in documents])


def _json(row: TraitRow, engage: EngageConfig) -> dict[str, Any]:
    return {
        "key": row.key,
        "trait": row.trait,
        "kind": row.kind,
        "members": row.members,
        "status": _status(row, engage),
        "released_at": iso(row.released_at),
    }


def _status(row: TraitRow, engage: EngageConfig) -> str | None:
    """What is to be known of a trait: that it is ours no more, or left as it is, or what Segment's
    Public API says of it."""
    if row.released_at is not None:
        return "released"
    if KeySelection(engage.audiences, engage.computed_traits).kind(row.key) is None:
        return "left out"
    return row.status


@traits.command("release")
@click.argument("key", callback=readable)
@config_option
@json_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def traits_release(key: str, config: Path | None, as_json: bool, yes: bool) -> None:
    """Give a trait back: it is ours no more.

    Its customers get back what Amberflo had under its name before us, or lose it where that was
    nothing. Nothing takes it again but its exact name in the config.
    """
    app = application(config)
    engage = app.config.engage
    with app.state(writes=True) as database:
        with database.read() as connection:
            trait = _ours(snapshot.trait(connection, key), key)
        for setting, keys in (
            ("engage.audiences", engage.audiences),
            ("engage.computed_traits", engage.computed_traits),
        ):
            if named(key, keys):
                raise ConfigError(
                    f"{setting} names {key!r}, so the next run would take it again: take it out of "
                    "the list first"
                )
        if not yes:
            click.confirm(
                f"Give {key} back? The trait {trait.trait!r} of its customers at Amberflo becomes "
                "what it was before us, or is taken away.",
                abort=True,
                err=True,
            )
        with run_lock(database, PATIENCE), database.write(alone=True) as connection:
            trait = _ours(snapshot.trait(connection, key), key)
            released = ownership.release(connection, trait, _now())
    if wants_json(as_json):
        output.print_json({"key": key, "trait": trait.trait, **released._asdict()})
    say(
        f"{key} is given back: {released.restored:,} of {released.customers:,} customers get back "
        "what Amberflo had before us, the others lose it; the next `syncer sync`, or the daemon, "
        "tells Amberflo"
    )


def _ours(trait: TraitRow | None, key: str) -> TraitRow:
    if trait is None:
        raise NotFound(f"no trait with the key {key!r} is ours; `syncer traits` lists them")
    if trait.released_at is not None:
        raise NotFound(f"{key} was given back at {iso(trait.released_at)} already")
    return trait


def _now() -> int:
    """Epoch milliseconds."""
    return time.time_ns() // 1_000_000
