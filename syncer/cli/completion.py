"""`completion`: the script by which a shell completes commands, options, runs and customers."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from syncer.cli import bash, output  # noqa: F401 - what counts for bash


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell: bash, zsh or fish.

    It completes commands and options, and from the state runs, audiences, traits and customers.
    """
    program = click.get_current_context().find_root().command
    kind = get_completion_class(shell)
    assert kind is not None
    # Not `source()`: for bash that asks an installed bash for its version.
    script = kind(program, {}, "syncer", "_SYNCER_COMPLETE")
    for line in (script.source_template % script.source_vars()).splitlines():
        output.print_line(line)
