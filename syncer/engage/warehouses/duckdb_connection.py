"""A connection of DuckDB, as SQLAlchemy expects one of a database."""

from __future__ import annotations

import re
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb

#: What the URL may set otherwise. No extension comes from the network.
SETTINGS: dict[str, Any] = {
    "memory_limit": "1GB",
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}
_HOLDER = re.compile(r"\(PID (\d+)\)")


class DuckDBConnection:
    """A connection whose first statement begins a transaction.

    `path` is the file, which is made if it is missing and may be written to, and `settings` are
    some of DuckDB's own.
    """

    def __init__(self, path: str, settings: Mapping[str, Any], *, read_only: bool = False) -> None:
        own = SETTINGS | {"temp_directory": _SPILL.enter()} | dict(settings)
        try:
            with _in_plain_words(path):
                self._duckdb = _open(path, own, read_only)
        except BaseException:
            _SPILL.leave()
            raise
        self._begun = False
        #: whose rows come next
        self.reading: DuckDBCursor | None = None

    def cursor(self) -> DuckDBCursor:
        return DuckDBCursor(self)

    def execute(self, statement: str, parameters: Sequence[Any], *, many: bool = False) -> None:
        """Run a statement; what an earlier one has left of its rows is gone."""
        with _in_plain_words():
            if not self._begun:
                self._duckdb.begin()
                self._begun = True
            run = self._duckdb.executemany if many else self._duckdb.execute
            run(statement, list(parameters))

    @property
    def names(self) -> list[str]:
        """The columns of the rows that come next."""
        return [column[0] for column in self._duckdb.description or ()]

    def fetch(self, number: int) -> list[tuple[Any, ...]]:
        """Return the next rows, so many at most."""
        with _in_plain_words():
            return self._duckdb.fetchmany(number)

    def commit(self) -> None:
        begun, self._begun = self._begun, False
        if begun:
            self._duckdb.commit()

    def rollback(self) -> None:
        begun, self._begun = self._begun, False
        if begun:
            self._duckdb.rollback()

    def close(self) -> None:
        self._duckdb.close()
        _SPILL.leave()


class DuckDBCursor:
    """The rows of one statement: DuckDB keeps those of the last one on a connection."""

    arraysize, rowcount, lastrowid = 1, -1, None

    def __init__(self, connection: DuckDBConnection) -> None:
        self._connection = connection
        self.description: list[tuple[Any, ...]] | None = None

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> None:
        self._connection.reading = self
        self._connection.execute(statement, parameters)
        self.description = [(name, *[None] * 6) for name in self._connection.names]

    def executemany(self, statement: str, parameters: Sequence[Sequence[Any]]) -> None:
        self._connection.reading = self
        self._connection.execute(statement, parameters, many=True)

    def fetchmany(self, size: int | None = None) -> list[tuple[Any, ...]]:
        if self._connection.reading is not self:
            raise duckdb.ProgrammingError("another statement ran before all rows were read")
        return self._connection.fetch(self.arraysize if size is None else size)

    def fetchone(self) -> tuple[Any, ...] | None:
        rows = self.fetchmany(1)
        return rows[0] if rows else None

    def fetchall(self) -> list[tuple[Any, ...]]:
        rows = list[tuple[Any, ...]]()
        while part := self.fetchmany(_MANY):
            rows += part
        return rows

    def close(self) -> None:
        """Do nothing: the next statement takes the place of this one."""


_MANY = 10_000


def _open(path: str, settings: dict[str, Any], read_only: bool) -> duckdb.DuckDBPyConnection:
    """Open a file; to read, also where this process has it open to write."""
    try:
        return duckdb.connect(path, read_only=read_only, config=settings)
    except duckdb.ConnectionException:
        if not read_only:
            raise
        return duckdb.connect(path, config=settings)


@contextmanager
def _in_plain_words(path: str = "") -> Iterator[None]:
    """Say what DuckDB says, without the statement, and what to do about it."""
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise duckdb.OutOfMemoryException(
            "DuckDB needs more memory than it may take: put for example ?memory_limit=4GB behind "
            "the path in the URL"
        ) from error
    except duckdb.ConnectionException as error:
        if "different configuration" not in str(error):
            raise
        raise duckdb.ConnectionException(
            f"this process reads {path} just now, so that it cannot write to it; try again"
        ) from error
    except duckdb.Error as error:
        text = str(error).partition("\n\nLINE 1: ")[0]
        if "Could not set lock" in text:
            holder = _HOLDER.search(text)
            who = f"process {holder[1]}" if holder else "another process"
            text = (
                f"{who} has {path} open, and DuckDB lets one process write, or several read: try "
                "again when it is closed, or read a copy of the file"
            )
        raise type(error)(text) from error


class _Spill:
    """A folder for what DuckDB sorts on disk, of this user alone, while a connection is open.

    The connections of a process share it, as DuckDB wants the same settings from all of them.
    """

    def __init__(self) -> None:
        self._lock, self._users, self._folder = threading.Lock(), 0, ""

    def enter(self) -> str:
        with self._lock:
            if not self._users:
                self._folder = tempfile.mkdtemp(prefix="syncer-")
            self._users += 1
            return self._folder

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                shutil.rmtree(self._folder, ignore_errors=True)


_SPILL = _Spill()
