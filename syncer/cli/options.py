"""What commands share: options, settings, and the request to stop."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from state.db.database import Database
from syncer.config import Config, load
from syncer.databases import open_database, with_resolved_state
from syncer.errors import EXIT_USAGE
from syncer.progress import say
from syncer.stop import Stop

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
    """Accept only UTF-8, which a database can search for."""
    try:
        (text or "").encode()
    except UnicodeEncodeError:
        raise click.BadParameter("the text is not UTF-8") from None
    return text


def words(context: click.Context, param: click.Parameter, text: str | None) -> str | None:
    """Accept a line of text that says something; blanks and line ends become one blank."""
    line = " ".join((readable(context, param, text) or "").split())
    if text is not None and not line:
        raise click.BadParameter("it is blank: say it, or leave it out")
    return line or None


def run_or_last(_context: click.Context, _param: click.Parameter, text: str) -> int | None:
    """Read the number of a run; None for `last`."""
    if text == "last":
        return None
    if text.isascii() and text.isdigit() and len(text) < 19 and int(text):
        return int(text)
    raise click.BadParameter(f"{text!r} is no run: write its number, or last for the newest one")


def moment(_context: click.Context, _param: click.Parameter, text: str | None) -> int | None:
    """Read an ISO-8601 time or date, in UTC unless it names a zone, as epoch milliseconds."""
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is None:
            time = time.replace(tzinfo=UTC)
        return round(time.astimezone(UTC).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{text!r} is not a time; write for example 2026-11-01 or 2026-11-01T12:00:00Z"
        ) from None


def config_path(path: Path | None) -> Path:
    """Return the config's path.

    It is the command's --config, else its group's, else $SYNCER_CONFIG, else the default.
    """
    context: click.Context | None = click.get_current_context()
    while path is None and context is not None:
        path = context.params.get("config")
        context = context.parent
    return path or Path(os.environ.get("SYNCER_CONFIG") or "config.toml")


def settings(path: Path | None) -> Config:
    """Load the config of a command."""
    return with_resolved_state(load(config_path(path), os.environ))


def wants_json(as_json: bool) -> bool:
    parent = click.get_current_context().parent
    return as_json or bool(parent and parent.params.get("as_json"))


class NobodyToAsk(click.ClickException):
    """A question that nobody can answer; the message names the options that do."""

    exit_code = EXIT_USAGE


def can_ask() -> bool:
    """Return whether there is a terminal to ask on."""
    return sys.stdin is not None and sys.stdin.isatty()


def confirm(question: str) -> None:
    """Ask on the terminal, and abort if the answer is no.

    Without a terminal nobody can answer: that is an error, which names the option that does.
    """
    if not can_ask():
        raise NobodyToAsk(f"{question} There is no terminal to ask on: add --yes")
    click.confirm(question, abort=True, err=True)


def listen_for_stop(*, quiet: bool = False) -> Stop:
    """Return the stop that the first Ctrl-C or SIGTERM requests.

    A second Ctrl-C ends the command at once. With `quiet` no line on stderr says that it stops.
    """
    stop = Stop()

    def handle(number: int, _frame: FrameType | None) -> None:
        if not stop():
            stop.set()
            if not quiet:
                say("stopping when the work under way has ended")
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)
    return stop


def application(config: Path | None) -> App:
    """Return the app for a command that may take long: a request stops it cleanly."""
    # Not at the top: the daemon's own process, and `status`, do not load them.
    from syncer.app import App
    from syncer.cli.progress_bar import progress

    return App(settings(config), progress(), listen_for_stop())


@contextmanager
def open_for_reading(config: Path | None) -> Iterator[Database]:
    """Open the state read-only."""
    with open_database(settings(config), writes=False) as database:
        yield database
