"""New SQLite files that hold a state or a part of it, before they have their names.

A file that was cut off is thrown away, so nothing is journaled; it is on disk when `closed` says
so.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, NullPool, create_engine, event
from sqlalchemy.engine import URL

from state.db.database import PAGE_SIZE, sqlite_path
from state.db.driver_errors import translated
from state.db.files import keep_private, open_private
from state.db.install import remove, sync_file
from state.db.private import keep_temporary_files
from state.errors import StateError

#: Pages that are copied between two looks whether to stop.
PAGES = 2048


def url_of(file: Path) -> URL:
    """Return the URL of a SQLite file."""
    return URL.create("sqlite", database=str(file))


def begin(file: Path) -> None:
    """Make an empty private file; what an earlier attempt left there goes."""
    try:
        discard(file)
        open_private(file).close()
    except OSError as error:
        raise StateError(f"{file} cannot be made: {error.strerror}") from None


def discard(file: Path) -> None:
    """Remove a file that was not finished, and those that SQLite made beside it."""
    remove(file.with_name(file.name + end) for end in ("", "-journal", "-wal", "-shm"))


def finish(file: Path) -> None:
    """Wait until the file is on disk."""
    try:
        keep_private(file)
        sync_file(file)
    except OSError as error:
        raise StateError(f"{file} cannot be written: {error.strerror}") from None


def copy_pages(source: Connection, file: Path, report: Callable[[int, int], None]) -> None:
    """Copy a SQLite database into a file, as the source's transaction sees it.

    That transaction is open, so what others write meanwhile is not in the copy. `report` gets the
    pages that are copied and all there are; what it raises ends the copy.
    """
    driver: Any = source.connection.driver_connection

    def look(_status: int, remaining: int, total: int) -> None:
        report(total - remaining, total)

    try:
        with closing(sqlite3.connect(file, isolation_level=None)) as target:
            # Settings of the copy's file; its header, which is copied, says WAL.
            target.execute("PRAGMA synchronous = OFF")
            driver.backup(target, pages=PAGES, progress=look)
            target.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise StateError(f"{sqlite_path(source.engine.url)} is damaged: {error}") from error
        raise StateError(f"{file} cannot be written: {error}") from error


@contextmanager
def writing(file: Path, part: str = "state") -> Iterator[Connection]:
    """Write to the file in one transaction."""
    engine = _engine(file, part)
    try:
        with translated(engine.url), engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


@contextmanager
def reading(file: Path) -> Iterator[Connection]:
    """Read a file that nobody writes to."""
    engine = create_engine(
        url_of(file),
        poolclass=NullPool,
        creator=lambda: sqlite3.connect(_read_only(file), uri=True, check_same_thread=False),
    )
    try:
        with translated(engine.url), engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _read_only(file: Path) -> str:
    return f"{file.absolute().as_uri()}?mode=ro&immutable=1"


def _engine(file: Path, part: str) -> Engine:
    engine = create_engine(url_of(file), poolclass=NullPool)

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA page_size = {PAGE_SIZE[part]}")
        cursor.execute("PRAGMA locking_mode = EXCLUSIVE")
        cursor.execute("PRAGMA journal_mode = OFF")
        cursor.execute("PRAGMA synchronous = OFF")
        cursor.execute("PRAGMA cache_size = -32000")
        # What is taken out again, as the queue of a backup is, leaves nothing in the file.
        cursor.execute("PRAGMA secure_delete = ON")
        keep_temporary_files(cursor, Path(os.path.realpath(file)).parent)
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin_transaction(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine
