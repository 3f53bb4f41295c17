"""`audit seal` and `audit compact`: verify the seals of the history, and shorten it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from state.history import listings
from state.history.proof import Broken, Proof, prove
from syncer import __version__
from syncer.cli import complete, console, output
from syncer.cli.export import Export
from syncer.cli.options import application, config_option, json_option, open_for_reading, wants_json
from syncer.clock import iso
from syncer.errors import EXIT_FAILED, NotFound
from syncer.progress import say


@click.command("seal")
@config_option
@json_option
@click.option("--expect", metavar="HASH", help="An earlier head that the chain must contain.")
@click.option(
    "--export",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write the history with its hashes into this folder, for others to verify.",
)
@click.option("--since", type=int, metavar="RUN", help="Export from this run on.")
@click.option(
    "--audience",
    metavar="KEY",
    shell_complete=complete.audiences,
    help="Export other audiences as hashes only.",
)
def seal(
    config: Path | None,
    as_json: bool,
    expect: str | None,
    folder: Path | None,
    since: int | None,
    audience: str | None,
) -> None:
    """Verify that nobody edited the history since it was sealed.

    On failure it names the first place that does not match, and ends with status 1.
    """
    if folder is None and (since is not None or audience is not None):
        raise click.UsageError("--since and --audience need --export")
    exported: dict[str, Any] = {}
    with open_for_reading(config) as database, database.read() as connection:
        key = None if audience is None else listings.key_of(connection, audience)
        if audience is not None and key is None:
            raise NotFound(f"no audience with the key {audience!r} was ever synced")
        export = Export(folder, since, key) if folder is not None else None
        try:
            proof = prove(connection, expect=expect and expect.strip().lower(), witness=export)
        except BaseException:
            if export is not None:
                export.discard()
            raise
    if export is not None:
        at = iso(time.time_ns() // 1_000_000)
        exported = export.finish(proof, tool=f"engage-amberflo-sync {__version__}", at=str(at))
    if wants_json(as_json):
        output.print_json(
            {
                "holds": proof.broken is None,
                "head": proof.head,
                "seals": proof.seals,
                "changes": proof.changes,
                "erased": proof.erased,
                "erasures": proof.erasures,
                "unsealed": proof.unsealed,
                "compacted": proof.compacted,
                "begins": iso(proof.begins),
                "unfinished": proof.unfinished,
                "broken": proof.broken and _broken_json(proof.broken),
                "export": exported or None,
            }
        )
    elif proof.broken is None:
        _print_proof(proof, exported, folder)
    if proof.broken is not None:
        say(f"error: the history is not as it was sealed: {_place(proof.broken)}")
        raise click.exceptions.Exit(EXIT_FAILED)


def _print_proof(proof: Proof, exported: dict[str, Any], folder: Path | None) -> None:
    out = console.stdout()
    out.print(f"head {proof.head}" if proof.head else "nothing is sealed yet")
    out.print(
        f"{proof.seals:,} seals hold for {proof.changes:,} changes"
        + (f", {proof.erased:,} of them erased" if proof.erased else "")
        + "; the times of Amberflo's acknowledgements (delivered_at) are not sealed"
    )
    if proof.begins is not None:
        out.print(
            f"the history begins at {iso(proof.begins)}: {proof.compacted:,} seals are "
            "compacted"
            + ("; the next compaction finishes an interrupted one" if proof.unfinished else "")
        )
    if proof.unsealed:
        out.print(
            f"{proof.unsealed:,} changes by calls are not sealed yet: the next run seals them"
        )
    if exported:
        out.print(f"{exported['changes']:,} changes exported to {folder}")


def _place(broken: Broken) -> str:
    at = [
        f"{name} {number}"
        for name, number in (("run", broken.run), ("seal", broken.seal))
        if number is not None
    ]
    return broken.what + (f" ({', '.join(at)})" if at else "")


def _broken_json(broken: Broken) -> dict[str, Any]:
    return {
        "problem": broken.what,
        "seal": broken.seal,
        "run": broken.run,
        "change": broken.change,
    }


@click.command("compact")
@config_option
@json_option
def compact(config: Path | None, as_json: bool) -> None:
    """Remove changes older than retention.history.

    The last change of each trait of each customer stays, so that the history still answers for
    every later time. The daemon does this once a day.
    """
    app = application(config)
    with app.state(writes=True) as database:
        done = app.compact(database)
    if wants_json(as_json):
        output.print_json({"removed": done.removed, "kept": done.kept, "begins": iso(done.begins)})
    if done.broken is not None:
        say(f"error: nothing was removed, the seals do not match: {_place(done.broken)}")
        raise click.exceptions.Exit(EXIT_FAILED)
    if not app.config.retention.history:
        say("retention.history is not set: the whole history is kept")
    begins = f"; the history begins at {iso(done.begins)}" if done.begins else ""
    say(f"{done.removed:,} changes removed{begins}")
