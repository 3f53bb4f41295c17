"""Pull from a Segment Profiles Sync warehouse (docs/facts/segment.md §1.3) over SQLAlchemy.

Tables: `user_traits` (one row per profile and trait), `user_identifiers` (one row per external
id), `profile_merges` (one row per segment id). Merges are resolved, external ids are matched and
rows are grouped by customer in the database; what comes out streams in byte order of the id.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
from sqlalchemy import (
    CTE,
    Column,
    ColumnElement,
    Connection,
    Engine,
    Executable,
    FromClause,
    LargeBinary,
    MetaData,
    Select,
    Table,
    Text,
    case,
    cast,
    create_engine,
    distinct,
    event,
    func,
    inspect,
    or_,
    select,
    union,
)
from sqlalchemy.engine import URL
from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError

from syncer.engage.columns import BELIEVED_FROM, Columns, as_datetime
from syncer.engage.rows import conditions
from syncer.engage.selection import PROFILE_KEYS
from syncer.engage.source import (
    ChangedSince,
    Counted,
    ObservedKey,
    OnlyCustomers,
    PulledCustomer,
    Scope,
    WithoutCustomerId,
)
from syncer.engage.values import BYTES
from syncer.errors import SourceError

_PLAIN = {"seq", "received_at", "uuid_ts", "timestamp"}
_COMMON = _PLAIN | {"canonical_segment_id"}
_COLUMNS = {
    "user_traits": _COMMON | {"name", "value"},
    "user_identifiers": _COMMON | {"type", "value"},
    "profile_merges": _COMMON | {"segment_id"},
}
#: Segment's set-up page spells one table in the singular.
_OTHER_SPELLING = {"user_identifiers": "user_identifier"}

#: So many rows, and so many characters of them, are read at a time.
FETCH, FETCH_SIZE = 1000, 2 << 20


@dataclass(frozen=True)
class ProfilesSync:
    """The source. `overlap` (seconds) is how far an incremental pull looks back before the newest
    row of the last one: rows land slightly out of order."""

    url: URL
    schema: str = ""
    customer_id: str = "user_id"
    overlap: float = 3 * 3600.0
    #: a condition of SQL that rows must meet to count; see `rows`
    filter: str = ""

    @contextmanager
    def pull(self, scope: Scope) -> Iterator[ProfilesSyncPull]:
        """One read-only transaction that sees one state of the warehouse."""
        engine = _engine(self.url)
        try:
            with _translated(self.url), engine.connect() as connection:
                _begin_snapshot(connection)
                columns = Columns.of(connection)
                found = _reflect(connection, self.schema, self.url)
                living = conditions(connection, found, self.filter)
                tables = {
                    name: _readable(name, found[name], columns, self.url, living.get(name))
                    for name in found
                }
                yield ProfilesSyncPull(self, connection, tables, columns, scope)
        finally:
            engine.dispose()

    def check(self) -> str:
        with self.pull(OnlyCustomers(())) as pull:
            keys = pull.observed()
            pull.watermark()  # which shows whether its times can be compared
        rows = sum(key.rows for key in keys)
        return f"Profiles Sync at {_shown(self.url)}: {rows:,} trait rows of {len(keys):,} keys"


class ProfilesSyncPull:
    """One snapshot; the methods are those of `source.Pull`."""

    def __init__(
        self,
        source: ProfilesSync,
        connection: Connection,
        tables: dict[str, FromClause],
        columns: Columns,
        scope: Scope,
    ) -> None:
        self._source = source
        self._connection = connection
        self._traits = tables["user_traits"]
        self._identifiers = tables["user_identifiers"]
        self._merges = tables["profile_merges"]
        self._sql = columns
        self._merged = self._resolve_merges()
        self._all_ids = self._customer_ids()
        self._touched = self._touched_since(scope) if isinstance(scope, ChangedSince) else None
        self._ids = self._in_scope(scope)

    def watermark(self) -> str | None:
        newest = [
            self._scalar(select(func.max(self._sql.believed(table.c.uuid_ts))))
            for table in (self._traits, self._identifiers, self._merges)
        ]
        found = [time for time in map(as_datetime, newest) if time is not None]
        if not found:
            return None
        # A row dated in the future must not hide the rows that are loaded until then.
        newest_one: datetime = min(max(found), datetime.now(UTC))
        return newest_one.isoformat(timespec="milliseconds")

    def observed(self) -> list[ObservedKey]:
        traits = self._traits

        def count(condition: ColumnElement[bool]) -> ColumnElement[Any]:
            return func.sum(case((condition, 1), else_=0))

        rows = self._all(
            select(traits.c.name, func.count(), *map(count, self._sql.kinds(traits.c.value)))
            .where(traits.c.name.is_not(None))
            .group_by(traits.c.name)
        )
        return [ObservedKey(str(row[0]), *(int(n or 0) for n in row[1:])) for row in rows]

    def count(self, keys: Collection[str]) -> Counted:
        rows = self._rows(keys)
        (found,) = self._all(
            select(func.count(distinct(rows.c.customer_id)), func.count()).select_from(rows)
        )
        return Counted(customers=found[0], rows=found[1])

    def customers(self, keys: Collection[str]) -> Generator[PulledCustomer]:
        rows = self._rows(keys)
        ordered = select(rows).order_by(rows.c.customer_id, rows.c.name, rows.c.time, rows.c.seq)
        if self._sql.known:
            grouped = _grouped(ordered.subquery(), self._sql.dialect)
            yield from map(PulledCustomer._make, self._stream(grouped))
        else:
            yield from _grouped_here(self._stream(ordered))

    def identified(self, customer_ids: Collection[str]) -> set[str]:
        table = self._identifiers
        value = table.c.value
        of_them = (
            table.c.type == self._source.customer_id,
            self._sql.one_of(value, customer_ids),
        )
        return {str(row[0]) for row in self._all(select(value).where(*of_them).distinct())}

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
        """(segment_id, canonical_segment_id) of every profile that was merged away, chains
        followed to their end. The newest row of a segment id counts; a circle resolves nothing."""
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
        """(profile, id) of every profile with a customer id; one profile may have several."""
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
        """The part of `_all_ids` that is to be pulled."""
        ids = self._all_ids
        if isinstance(scope, OnlyCustomers):
            of_them = self._sql.one_of(ids.c.id, scope.customer_ids)
            return select(ids).where(of_them).cte("ids")
        if self._touched is None:
            return ids
        # Every customer of a touched profile, with every profile of such a customer: which of its
        # rows is the newest can only be told where all of them are there.
        touched = select(ids.c.id).where(ids.c.profile.in_(select(self._touched.c.profile)))
        return select(ids).where(ids.c.id.in_(touched)).cte("ids")

    def _touched_since(self, scope: ChangedSince) -> CTE:
        """(profile) of the profiles with a row loaded since the watermark, less the overlap."""
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
                # A time that cannot be read, or believed, may be new.
                .where(or_(loaded.is_(None), loaded >= self._sql.moment(since)))
            )
        return union(*selects).cte("touched")

    def _rows(self, keys: Collection[str]) -> CTE:
        """(customer_id, name, value, time, seq): the trait rows of the customers in scope."""
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
        """(profile, name) of the trait rows whose profile has no customer id."""
        traits, merged = self._traits, self._merged.alias("merged_without")
        profile, ids = self._profile(traits, merged), self._all_ids
        found = (
            select(profile.label("profile"), traits.c.name)
            .select_from(
                traits.outerjoin(
                    merged, merged.c.segment_id == traits.c.canonical_segment_id
                ).outerjoin(ids, ids.c.profile == profile)
            )
            .where(self._sql.one_of(traits.c.name, keys), ids.c.profile.is_(None))
        )
        if self._touched is not None:
            found = found.where(profile.in_(select(self._touched.c.profile)))
        return found.cte("without_id")

    def _time(self, table: FromClause) -> ColumnElement[Any]:
        """Segment's time of a row: `timestamp` is empty on backfilled ones, and no time is believed
        that is before 2000 or later than the row came (docs/design.md §3.9)."""
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

    # Running it

    def _all(self, statement: Executable) -> list[Any]:
        with _translated(self._source.url):
            return list(self._connection.execute(statement).all())

    def _scalar(self, statement: Executable) -> Any:
        with _translated(self._source.url):
            return self._connection.execute(statement).scalar()

    def _stream(self, statement: Executable) -> Iterator[Any]:
        streamed = {"stream_results": True}
        with (
            _translated(self._source.url),
            self._connection.execute(statement, execution_options=streamed) as result,
        ):
            number, largest = 16, 1.0
            while rows := result.fetchmany(number):
                yield from rows
                # By the largest of late: customers may have any number of traits.
                largest = max(0.9 * largest, *map(_characters, rows))
                number = max(1, min(2 * number, FETCH, int(FETCH_SIZE / largest)))


def _characters(row: Iterable[Any]) -> int:
    return sum(len(cell) for cell in row if isinstance(cell, str))


def _grouped_here(ordered: Iterator[Any]) -> Iterator[PulledCustomer]:
    """The same for engines whose JSON functions we do not know, grouped in Python."""
    for customer_id, group in groupby(ordered, key=lambda row: str(row[0])):
        found = [(row[1], row[2], str(row[3])) for row in group]
        traits = [row for row in found if row[0] not in PROFILE_KEYS]
        keys, values, times = (_as_json([row[n] for row in traits]) for n in range(3))
        profile = _as_json([row for row in found if row[0] in PROFILE_KEYS])
        yield PulledCustomer(customer_id, keys, values, times, profile)


def _as_json(rows: list[Any]) -> str:
    """What a driver gave, as JSON for `values.read_array`, whatever it is."""
    try:
        return orjson.dumps(rows, default=_plain).decode()
    except TypeError:  # integers beyond 64 bits, and text that is no Unicode
        return json.dumps(rows, default=_plain)


def _plain(value: Any) -> str:
    return BYTES if isinstance(value, bytes | bytearray | memoryview) else str(value)


def _grouped(rows: FromClause, dialect: str) -> Select[Any]:
    """One row per customer, its trait rows as JSON arrays; `rows` come ordered."""
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


def _engine(url: URL) -> Engine:
    try:
        if url.get_backend_name() == "sqlite":
            return _sqlite_engine(url)
        if url.get_backend_name() == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
        return create_engine(url, connect_args=_CONNECT.get(url.get_backend_name(), {}))
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise SourceError(
            f"engage.profiles_sync.url: the driver for {url.drivername} is not installed "
            f"({error}); install it beside syncer"
        ) from None


#: A server that keeps texts without an encoding would give them as bytes.
_CONNECT: dict[str, dict[str, Any]] = {
    "postgresql": {"connect_timeout": 30, "client_encoding": "utf8"}
}


def _sqlite_engine(url: URL) -> Engine:
    """Read-only, so that a file that is not there is never made."""
    if str(url.database or "").startswith("file:"):
        engine = create_engine(url)
    else:
        address = f"file:{quote(str(Path(str(url.database or ''))))}?mode=ro"
        engine = create_engine(
            "sqlite://",
            creator=lambda: sqlite3.connect(address, uri=True, check_same_thread=False, timeout=30),
        )

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # we begin the snapshot ourselves
        connection.text_factory = _text
        connection.create_function("is_utf8", 1, _is_utf8, deterministic=True)

    return engine


def _text(data: bytes) -> str:
    """Text of SQLite, which may be of any bytes: those that are no UTF-8 become surrogates."""
    return str(data, "utf-8", "surrogateescape")


def _is_utf8(data: bytes | None) -> bool:
    try:
        return data is not None and bool(data.decode())
    except UnicodeDecodeError:
        return False


def _begin_snapshot(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN")
    elif connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        connection.exec_driver_sql("SET LOCAL TIME ZONE 'UTC'")


def _reflect(connection: Connection, schema: str, url: URL) -> dict[str, Table]:
    """The three tables, or one line that says which table or column is missing."""
    inspector = inspect(connection)
    place = f"the schema {schema!r} of {_shown(url)}" if schema else _shown(url)
    tables: dict[str, Table] = {}
    for name, columns in _COLUMNS.items():
        there = name
        if not inspector.has_table(name, schema=schema or None):
            there = _OTHER_SPELLING.get(name, name)
            if there == name or not inspector.has_table(there, schema=schema or None):
                raise SourceError(
                    f"the table {name} is missing in {place}; Profiles Sync makes it when the "
                    "materialized views are selected in its Selective Sync settings"
                )
        # The columns are all we need; reflecting keys and comments too is slow on big warehouses.
        found = inspector.get_columns(there, schema=schema or None)
        columns_there = [Column(column["name"], column["type"]) for column in found]
        table = Table(there, MetaData(), *columns_there, schema=schema or None)
        missing = sorted(columns - set(table.c.keys()))
        if missing:
            raise SourceError(
                f"the table {there} in {place} has no column {', '.join(missing)}; Profiles Sync "
                f"makes it with {', '.join(sorted(columns))}"
            )
        tables[name] = table
    return tables


def _readable(
    name: str,
    table: Table,
    columns: Columns,
    url: URL,
    condition: ColumnElement[bool] | None,
) -> FromClause:
    """A table as the pull reads it: ids and keys as text, the value of a trait as what it says, and
    the rows that meet the condition alone."""
    found: list[ColumnElement[Any]] = []
    for one in sorted(_COLUMNS[name]):
        column = table.c[one]
        if one in _PLAIN:
            found.append(column)
        elif (name, one) == ("user_traits", "value"):
            found.append(columns.value(column).label(one))
        elif columns.dialect != "sqlite" and isinstance(column.type, LargeBinary):
            raise SourceError(
                f"the column {one} of {table.name} in {_shown(url)} holds bytes ({column.type}), "
                "where text is needed; load it as text"
            )
        else:
            found.append(columns.text(column).label(one))
    statement = select(*found)
    return (statement if condition is None else statement.where(condition)).subquery()


def _shown(url: URL) -> str:
    """A URL for messages: without the password, and without the query, which may hold others."""
    return str(url.set(query={}))


@contextmanager
def _translated(url: URL) -> Iterator[None]:
    """Errors of the driver as one line without the password."""
    try:
        yield
    except (SQLAlchemyError, UnicodeError) as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        raise SourceError(f"the pull from {_shown(url)} broke off: {reason}") from error
