"""A private SQLite file for what one process notes that may be as much as there are customers.

It is no part of the state: it has no name and goes with the process, or when it is closed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator

_SETTINGS = """
PRAGMA journal_mode = OFF;
PRAGMA temp_store = FILE;
PRAGMA cache_size = -8000;
"""
#: Names that one statement takes.
CHUNK = 500


def private_file(tables: str) -> sqlite3.Connection:
    """A new one with these tables, for one thread."""
    file = sqlite3.connect("", isolation_level=None)
    file.executescript(_SETTINGS + tables)
    return file


def chunks(names: Collection[str]) -> Iterator[tuple[list[str], str]]:
    """The names, as many at a time as a statement takes, each with its placeholders."""
    listed = list(names)
    for start in range(0, len(listed), CHUNK):
        part = listed[start : start + CHUNK]
        yield part, ",".join("?" * len(part))
