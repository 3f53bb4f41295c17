"""What a shell completes from the state: runs, audiences, traits and customers.

It is asked at each press of Tab, so it reads little, waits for nothing long, and says nothing on
the prompt: where the config or the state cannot be read, there is nothing to complete.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from threading import Timer
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from syncer.display import visible

if TYPE_CHECKING:
    from sqlalchemy import Connection

#: The most that are offered, and seconds to wait for a server.
MOST, CONNECT = 50, "2"
#: Seconds after which a press of Tab completes nothing, such as while the state is locked.
PATIENCE = 5.0

Completed = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
Query = Callable[["Connection", str], Iterable[tuple[str, str]]]


def end_after(seconds: float) -> None:
    """End this process then, whatever it waits for: somebody waits at a prompt."""
    timer = Timer(seconds, os._exit, (0,))
    timer.daemon = True
    timer.start()


def _from_state(query: Query) -> Completed:
    """Return what completes by a query: texts that begin with what is written, each with a help."""

    def complete(
        context: click.Context, _param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from syncer.cli.options import open_for_reading

        os.environ.setdefault("PGCONNECT_TIMEOUT", CONNECT)
        try:
            with (
                context.scope(cleanup=False),
                open_for_reading(None) as database,
                database.read() as connection,
            ):
                rows = list(query(connection, incomplete))
        except Exception:  # noqa: BLE001 - whatever is wrong, nothing may show on the prompt
            return []
        return [
            CompletionItem(text, help=help or None)
            for text, help in rows
            if text.startswith(incomplete)
            and text == visible(text)
            and not any(map(str.isspace, text))
            and not text.startswith("-")  # which would be an option
        ][:MOST]

    return complete


def _runs(connection: Connection, _incomplete: str) -> Iterable[tuple[str, str]]:
    from state import runs as records

    return [(str(run.id), f"{run.kind}, {run.state}") for run in records.newest(connection, MOST)]


def _runs_and_last(connection: Connection, incomplete: str) -> Iterable[tuple[str, str]]:
    return [("last", "the newest run"), *_runs(connection, incomplete)]


def _traits(connection: Connection, _incomplete: str) -> Iterable[tuple[str, str]]:
    from state import snapshot

    return [(row.key, row.kind) for row in snapshot.traits(connection)]


def _audiences(connection: Connection, incomplete: str) -> Iterable[tuple[str, str]]:
    return [(key, "") for key, kind in _traits(connection, incomplete) if kind == "audience"]


def _customers(connection: Connection, incomplete: str) -> Iterable[tuple[str, str]]:
    from state import snapshot

    rows = snapshot.with_prefix(connection, incomplete, limit=MOST)
    return [(row.customer_id, "") for row in rows]


runs, runs_and_last = _from_state(_runs), _from_state(_runs_and_last)
traits, audiences, customers = map(_from_state, (_traits, _audiences, _customers))
