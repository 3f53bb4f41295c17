"""Pull from a Segment Profiles Sync warehouse (docs/facts/segment.md §1.3) over SQLAlchemy.

Tables: `user_traits` (one row a profile and trait), `user_identifiers` (one row an external id),
`profile_merges` (one row a segment id). The database resolves merges, matches external ids and
groups rows by customer; the customers stream in byte order of their ids.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
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
    or_,
    select,
    union,
)
from sqlalchemy.engine import URL

from syncer.clock import read as read_time
from syncer.engage.columns import BELIEVED_FROM, as_datetime
from syncer.engage.selection import PROFILE_KEYS
from syncer.engage.source import (
    Absence,
    ChangedSince,
    Counted,
    ObservedKey,
    OnlyCustomers,
    PulledCustomer,
    Scope,
    SourceRow,
    Survey,
    WithoutCustomerId,
)
from syncer.engage.survey import by_key, survey
from syncer.engage.values import BYTES
from syncer.engage.warehouse import Space, shown, snapshot, spaces, translated_errors
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
    def pull(self, scope: Scope) -> Iterator[ProfilesSyncPull]:
        """Open one snapshot of the warehouse."""
        with snapshot(self.url) as connection:
            space = Space.of(connection, self.schema, self.url, self.filter)
            yield ProfilesSyncPull(self, connection, space, scope)

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
        self._source = source
        self._connection = connection
        self._traits = space.rows("user_traits")
        self._identifiers = space.rows("user_identifiers")
        self._merges = space.rows("profile_merges")
        self._sql = space.columns
        self._merged = self._resolve_merges()
        self._all_ids = self._customer_ids()
        self._touched = self._touched_since(scope) if isinstance(scope, ChangedSince) else None
        self._ids = self._in_scope(scope)

    def watermark(self) -> str | None:
        newest = [
            self._scalar(select(func.max(self._sql.believed(table.c.uuid_ts))))
            for table in (self._traits, self._identifiers, self._merges)
        ]
        times = [time for time in map(as_datetime, newest) if time is not None]
        if not times:
            return None
        # A row with a time in the future must not hide the rows that are loaded until then.
        watermark: datetime = min(max(times), datetime.now(UTC))
        return watermark.isoformat(timespec="milliseconds")

    def check_times(self) -> None:
        """Raise `SourceError` if the times of the warehouse cannot be compared."""
        for table in (self._traits, self._identifiers, self._merges):
            self._all(select(self._sql.believed(table.c.uuid_ts)).limit(1))

    def absence(self) -> Absence:
        return Absence()

    def observed(self) -> list[ObservedKey]:
        traits = self._traits

        rows = self._all(by_key(traits, self._sql.kinds(traits.c.value)))
        return [ObservedKey(str(row[0]), *(int(n or 0) for n in row[1:])) for row in rows]

    def count(self, keys: Collection[str]) -> Counted:
        rows = self._rows(keys)
        (totals,) = self._all(
            select(func.count(distinct(rows.c.customer_id)), func.count()).select_from(rows)
        )
        return Counted(customers=totals[0], rows=totals[1])

    def customers(self, keys: Collection[str]) -> Generator[PulledCustomer]:
        rows = self._rows(keys)
        ordered = select(rows).order_by(rows.c.customer_id, rows.c.name, rows.c.time, rows.c.seq)
        if self._sql.known:
            grouped = _grouped(ordered.subquery(), self._sql.dialect)
            yield from map(PulledCustomer._make, self._stream(grouped))
        else:
            yield from _grouped_here(self._stream(ordered))

    def rows_of(self, key: str) -> list[SourceRow]:
        traits, merged, ids = self._traits, self._merged.alias("merged_of_key"), self._ids
        profile = self._profile(traits, merged)
        time = self._sql.shown(self._time(traits)).label("time")
        statement = (
            select(
                traits.c.canonical_segment_id,
                profile.label("profile"),
                traits.c.value,
                time,
                self._sql.shown(traits.c.uuid_ts).label("loaded"),
            )
            .select_from(
                traits.outerjoin(merged, merged.c.segment_id == traits.c.canonical_segment_id).join(
                    ids, ids.c.profile == profile
                )
            )
            .where(self._sql.one_of(traits.c.name, [key]))
            .order_by(time, traits.c.seq)
        )
        rows = [
            SourceRow(
                str(own), None if own == into else str(into), value, _ms(observed), _ms(loaded)
            )
            for own, into, value, observed, loaded in self._all(statement)
        ]
        # As `catalog.newest` chooses: of equal times the last one.
        counts = max(range(len(rows)), key=lambda n: (rows[n].observed_at or 0, n), default=None)
        return [row._replace(counts=number == counts) for number, row in enumerate(rows)]

    def identified(self, customer_ids: Collection[str]) -> set[str]:
        table = self._identifiers
        value = table.c.value
        theirs = (
            table.c.type == self._source.customer_id,
            self._sql.one_of(value, customer_ids),
        )
        return {str(row[0]) for row in self._all(select(value).where(*theirs).distinct())}

    def without_customer_id(self, keys: Collection[str]) -> WithoutCustomerId:
        rows = self._rows_without_id(keys)
        by_key = self._all(select(rows.c.name, func.count()).group_by(rows.c.name))
        profiles = self._scalar(select(func.count(distinct(rows.c.profile))))
        return WithoutCustomerId(int(profiles or 0), {str(key): int(n) for key, n in by_key})

    def profiles_without_customer_id(self, keys: Collection[str]) -> Iterator[str]:
        rows = self._rows_without_id(keys)
        profiles = select(rows.c.profile).distinct().order_by(rows.c.profile)
        for (profile,) in self._stream(profiles):
            yield str(profile)

    # The statement, from the inside out

    def _resolve_merges(self) -> CTE:
        """Select (segment_id, canonical_segment_id) of every profile that was merged away.

        Chains are followed to their end. The newest row of a segment id counts; a circle resolves
        nothing.
        """
        merges = self._merges
        merged_at = self._sql.instant(self._time(merges))
        ranked = select(
            merges.c.segment_id,
            merges.c.canonical_segment_id,
            func.row_number()
            .over(
                partition_by=merges.c.segment_id,
                order_by=(merged_at.desc().nulls_last(), merges.c.seq.desc()),
            )
            .label("rank"),
        ).cte("ranked")
        step = (
            select(ranked.c.segment_id, ranked.c.canonical_segment_id)
            .where(ranked.c.rank == 1, ranked.c.segment_id != ranked.c.canonical_segment_id)
            .cte("step")
        )
        chain = select(step).cte("chain", recursive=True)
        chain = chain.union(
            select(chain.c.segment_id, step.c.canonical_segment_id).where(
                step.c.segment_id == chain.c.canonical_segment_id
            )
        )
        return (
            select(chain)
            .where(chain.c.canonical_segment_id.not_in(select(step.c.segment_id)))
            .cte("merged")
        )

    def _profile(self, table: FromClause, merged: FromClause) -> ColumnElement[Any]:
        return func.coalesce(merged.c.canonical_segment_id, table.c.canonical_segment_id)

    def _customer_ids(self) -> CTE:
        """Select (profile, id) of every profile with a customer id; a profile may have several."""
        identifiers, merged = self._identifiers, self._merged.alias("merged_ids")
        customer_id = identifiers.c.value
        return (
            select(self._profile(identifiers, merged).label("profile"), customer_id.label("id"))
            .select_from(
                identifiers.outerjoin(
                    merged, merged.c.segment_id == identifiers.c.canonical_segment_id
                )
            )
            .where(identifiers.c.type == self._source.customer_id, self._sql.is_id(customer_id))
            .distinct()
            .cte("all_ids")
        )

    def _in_scope(self, scope: Scope) -> CTE:
        """Select the part of `_all_ids` that the scope names."""
        ids = self._all_ids
        if isinstance(scope, OnlyCustomers):
            named = self._sql.one_of(ids.c.id, scope.customer_ids)
            return select(ids).where(named).cte("ids")
        if self._touched is None:
            return ids
        # Every customer of a touched profile, with every profile of such a customer: only all of
        # its rows show which one is the newest.
        touched = select(ids.c.id).where(ids.c.profile.in_(select(self._touched.c.profile)))
        return select(ids).where(ids.c.id.in_(touched)).cte("ids")

    def _touched_since(self, scope: ChangedSince) -> CTE:
        """Select (profile) of the profiles with a row since the watermark less the overlap."""
        since = datetime.fromisoformat(scope.watermark) - timedelta(seconds=self._source.overlap)
        selects = []
        for number, table in enumerate((self._traits, self._identifiers, self._merges)):
            merged = self._merged.alias(f"merged_{number}")
            loaded = self._sql.believed(table.c.uuid_ts)
            selects.append(
                select(self._profile(table, merged).label("profile"))
                .select_from(
                    table.outerjoin(merged, merged.c.segment_id == table.c.canonical_segment_id)
                )
                # A row may be new if its time cannot be read or believed.
                .where(or_(loaded.is_(None), loaded >= self._sql.moment(since)))
            )
        return union(*selects).cte("touched")

    def _rows(self, keys: Collection[str]) -> CTE:
        """Select (customer_id, name, value, time, seq) of the trait rows of customers in scope."""
        traits, merged, ids = self._traits, self._merged.alias("merged_rows"), self._ids
        return (
            select(
                ids.c.id.label("customer_id"),
                traits.c.name,
                traits.c.value,
                self._sql.shown(self._time(traits)).label("time"),
                traits.c.seq,
            )
            .select_from(
                traits.outerjoin(merged, merged.c.segment_id == traits.c.canonical_segment_id).join(
                    ids, ids.c.profile == self._profile(traits, merged)
                )
            )
            .where(self._sql.one_of(traits.c.name, [*keys, *PROFILE_KEYS]))
            .cte("rows")
        )

    def _rows_without_id(self, keys: Collection[str]) -> CTE:
        """Select (profile, name) of the trait rows whose profile has no customer id."""
        traits, merged = self._traits, self._merged.alias("merged_without")
        profile, ids = self._profile(traits, merged), self._all_ids
        rows = (
            select(profile.label("profile"), traits.c.name)
            .select_from(
                traits.outerjoin(
                    merged, merged.c.segment_id == traits.c.canonical_segment_id
                ).outerjoin(ids, ids.c.profile == profile)
            )
            .where(self._sql.one_of(traits.c.name, keys), ids.c.profile.is_(None))
        )
        if self._touched is not None:
            rows = rows.where(profile.in_(select(self._touched.c.profile)))
        return rows.cte("without_id")

    def _time(self, table: FromClause) -> ColumnElement[Any]:
        """Return Segment's time of a row.

        `timestamp` is empty in backfilled rows. A time before 2000, or later than the row arrived,
        is not believed (docs/design.md §3.9).
        """
        came = func.coalesce(table.c.received_at, table.c.uuid_ts)
        time = func.coalesce(table.c.timestamp, came)
        if not self._sql.known:
            return time
        at = self._sql.instant(table.c.timestamp)
        beyond = or_(
            at < self._sql.moment(BELIEVED_FROM),
            at > self._sql.later(self._sql.instant(came)),
        )
        return case((beyond, came), else_=time)

    # Running the statements

    def _all(self, statement: Executable) -> list[Any]:
        with translated_errors(self._source.url):
            return list(self._connection.execute(statement).all())

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


def _characters(row: Iterable[Any]) -> int:
    return sum(len(cell) for cell in row if isinstance(cell, str))


def _grouped_here(ordered: Iterator[Any]) -> Iterator[PulledCustomer]:
    """Group rows in Python, for engines whose JSON functions we do not know."""
    for customer_id, group in groupby(ordered, key=lambda row: str(row[0])):
        rows = [(row[1], row[2], str(row[3])) for row in group]
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
