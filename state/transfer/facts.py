"""What must be true of a state, and of which rows it is not: a line each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import orjson
from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    LargeBinary,
    and_,
    func,
    inspect,
    select,
)

from state.db.schema import (
    CHANGE,
    CUSTOMER,
    ERASED,
    HELD_CHANGE,
    HOLD,
    PARTS,
    RUN,
    RUN_TRAIT,
    SEAL,
    TRAIT,
)
from state.transfer import rows

#: What must refer to what: in words, the table's column that names a row, and the row's own.
_REFERENCES = (
    ("changes of a run that is not there", CHANGE.c.run, RUN.c.id),
    ("changes of a customer that is not there", CHANGE.c.customer_id, CUSTOMER.c.customer_id),
    ("sums of a run that is not there", RUN_TRAIT.c.run, RUN.c.id),
    ("held changes of a hold that is not there", HELD_CHANGE.c.hold, HOLD.c.id),
    ("erased changes of a seal that is not there", ERASED.c.seal, SEAL.c.number),
)
_PARTS_OF_PULLED = ("unchanged", "entered", "exited", "changed", "skipped")


def missing(connection: Connection, part: str) -> tuple[list[str], list[str]]:
    """Return what a part lacks: its tables and columns, and its indexes."""
    schema = inspect(connection)
    lacks: list[str] = []
    slow: list[str] = []
    for table in PARTS[part]:
        if not schema.has_table(table.name):
            lacks.append(f"the table {table.name} is not there")
            continue
        known = {column["name"] for column in schema.get_columns(table.name)}
        lacks += [
            f"the column {column.name} of the table {table.name} is not there"
            for column in table.columns
            if column.name not in known
        ]
        made = {index["name"] for index in schema.get_indexes(table.name)}
        slow += [
            f"the index {index.name} of the table {table.name} is not there"
            for index in sorted(table.indexes, key=lambda index: str(index.name))
            if index.name not in made
        ]
    return lacks, slow


def untrue(connection: Connection) -> Iterator[str]:
    """Yield what is not true of the rows of the state among one another."""
    wrong: list[tuple[str, ColumnElement[bool]]] = [
        (what, and_(column.is_not(None), column.not_in(select(other))))
        for what, column, other in _REFERENCES
    ]
    wrong.append(
        (
            "customers of whom a later revision is acknowledged",
            CUSTOMER.c.acked_rev > CUSTOMER.c.rev,
        )
    )
    total = sum((RUN_TRAIT.c[name] for name in _PARTS_OF_PULLED[1:]), RUN_TRAIT.c.unchanged)
    committed = select(RUN.c.id).where(RUN.c.committed_at.is_not(None), RUN.c.state != "failed")
    wrong.append(
        (
            "sums of a run that do not close",
            and_(RUN_TRAIT.c.run.in_(committed), RUN_TRAIT.c.pulled != total),
        )
    )
    for what, condition in wrong:
        number = connection.execute(select(func.count()).where(condition)).scalar_one()
        if number:
            yield f"{number:,} {what}"


def odd_rows(connection: Connection, part: str, stop: Callable[[], None]) -> Iterator[str]:
    """Yield which tables have rows that cannot be read, or with a value of another kind.

    The history is not among them: its proof reads it. A server holds the kinds of values itself.
    """
    for table in PARTS[part]:
        if table is CHANGE or (table is not CUSTOMER and connection.dialect.name != "sqlite"):
            continue
        kinds = [_kind(column) for column in table.columns]
        having = _Having() if table is CUSTOMER else None
        odd = 0
        columns = ", ".join(f'"{column.name}"' for column in table.columns)
        try:
            with closing(rows.read(connection, table, columns)) as stored:
                for number, row in enumerate(stored):
                    if number % rows.REPORT == 0:
                        stop()
                    odd += not all(map(isinstance, row, kinds))
                    if having is not None:
                        having.add(row)
        except connection.dialect.loaded_dbapi.Error as error:
            yield f"a row of the table {table.name} cannot be read: {' '.join(str(error).split())}"
            continue
        if odd:
            yield f"{odd:,} rows of the table {table.name} have a value of another kind"
        if having is not None:
            yield from having.told(connection)


def _kind(column: Any) -> tuple[type, ...]:
    if isinstance(column.type, LargeBinary):
        kind: type = bytes
    else:
        kind = int if isinstance(column.type, Integer) else str
    return (kind, type(None)) if column.nullable else (kind,)


class _Having:
    """Counts who has which trait, in a walk over the customers."""

    def __init__(self) -> None:
        self._place = [column.name for column in CUSTOMER.columns].index("traits")
        self._counts: Counter[str] = Counter()
        self._unreadable = 0

    def add(self, row: rows.Row) -> None:
        try:
            traits = orjson.loads(row[self._place])
            self._counts.update(name for name, value in traits.items() if value is not False)
        except (ValueError, TypeError, AttributeError):
            self._unreadable += 1

    def told(self, connection: Connection) -> Iterator[str]:
        """Yield what is wrong, with the members on record."""
        if self._unreadable:
            yield f"{self._unreadable:,} customers whose traits cannot be read"
            return
        columns = TRAIT.c.trait, TRAIT.c.members, TRAIT.c.released_at
        known = set()
        for name, members, released_at in connection.execute(select(*columns)):
            known.add(name)
            having = self._counts[name]
            if released_at is None and members != having:
                yield f"the trait {name} has {members:,} members on record; {having:,} have it"
        for name in sorted(self._counts.keys() - known):
            yield f"the trait {name} is not on record; {self._counts[name]:,} have it"
