"""The page's process: its server, and what keeps the sizes by the hour up to date."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable

import uvloop

from state.db.database import Database
from state.errors import StateError
from state.history import sizes
from syncer.config import Config
from syncer.databases import opened
from syncer.process.problem import Trouble
from syncer.process.server import serve
from syncer.web import audiences, customers, failures, overview, runs
from syncer.web.app import Door
from syncer.web.context import Desk
from syncer.web.revoked import EndedInState
from syncer.web.session import Sessions
from syncer.web.tasks import Work

log = logging.getLogger("syncer.web")

#: Seconds between two looks at what is to be counted.
COUNT = 1.0


def serve_page(config: Config, stop: Callable[[], bool], number: int) -> None:
    """The process beside the daemon that serves the page, on the file `number` of a socket that
    listens already, until `stop` says so."""
    assert config.web is not None
    listener, work = socket.socket(fileno=number), Work(config)
    with opened(config, writes=True) as state, opened(config, "queue", writes=True) as calls:
        desk = Desk(state, calls, work)
        door = Door(
            Sessions(config.web.token.get_secret_value(), ended=EndedInState(state)),
            config.web.address[0],
            config.web.hosts,
            around=desk.around,
        )
        threading.Thread(target=_count, args=(state, stop), name="sizes", daemon=True).start()
        pages = door.app(desk.bound(READS), desk.bound(WRITES))
        try:
            uvloop.run(serve(pages, listener, stop))
        finally:
            work.close()
            listener.close()


def _count(state: Database, stop: Callable[[], bool]) -> None:
    """Keep the sizes by the hour up to date."""
    trouble = Trouble("sizes")
    while not stop():
        more = False
        try:
            with state.read() as connection:
                due = not sizes.up_to_date(connection)
            if due:
                with state.write(alone=True) as connection:
                    more = sizes.fold(connection)
            trouble(None)
        except StateError as error:
            trouble(str(error))
        time.sleep(0.02 if more else COUNT)


READS = overview.READS | runs.READS | customers.READS | audiences.READS | failures.READS
WRITES = runs.WRITES | customers.WRITES | failures.WRITES
