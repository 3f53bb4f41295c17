"""What a verification found, on disk: it may be as much as there are customers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from state.db.private import chunks, private_file

#: How a listed customer looked: as it should; not so, to be looked at again; never sent by us;
#: never sent and with a value under a name of ours; never sent and it is not known whether with
#: one; never sent, and judged to hold what it should not.
EQUAL, SUSPECT, EXTRA, CLAIMS, UNSEEN, STRANGER = range(6)
#: Those that were never sent, and are not judged.
_EXTRA = f"look IN ({EXTRA}, {CLAIMS}, {UNSEEN})"

_TABLES = """
CREATE TABLE listed (customer_id TEXT PRIMARY KEY, look INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE differing (
    customer_id TEXT PRIMARY KEY, missing INTEGER NOT NULL, repaired INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE drift (
    customer_id TEXT NOT NULL, place INTEGER NOT NULL, trait TEXT NOT NULL, expected TEXT,
    found TEXT, PRIMARY KEY (customer_id, place)
) WITHOUT ROWID;
"""


class DriftRow(NamedTuple):
    """A trait that is not as it should be; `expected` and `found` are JSON, None is absent."""

    customer_id: str
    trait: str
    expected: str | None
    found: str | None


class Findings:
    """Everything is listed in UTF-8 byte order of the customer id. For one thread."""

    def __init__(self) -> None:
        self._file = private_file(_TABLES)

    def close(self) -> None:
        self._file.close()

    # Customers that Amberflo lists

    def put_looks(self, looks: Iterable[tuple[str, int]]) -> None:
        """Note (customer_id, look); a second look at the same customer counts."""
        self._file.executemany("INSERT OR REPLACE INTO listed VALUES (?, ?)", looks)

    def looks(self, customer_ids: Collection[str]) -> dict[str, int]:
        """The looks of those of the named customers that are listed."""
        return {
            customer_id: look
            for part, marks in chunks(customer_ids)
            for customer_id, look in self._file.execute(
                f"SELECT customer_id, look FROM listed WHERE customer_id IN ({marks})", part
            )
        }

    def extra(self) -> Iterator[str]:
        """Those that are none of ours."""
        return self._ids(f"SELECT customer_id FROM listed WHERE {_EXTRA} ORDER BY customer_id")

    def with_look(self, look: int, after: str, limit: int) -> list[str]:
        """The next customers with a look, of those whose id comes after `after`."""
        rows = self._file.execute(
            "SELECT customer_id FROM listed WHERE look = ? AND customer_id > ? "
            "ORDER BY customer_id LIMIT ?",
            (look, after, limit),
        )
        return [str(row[0]) for row in rows]

    # Customers that are not as they should be

    def put(self, customer_id: str, drifts: Sequence[tuple[str, str | None, str | None]]) -> None:
        """Note a customer with its (trait, expected, found); with none of these it is missing."""
        self._file.execute(
            "INSERT OR REPLACE INTO differing VALUES (?, ?, 0)", (customer_id, not drifts)
        )
        self._file.executemany(
            "INSERT INTO drift VALUES (?, ?, ?, ?, ?)",
            [(customer_id, place, *drift) for place, drift in enumerate(drifts)],
        )

    def repaired(self, customer_id: str) -> None:
        """The customer is as it should be now."""
        self._file.execute(
            "UPDATE differing SET repaired = 1 WHERE customer_id = ?", (customer_id,)
        )

    def differing(self) -> Iterator[str]:
        """Those that are missing or drifted."""
        return self._ids("SELECT customer_id FROM differing ORDER BY customer_id")

    def missing(self) -> Iterator[str]:
        return self._ids("SELECT customer_id FROM differing WHERE missing ORDER BY customer_id")

    def drifts(self, customer_id: str | None = None) -> Iterator[DriftRow]:
        """Of all, or of one customer."""
        where = "" if customer_id is None else "WHERE customer_id = ?"
        rows = self._file.execute(
            f"SELECT customer_id, trait, expected, found FROM drift {where} "
            "ORDER BY customer_id, place",
            () if customer_id is None else (customer_id,),
        )
        return map(DriftRow._make, rows)

    def counts(self) -> dict[str, int]:
        """How many customers are "missing", "drifted", "repaired" and "extra"."""
        row = self._file.execute(
            "SELECT COALESCE(SUM(missing), 0), COALESCE(SUM(NOT missing), 0),"
            " COALESCE(SUM(repaired), 0), (SELECT COUNT(*) FROM listed"
            f" WHERE {_EXTRA})"
            " FROM differing"
        ).fetchone()
        return dict(zip(("missing", "drifted", "repaired", "extra"), row, strict=True))

    def drifted_traits(self) -> dict[str, int]:
        """How many customers drifted in which trait."""
        return dict(self._file.execute("SELECT trait, COUNT(*) FROM drift GROUP BY trait"))

    def _ids(self, statement: str) -> Iterator[str]:
        return (str(row[0]) for row in self._file.execute(statement))
