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
from syncer.display import visible
from syncer.errors import EXIT_FAILED, EXIT_OK, EXIT_USAGE, NotKept, StateError, SyncerError
from syncer.process.runtime import importing, tune_for_throughput
from syncer.progress import say


def main() -> NoReturn:
    """Run the `syncer` program."""
    tune_for_throughput()
    if "_SYNCER_COMPLETE" in os.environ:
        import_module("syncer.cli.bash")  # what counts for bash
        complete = import_module("syncer.cli.complete")
        complete.end_after(complete.PATIENCE)
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


#: The commands: the module of each, and its line in the list. A test holds the lines to the
#: docstrings; they stand here so that the list imports no command.
COMMANDS = {
    "demo": ("sandbox", "Show how it works, on this machine and in under a minute."),
    "sandbox": ("sandbox", "Serve stand-ins for Engage and Amberflo on loopback, until stopped."),
    "init": ("init", "Write a config: asks for what it needs, and tests it."),
    "config": ("config", "Show the settings, where each comes from, and their JSON Schema."),
    "check": (
        "check",
        "Test the config, the source, the Amberflo key, the database and the ports.",
    ),
    "daemon": ("daemon", "Receive calls, run syncs on schedule and deliver, until SIGTERM."),
    "sync": ("sync", "Make a run now, until delivered."),
    "diff": ("sync", "Show what the next run would change."),
    "adopt": (
        "adopt",
        "Compare what Amberflo holds with Engage, to take it over from Segment's own destination.",
    ),
    "plan": ("plan", "Say how long the first sync, runs, a verify and catch-ups take."),
    "resync": ("sync", "Pull everything and send it again, changed or not."),
    "runs": ("runs", "List the runs, and decide on what the guard held."),
    "traits": ("traits", "List the traits that we own at Amberflo, and release one."),
    "audit": ("audit", "Show who was in which audience when, and when Amberflo acknowledged it."),
    "why": ("why", "Say why a customer has a trait, or has it not, and show the evidence."),
    "forget": ("forget", "Erase a customer, and keep it out from then on."),
    "verify": ("verify", "Compare what Amberflo holds with what it should hold."),
    "failures": (
        "failures",
        "List what Amberflo does not take, with the request and the response, and invalid calls.",
    ),
    "status": (
        "status",
        "Show the schedule, the last run, what waits to be sent, and what needs a person.",
    ),
    "completion": ("completion", "Print the completion script of a shell: bash, zsh or fish."),
    "state": ("state", "Back up, restore, copy and check the service's own database."),
}


#: What `syncer` says by itself where there is no config yet.
FIRST_STEPS = """\
There is no {path} here yet. The first three steps:

  syncer demo     show how it works, on this machine and in under a minute
  syncer init     write {path}: it asks for your warehouse and your Amberflo key
  syncer check    test all of it; then `syncer diff` says what a first run would send

`syncer --help` lists all commands."""


class Commands(click.Group):
    """Imports a command's module when it is called, so that the daemon does not load the others."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        path = os.environ.get("SYNCER_CONFIG") or "config.toml"
        if not args and not ctx.resilient_parsing and not os.path.lexists(path):
            from syncer.cli import output  # not at the top: the list imports no command

            for line in FIRST_STEPS.format(path=visible(path)).splitlines():
                output.print_line(line)
            ctx.exit(EXIT_USAGE)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _ = COMMANDS[cmd_name]
        with importing():
            command: click.Command = getattr(import_module(f"syncer.cli.{module}"), cmd_name)
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="syncer")
def cli() -> None:
    """Keep Amberflo's customers in step with Segment Engage."""
