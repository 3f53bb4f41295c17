"""What a comparison with Amberflo finds, on disk: it may be as much as there are customers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

from state.db.private import chunks, private_file
from syncer.amberflo.codec import plain, read, written
from syncer.amberflo.record import Difference

#: How a listed customer looked: as it should; not so, to be read again; never sent by us; never
#: sent and with a value under a name of ours; never sent, and the listing does not show whether it
#: has one; never sent, and judged to hold what it should not.
EQUAL, SUSPECT, EXTRA, CLAIMS, UNSEEN, STRANGER = range(6)
#: The customers that were never sent, and are not judged.
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


class Drift(NamedTuple):
    """A trait that is not as it should be; None is absent."""

    customer_id: str
    trait: str
    expected: Any
    found: Any


class TraitDrift(NamedTuple):
    """How many customers drifted in a trait: in all, without it there, without it here."""

    customers: int
    missing: int
    unexpected: int


class Findings:
    """Everything is listed in UTF-8 byte order of the customer id. For one thread."""

    def __init__(self) -> None:
        self._file = private_file(_TABLES)

    def close(self) -> None:
        self._file.close()

    # Customers that Amberflo lists

    def put_looks(self, looks: Iterable[tuple[str, int]]) -> None:
        """Note (customer_id, look); a second look at a customer replaces the first."""
        self._file.executemany("INSERT OR REPLACE INTO listed VALUES (?, ?)", looks)

    def looks(self, customer_ids: Collection[str]) -> dict[str, int]:
        """Return the looks at the named customers, as far as they are listed."""
        return {
            customer_id: look
            for part, marks in chunks(customer_ids)
            for customer_id, look in self._file.execute(
                f"SELECT customer_id, look FROM listed WHERE customer_id IN ({marks})", part
            )
        }

    def extra(self) -> Iterator[str]:
        """Yield the customers that are not ours."""
        return self._ids(f"SELECT customer_id FROM listed WHERE {_EXTRA} ORDER BY customer_id")

    def with_look(self, look: int, after: str, limit: int) -> list[str]:
        """Return the next `limit` customers with a look and an id after `after`."""
        rows = self._file.execute(
            "SELECT customer_id FROM listed WHERE look = ? AND customer_id > ? "
            "ORDER BY customer_id LIMIT ?",
            (look, after, limit),
        )
        return [str(row[0]) for row in rows]

    # Customers that are not as they should be

    def put(self, customer_id: str, drifts: Iterable[Difference], *, missing: bool = False) -> None:
        """Note a customer with where it differs; it is `missing` if it has no record there."""
        self._file.execute(
            "INSERT OR REPLACE INTO differing VALUES (?, ?, 0)", (customer_id, missing)
        )
        self._file.executemany(
            "INSERT INTO drift VALUES (?, ?, ?, ?, ?)",
            [
                (customer_id, place, drift.trait, _json(drift.expected), _json(drift.found))
                for place, drift in enumerate(drifts)
            ],
        )

    def repaired(self, customer_id: str) -> None:
        """Note that the customer is as it should be now."""
        self._file.execute(
            "UPDATE differing SET repaired = 1 WHERE customer_id = ?", (customer_id,)
        )

    def differ(self, customer_ids: Collection[str]) -> set[str]:
        """Return which of the named customers are missing or drifted."""
        return {
            customer_id
            for part, marks in chunks(customer_ids)
            for (customer_id,) in self._file.execute(
                f"SELECT customer_id FROM differing WHERE customer_id IN ({marks})", part
            )
        }

    def differing(self) -> Iterator[str]:
        """Yield the customers that are missing or drifted."""
        return self._ids("SELECT customer_id FROM differing ORDER BY customer_id")

    def missing(self) -> Iterator[str]:
        return self._ids("SELECT customer_id FROM differing WHERE missing ORDER BY customer_id")

    def drifts(self, customer_id: str | None = None) -> Iterator[Drift]:
        """Yield the drifted traits of all customers, or of one."""
        where = "" if customer_id is None else "WHERE customer_id = ?"
        rows = self._file.execute(
            f"SELECT customer_id, trait, expected, found FROM drift {where} "
            "ORDER BY customer_id, place",
            () if customer_id is None else (customer_id,),
        )
        for drifted, trait, expected, actual in rows:
            yield Drift(drifted, trait, _value(expected), _value(actual))

    def counts(self) -> dict[str, int]:
        """Return how many customers are "missing", "drifted", "repaired" and "extra"."""
        row = self._file.execute(
            "SELECT COALESCE(SUM(missing), 0), COALESCE(SUM(NOT missing), 0),"
            " COALESCE(SUM(repaired), 0), (SELECT COUNT(*) FROM listed"
            f" WHERE {_EXTRA})"
            " FROM differing"
        ).fetchone()
        return dict(zip(("missing", "drifted", "repaired", "extra"), row, strict=True))

    def drifted_traits(self) -> dict[str, TraitDrift]:
        """Return the number of customers that drifted, by trait."""
        rows = self._file.execute(
            "SELECT trait, COUNT(*), SUM(found IS NULL), SUM(expected IS NULL) FROM drift"
            " GROUP BY trait"
        )
        return {row[0]: TraitDrift._make(row[1:]) for row in rows}

    def _ids(self, statement: str) -> Iterator[str]:
        return (str(row[0]) for row in self._file.execute(statement))


def _json(value: Any) -> str | None:
    return None if value is None else written(value).decode()


def _value(text: str | None) -> Any:
    return None if text is None else plain(read(text))
