"""The tables of fingerprints that runs made in the warehouse, and which of them is the baseline.

A table is on record before it is made, so that one that a dead run left is dropped. It becomes the
baseline in the transaction of its run's commit: from then on it says what the snapshot was made of.

Functions take a connection, so that the caller says what is one transaction.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import Connection, delete, insert, select, update

from state.db.tables import FINGERPRINT_TABLE


class FingerprintTableRow(NamedTuple):
    """A row of the table; see `tables.FingerprintTable`."""

    name: str
    run: int
    customers: int
    trait_rows: int
    basis: str | None


_ROWS = select(*(FINGERPRINT_TABLE.c[name] for name in FingerprintTableRow._fields))


def add(connection: Connection, name: str, run: int) -> None:
    """Note a table that a run is about to make."""
    connection.execute(insert(FINGERPRINT_TABLE).values(name=name, run=run))


def any_on_record(connection: Connection) -> bool:
    """Return whether there are fingerprints, or a run is about to make the first."""
    return connection.execute(select(FINGERPRINT_TABLE.c.name).limit(1)).first() is not None


def baseline(connection: Connection) -> FingerprintTableRow | None:
    """Return the table that the next run may compare by."""
    row = connection.execute(_ROWS.where(FINGERPRINT_TABLE.c.basis.is_not(None))).first()
    return None if row is None else FingerprintTableRow._make(row)


def superseded(connection: Connection, name: str) -> list[str]:
    """Return the tables that nobody compares by any more: all but the baseline and this one."""
    of, others = FINGERPRINT_TABLE.c, FINGERPRINT_TABLE.c.basis.is_(None)
    statement = select(of.name).where(others, of.name != name).order_by(of.name)
    return list(connection.execute(statement).scalars())


def set_baseline(
    connection: Connection, name: str, customers: int, trait_rows: int, basis: str
) -> None:
    """Make a table the baseline, in place of the one before."""
    connection.execute(update(FINGERPRINT_TABLE).values(basis=None))
    values = {"customers": customers, "trait_rows": trait_rows, "basis": basis}
    this = FINGERPRINT_TABLE.c.name == name
    connection.execute(update(FINGERPRINT_TABLE).where(this).values(**values))


def remove(connection: Connection, names: Collection[str]) -> None:
    """Forget tables that were dropped in the warehouse."""
    these = FINGERPRINT_TABLE.c.name.in_(list(names))
    connection.execute(delete(FINGERPRINT_TABLE).where(these))


def clear(connection: Connection) -> None:
    """Forget all tables: nobody compares by fingerprints any more."""
    connection.execute(delete(FINGERPRINT_TABLE))
