"""`demo` and `sandbox`: the stand-ins for Engage and Amberflo."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from syncer.cli.demo import demo as play
from syncer.cli.options import listen_for_stop
from syncer.cli.progress_bar import progress
from syncer.config import duration
from syncer.errors import EXIT_FAILED
from syncer.progress import say
from syncer.sandbox.environment import SECTIONS, Environment, environment
from syncer.sandbox.faults import Faults
from syncer.stop import Stop

Command = TypeVar("Command", bound=Callable[..., Any])


def faults_option(command: Command) -> Command:
    def parsed(_context: click.Context, _param: click.Parameter, text: str | None) -> Faults | None:
        try:
            return None if text is None else Faults.parse(text)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return click.option(
        "--faults",
        callback=parsed,
        metavar="SPEC",
        help='Faults of Amberflo and their rates: "429=0.05,500=0.02,drop=0.01,slow=0.1".',
    )(command)


@click.command()
@click.option("--keep", is_flag=True, help="Keep the sandbox serving until Ctrl-C.")
def demo(keep: bool) -> None:
    """Show how it works, on this machine and in under a minute.

    A first sync, a few hours of changes, a second sync, calls, an audit.
    """
    stop = listen_for_stop()
    with tempfile.TemporaryDirectory(prefix="syncer-demo-") as folder:
        kept = (lambda on: _keep(on, Path(folder), stop)) if keep else None
        if not play(Path(folder), progress(), stop, kept):
            raise click.exceptions.Exit(EXIT_FAILED)


def _keep(on: Environment, folder: Path, stop: Stop) -> None:
    say(f"serving until Ctrl-C; try: syncer status --config {folder / 'config.toml'}")
    stop.wait()


@click.command()
@click.option("--users", type=click.IntRange(min=1), default=1000, show_default=True)
@click.option("--audiences", type=click.IntRange(min=1), default=10, show_default=True)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="The same seed makes the same data."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Amberflo's port [default: a free one].",
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="The folder of Engage's database and the state [default: a temporary one].",
)
@click.option(
    "--source",
    type=click.Choice(list(SECTIONS)),
    default="profiles_sync",
    show_default=True,
    help="The source that the config uses.",
)
@click.option("--evolve", metavar="EVERY", help='Let 2.5 h pass at Engage at this interval: "60s".')
@faults_option
def sandbox(
    users: int,
    audiences: int,
    seed: int,
    port: int,
    folder: Path | None,
    source: str,
    evolve: str | None,
    faults: Faults | None,
) -> None:
    """Serve stand-ins for Engage and Amberflo on loopback, until stopped.

    It prints a config that points at them.
    """
    try:
        every = None if evolve is None else duration(evolve)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--evolve") from None
    stop = listen_for_stop()
    with contextlib.ExitStack() as cleanup:
        if folder is None:
            temporary = tempfile.TemporaryDirectory(prefix="syncer-sandbox-")
            folder = Path(cleanup.enter_context(temporary))
        on = cleanup.enter_context(
            environment(
                folder,
                users=users,
                audiences=audiences,
                seed=seed,
                faults=faults,
                port=port,
                source=source,
            )
        )
        print(on.config, flush=True)
        say("the sandbox serves until Ctrl-C; the config above points at it")
        while not stop.wait(every):
            evolution = on.evolve()
            on.engage.observe()
            say(f"2.5 h passed at Engage: {len(evolution.changed):,} customers changed")
