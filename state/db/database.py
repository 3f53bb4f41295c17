"""The connection to the state database, SQLite or PostgreSQL: opening, reading, writing."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    NoSuchModuleError,
    OperationalError,
)
from sqlalchemy.pool import StaticPool

from state.db import migrations
from state.db.driver_errors import shown, sqlite_code, translated
from state.db.files import keep_private, make_private
from state.db.install import check_installed
from state.db.private import keep_temporary_files
from state.db.server_check import check_server
from state.errors import StateError

#: Seconds that a writer waits for another one on SQLite.
BUSY = 30
#: Seconds between two looks of a writer whether the other one has ended, on SQLite.
LOOK = 0.001
#: Seconds for which who gives way leaves a database to others before it writes.
GIVE_WAY = 3 * LOOK
#: Bytes. The queue's rows are large, and whole pages of them come and go.
PAGE_SIZE = {"state": 4096, "queue": 16384}
#: What a backup has as its `application_id` ("SYNC"): it holds both parts, and is no state to use.
BACKUP_ID = 0x53594E43


class Database:
    """An open state database of the newest schema version.

    `read()` and `write()` return a connection in a transaction. Every error of the driver comes out
    as `StateError` with one line that names the database, never its password.
    """

    def __init__(self, engine: Engine, *, read_only: bool = False) -> None:
        self.engine = engine
        #: one writer of this process at a time, once it gives way to others
        self._turn: AbstractContextManager[object] | None = None
        self._reading, self._writing = engine, engine.execution_options(writes=True)
        if engine.dialect.name == "postgresql":
            self._reading = engine.execution_options(isolation_level="REPEATABLE READ")
            self._writing = engine.execution_options(postgresql_readonly=read_only)

    @classmethod
    def open(cls, url: URL | str, part: str = "state") -> Database:
        """Open for reading and writing; create the SQLite file (not its folder) and migrate."""
        target = of_part(make_url(url), part)
        engine = engine_of(target, part)
        state = sqlite_path(resolved(make_url(url)))
        if (path := sqlite_path(target)) is not None and state is not None:
            check_installed(state)
            _claim_files(path, target)
        with translated(engine.url):
            try:
                check_server(engine)
                _check_file(engine, state)
                migrations.migrate(engine, part)
            except BaseException:
                engine.dispose()
                raise
        return cls(engine)

    @classmethod
    def peek(cls, url: URL | str, part: str = "state") -> Database:
        """Open for reading only, without creating anything; a missing part reads as empty."""
        target = of_part(make_url(url), part)
        path, state = sqlite_path(target), sqlite_path(resolved(make_url(url)))
        if state is not None:
            check_installed(state)
        if path is None or path.exists():
            engine = engine_of(target, part, read_only=True)
            with translated(engine.url):
                try:
                    with engine.connect() as connection:
                        number = migrations.check(connection, part)
                except BaseException:
                    engine.dispose()
                    raise
            newest = migrations.newest(part)
            if number == newest:
                return cls(engine, read_only=True)
            engine.dispose()
            if number:
                raise StateError(
                    f"the {part} database has schema version {number}; the next `syncer sync` "
                    f"brings it to {newest}, until then it cannot be read"
                )
        return cls.open("sqlite://", part)

    @property
    def folder(self) -> Path | None:
        """The folder for temporary files: the database's own, which must have room anyway.

        None where the database is no file.
        """
        path = sqlite_path(self.engine.url)
        return None if path is None else path.parent

    @classmethod
    def try_out(cls, url: URL | str, part: str = "state") -> None:
        """Raise what would keep a run from writing there; leave nothing behind."""
        target = of_part(make_url(url), part)
        path = sqlite_path(target)
        if path is not None:
            _try_folder(path.parent)
            if not path.exists():
                return
        engine = engine_of(target, part).execution_options(writes=True)
        with translated(engine.url):
            try:
                check_server(engine)
                with engine.connect() as connection:
                    connection.exec_driver_sql("CREATE TABLE syncer_check (it INTEGER)")
                    connection.rollback()
            finally:
                engine.dispose()

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a transaction that sees one state of the database."""
        with translated(self.engine.url), self._reading.connect() as connection:
            yield connection

    @contextmanager
    def write(self, *, alone: bool = False, beside: bool = False) -> Iterator[Connection]:
        """Open a transaction that commits at the end of the block, or not at all.

        A transaction that reads customers to change them, or adds to the history, writes `alone`:
        one such transaction at a time, as every transaction on SQLite is anyway. A transaction that
        marks several customers which are its own, as a delivery does, writes `beside` others of its
        kind, and not while one writes alone: each would lock rows in its own order and wait for the
        other's for ever.
        """
        with (
            self._turn or nullcontext(),
            translated(self.engine.url),
            self._writing.begin() as connection,
        ):
            if (alone or beside) and self.engine.dialect.name == "postgresql":
                shared = "" if alone else "_shared"
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock{shared}(7130514606)")
            yield connection

    def give_way(self) -> None:
        """Let another process write first, from now on, where both want to (on SQLite)."""
        if self.engine.dialect.name == "sqlite":
            self._turn = _Turn()

    @contextmanager
    def writer(self) -> Iterator[Callable[[], AbstractContextManager[Connection]]]:
        """Keep one connection for many transactions in a row, each as `write()`."""
        with translated(self.engine.url), self._writing.connect() as connection:

            @contextmanager
            def write() -> Iterator[Connection]:
                with translated(self.engine.url), connection.begin():
                    yield connection

            yield write

    def scrub(self) -> bool:
        """Leave no trace of deleted rows in the files; return False where others prevent it.

        SQLite writes the whole file anew and empties its log of changes. `secure_delete` is not
        enough: it overwrites a row, and not the copies of it that stay where SQLite moved rows from
        one page to another. PostgreSQL has no such operation that would not lock everybody out:
        there it does nothing.
        """
        if self.engine.dialect.name != "sqlite":
            return True
        with closing(self.engine.raw_connection()) as connection:
            cursor = connection.cursor()
            try:
                cursor.execute("VACUUM")
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                ((busy, _, _),) = cursor.fetchall()
            except sqlite3.OperationalError as error:
                if "locked" in str(error):
                    return False
                raise StateError(f"the state database {shown(self.engine.url)}: {error}") from error
            finally:
                cursor.close()
        return not busy


class _Turn:
    """A lock that is free for a moment each time, in which another process sees that it is."""

    def __init__(self) -> None:
        self._lock = Lock()

    def __enter__(self) -> None:
        self._lock.acquire()
        time.sleep(GIVE_WAY)

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def sqlite_path(url: URL) -> Path | None:
    """Return the file of a SQLite URL; None for memory and for other engines."""
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        return None
    return Path(str(url.database))


def resolved(url: URL) -> URL:
    """Return the URL of a SQLite file by its real path.

    The locks and the other parts are named after that path, so that a process which opens the file
    through a symbolic link finds the same ones.
    """
    path = sqlite_path(url)
    return url if path is None else url.set(database=os.path.realpath(path))


def of_part(url: URL, part: str) -> URL:
    """Return where a part is: the state at the URL, another part of SQLite in its own file."""
    given, url = sqlite_path(url), resolved(url)
    path = sqlite_path(url)
    if part == "state" or path is None or given is None:
        return url
    real, linked = beside(path, part), beside(given, part)
    if linked.exists() and not (real.exists() and linked.samefile(real)):
        raise StateError(
            f"state.url: {given} is a link to {path}, so the {part} is {real}, but there is one "
            f"beside the link: {linked}; move it there with its -wal file, or remove it"
        )
    return resolved(url.set(database=str(real)))


def beside(path: Path, part: str) -> Path:
    """Return the file of another part of the state whose file is at `path`."""
    return path.with_name(f"{path.stem}-{part}{path.suffix}")


def _claim_files(path: Path, url: URL) -> None:
    """Make sure that the files exist, that only their owner may read them, and have one name."""
    try:
        make_private(path)
        names = path.stat().st_nlink
    except OSError as error:
        raise StateError(f"the state database {shown(url)}: {error.strerror}") from None
    if names > 1:
        raise StateError(
            f"the state database {shown(url)}: the file has {names} names (hard links), and SQLite "
            "and our locks go by the name; remove all but one"
        )
    for end in ("-wal", "-shm"):
        keep_private(path.with_name(path.name + end))


def _check_file(engine: Engine, state: Path | None) -> None:
    """Raise where a SQLite file is a backup, or the files are just being exchanged.

    From here on a connection of ours is open, which an exchange that begins later sees.
    """
    if state is None:
        return
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT count(*) FROM sqlite_master")
        kind = connection.exec_driver_sql("PRAGMA application_id").scalar()
    check_installed(state)
    if kind == BACKUP_ID:
        raise StateError(
            f"the state database {shown(engine.url)} is a backup, with the queue in it: "
            f"`syncer state restore {state}` puts it where state.url says"
        )


def _try_folder(folder: Path) -> None:
    """Write a file there and remove it: the database, its log and the locks are made there."""
    try:
        with TemporaryFile(dir=folder, prefix="syncer-check-") as file:
            file.write(bytes(1 << 16))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StateError(
            f"state.url: nothing can be written in the folder {folder} ({error.strerror}); the "
            "user that runs the service must be able to, and it must have room"
        ) from None


def engine_of(url: URL, part: str, *, read_only: bool = False) -> Engine:
    """Return the engine of a part at its own URL; it connects when it is used first."""
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url, read_only, part)
    if url.get_backend_name() == "postgresql":
        try:
            return create_engine(
                url.set(drivername="postgresql+psycopg"),
                pool_pre_ping=True,
                connect_args={"client_encoding": "utf8"},
            )
        except (ModuleNotFoundError, NoSuchModuleError):
            raise StateError(
                "the state database is on PostgreSQL, but psycopg is not installed: "
                "pip install 'engage-amberflo-sync[postgres]'"
            ) from None
    raise StateError(
        f"state.url: {url.get_backend_name()} cannot hold the state; use sqlite or postgresql"
    )


def _sqlite_engine(url: URL, read_only: bool, part: str) -> Engine:
    path = sqlite_path(url)
    if path is not None and not path.parent.is_dir():
        raise StateError(
            f"state.url: the folder {path.parent} does not exist; make it, or name another"
        )
    engine = create_engine(url, poolclass=StaticPool if path is None else None)
    if read_only and path is not None and _is_frozen(path):
        address = f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1"
        engine = create_engine(
            url, creator=lambda: sqlite3.connect(address, uri=True, check_same_thread=False)
        )

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: Any) -> None:
        # We begin transactions ourselves (below): the driver would begin them too late.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {BUSY * 1000}")
        if read_only:
            cursor.execute("PRAGMA query_only = ON")
        else:
            cursor.execute(f"PRAGMA page_size = {PAGE_SIZE[part]}")  # heeded by a new file only
            _go_over_to_wal(cursor)
            cursor.execute("PRAGMA synchronous = FULL")
            # Hardly anything of what is erased stays in the file until `scrub` writes it anew. The
            # queue has too much that comes and goes.
            cursor.execute(f"PRAGMA secure_delete = {'ON' if part == 'state' else 'OFF'}")
        cursor.execute("PRAGMA cache_size = -16000")
        if path is not None:
            keep_temporary_files(cursor, path.parent)
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # IMMEDIATE: two writers wait for each other at the start, not fail in the middle.
        if connection.get_execution_options().get("writes"):
            _begin_to_write(connection)
        else:
            connection.exec_driver_sql("BEGIN")

    return engine


def _begin_to_write(connection: Connection) -> None:
    """Begin when no other connection writes; raise OperationalError after BUSY seconds.

    SQLite itself would look again after ever longer pauses, up to 100 ms, and who writes often
    would hardly let anybody in.
    """
    until = time.monotonic() + BUSY
    connection.exec_driver_sql("PRAGMA busy_timeout = 0")
    try:
        while True:
            try:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                return
            except OperationalError as error:
                if sqlite_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
            time.sleep(LOOK)
    finally:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {BUSY * 1000}")


def _is_frozen(path: Path) -> bool:
    """Return whether a file can be read as it stands.

    SQLite would make files beside it for writers, but here nobody may write, and nobody has it
    open.
    """
    if os.access(path.parent, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        return False
    log, index = (path.with_name(path.name + end) for end in ("-wal", "-shm"))
    if index.exists():
        return False
    if log.exists() and log.stat().st_size:
        raise StateError(
            f"state.url: {log} has changes that are not in {path.name} yet, and they can be read "
            "only in a folder that may be written to: copy both files to one"
        )
    return True


def _go_over_to_wal(cursor: sqlite3.Cursor) -> None:
    """Switch a file to WAL; SQLite does not wait here for a process that is just creating it."""
    until = time.monotonic() + BUSY
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
