"""The page's process: its server, and the thread that updates the hourly audience sizes."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from functools import partial

import uvloop

from state.db.database import Database
from state.history import sizes
from syncer.config import Config
from syncer.databases import open_database
from syncer.process.child import Down
from syncer.process.problem import ProblemLog
from syncer.process.server import serve
from syncer.process.supervisor import Part, Supervisor
from syncer.stop import Stop
from syncer.web import audiences, customers, failures, overview, runs
from syncer.web.app import SecureApp
from syncer.web.context import Context
from syncer.web.revoked import StoredRevocations
from syncer.web.session import Sessions
from syncer.web.tasks import Tasks

log = logging.getLogger("syncer.web")

#: Seconds between two checks for changes to add to the sizes.
SIZES_EVERY = 1.0


def serve_page(
    config: Config,
    stop: Stop,
    number: int,
    on_change: Callable[[Down], None] = lambda down: None,
) -> None:
    """Serve the page until the stop; `on_change` gets its parts that do not work.

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
        supervisor = Supervisor(stop, lambda name: ProblemLog(name, state), on_change)
        pages = secure.build(context.bind(READS), context.bind(WRITES))

        def serve_pages(part: Part) -> None:
            # The server closes what it gets, and it may have to be started again.
            uvloop.run(serve(pages, listener.dup(), stop, on_tick=part.well))

        served = supervisor.add("pages", serve_pages)
        supervisor.watch()
        supervisor.start("sizes", partial(_update_sizes, state), patient=True)
        try:
            served.keep()
        finally:
            tasks.close()
            listener.close()


def _update_sizes(state: Database, part: Part) -> None:
    """Keep the hourly audience sizes up to date."""
    while not part.ending():
        more = False
        with state.read() as connection:
            due = not sizes.up_to_date(connection)
        if due:
            with state.write(alone=True) as connection:
                more = sizes.fold(connection)
        part.well()
        part.wait(0.02 if more else SIZES_EVERY)


READS = overview.READS | runs.READS | customers.READS | audiences.READS | failures.READS
WRITES = overview.WRITES | runs.WRITES | customers.WRITES | failures.WRITES
