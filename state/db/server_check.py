"""Whether a PostgreSQL server can hold a state: its encoding, and a pool in between."""

from __future__ import annotations

from sqlalchemy import Engine

from state.db.driver_errors import shown
from state.errors import StateError


def check_server(engine: Engine) -> None:
    """Raise where a PostgreSQL database cannot hold a state, whatever is in it."""
    if engine.dialect.name != "postgresql":
        return
    with engine.connect() as connection:
        encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
    if encoding != "UTF8":
        raise StateError(
            f"the state database {shown(engine.url)} has the encoding {encoding}, in which not "
            "every id and name fits: make one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE "
            "template0"
        )
    _check_sessions(engine)


def _check_sessions(engine: Engine) -> None:
    """Raise where a connection pool gives our statements changing sessions of the server.

    The locks belong to a session, so two processes would hold one lock, or none could release it.
    """
    alone = engine.execution_options(isolation_level="AUTOCOMMIT")
    with alone.connect() as first, alone.connect() as second:
        seen = {
            tuple(
                connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
                for connection in (first, second)
            )
            for _ in range(3)
        }
    if len(seen) > 1 or len(set(seen.pop())) == 1:
        raise StateError(
            f"the state database {shown(engine.url)}: it needs session pooling, and the pool in "
            "between (such as PgBouncer with pool_mode = transaction) gives a connection a session "
            "only for a transaction: name the server itself, or a pool with pool_mode = session"
        )
