"""`daemon`: receive, schedule and deliver until SIGTERM."""

from __future__ import annotations

from pathlib import Path

import click

from syncer.cli.options import config_option, listen_for_stop, settings
from syncer.daemon import run, set_up_logging


@click.command()
@config_option
def daemon(config: Path | None) -> None:
    """Receive calls and deliver, until SIGTERM.

    It drains and stops within 20 seconds.
    """
    loaded, stop = settings(config), listen_for_stop()
    set_up_logging()
    run(loaded, stop)
