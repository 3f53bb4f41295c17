"""`daemon`: receive, schedule and deliver until SIGTERM."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import click

from syncer import log
from syncer.cli.options import config_option, config_path, listen_for_stop
from syncer.config import Config, load
from syncer.daemon.service import run
from syncer.databases import with_resolved_state
from syncer.process.runtime import use_utc
from syncer.wakeup import Wakeup


@click.command()
@config_option
def daemon(config: Path | None) -> None:
    """Receive calls, run syncs on schedule and deliver, until SIGTERM.

    It drains and stops within 20 seconds. SIGHUP reloads the config.
    """
    use_utc()
    path, stop = config_path(config), listen_for_stop(quiet=True)
    reload = Wakeup()
    signal.signal(signal.SIGHUP, lambda *_: reload.set())

    def read() -> Config:
        return with_resolved_state(load(path, os.environ))

    loaded = read()
    log.set_up(loaded.log.format, loaded.log.level)
    run(loaded, stop, reload, read)
