"""Locks over all processes that share a state database.

- `run`: one run at a time;
- `delivery`: one delivery of customers at a time, so that the writes of one customer are serial;
- `daemon`: one daemon at a time on SQLite;
- `worker`: one worker of a daemon at a time;
- `history`: one at a time removes something from the history.

The operating system (SQLite) or the server (PostgreSQL) lets go of a lock when its holder dies, so
kill -9 leaves nothing to clean up.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from state.database import Database, sqlite_path
from state.errors import Locked

#: The advisory locks' numbers in PostgreSQL; any constants that all processes share.
_NUMBERS = {
    **{"run": 7130514601, "delivery": 7130514603, "daemon": 7130514604, "worker": 7130514605},
    "history": 7130514606,
}
_BUSY = {
    "run": "another run is going on",
    "delivery": "another process is delivering",
    "daemon": "another daemon is running on this state",
    "worker": "the worker of another daemon is running",
    "history": "another process is compacting or erasing history",
}


def run_lock(database: Database) -> AbstractContextManager[None]:
    """Hold the run lock for the block, or raise `Locked` at once where another process has it."""
    return lock(database, "run")


@contextmanager
def lock(
    database: Database, name: str, *, wait: float = 0.0, stop: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Hold a lock for the block; raises `Locked` when it is not to be had in `wait` seconds, or
    before `stop` says so."""
    until = time.monotonic() + wait
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(_try(database, name))
                break
            except Locked:
                if time.monotonic() >= until or stop():
                    raise
                time.sleep(0.05)
        yield


def lock_holder(database: Database, name: str) -> int | None:
    """The process id of who holds a lock; None when nobody does. Looking makes no file."""
    path = sqlite_path(database.engine.url)
    if database.engine.dialect.name == "postgresql":
        with database.read() as connection:
            found = connection.execute(
                text(
                    "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted"
                    f" AND (classid::bigint << 32 | objid::bigint) = {_NUMBERS[name]}"
                )
            ).scalar()
        return None if found is None else int(found)
    if path is None or not _lock_file(path, name).exists():
        return None
    try:
        with _file_lock(_lock_file(path, name), name):
            return None
    except Locked:
        return int(_lock_file(path, name).read_text().strip() or 0)


def _lock_file(path: Path, name: str) -> Path:
    return path.with_name(path.name + (".lock" if name == "run" else f".{name}.lock"))


def _try(database: Database, name: str) -> AbstractContextManager[None]:
    path = sqlite_path(database.engine.url)
    if database.engine.dialect.name == "postgresql":
        return _advisory_lock(database, name)
    if path is not None:
        return _file_lock(_lock_file(path, name), name)
    return nullcontext()


@contextmanager
def _file_lock(path: Path, name: str) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
            who = f" (process {holder})" if holder else ""
            raise Locked(f"{_BUSY[name]}{who}; wait for its end") from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _advisory_lock(database: Database, name: str) -> Iterator[None]:
    number = _NUMBERS[name]
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        taken = connection.execute(text(f"SELECT pg_try_advisory_lock({number})")).scalar()
        if not taken:
            raise Locked(f"{_BUSY[name]} on this database; wait for its end")
        try:
            yield
        finally:
            # A connection that broke has let go of it already; what broke it is told elsewhere.
            with suppress(DBAPIError):
                connection.execute(text(f"SELECT pg_advisory_unlock({number})"))
