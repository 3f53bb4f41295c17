"""The page's process: its server, until the lifeline ends."""

from __future__ import annotations

import logging
import socket
from multiprocessing.connection import Connection

import uvloop

from syncer.app import App
from syncer.config import Config
from syncer.daemon.process import settle_in
from syncer.passthrough.server import serve
from syncer.report import LineProgress
from syncer.web import audiences, customers, failures, now, runs
from syncer.web.desk import Desk
from syncer.web.door import Door
from syncer.web.session import Sessions
from syncer.web.work import Work

log = logging.getLogger("syncer.web")


def serve_page(config: Config, lifeline: Connection, listener: socket.socket) -> None:
    """The process beside the daemon that serves the page on a socket that listens already."""
    stop = settle_in(config, lifeline)
    assert config.web is not None
    app, work = App(config, LineProgress(), stop), Work(config)
    with app.state(writes=True) as state, app.queue(writes=True) as calls:
        desk = Desk(state, calls, work)
        door = Door(
            Sessions(config.web.token.get_secret_value()),
            config.web.address[0],
            config.web.hosts,
            around=desk.around,
        )
        pages = door.app(desk.bound(READS), desk.bound(WRITES))
        try:
            uvloop.run(serve(pages, listener, stop))
        finally:
            work.close()


READS = now.READS | runs.READS | customers.READS | audiences.READS | failures.READS
WRITES = runs.WRITES | customers.WRITES | failures.WRITES
