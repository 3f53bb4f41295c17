"""SQLite: a file of one's own, such as a copy of the tables, or what the sandbox makes."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL

from syncer.engage.values import kind_of
from syncer.engage.warehouses.warehouse import CONNECT, Warehouse

#: KB of pages, and of rows that are sorted, that SQLite keeps in memory.
CACHE = 8_000


class SQLite(Warehouse):
    """A read-only engine, which never creates a file that is missing."""

    def engine(self, url: URL, *, writes: bool = False) -> Engine:
        if str(url.database or "").startswith("file:"):
            engine = create_engine(url)
        else:
            address = f"file:{quote(str(Path(str(url.database or ''))))}?mode=ro"
            engine = create_engine(
                "sqlite://",
                creator=lambda: sqlite3.connect(
                    address, uri=True, check_same_thread=False, timeout=CONNECT
                ),
            )

        @event.listens_for(engine, "connect")
        def configure(connection: sqlite3.Connection, _record: Any) -> None:
            connection.isolation_level = None  # `begin` begins the transaction
            connection.text_factory = _text
            connection.create_function("is_utf8", 1, _is_utf8, deterministic=True)
            connection.create_function("kind_of_value", 1, kind_of, deterministic=True)
            connection.execute(f"PRAGMA cache_size = -{CACHE}")

        return engine

    def begin(self, connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")


def _text(data: bytes) -> str:
    """Return a text of SQLite, whose bytes may be anything: invalid UTF-8 becomes surrogates."""
    return str(data, "utf-8", "surrogateescape")


def _is_utf8(data: bytes | None) -> bool:
    try:
        return data is not None and bool(data.decode())
    except UnicodeDecodeError:
        return False


SQLITE = SQLite("SQLite", "sqlite")
