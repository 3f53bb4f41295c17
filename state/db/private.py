"""A private SQLite file for notes of one process that may be as many as there are customers.

It is no part of the state: it has no name, and goes with the process or when it is closed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from state.errors import StateError

_SETTINGS = """
PRAGMA journal_mode = OFF;
PRAGMA temp_store = FILE;
PRAGMA cache_size = -8000;
"""
#: Names that one statement takes.
CHUNK = 500


class PrivateFile(sqlite3.Connection):
    """A connection to such a file; errors of the disk are raised as `StateError`."""

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        with _translated():
            return super().execute(*arguments)

    def executemany(self, *arguments: Any) -> sqlite3.Cursor:
        with _translated():
            return super().executemany(*arguments)

    def executescript(self, *arguments: Any) -> sqlite3.Cursor:
        with _translated():
            return super().executescript(*arguments)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StateError(
            f"a temporary file cannot be written: {error}; make room in the folder of the state, "
            "or, with the state on PostgreSQL, set TMPDIR to a folder that has some"
        ) from error


def private_file(tables: str) -> PrivateFile:
    """Create a new file with these tables, for one thread."""
    file = sqlite3.connect("", isolation_level=None, factory=PrivateFile)
    file.executescript(_SETTINGS + tables)
    return file


def keep_temporary_files(cursor: sqlite3.Cursor, folder: Path) -> None:
    """Let SQLite make the temporary files of this process in a folder.

    The database's folder must have room anyway; the system's may be missing, small or memory. Where
    nothing can be made in it, SQLite takes that of the system.
    """
    if cursor.execute("PRAGMA temp_store_directory").fetchall() == [(str(folder),)]:
        return  # it is no connection's own: while others sort it must not be set
    quoted = str(folder).replace("'", "''")
    with suppress(sqlite3.OperationalError):
        cursor.execute(f"PRAGMA temp_store_directory = '{quoted}'")


def chunks(names: Collection[str]) -> Iterator[tuple[list[str], str]]:
    """Split names into lists of the size that a statement takes, each with its placeholders."""
    listed = list(names)
    for start in range(0, len(listed), CHUNK):
        part = listed[start : start + CHUNK]
        yield part, ",".join("?" * len(part))
