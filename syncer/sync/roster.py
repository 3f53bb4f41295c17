"""Customers as Amberflo shows them, on disk for as long as a run needs them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

from state.db.private import chunks, private_file

_TABLES = """
CREATE TABLE record (
    customer_id TEXT PRIMARY KEY, traits TEXT, updated_at INTEGER, known INTEGER NOT NULL,
    name TEXT, email TEXT, in_engage INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE drifted (
    customer_id TEXT PRIMARY KEY, rev INTEGER NOT NULL, missing INTEGER NOT NULL
) WITHOUT ROWID;
"""
#: Rows that are read at a time: a list may be added to while it is read.
_PAGE = 1000


class RosterRow(NamedTuple):
    """A customer at Amberflo: its traits as JSON (None: the listing did not show them).

    `updated_at` is when Amberflo says it was updated (epoch milliseconds); `known` says whether the
    state knows it, `in_engage` whether the pull had it where the state does not know it.
    """

    customer_id: str
    traits: str | None
    updated_at: int | None
    known: bool
    name: str | None = None
    email: str | None = None
    in_engage: bool = False


class DriftedRow(NamedTuple):
    """A customer of the state that is not as it should be.

    `rev` is the number of its state when that was seen, `traits` are JSON. `missing` says that
    Amberflo has no record of it.
    """

    customer_id: str
    rev: int
    traits: str
    missing: bool


class Roster:
    """Everything is listed in UTF-8 byte order of the customer id. For one thread."""

    def __init__(self) -> None:
        self._file = private_file(_TABLES)

    def close(self) -> None:
        self._file.close()

    def put(self, rows: Iterable[RosterRow]) -> None:
        """Note customers; a later note of a customer replaces the earlier one."""
        self._file.execute("BEGIN")
        self._file.executemany("INSERT OR REPLACE INTO record VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        self._file.execute("COMMIT")

    def drop(self, customer_ids: Collection[str]) -> None:
        """Forget these customers."""
        for table in ("record", "drifted"):
            for part, marks in chunks(customer_ids):
                self._file.execute(f"DELETE FROM {table} WHERE customer_id IN ({marks})", part)

    def rows(self, customer_ids: Collection[str]) -> list[RosterRow]:
        """Return the named customers that are noted."""
        return [
            RosterRow._make(row)
            for part, marks in chunks(customer_ids)
            for row in self._file.execute(
                f"SELECT * FROM record WHERE customer_id IN ({marks})", part
            )
        ]

    def everybody(self) -> Iterator[RosterRow]:
        """Yield all customers."""
        return map(RosterRow._make, self._pages("SELECT * FROM record WHERE customer_id > ?", ""))

    def put_in_engage(self, customer_ids: Collection[str]) -> None:
        """Note that the pull had these customers."""
        for part, marks in chunks(customer_ids):
            self._file.execute(
                f"UPDATE record SET in_engage = 1 WHERE customer_id IN ({marks})", part
            )

    def records(self, after: str = "") -> Iterator[tuple[str, str | None]]:
        """Yield (customer_id, traits) of all customers with an id after `after`."""
        yield from self._pages(
            "SELECT customer_id, traits FROM record WHERE customer_id > ?", after
        )

    def unknown(self) -> Iterator[str]:
        """Yield the ids of the customers that the state does not know."""
        statement = "SELECT customer_id FROM record WHERE NOT known AND customer_id > ?"
        for (customer_id,) in self._pages(statement, ""):
            yield customer_id

    def unknown_count(self) -> int:
        (count,) = self._file.execute("SELECT COUNT(*) FROM record WHERE NOT known").fetchone()
        return int(count)

    def put_drifted(self, customer_id: str, rev: int, *, missing: bool) -> None:
        """Note that a customer of the state is not as it should be."""
        self._file.execute(
            "INSERT OR REPLACE INTO drifted VALUES (?, ?, ?)", (customer_id, rev, missing)
        )

    def drifted(self, customer_ids: Collection[str] | None = None) -> Iterator[DriftedRow]:
        """Yield all such customers, or the named ones among them."""
        statement = (
            "SELECT customer_id, rev, COALESCE(traits, '{}'), missing"
            " FROM drifted LEFT JOIN record USING (customer_id) WHERE customer_id "
        )
        if customer_ids is None:
            rows = self._pages(f"{statement} > ?", "")
        else:
            rows = (
                row
                for part, marks in chunks(customer_ids)
                for row in self._file.execute(f"{statement} IN ({marks})", part)
            )
        for customer_id, rev, traits, missing in rows:
            yield DriftedRow(customer_id, rev, "{}" if missing else traits, bool(missing))

    def drifted_count(self) -> int:
        (count,) = self._file.execute("SELECT COUNT(*) FROM drifted").fetchone()
        return int(count)

    def _pages(self, statement: str, after: str) -> Iterator[Any]:
        while True:
            rows = self._file.execute(
                f"{statement} ORDER BY customer_id LIMIT {_PAGE}", (after,)
            ).fetchall()
            yield from rows
            if len(rows) < _PAGE:
                return
            after = rows[-1][0]
