"""The command line. Results go to stdout, everything else to stderr.

Exit status: 0 success, 1 failure, 2 usage or config, 3 something is held (docs/design.md §5).
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import NoReturn

import click

from syncer import __version__
from syncer.errors import EXIT_FAILED, EXIT_OK, EXIT_USAGE, NotKept, StateError, SyncerError
from syncer.process.runtime import tune_for_throughput
from syncer.progress import say


def main() -> NoReturn:
    """Run the `syncer` program."""
    tune_for_throughput()
    try:
        # Without standalone mode click returns the status of an Exit, else the command's result.
        status = cli.main(standalone_mode=False) or EXIT_OK
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        say("stopped")
        status = EXIT_FAILED
    except SyncerError as error:
        for line in error.lines:
            say(f"error: {line}")
        status = error.exit_code
    except StateError as error:
        say(f"error: {error}")
        status = EXIT_USAGE if isinstance(error, NotKept) else EXIT_FAILED
    except BrokenPipeError:
        # The reader of our output closed it, as `| head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = EXIT_OK
    sys.exit(status)


#: The modules of the commands.
COMMANDS = {
    "demo": "sandbox",
    "sandbox": "sandbox",
    "init": "init",
    "check": "check",
    "daemon": "daemon",
    "sync": "sync",
    "diff": "sync",
    "adopt": "adopt",
    "plan": "plan",
    "resync": "sync",
    "runs": "runs",
    "traits": "traits",
    "audit": "audit",
    "why": "why",
    "forget": "forget",
    "verify": "verify",
    "failures": "failures",
    "status": "status",
    "state": "state",
}


class Commands(click.Group):
    """Imports a command's module when it is called, so that the daemon does not load the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = COMMANDS.get(cmd_name)
        if module is None:
            return None
        command: click.Command = getattr(import_module(f"syncer.cli.{module}"), cmd_name)
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="syncer")
def cli() -> None:
    """Keep Amberflo's customers in step with Segment Engage."""
