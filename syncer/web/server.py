"""The page's process: its server, and the thread that updates the hourly audience sizes."""

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
from syncer.databases import open_database
from syncer.process.problem import ProblemLog
from syncer.process.server import serve
from syncer.web import audiences, customers, failures, overview, runs
from syncer.web.app import SecureApp
from syncer.web.context import Context
from syncer.web.revoked import StoredRevocations
from syncer.web.session import Sessions
from syncer.web.tasks import Tasks

log = logging.getLogger("syncer.web")

#: Seconds between two checks for changes to add to the sizes.
SIZES_EVERY = 1.0


def serve_page(config: Config, stop: Callable[[], bool], number: int) -> None:
    """Serve the page until `stop` returns true.

    `number` is the file descriptor of a listening socket that the daemon opened.
    """
    assert config.web is not None
    listener, tasks = socket.socket(fileno=number), Tasks(config)
    with (
        open_database(config, writes=True) as state,
        open_database(config, "queue", writes=True) as calls,
    ):
        context = Context(state, calls, tasks)
        secure = SecureApp(
            Sessions(config.web.token.get_secret_value(), revoked=StoredRevocations(state)),
            config.web.address[0],
            config.web.hosts,
            layout=context.layout,
        )
        threading.Thread(
            target=_update_sizes, args=(state, stop), name="sizes", daemon=True
        ).start()
        pages = secure.build(context.bind(READS), context.bind(WRITES))
        try:
            uvloop.run(serve(pages, listener, stop))
        finally:
            tasks.close()
            listener.close()


def _update_sizes(state: Database, stop: Callable[[], bool]) -> None:
    """Keep the hourly audience sizes up to date."""
    problems = ProblemLog("page", state)
    while not stop():
        more = False
        try:
            with state.read() as connection:
                due = not sizes.up_to_date(connection)
            if due:
                with state.write(alone=True) as connection:
                    more = sizes.fold(connection)
            problems(None)
        except StateError as error:
            problems(str(error))
        time.sleep(0.02 if more else SIZES_EVERY)


READS = overview.READS | runs.READS | customers.READS | audiences.READS | failures.READS
WRITES = overview.WRITES | runs.WRITES | customers.WRITES | failures.WRITES
