"""Push-down: the warehouse keeps fingerprints of a pull, and gives out who differs from them.

Each pull keeps its fingerprints in a table of its own, in a schema that is ours to write to (the
scratch schema). Its name is random, and whoever made it remembers it with its size: a table that is
lost, that others made or that others changed is never taken for it.

No run uses it yet, and no setting names it: what is missing is the state's record of which
fingerprints belong to its last run.

    with source.pull(Everything(), writes=True) as pull:
        push_down = PushDown(pull, "scratch")
        now = push_down.keep(keys)
        for customer_id, row in push_down.differing(before, now, keys): ...
        push_down.finish()
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Generator
from typing import Any, NamedTuple

from sqlalchemy import (
    CTE,
    FromClause,
    Select,
    Table,
    case,
    func,
    insert,
    select,
    union,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import CreateTable, DropTable

from syncer.engage.fingerprints import differing, fingerprints, table_of
from syncer.engage.people import identifiers
from syncer.engage.profiles_sync import ProfilesSyncPull
from syncer.engage.source import PulledCustomer
from syncer.errors import SourceError

#: What the name of each table begins with.
PREFIX = "syncer_fingerprints_"


class Kept(NamedTuple):
    """Fingerprints that are kept: the name of their table, its customers, and their trait rows."""

    table: str
    customers: int
    rows: int


class Unchanged(NamedTuple):
    """The customers with trait rows that are not given out: how many, and how many rows.

    `keys` has the number of these customers for each trait key.
    """

    customers: int
    rows: int
    keys: dict[str, int]


class PushDown:
    """What a pull of everything asks a warehouse to compare, with the tables of a schema."""

    def __init__(self, pull: ProfilesSyncPull, schema: str) -> None:
        self._pull, self._schema = pull, schema
        self._columns = pull.space.columns

    def keep(self, keys: Collection[str]) -> Kept:
        """Keep the fingerprints of all customers, by their rows of these keys, in a new table.

        Where the warehouse has transactions, nobody sees the table before `finish`. Raise
        `SourceError` if it cannot be made.
        """
        name = PREFIX + secrets.token_hex(8)
        table = self._table(name)
        ids = identifiers(self._pull.space, self._pull.customer_id)
        chosen = fingerprints(self._pull.rows(keys), ids, self._columns)
        try:
            self._pull.execute(CreateTable(table))
            self._pull.execute(insert(table).from_select(list(table.c.keys()), chosen))
            return self._size(name)
        except SQLAlchemyError as error:
            reason = " ".join(str(getattr(error, "orig", None) or error).split())
            raise SourceError(
                f"no table can be made in the scratch schema {self._schema!r}: {reason}; the login "
                "must be allowed to create, fill, read and drop tables there"
            ) from error

    def fault(self, kept: Kept) -> str | None:
        """Return why fingerprints cannot be compared with; None if they can.

        A warehouse that refuses a statement may refuse all that follow in the transaction.
        """
        if not self._pull.has_table(kept.table, self._schema):
            return f"the table {kept.table} is not in the scratch schema {self._schema!r} any more"
        if (now := self._size(kept.table)) != kept:
            return (
                f"the table {kept.table} was changed: it had {kept.customers:,} customers with "
                f"{kept.rows:,} rows, and has {now.customers:,} with {now.rows:,}"
            )
        return None

    def differing(
        self, before: Kept, now: Kept, keys: Collection[str], wanted: Collection[str] = ()
    ) -> Generator[tuple[str, PulledCustomer | None]]:
        """Yield who differs, is new or is gone, and who is `wanted`, in byte order of the id.

        Each comes with all of its rows; None where it has no row, or no identifier any more.
        """
        given = self._given(before, now, wanted)
        for row in self._pull.grouped(_all_of(given, self._pull.rows(keys))):
            yield row.customer_id, None if row.keys == row.profile == "[]" else row

    def unchanged(
        self, before: Kept, now: Kept, keys: Collection[str], wanted: Collection[str] = ()
    ) -> Unchanged:
        """Count the customers that `differing` does not yield."""
        given, table = self._given(before, now, wanted), self._table(now.table)
        has_rows = case((table.c.number > 0, 1), else_=0)
        ((customers, number),) = self._pull.ask(
            select(func.sum(has_rows), func.sum(table.c.number))
            .select_from(table.outerjoin(given, given.c.customer_id == table.c.customer_id))
            .where(given.c.customer_id.is_(None))
        )
        rows = self._pull.rows(keys)
        by_key = (
            select(rows.c.name, func.count(rows.c.customer_id.distinct()))
            .select_from(rows.outerjoin(given, given.c.customer_id == rows.c.customer_id))
            .where(given.c.customer_id.is_(None))
            .group_by(rows.c.name)
        )
        counts = {str(key): int(count) for key, count in self._pull.ask(by_key)}
        return Unchanged(int(customers or 0), int(number or 0), counts)

    def drop(self, kept: Kept) -> None:
        """Drop a table that nobody compares with any more, if it is still there."""
        if self._pull.has_table(kept.table, self._schema):
            self._pull.execute(DropTable(self._table(kept.table)))

    def finish(self) -> None:
        """Let what was kept and dropped last; the pull is at its end."""
        self._pull.commit()

    def _given(self, before: Kept, now: Kept, wanted: Collection[str]) -> CTE:
        """Select (customer_id) of those that are given out, each once."""
        older, newer = self._table(before.table), self._table(now.table)
        chosen: list[Select[Any]] = [differing(older, newer)]
        if wanted:
            named = self._columns.one_of(newer.c.customer_id, wanted)
            chosen.append(select(newer.c.customer_id).where(named))
        return union(*chosen).cte("given")

    def _size(self, name: str) -> Kept:
        table = self._table(name)
        statement = select(func.count(), func.sum(table.c.number)).select_from(table)
        ((customers, rows),) = self._pull.ask(statement)
        return Kept(name, int(customers), int(rows or 0))

    def _table(self, name: str) -> Table:
        return table_of(name, self._schema, self._columns.warehouse)


def _all_of(given: FromClause, rows: FromClause) -> CTE:
    """Select the rows of the customers that are given out; of one without any, a row of nulls."""
    others = [column for column in rows.c if column.name != "customer_id"]
    return (
        select(given.c.customer_id, *others)
        .select_from(given.outerjoin(rows, rows.c.customer_id == given.c.customer_id))
        .cte("given_rows")
    )
