"""The run lock: one run at a time over all processes that share a state database.

The operating system (SQLite) or the server (PostgreSQL) lets go of it when its holder dies, so
kill -9 leaves nothing to clean up.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import text

from state.database import Database, sqlite_path
from state.errors import Locked

#: The advisory lock's number in PostgreSQL; any constant that all processes share.
_RUN_LOCK = 7130514601


@contextmanager
def run_lock(database: Database) -> Iterator[None]:
    """Hold the run lock for the block, or raise `Locked` at once where another process has it."""
    path = sqlite_path(database.engine.url)
    if database.engine.dialect.name == "postgresql":
        with _advisory_lock(database):
            yield
    elif path is not None:
        with _file_lock(path.with_name(path.name + ".lock")):
            yield
    else:
        yield


@contextmanager
def _file_lock(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
            who = f" (process {holder})" if holder else ""
            raise Locked(f"another run is going on{who}; wait for its end") from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _advisory_lock(database: Database) -> Iterator[None]:
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        taken = connection.execute(text(f"SELECT pg_try_advisory_lock({_RUN_LOCK})")).scalar()
        if not taken:
            raise Locked("another run is going on on this database; wait for its end")
        try:
            yield
        finally:
            connection.execute(text(f"SELECT pg_advisory_unlock({_RUN_LOCK})"))
