"""Pull from a Segment Profiles Sync warehouse (docs/facts/segment.md §1.3) over SQLAlchemy.

Tables: `user_traits` (one row a profile and trait), `user_identifiers` (one row an external id),
`profile_merges` (one row a segment id). The database resolves merges, matches external ids and
groups rows by customer; the customers stream in byte order of their ids.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import groupby
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    Connection,
    Executable,
    FromClause,
    Select,
    Text,
    case,
    cast,
    distinct,
    func,
    inspect,
    not_,
    null,
    select,
    union_all,
)
from sqlalchemy.engine import URL

from syncer.clock import read as read_time
from syncer.engage.columns import as_datetime
from syncer.engage.people import People, identifiers, people
from syncer.engage.selection import PROFILE_KEYS
from syncer.engage.source import (
    Absence,
    ChangedSince,
    Counted,
    Everything,
    ObservedKey,
    OnlyCustomers,
    PulledCustomer,
    Scope,
    SourceRow,
    Survey,
    WithoutCustomerId,
)
from syncer.engage.survey import survey
from syncer.engage.values import BYTES
from syncer.engage.warehouse import TABLES, Space, shown, snapshot, spaces, translated_errors
from syncer.errors import SourceError
from syncer.json_text import to_json

#: The rows that are read at a time, and about how many characters of them.
FETCH, FETCH_SIZE = 1000, 2 << 20


@dataclass(frozen=True)
class ProfilesSync:
    """The source.

    `overlap` (seconds) is how far an incremental pull looks back before the newest row of the last
    pull: rows arrive slightly out of order.
    """

    url: URL
    schema: str = ""
    customer_id: str = "user_id"
    overlap: float = 3 * 3600.0
    #: an SQL condition that rows must meet to count; see `rows`
    filter: str = ""

    @contextmanager
    def pull(self, scope: Scope, *, writes: bool = False) -> Iterator[ProfilesSyncPull]:
        """Open one snapshot of the warehouse; with `writes`, tables may be made beside it."""
        with snapshot(self.url, writes=writes) as connection:
            space = Space.of(connection, self.schema, self.url, self.filter)
            with ProfilesSyncPull(self, connection, space, scope).unchanged() as pull:
                yield pull

    def spaces(self) -> list[str]:
        """Return the schemas of the warehouse with the tables; raise `SourceError` if none has."""
        with snapshot(self.url) as connection:
            schemas = spaces(connection)
        if not schemas:
            raise SourceError(
                f"no schema of {shown(self.url)} has the tables user_traits, user_identifiers and "
                "profile_merges, that this login may read; Profiles Sync makes them when the "
                "materialized views are selected in its Selective Sync settings"
            )
        return schemas

    def survey(self) -> Survey:
        """Return what the warehouse holds; raise `SourceError` if no pull can work."""
        with snapshot(self.url) as connection:
            space = Space.of(connection, self.schema, self.url, self.filter)
            ProfilesSyncPull(self, connection, space, OnlyCustomers(())).check_times()
            return survey(connection, space)


class ProfilesSyncPull:
    """One snapshot; `source.Pull` describes the methods."""

    def __init__(
        self,
        source: ProfilesSync,
        connection: Connection,
        space: Space,
        scope: Scope,
    ) -> None:
        self._source, self._connection, self.space = source, connection, space
        #: the type of the external ids that are customer ids
        self.customer_id = source.customer_id
        self._scope, self._sql = scope, space.columns
        self._since = _since(scope, source.overlap)
        #: the newest load of a trait row, where `observed` saw it
        self._newest_trait: Any = None
        #: keys of which `count` has seen that each row is of a customer
        self._all_named: frozenset[str] = frozenset()

    @cached_property
    def _people(self) -> People:
        customer_id = self._source.customer_id
        return people(self.space, customer_id, self._scope, self._since, self.ask)

    def watermark(self) -> str | None:
        if isinstance(self._scope, OnlyCustomers):
            return None
        newest = [self._newest_trait]
        for name in TABLES:
            if name == "user_traits" and self._newest_trait is not None:
                continue
            rows = self.space.rows(name, since=self._since)
            newest.append(self._scalar(select(func.max(self._sql.believed(rows.c.uuid_ts)))))
        times = [time for time in map(as_datetime, newest) if time is not None]
        if isinstance(self._scope, ChangedSince):
            times.append(datetime.fromisoformat(self._scope.watermark))
        if not times:
            return None
        # A row with a time in the future must not hide the rows that are loaded until then.
        watermark: datetime = min(max(times), datetime.now(UTC))
        return watermark.isoformat(timespec="milliseconds")

    @contextmanager
    def unchanged(self) -> Iterator[ProfilesSyncPull]:
        """Yield the pull; raise `SourceError` at the end if the tables changed in the block.

        They are only looked at where the warehouse gives no state of one moment.
        """
        before = self.size() if self.space.fixed is None else None
        yield self
        if before is not None and self.size() != before:
            raise SourceError(
                f"{shown(self._source.url)} changed while it was read, and gives no state of one "
                "moment: nothing was taken; read when Segment loads nothing, or see "
                "docs/warehouses.md"
            )

    def size(self) -> list[Any]:
        """Return the numbers of rows, and the newest times: what shows that a table changed."""
        sizes = []
        for name in TABLES:
            rows = self.space.rows(name)
            sizes += self.ask(select(func.count(), func.max(rows.c.uuid_ts)).select_from(rows))
        return sizes

    def check_times(self) -> None:
        """Raise `SourceError` if the times of the warehouse cannot be compared."""
        for name in TABLES:
            loaded = self.space.rows(name).c.uuid_ts
            self.ask(select(self._sql.believed(loaded)).limit(1))

    def absence(self) -> Absence:
        return Absence()

    def observed(self) -> list[ObservedKey]:
        if isinstance(self._scope, OnlyCustomers):
            return []
        traits = self.space.rows("user_traits", since=self._since)
        # A name or email is no trait of ours, whatever its values are like.
        of_profile = traits.c.name.in_(PROFILE_KEYS)
        kind = case((of_profile, null()), else_=self._sql.kind(traits.c.value)).label("kind")
        loaded = self._sql.believed(traits.c.uuid_ts).label("loaded")
        each = select(traits.c.name, kind, loaded).where(traits.c.name.is_not(None)).subquery()
        of_kind = (each.c.name, each.c.kind)
        by_kind = select(*of_kind, func.count(), func.max(each.c.loaded)).group_by(*of_kind)
        keys: dict[str, Counter[str | None]] = {}
        times = []
        for name, kind_of_value, number, newest in self.ask(by_kind):
            keys.setdefault(str(name), Counter())[kind_of_value] += int(number)
            times.append(newest)
        self._newest_trait = max((time for time in times if time is not None), default=None)
        return [
            ObservedKey(key, kinds.total(), kinds["word"], kinds["digit"], kinds["other"])
            for key, kinds in keys.items()
        ]

    def count(self, keys: Collection[str]) -> Counted:
        counts, joined, _, customer_id = self._people.traits([*keys, *PROFILE_KEYS])
        assert customer_id is not None
        number, named = counts.c.number, customer_id.is_not(None)
        sums = (func.sum(case((which, number))) for which in (named, not_(named)))
        ((customers, rows, nameless),) = self.ask(
            select(func.count(distinct(customer_id)), *sums).select_from(joined)
        )
        if isinstance(self._scope, Everything) and not nameless:
            self._all_named = frozenset(keys)
        return Counted(customers=customers, rows=int(rows or 0))

    def customers(self, keys: Collection[str]) -> Generator[PulledCustomer]:
        yield from self.grouped(self.rows(keys))

    def grouped(self, rows: CTE) -> Generator[PulledCustomer]:
        """Yield the customers of trait rows (customer_id, name, value, time, seq) in order.

        A row without a name says that there is a customer, and nothing of it.
        """
        ordered = select(rows).order_by(
            rows.c.customer_id, rows.c.name, *self._sql.oldest_first(rows.c.time, rows)
        )
        if self._sql.known:
            grouped = _grouped(ordered.subquery(), self._sql.dialect)
            yield from map(PulledCustomer._make, self._stream(grouped))
        else:
            yield from _grouped_here(self._stream(ordered))

    def rows_of(self, key: str) -> list[SourceRow]:
        traits, joined, profile, _ = self._people.traits()
        time = self._sql.shown(self._sql.time(traits)).label("time")
        statement = (
            select(
                traits.c.canonical_segment_id,
                profile.label("profile"),
                traits.c.value,
                time,
                self._sql.shown(traits.c.uuid_ts).label("loaded"),
            )
            .select_from(joined)
            .where(self._sql.one_of(traits.c.name, [key]))
            .order_by(*self._sql.oldest_first(time, traits))
        )
        rows = [
            SourceRow(
                str(own), None if own == into else str(into), value, _ms(observed), _ms(loaded)
            )
            for own, into, value, observed, loaded in self.ask(statement)
        ]
        # As `catalog.newest` chooses: of equal times the last one.
        counts = max(range(len(rows)), key=lambda n: (rows[n].observed_at or 0, n), default=None)
        return [row._replace(counts=number == counts) for number, row in enumerate(rows)]

    def identified(self, customer_ids: Collection[str]) -> set[str]:
        among = ("value", customer_ids)
        rows = identifiers(self.space, self._source.customer_id, among)
        return {str(row[0]) for row in self.ask(select(rows.c.value).distinct())}

    def without_customer_id(self, keys: Collection[str]) -> WithoutCustomerId:
        if self._all_named.issuperset(keys):
            return WithoutCustomerId(0, {})
        rows = self._rows_without_id(keys)
        profiles = select(null().label("name"), func.count(distinct(rows.c.profile)))
        by_key = select(rows.c.name, func.count()).group_by(rows.c.name)
        counted = self.ask(union_all(by_key, profiles))
        by_name = {str(key): int(number) for key, number in counted if key is not None}
        (number,) = (int(number or 0) for key, number in counted if key is None)
        return WithoutCustomerId(number, by_name)

    def profiles_without_customer_id(self, keys: Collection[str]) -> Iterator[str]:
        rows = self._rows_without_id(keys)
        profiles = select(rows.c.profile).distinct().order_by(rows.c.profile)
        for (profile,) in self._stream(profiles):
            yield str(profile)

    # The statements

    def rows(self, keys: Collection[str]) -> CTE:
        """Select (customer_id, name, value, time, seq) of the trait rows of customers in scope."""
        traits, joined, _, customer_id = self._people.traits()
        assert customer_id is not None
        return (
            select(
                customer_id.label("customer_id"),
                traits.c.name,
                traits.c.value,
                self._sql.shown(self._sql.time(traits)).label("time"),
                traits.c.seq,
            )
            .select_from(joined)
            .where(self._sql.one_of(traits.c.name, [*keys, *PROFILE_KEYS]))
            .cte("trait_rows")
        )

    def _rows_without_id(self, keys: Collection[str]) -> CTE:
        """Select (profile, name) of the trait rows whose profile has no customer id."""
        traits, joined, profile, _ = self._people.nameless(keys)
        return (
            select(profile.label("profile"), traits.c.name)
            .select_from(joined)
            .where(self._sql.one_of(traits.c.name, keys))
            .cte("without_id")
        )

    # Running the statements

    def ask(self, statement: Executable) -> list[Any]:
        """Return all rows of a statement."""
        with translated_errors(self._source.url):
            return list(self._connection.execute(statement).all())

    def execute(self, statement: Executable) -> None:
        """Run a statement that gives no rows; it raises what the driver does."""
        self._connection.execute(statement)

    def tables(self, schema: str) -> set[str]:
        """Return the tables of a schema that this login can see."""
        with translated_errors(self._source.url):
            names = inspect(self._connection).get_table_names(schema)
        return {name.rpartition(".")[2] for name in names}  # BigQuery says the dataset, too

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Run statements that may be refused, without an end of the snapshot."""
        with self.space.columns.warehouse.attempt(self._connection):
            yield

    def commit(self) -> None:
        """End the snapshot; what was written stays."""
        with translated_errors(self._source.url):
            self._connection.commit()

    def _scalar(self, statement: Executable) -> Any:
        with translated_errors(self._source.url):
            return self._connection.execute(statement).scalar()

    def _stream(self, statement: Executable) -> Iterator[Any]:
        streamed = {"stream_results": True}
        with (
            translated_errors(self._source.url),
            self._connection.execute(statement, execution_options=streamed) as result,
        ):
            number, largest = 16, 1.0
            while rows := result.fetchmany(number):
                yield from rows
                # By the largest of the last rows: customers may have any number of traits.
                largest = max(0.9 * largest, *map(_characters, rows))
                number = max(1, min(2 * number, FETCH, int(FETCH_SIZE / largest)))


def _since(scope: Scope, overlap: float) -> datetime | None:
    """Return the moment from which on rows are new to a scope; None where that does not matter."""
    if not isinstance(scope, ChangedSince):
        return None
    return datetime.fromisoformat(scope.watermark) - timedelta(seconds=overlap)


def _characters(row: Iterable[Any]) -> int:
    return sum(len(cell) for cell in row if isinstance(cell, str))


def _grouped_here(ordered: Iterator[Any]) -> Iterator[PulledCustomer]:
    """Group rows in Python, for engines whose JSON functions we do not know."""
    for customer_id, group in groupby(ordered, key=lambda row: str(row[0])):
        rows = [(row[1], row[2], str(row[3])) for row in group if row[1] is not None]
        traits = [row for row in rows if row[0] not in PROFILE_KEYS]
        keys, values, times = (to_json([row[n] for row in traits], _plain) for n in range(3))
        profile = to_json([row for row in rows if row[0] in PROFILE_KEYS], _plain)
        yield PulledCustomer(customer_id, keys, values, times, profile)


def _ms(time: Any) -> int | None:
    """Return a time of a row in epoch milliseconds; None where it cannot be read."""
    return None if time is None else read_time(str(time))


def _plain(value: Any) -> str:
    """Return a value of a driver for which JSON has no type, as `values.read_array` expects it."""
    return BYTES if isinstance(value, bytes | bytearray | memoryview) else str(value)


def _grouped(rows: FromClause, dialect: str) -> Select[Any]:
    """Select one row a customer, with its trait rows as JSON arrays; `rows` come in order."""
    if dialect == "postgresql":
        aggregate, pack = func.json_agg, func.json_build_array
    else:
        aggregate, pack = func.json_group_array, func.json_array
    profile = rows.c.name.in_(PROFILE_KEYS)

    def array(column: ColumnElement[Any], where: ColumnElement[bool]) -> ColumnElement[Any]:
        return func.coalesce(cast(aggregate(column).filter(where), Text), "[]")

    return (
        select(
            rows.c.customer_id,
            array(rows.c.name, ~profile),
            array(rows.c.value, ~profile),
            array(rows.c.time, ~profile),
            array(pack(rows.c.name, rows.c.value, rows.c.time), profile),
        )
        .group_by(rows.c.customer_id)
        .order_by(rows.c.customer_id)
    )
