"""Push-down: the warehouse keeps fingerprints of a pull, and gives out who differs from them.

Each pull keeps its fingerprints in a table of its own, in a schema that is ours to write to (the
scratch schema). The table has the name that the run gave it, which is random, and the state
remembers it with its size: a table that is lost, that others made or that others changed is never
taken for it. Where the warehouse has transactions, nobody sees what was made before `finish`.

    with source.comparing() as (pull, push_down):
        push_down.make(name := new_table())
        now = push_down.keep(name, keys)
        push_down.choose(before, now, wanted)
        for customer_id, row in push_down.given(keys): ...
        unchanged = push_down.unchanged(now, keys)
        push_down.finish()
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import (
    CTE,
    Column,
    FromClause,
    MetaData,
    Table,
    case,
    func,
    insert,
    select,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import CreateTable, DropTable

from syncer.chunks import chunks
from syncer.engage.fingerprints import differing, fingerprints, table_of
from syncer.engage.people import identifiers
from syncer.engage.profiles_sync import ProfilesSync, ProfilesSyncPull
from syncer.engage.source import (
    Counted,
    Everything,
    Fingerprints,
    Pull,
    PulledCustomer,
    Scope,
    Survey,
    Unchanged,
)
from syncer.errors import SourceError

#: What the name of each table begins with, and what is behind the name of who is given out.
PREFIX, GIVEN = "fingerprints_", "_given"
#: What a run needs of the scratch schema.
NEEDS = (
    "the schema must be there, and the login must be allowed to create, fill, read and drop tables "
    "there"
)


def new_table() -> str:
    """Return the name of a table that nobody has."""
    return PREFIX + secrets.token_hex(8)


@dataclass(frozen=True)
class PushDownSource:
    """Profiles Sync with a scratch schema, in which the warehouse compares."""

    source: ProfilesSync
    schema: str

    @contextmanager
    def pull(self, scope: Scope) -> Iterator[Pull]:
        with self.source.pull(scope) as pull:
            yield pull

    def survey(self) -> Survey:
        return self.source.survey()

    @contextmanager
    def comparing(self) -> Iterator[tuple[Pull, PushDown]]:
        with self.source.pull(Everything(), writes=True) as pull:
            yield pull, PushDown(pull, self.schema)

    def new_table(self) -> str:
        return new_table()

    def try_scratch(self) -> str:
        with self.comparing() as (_, push_down):
            push_down.try_tables()
        return (
            f"tables can be created, filled, read and dropped in the schema {self.schema!r}, for "
            "the fingerprints of customers"
        )


class PushDown:
    """What a pull of everything asks a warehouse to compare, with the tables of a schema."""

    def __init__(self, pull: ProfilesSyncPull, schema: str) -> None:
        self._pull, self._schema = pull, schema
        self._columns = pull.space.columns
        self._given: Table | None = None

    def make(self, name: str) -> None:
        """Make a table for fingerprints; what the warehouse refuses may end the snapshot."""
        self._make(self._table(name))

    def keep(self, name: str, keys: Collection[str]) -> Fingerprints:
        """Keep the fingerprints of all customers, by their rows of these keys, in a table."""
        ids = identifiers(self._pull.space, self._pull.customer_id)
        chosen = fingerprints(self._pull.rows(keys), ids, self._columns)
        table = self._table(name)
        with self._told("fingerprints cannot be kept"):
            self._pull.execute(insert(table).from_select(list(table.c.keys()), chosen))
            return self._size(name)

    def fault(self, kept: Fingerprints) -> str | None:
        """Return why fingerprints cannot be compared with; None if they can."""
        if kept.table not in self._pull.tables(self._schema):
            return f"the table {kept.table} is not in the scratch schema {self._schema!r} any more"
        try:
            with self._pull.attempt():
                now = self._size(kept.table)
        except SourceError as error:
            return f"the table {kept.table} cannot be read: {error}"
        if now != kept:
            return (
                f"the table {kept.table} was changed: it had {kept.customers:,} customers with "
                f"{kept.rows:,} rows, and has {now.customers:,} with {now.rows:,}"
            )
        return None

    def choose(self, before: Fingerprints, now: Fingerprints, wanted: Iterable[str]) -> Counted:
        """Choose who is given out: who differs, is new or is gone, and who is `wanted`.

        Return how many of them have rows, and how many rows.
        """
        table, chosen = self._table(now.table), self._chosen_table(now.table)
        self._make(chosen)
        with self._told("customers cannot be compared"):
            who = differing(self._table(before.table), table)
            self._pull.execute(insert(chosen).from_select(["customer_id"], who))
            for ids in chunks(iter(wanted)):
                named = [{"customer_id": each} for each in ids]
                self._pull.execute(insert(chosen).values(named))
        self._given = chosen
        given = self._who()
        joined = table.join(given, given.c.customer_id == table.c.customer_id)
        customers, rows, _ = self._sums(table, joined)
        return Counted(customers, rows)

    def given(self, keys: Collection[str]) -> Generator[tuple[str, PulledCustomer | None]]:
        """Yield who was chosen with all of its rows, in byte order of the id.

        None stands for the rows of who has none, or no identifier any more.
        """
        given, rows = self._who(), self._pull.rows(keys)
        others = [column for column in rows.c if column.name != "customer_id"]
        # Who has no row comes with one of nulls.
        joined = given.outerjoin(rows, rows.c.customer_id == given.c.customer_id)
        every = select(given.c.customer_id, *others).select_from(joined).cte("given_rows")
        for row in self._pull.grouped(every):
            yield row.customer_id, None if row.keys == row.profile == "[]" else row

    def unchanged(self, now: Fingerprints, keys: Collection[str]) -> Unchanged:
        """Count the customers that were not chosen."""
        given, table, rows = self._who(), self._table(now.table), self._pull.rows(keys)
        joined = table.outerjoin(given, given.c.customer_id == table.c.customer_id)
        customers, number, _ = self._sums(table, joined, given)
        by_key = (
            select(rows.c.name, func.count(rows.c.customer_id.distinct()))
            .select_from(rows.outerjoin(given, given.c.customer_id == rows.c.customer_id))
            .where(given.c.customer_id.is_(None))
            .group_by(rows.c.name)
        )
        counts = {str(key): int(count) for key, count in self._pull.ask(by_key)}
        return Unchanged(customers, number, counts)

    def drop(self, names: Collection[str]) -> dict[str, str]:
        """Drop tables that nobody compares with any more, if they are still there.

        Return why a table stays, of those that the warehouse does not let go: they may belong to
        another login, or have a view on them. A run needs none of them.
        """
        present = self._pull.tables(self._schema) if names else set()
        refused: dict[str, str] = {}
        for name in sorted(names):
            try:
                for each in sorted({name, name + GIVEN} & present):
                    with self._pull.attempt():
                        self._pull.execute(DropTable(self._table(each)))
            except SQLAlchemyError as error:
                refused[name] = _reason(error)
        return refused

    def finish(self) -> None:
        """Let what was kept and dropped last; the pull is at its end."""
        if self._given is not None:
            with self._told("a table cannot be dropped"):
                self._pull.execute(DropTable(self._given))
        self._pull.commit()

    def try_tables(self) -> None:
        """Raise `SourceError` if a table cannot be created, filled, read and dropped."""
        table = self._table(new_table())
        self._make(table)
        with self._told("tables cannot be used", NEEDS):
            row = {"customer_id": "a customer", "fingerprint": "", "number": 0}
            self._pull.execute(insert(table).values([row]))
            self._size(table.name)
            self._pull.execute(DropTable(table))

    def _size(self, name: str) -> Fingerprints:
        table = self._table(name)
        _, rows, customers = self._sums(table, table)
        return Fingerprints(name, customers, rows)

    def _sums(
        self, table: Table, joined: FromClause, absent: FromClause | None = None
    ) -> tuple[int, int, int]:
        """Return the customers with rows, the rows and the customers of fingerprints.

        With `absent`, those that are not there.
        """
        has_rows = case((table.c.number > 0, 1), else_=0)
        sums = select(func.sum(has_rows), func.sum(table.c.number), func.count())
        statement = sums.select_from(joined)
        if absent is not None:
            statement = statement.where(absent.c.customer_id.is_(None))
        ((with_rows, rows, customers),) = self._pull.ask(statement)
        return int(with_rows or 0), int(rows or 0), int(customers)

    def _who(self) -> CTE:
        """Select (customer_id) of those that were chosen, each once."""
        assert self._given is not None
        return select(self._given.c.customer_id).distinct().cte("given")

    def _chosen_table(self, name: str) -> Table:
        id_type = self._columns.warehouse.id_type
        column = Column("customer_id", id_type, nullable=False)
        return Table(name + GIVEN, MetaData(), column, schema=self._schema)

    def _table(self, name: str) -> Table:
        return table_of(name, self._schema, self._columns.warehouse)

    def _make(self, table: Table) -> None:
        with self._told("no table can be made", NEEDS):
            self._pull.execute(CreateTable(table))

    @contextmanager
    def _told(self, what: str, needed: str = "") -> Iterator[None]:
        """Say what fails in the scratch schema, why, and what is `needed`."""
        try:
            yield
        except SQLAlchemyError as error:
            reason = f"{what} in the scratch schema {self._schema!r}: {_reason(error)}"
            raise SourceError("; ".join(filter(None, (reason, needed)))) from error


def _reason(error: SQLAlchemyError) -> str:
    """Return what the warehouse says, in one line."""
    return " ".join(str(getattr(error, "orig", None) or error).split())
