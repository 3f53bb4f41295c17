"""What commands share: options, settings, and the wish to stop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from state.db.database import Database
from syncer.cli import output
from syncer.config import Config, load
from syncer.databases import opened, settled
from syncer.progress import say

if TYPE_CHECKING:
    from syncer.app import App

Command = TypeVar("Command", bound=Callable[..., Any])


def config_option(command: Command) -> Command:
    return click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        help="The TOML file with the settings [default: $SYNCER_CONFIG, else config.toml].",
    )(command)


def json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(command)


csv_option = click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")


def readable(_context: click.Context, _param: click.Parameter, text: str | None) -> str | None:
    """A text that a database can be asked for."""
    try:
        (text or "").encode()
    except UnicodeEncodeError:
        raise click.BadParameter("its bytes are not UTF-8; give the text in UTF-8") from None
    return text


def moment(_context: click.Context, _param: click.Parameter, text: str | None) -> int | None:
    """Epoch milliseconds of an ISO-8601 time or date; UTC when it names no zone."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
        if found.tzinfo is None:
            found = found.replace(tzinfo=UTC)
        return round(found.astimezone(UTC).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{text!r} is no time; write for example 2026-11-01 or 2026-11-01T12:00:00Z"
        ) from None


def config_path(path: Path | None) -> Path:
    """Where a command's config is: its own --config, its group's, the
    environment's, the default."""
    context: click.Context | None = click.get_current_context()
    while path is None and context is not None:
        path = context.params.get("config")
        context = context.parent
    return path or Path(os.environ.get("SYNCER_CONFIG") or "config.toml")


def settings(path: Path | None) -> Config:
    """The config of a command."""
    return settled(load(config_path(path), os.environ))


def wants_json(as_json: bool) -> bool:
    parent = click.get_current_context().parent
    return as_json or bool(parent and parent.params.get("as_json"))


class Stop:
    """Set by the first Ctrl-C or SIGTERM; a second Ctrl-C ends at once. Says so, unless `quiet`."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._asked = threading.Event()

    def __call__(self) -> bool:
        return self._asked.is_set()

    def wait(self, seconds: float | None = None) -> bool:
        """Until it is asked for, or so long; gives whether it was."""
        return self._asked.wait(seconds)

    def handle(self, number: int, _frame: FrameType | None) -> None:
        if self() and number == signal.SIGINT:
            raise KeyboardInterrupt
        first = not self()
        self._asked.set()
        if first and not self._quiet:
            say("stopping: what is under way ends first")


def listen_for_stop(*, quiet: bool = False) -> Stop:
    """`quiet`: for who says it in the log."""
    stop = Stop(quiet)
    signal.signal(signal.SIGINT, stop.handle)
    signal.signal(signal.SIGTERM, stop.handle)
    return stop


def application(config: Path | None) -> App:
    """The app of a command that may take long: it stops cleanly when asked to."""
    from syncer.app import App  # not at the top: the daemon's own process does without it

    return App(settings(config), output.progress(), listen_for_stop())


@contextmanager
def looking(config: Path | None) -> Iterator[Database]:
    """The state of a command that only looks."""
    with opened(settings(config), writes=False) as database:
        yield database
