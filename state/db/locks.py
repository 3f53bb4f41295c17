"""Locks over all processes that share a state database.

- `run`: one run at a time;
- `daemon`: one daemon at a time on SQLite;
- `schedule`: one of several daemons on PostgreSQL schedules the runs;
- `alerts`: one of them reports the alerts;
- `sorting`: one process at a time processes accepted calls, so that they stay in order (the name
  is that of older programs, which may run beside this one);
- `history`: one at a time removes something from the history;
- `backup`: one process at a time makes a backup;
- `worker`: held by a worker under its own number as long as it lives (see workers.py).

The operating system (SQLite) or the server (PostgreSQL) lets go of a lock when its holder dies, so
kill -9 leaves nothing to clean up.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from glob import escape
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from state.db.database import Database, resolved, sqlite_path
from state.db.driver_errors import shown
from state.db.files import PRIVATE, keep_private
from state.errors import Locked, StateError

#: The advisory locks' numbers in PostgreSQL; any constants that all processes share.
_NUMBERS = {
    "run": 7130514601,
    "daemon": 7130514604,
    "schedule": 7130514605,
    "sorting": 7130514607,
    "history": 7130514608,
    "backup": 7130514609,
    "alerts": 7130514610,
    "worker": 7130514700000000000,
}
_BUSY = {
    "run": "another run is going on",
    "daemon": "another daemon is running on this state",
    "schedule": "another daemon schedules the runs",
    "alerts": "another daemon reports the alerts",
    "sorting": "another daemon processes the calls",
    "history": "another process is compacting or erasing history",
    "backup": "another process makes a backup",
    "worker": "the worker lives",
}
_NUMBER = "(classid::bigint << 32 | objid::bigint)"
_HELD = (
    "FROM pg_locks WHERE locktype = 'advisory' AND granted"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    f" AND {_NUMBER}"
)
#: Asks PostgreSQL who holds an advisory lock of this database whose number …, and for the numbers
#: that are held and …
_ADVISORY, _ADVISORY_NUMBERS = f"SELECT pid {_HELD}", f"SELECT {_NUMBER} {_HELD}"
#: A server lets go of the locks of a host that vanished after about 20 seconds.
_KEEPALIVE = (
    "SET tcp_keepalives_idle = 10",
    "SET tcp_keepalives_interval = 5",
    "SET tcp_keepalives_count = 2",
)

#: Raises `StateError` when a lock that is held was lost.
Check = Callable[[], None]


def run_lock(database: Database, wait: float = 0.0) -> AbstractContextManager[Check]:
    """Hold the run lock for the block; raise `Locked` where another process holds it.

    `wait` is in seconds.
    """
    return lock(database, "run", wait=wait)


@contextmanager
def lock(
    database: Database,
    name: str,
    number: int = 0,
    *,
    wait: float = 0.0,
    every: float = 0.05,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Check]:
    """Hold a lock for the block; yield a function that raises `StateError` when the lock was lost.

    Raise `Locked` when the lock is not free within `wait` seconds, or before `stop` returns true.
    `every` is the time between two attempts, in seconds.
    """
    until = time.monotonic() + wait
    with ExitStack() as held:
        while True:
            try:
                check = held.enter_context(_try(database, name, number))
                break
            except Locked:
                if time.monotonic() >= until or stop():
                    raise
                time.sleep(every)
        yield check


def lock_holder(database: Database, name: str, number: int = 0) -> int | None:
    """Return the process id of a lock's holder; None where the lock is free.

    On PostgreSQL it is the id of the server's process of that connection. No file is created.
    """
    path = sqlite_path(database.engine.url)
    if database.engine.dialect.name == "postgresql":
        with database.read() as connection:
            pid = connection.execute(text(f"{_ADVISORY} = {_NUMBERS[name] + number}")).scalar()
        return None if pid is None else int(pid)
    return None if path is None else _file_holder(lock_file(path, name, number))


def living_workers(database: Database, numbers: Collection[int]) -> set[int]:
    """Return those of the numbers under which a worker holds its lock.

    PostgreSQL is asked once, however many they are.
    """
    if database.engine.dialect.name != "postgresql":
        return {it for it in numbers if lock_holder(database, "worker", it) is not None}
    first = _NUMBERS["worker"]
    with database.read() as connection:
        held = connection.execute(text(f"{_ADVISORY_NUMBERS} > {first}")).scalars()
        return set(numbers) & {int(it) - first for it in held}


@contextmanager
def alone(database: Database) -> Iterator[None]:
    """Keep every other process from working on a state for the block; nothing is opened for it.

    Raise `Locked` where one works on it now. (A command that only reads holds no lock.)
    """
    with ExitStack() as held:
        # The daemon first: it holds several of them, and its name says most.
        for name in ("daemon", "schedule", "run", "sorting", "history", "backup"):
            held.enter_context(lock(database, name, wait=0.5))
        if _any_worker(database):
            raise Locked("a process that delivers works on this state; wait for its end")
        yield


def _any_worker(database: Database) -> bool:
    """Return whether a process holds the lock of a worker, of whatever number."""
    path = sqlite_path(database.engine.url)
    if path is not None:
        numbers = path.parent.glob(f"{escape(path.name)}.worker*.lock")
        return any(_file_holder(file) is not None for file in numbers)
    if database.engine.dialect.name != "postgresql":
        return False
    with database.read() as connection:
        return bool(connection.execute(text(f"{_ADVISORY} > {_NUMBERS['worker']}")).first())


def check_files(url: URL) -> None:
    """Raise where a lock file beside a SQLite file may not be opened by this user; create none."""
    if (path := sqlite_path(resolved(url))) is None:
        return
    for name in _NUMBERS:
        if (file := lock_file(path, name)).exists():
            os.close(_open_lock_file(file, os.O_RDWR))


def lock_file(path: Path, name: str, number: int = 0) -> Path:
    """Return the file of a lock beside the SQLite file at `path`."""
    if name == "run":
        return path.with_name(f"{path.name}.lock")
    return path.with_name(f"{path.name}.{name}{number or ''}.lock")


def _try(database: Database, name: str, number: int) -> AbstractContextManager[Check]:
    path = sqlite_path(database.engine.url)
    if database.engine.dialect.name == "postgresql":
        return _advisory_lock(database, name, number)
    if path is not None:
        return _file_lock(lock_file(path, name, number), name)
    return nullcontext(lambda: None)


@contextmanager
def _file_lock(path: Path, name: str) -> Iterator[Check]:
    descriptor = _open_lock_file(path, os.O_RDWR | os.O_CREAT)
    try:
        keep_private(descriptor)
        if not _flock(descriptor, path, fcntl.LOCK_EX):
            holder = _written_in(descriptor)
            who = f" (process {holder})" if holder else ""
            raise Locked(f"{_BUSY[name]}{who}; wait for its end")
        _write_into(descriptor, str(os.getpid()))
        try:
            yield lambda: None
        finally:
            _write_into(descriptor, "")
    finally:
        os.close(descriptor)


def _file_holder(path: Path) -> int | None:
    """Return the process that holds the lock of a file (0: unknown); None where it is free."""
    if not path.exists():
        return None
    descriptor = _open_lock_file(path, os.O_RDONLY)
    try:
        free = _flock(descriptor, path, fcntl.LOCK_SH)
        return None if free else _written_in(descriptor)
    finally:
        os.close(descriptor)


def _open_lock_file(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC, PRIVATE)
    except PermissionError:
        if not path.exists():
            raise StateError(
                f"the lock file {path} cannot be made: this user may not write in its folder; run "
                "as its owner, or name another place"
            ) from None
        raise StateError(
            f"the lock file {path} belongs to somebody else: run as its owner, or give it to this "
            "user (chown), with all files of the state"
        ) from None
    except OSError as error:
        raise StateError(f"the lock file {path}: {error.strerror}") from None


def _flock(descriptor: int, path: Path, how: int) -> bool:
    """Lock an open file; return False where another process has locked it."""
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # a file system that knows no locks
        raise StateError(f"the lock file {path}: {error.strerror}") from None
    return True


def _write_into(descriptor: int, text: str) -> None:
    with suppress(OSError):  # it only says who; on a full disk nobody is named
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)


def _written_in(descriptor: int) -> int:
    """Return the process id that stands in a lock file; 0 where none does."""
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() else 0


@contextmanager
def _advisory_lock(database: Database, name: str, number: int) -> Iterator[Check]:
    key = _NUMBERS[name] + number
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        try:
            taken = connection.execute(text(f"SELECT pg_try_advisory_lock({key})")).scalar()
            for setting in _KEEPALIVE if taken else ():  # who stands by asks again and again
                connection.execute(text(setting))
        except SQLAlchemyError as error:
            raise StateError(
                f"the {name} lock of {shown(database.engine.url)} cannot be asked for: the "
                f"connection broke ({type(error).__name__})"
            ) from None
        if not taken:
            raise Locked(f"{_BUSY[name]} on this database; wait for its end")

        one_at_a_time = threading.Lock()

        def check() -> None:
            try:
                with one_at_a_time:
                    connection.execute(text("SELECT 1"))
            except SQLAlchemyError:
                raise StateError(
                    f"the connection to {shown(database.engine.url)} that held the {name} lock "
                    "broke; what is not done yet stays due"
                ) from None

        try:
            yield check
        finally:
            # A connection that broke has let go of it already; what broke it is told elsewhere.
            with suppress(SQLAlchemyError):
                connection.execute(text(f"SELECT pg_advisory_unlock({key})"))
