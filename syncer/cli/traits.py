"""`traits`: list the traits that we own at Amberflo, and release one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from state import ownership, snapshot
from state.db.locks import run_lock
from state.snapshot import TraitRow
from syncer.cli import complete, console, output
from syncer.cli.options import (
    application,
    config_option,
    confirm,
    json_option,
    readable,
    settings,
    wants_json,
)
from syncer.clock import iso
from syncer.config import EngageConfig
from syncer.databases import open_database
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
    """List the traits that we own at Amberflo, and release one."""
    if context.invoked_subcommand is None:
        list_traits(config, as_json)


@traits.command("list")
@config_option
@json_option
def traits_list(config: Path | None, as_json: bool) -> None:
    """List the traits by their key, with those that were released."""
    list_traits(config, as_json)


def list_traits(config: Path | None, as_json: bool) -> None:
    loaded = settings(config)
    with open_database(loaded, writes=False) as database, database.read() as connection:
        rows = snapshot.traits(connection, released=True)
    documents = [_json(row, loaded.engage) for row in rows]
    if wants_json(as_json):
        output.print_json(documents)
    else:
        console.print_table(
            COLUMNS, [[document[name] for name in COLUMNS] for document in documents]
        )


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
    """Return "released", "left out" of the config, or what Segment's Public API says."""
    if row.released_at is not None:
        return "released"
    if KeySelection(engage.audiences, engage.computed_traits).kind(row.key) is None:
        return "left out"
    return row.status


@traits.command("release")
@click.argument("key", callback=readable, shell_complete=complete.traits)
@config_option
@json_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def traits_release(key: str, config: Path | None, as_json: bool, yes: bool) -> None:
    """Release a trait, so that we no longer own it.

    Customers get back the value that Amberflo had before us, or lose the trait if there was none.
    Only its exact name in the config makes it ours again.
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
                    f"{setting} names {key!r}, so the next run would make it ours again: remove it "
                    "from the list first"
                )
        if not yes:
            confirm(
                f"Release {key}? The trait {trait.trait!r} of its customers at Amberflo becomes "
                "what it was before us, or is removed."
            )
        with run_lock(database, PATIENCE), database.write(alone=True) as connection:
            trait = _ours(snapshot.trait(connection, key), key)
            released = ownership.release(connection, trait, _now())
    if wants_json(as_json):
        output.print_json({"key": key, "trait": trait.trait, **released._asdict()})
    say(
        f"{key} is released: {released.restored:,} of {released.customers:,} customers get back "
        "what Amberflo had before us, the others lose it; the next `syncer sync`, or the daemon, "
        "sends that"
    )


def _ours(trait: TraitRow | None, key: str) -> TraitRow:
    if trait is None:
        raise NotFound(f"we own no trait with the key {key!r}; `syncer traits` lists ours")
    if trait.released_at is not None:
        raise NotFound(f"{key} was released already, at {iso(trait.released_at)}")
    return trait


def _now() -> int:
    """Return epoch milliseconds."""
    return time.time_ns() // 1_000_000
