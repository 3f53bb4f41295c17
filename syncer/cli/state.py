"""`state`: back the state up, restore it, copy it to another database, check it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError
from sqlalchemy.engine import URL

from state.db.database import Database, resolved, sqlite_path
from state.db.driver_errors import shown
from state.db.schema import PARTS
from state.transfer import images
from state.transfer import restore as restoring
from state.transfer.backup import Steps, back_up, made_at
from state.transfer.checkup import Checkup
from state.transfer.checkup import check as check_whole
from state.transfer.copying import copy as copy_whole
from state.transfer.moment import Contents, Moment
from syncer.cli import console, output
from syncer.cli.options import (
    config_option,
    confirm,
    json_option,
    listen_for_stop,
    settings,
    wants_json,
)
from syncer.cli.progress_bar import progress
from syncer.clock import iso
from syncer.config import Config
from syncer.config.settings import StateConfig
from syncer.databases import open_database
from syncer.errors import EXIT_FAILED, StateError, Stopped
from syncer.progress import say

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")

file_argument = click.Path(path_type=Path, dir_okay=False)


@click.group()
@config_option
@json_option
def state(config: Path | None, as_json: bool) -> None:
    """Back up, restore, copy and check the service's own database."""


@state.command()
@click.argument("file", type=file_argument)
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@config_option
@json_option
def backup(config: Path | None, as_json: bool, file: Path, force: bool) -> None:
    """Write the state and the queue of calls into one FILE, while the daemon runs.

    Both are in it as they are at one moment. The file holds personal data; only its owner may read
    it.
    """
    with _opened(settings(config)) as (database, calls):
        made = back_up(database, calls, file, _now, force=force, steps=_steps())
    if wants_json(as_json):
        output.print_json(
            {
                "file": str(made.file),
                "made_at": iso(made.made_at),
                "bytes": made.size,
                "head": made.contents.head,
                "rows": made.contents.rows,
            }
        )
        return
    out = console.stdout()
    out.print(f"{made.file}: the state as of {iso(made.made_at)}, {made.size:,} bytes")
    out.print(_summary(made.contents))


@state.command()
@click.argument("file", type=file_argument, required=False)
@click.option("--finish", is_flag=True, help="Finish a restore that was cut off; takes no FILE.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@config_option
@json_option
def restore(config: Path | None, as_json: bool, file: Path | None, finish: bool, yes: bool) -> None:
    """Put the backup FILE in place of the state, which is kept beside it.

    Nobody may use the state: stop the daemon first. Nothing is sent from a restored state before a
    run has compared everything.
    """
    if finish == (file is not None):
        raise click.UsageError("name a backup, or use --finish alone")
    url = settings(config).state.url
    if file is None:
        plan = restoring.finish(url)
        what = "is finished" if plan.put else "replaced nothing: the state is as it was"
        say(f"the restore that was cut off {what}")
        if wants_json(as_json):
            output.print_json({"finished": bool(plan.put), "kept": _kept(plan.keep)})
        return
    if not yes and (path := sqlite_path(resolved(url))) is not None and path.exists():
        confirm(f"Put {file} in place of {path}? That is kept under another name.")
    done = restoring.restore(url, file, _now, _steps())
    if wants_json(as_json):
        output.print_json(
            {
                "made_at": iso(done.made_at),
                "head": done.contents.head,
                "rows": done.contents.rows,
                "kept": None if done.kept is None else str(done.kept),
                "forgotten_again": done.forgotten,
            }
        )
    else:
        out = console.stdout()
        out.print(f"{shown(url)} is the state as of {iso(done.made_at)}")
        out.print(_summary(done.contents))
        if done.kept is not None:
            out.print(f"the state that it replaced is kept: {done.kept}")
    for line in _advice(done):
        say(line)


def _advice(done: restoring.Outcome) -> Iterator[str]:
    """Say what is different from now on."""
    yield (
        "nothing is sent before a run has compared everything: `syncer sync --full`, or the "
        "daemon's next run"
    )
    if done.forgotten:
        yield (
            f"{done.forgotten:,} customers that were forgotten since are in it: the daemon erases "
            "them again"
        )
    elif done.forgotten is None:
        yield (
            f"customers that were forgotten since {iso(done.made_at)} may be in it again, and "
            "nobody can tell who: `syncer forget` each of them again"
        )
    yield (
        "calls since then are not in it. Those that were waiting then are sent again; Amberflo "
        "discards what it has already"
    )


@state.command()
@click.option(
    "--to",
    "target",
    required=True,
    metavar="URL",
    help="An empty PostgreSQL database, or a SQLite file that does not exist yet. ${NAME} stands "
    "for the environment variable NAME.",
)
@config_option
@json_option
def copy(config: Path | None, as_json: bool, target: str) -> None:
    """Copy the whole state to another database: SQLite or PostgreSQL.

    Nobody may use the state meanwhile: stop the daemon first. The copy is there when all of it is
    and was compared with the original, which stays as it is.
    """
    url = _target(target)
    with _opened(settings(config)) as (database, calls):
        copied = copy_whole(database, calls, url, _steps())
    if wants_json(as_json):
        output.print_json({"to": shown(url), "head": copied.head, "rows": copied.rows})
        return
    out = console.stdout()
    out.print(f"{shown(url)} holds what {shown(database.engine.url)} does")
    out.print(_summary(copied))
    say("set state.url to the copy, and use the original no more: both would write to Amberflo")


@state.command()
@click.argument("file", type=file_argument, required=False)
@config_option
@json_option
def check(config: Path | None, as_json: bool, file: Path | None) -> None:
    """Check the whole state, or a backup FILE: its pages, its history, what waits.

    It writes nothing, and ends with status 1 where something is wrong.
    """
    if file is not None:
        made_at(file)
        with images.reading(file) as source:
            checkup = check_whole(Moment(source, source), _steps())
    else:
        with (
            _opened(settings(config), writes=False) as (database, calls),
            database.read() as connection,
            calls.read() as queue,
        ):
            checkup = check_whole(Moment(connection, queue), _steps())
    if wants_json(as_json):
        output.print_json(_check_json(checkup))
    else:
        _print_check(checkup)
    for problem in checkup.problems:
        say(f"error: {problem}")
    if checkup.problems:
        raise click.exceptions.Exit(EXIT_FAILED)


def _check_json(checkup: Checkup) -> dict[str, Any]:
    return {
        "ok": not checkup.problems,
        "problems": checkup.problems,
        "schema": checkup.versions,
        "head": checkup.proof.head,
        "seals": checkup.proof.seals,
        "sealed_changes": checkup.proof.changes,
        "unsealed": checkup.proof.unsealed,
        "due": {"customers": checkup.customers_due, "events": checkup.calls_due},
        "due_since": iso(checkup.due_since),
        "restored_from": iso(checkup.restored and checkup.restored.made_at),
        "rows": checkup.contents.rows,
        "bytes": checkup.sizes,
    }


def _print_check(checkup: Checkup) -> None:
    rows: list[tuple[str, str]] = [
        ("schema", ", ".join(f"{part} {no or 'none'}" for part, no in checkup.versions.items())),
        ("history", f"{checkup.proof.seals:,} seals, {checkup.proof.changes:,} changes"),
        ("not sealed yet", f"{checkup.proof.unsealed:,} changes"),
        ("head", checkup.proof.head or "–"),
        ("due", f"{checkup.customers_due:,} customers, {checkup.calls_due:,} calls"),
        ("due since", iso(checkup.due_since) or "–"),
    ]
    if checkup.restored is not None:
        rows.append(("restored", f"from {iso(checkup.restored.made_at)}: `syncer sync --full`"))
    counted = [(name, number) for name, number in checkup.contents.rows.items() if number]
    rows += [(f"rows of {name}", f"{number:,}") for name, number in counted]
    rows += [(f"bytes of {Path(name).name}", f"{size:,}") for name, size in checkup.sizes.items()]
    console.print_table(("what", "is"), rows)
    console.stdout().print("ok" if not checkup.problems else f"{len(checkup.problems):,} problems")


# Helpers


@contextmanager
def _opened(config: Config, *, writes: bool = True) -> Iterator[tuple[Database, Database]]:
    """Open both parts; raise where there is no state, or where it is not of this version.

    Who copies needs to lock writers out for an instant, so it opens them as one of them.
    """
    path = sqlite_path(config.state.url)
    if path is not None and not path.exists():
        raise StateError(f"state.url: {path} does not exist: there is no state yet")
    with ExitStack() as stack:
        read = [stack.enter_context(open_database(config, part, writes=False)) for part in PARTS]
        if sqlite_path(read[0].engine.url) is None and read[0].engine.dialect.name == "sqlite":
            raise StateError(f"state.url: {shown(config.state.url)} holds no state")
        if writes:
            read = [stack.enter_context(open_database(config, part, writes=True)) for part in PARTS]
        state_part, queue_part = read
        yield state_part, queue_part


def _target(text: str) -> URL:
    """Read the URL of a copy."""

    def lookup(match: re.Match[str]) -> str:
        environ: Mapping[str, str] = os.environ
        if not environ.get(match[1]):
            raise click.BadParameter(f"the environment variable {match[1]} is not set or empty")
        return environ[match[1]]

    try:
        url = StateConfig(url=_VARIABLE.sub(lookup, text)).url
    except ValidationError as error:
        words = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise click.BadParameter(words, param_hint="--to") from None
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise click.BadParameter("only SQLite and PostgreSQL hold a state", param_hint="--to")
    if (path := sqlite_path(url)) is None:
        return url
    if not path.parent.is_dir():
        words = f"the folder {path.parent} does not exist; make it, or name another"
        raise click.BadParameter(words, param_hint="--to")
    return url.set(database=os.path.abspath(path))


def _summary(contents: Contents) -> str:
    customers, changes = contents.rows["customer"], contents.rows["change"]
    head = f"head {contents.head}" if contents.head else "nothing is sealed yet"
    return f"{customers:,} customers, {changes:,} changes, {head}"


def _kept(keep: list[tuple[str, str]]) -> str | None:
    return keep[0][1] if keep else None


def _steps() -> Steps:
    """Show how far the work is; a request to stop ends it."""
    bar, stop = progress(), listen_for_stop()

    def check() -> None:
        if stop():
            raise Stopped("stopped: nothing was changed")

    return Steps(begin=bar.begin, at=bar.at, end=bar.end, check=check)


def _now() -> int:
    return time.time_ns() // 1_000_000
