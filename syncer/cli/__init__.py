"""The command line. Results go to stdout, everything else to stderr.

Exit status: 0 good, 1 failed, 2 usage or config, 3 the guard held something (design §5).
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click

from syncer import __version__, report
from syncer.cli import audit, daemon, failures, forget, runs, sandbox, seal, status, sync
from syncer.errors import EXIT_FAILED, EXIT_OK, StateError, SyncerError
from syncer.interpreter import set_for_throughput


def main() -> NoReturn:
    """The `syncer` program."""
    set_for_throughput()
    try:
        # Without standalone mode click gives the status of an Exit, else what the command returned.
        status = cli.main(standalone_mode=False) or EXIT_OK
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        report.say("stopped")
        status = EXIT_FAILED
    except SyncerError as error:
        report.say(f"error: {error}")
        status = error.exit_code
    except StateError as error:
        report.say(f"error: {error}")
        status = EXIT_FAILED
    except BrokenPipeError:
        # The reader of our output went away, as `| head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = EXIT_OK
    sys.exit(status)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="syncer")
def cli() -> None:
    """Keeps Amberflo's customers in step with Segment Engage."""


for command in (
    sync.sync,
    sync.diff,
    sync.resync,
    runs.runs,
    audit.audit,
    forget.forget,
    failures.failures,
    daemon.daemon,
    status.status,
    status.check,
    sandbox.demo,
    sandbox.sandbox,
):
    cli.add_command(command)
for command in (seal.seal, seal.compact):
    audit.audit.add_command(command)
