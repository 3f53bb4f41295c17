"""What a driver raises, in one line that names the database and what would help."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.engine import URL
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from state.errors import Busy, StateError, Unfit

#: What helps where SQLite may not open or write a file that is there.
_NOT_OURS = (
    "; its files and their folder must be those of the user that runs this: run as their owner, "
    "or give them to this user (chown)"
)


def shown(url: URL) -> str:
    """Return a URL for messages: without its password and its query, which may hold secrets."""
    return str(url.set(query={}))


def sqlite_code(error: DBAPIError) -> int:
    """Return SQLite's primary error code; 0 for an error of another database."""
    return int(getattr(error.orig, "sqlite_errorcode", 0)) & 0xFF


def _of_the_data(error: DBAPIError) -> bool:
    """Return whether PostgreSQL refused the data itself.

    These are bad data (22), a constraint (23), and a limit that it exceeds (54).
    """
    return str(getattr(error.orig, "sqlstate", None))[:2] in ("22", "23", "54")


def _can_open_files() -> bool:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return False
    return True


@contextmanager
def translated(url: URL) -> Iterator[None]:
    """Raise what a driver raises in the block as `StateError`, with the database's name."""
    try:
        yield
    except UnicodeDecodeError as error:  # a name in a damaged file, of which SQLite speaks
        reason = "the file is damaged: it has text that is not UTF-8"
        raise StateError(f"the state database {shown(url)}: {reason}", reason) from error
    except DBAPIError as error:
        reason = " ".join(str(error.orig).split())
        code = sqlite_code(error)
        if code == sqlite3.SQLITE_CANTOPEN and not _can_open_files():
            reason += "; this process has too many open files: raise its limit (ulimit -n)"
        elif code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            reason += _NOT_OURS
        kind = Busy if code == sqlite3.SQLITE_BUSY else StateError
        if isinstance(error, DataError | IntegrityError) or _of_the_data(error):
            kind = Unfit
        raise kind(f"the state database {shown(url)}: {reason}", reason) from error
