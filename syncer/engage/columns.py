"""Columns of a warehouse as SQL that means the same in every engine.

Ids and keys compare by their bytes, whatever the collation. Bytes are not text. A time beyond the
year 9999 becomes the end of that year, which the drivers can read.
"""

from __future__ import annotations

import string
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    ARRAY,
    JSON,
    TEXT,
    VARCHAR,
    Column,
    ColumnElement,
    Connection,
    DateTime,
    FromClause,
    Function,
    Interval,
    LargeBinary,
    Numeric,
    Select,
    String,
    Text,
    and_,
    any_,
    case,
    cast,
    collate,
    func,
    literal,
    literal_column,
    not_,
    or_,
    select,
    type_coerce,
)

from syncer.engage.values import BYTES, USUAL, WORDS
from syncer.engage.warehouses import Warehouse
from syncer.errors import SourceError
from syncer.ids import WHITE
from syncer.json_text import to_json

#: Engines whose own SQL we use; all others get plain SQL.
KNOWN = {"sqlite", "postgresql"}
#: Names that a statement may contain in any other engine.
MOST_NAMES = 10_000
#: Names that PostgreSQL compares with each row; more are joined with the rows.
FEW_NAMES = 100
#: A time before this is not believed.
BELIEVED_FROM = datetime(2000, 1, 1, tzinfo=UTC)
_LAST = datetime(9999, 12, 31, tzinfo=UTC)

#: A time as text that PostgreSQL can cast without an error. (The 29th of February counts as
#: unreadable.)
_TIME = (
    r"^\s*[12][0-9]{3}-"
    r"((01|03|05|07|08|10|12)-(0[1-9]|[12][0-9]|3[01])"
    r"|(04|06|09|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
    r"([T ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9]([.][0-9]+)?)?"
    r" ?(Z|UTC|[+-](0[0-9]|1[0-4])(:?[0-5][0-9])?)?)?\s*$"
)


@dataclass(frozen=True)
class Columns:
    """The expressions of one engine; `white` is the white space of its encoding."""

    dialect: str
    warehouse: Warehouse
    white: str = WHITE

    @staticmethod
    def of(connection: Connection, warehouse: Warehouse) -> Columns:
        """Return the columns of a connection.

        Raise `SourceError` if the engine takes two different texts for equal.
        """
        dialect = connection.dialect.name
        if dialect == "postgresql":
            encoding = connection.scalar(select(func.current_setting("server_encoding")))
            return Columns(dialect, warehouse, WHITE if encoding == "UTF8" else string.whitespace)
        if dialect not in KNOWN:
            _check_collation(connection)
        return Columns(dialect, warehouse)

    @property
    def known(self) -> bool:
        """Whether we know this engine's own SQL."""
        return self.dialect in KNOWN

    @property
    def indexed(self) -> bool:
        """Whether the engine finds a few rows by an index; others read whole columns."""
        return self.dialect in KNOWN

    # Texts

    def text(self, column: Column[Any]) -> ColumnElement[Any]:
        """Return a column of ids or keys as text, NULL where it is not text."""
        if self.dialect == "sqlite":
            return self._by_bytes(case((func.typeof(column) != "blob", cast(column, Text))))
        if self.dialect == "postgresql":
            return self._by_bytes(cast(column, Text))
        # A text column stays as it is: TEXT is short in some warehouses.
        return column if isinstance(column.type, String) else cast(column, Text)

    def is_id(self, text: ColumnElement[Any]) -> ColumnElement[bool]:
        """Return whether a text is not blank and can be read."""
        if self.dialect == "sqlite":
            return and_(self._trimmed(text) != "", func.is_utf8(cast(text, LargeBinary)))
        return self._trimmed(text) != ""

    def one_of(self, text: ColumnElement[Any], names: Collection[str]) -> ColumnElement[bool]:
        """Return whether a text is one of these names, however many they are."""
        if self.dialect == "postgresql" and len(names) <= FEW_NAMES:  # no join: its rows are known
            return text == any_(cast(literal(_plain(names), ARRAY(Text)), ARRAY(Text)))
        if self.known:
            return text.in_(self._listed(names))
        if len(names) > MOST_NAMES:
            raise SourceError(
                f"{len(names):,} keys are more than a statement of {self.dialect} may name "
                f"({MOST_NAMES:,}); narrow engage.audiences and engage.computed_traits"
            )
        return text.in_(self.warehouse.names(names))

    def among(self, column: Column[Any], ids: Collection[str]) -> ColumnElement[bool]:
        """Return whether a column has one of these ids, however many they are.

        An index on the column itself serves it, where it is a column of text.
        """
        if not self._as_it_is(column):
            return self.one_of(self.text(column), ids)
        chosen = self._listed(ids)
        if self.dialect == "sqlite":  # the column may have a collation of its own
            return and_(column.in_(chosen), self.text(column).in_(chosen))
        (id_,) = chosen.selected_columns
        return column.in_(chosen.with_only_columns(collate(id_, "default")))

    def is_same(self, column: Column[Any], text: ColumnElement[Any]) -> ColumnElement[bool]:
        """Return whether a column has the id that is a text; an index serves it as `among`."""
        if not self._as_it_is(column):
            return self.text(column) == text
        if self.dialect == "sqlite":
            return and_(column == text, self.text(column) == text)
        return column == collate(text, "default")

    def _as_it_is(self, column: Column[Any]) -> bool:
        """Return whether a column itself compares with text, so that an index on it is of use."""
        return self.known and isinstance(column.type, TEXT | VARCHAR)

    def _listed(self, names: Collection[str]) -> Select[Any]:
        """Select names: one parameter, because a statement may have only a few."""
        names = _plain(names)
        if self.dialect == "postgresql":
            return select(_unnest(cast(literal(names, ARRAY(Text)), ARRAY(Text))))
        return select(func.json_each(to_json(names)).table_valued("value").c.value)

    def listed(self, rows: Sequence[Sequence[str]], names: Sequence[str]) -> FromClause:
        """Return rows of texts as a table with columns of these names.

        They are one parameter, or one a column, however many they are.
        """
        if self.dialect == "postgresql":
            columns = zip(*rows, strict=True) if rows else ((),) * len(names)
            arrays = [cast(literal(list(column), ARRAY(Text)), ARRAY(Text)) for column in columns]
            table = _unnest(*arrays).table_valued(*names).render_derived()
            cells: list[ColumnElement[Any]] = [table.c[name] for name in names]
        else:
            each = func.json_each(to_json(rows)).table_valued("value")
            cells = [
                cast(func.json_extract(each.c.value, f"$[{number}]"), Text)
                for number in range(len(names))
            ]
        texts = zip(names, cells, strict=True)
        # Distinct, so that SQLite makes them once, and an index on them.
        listed = select(*(self._by_bytes(cell).label(name) for name, cell in texts)).distinct()
        return listed.cte("listed")

    def _by_bytes(self, text: ColumnElement[Any]) -> ColumnElement[Any]:
        collation = {"sqlite": "BINARY", "postgresql": "C"}.get(self.dialect)
        return text if collation is None else collate(text, collation)

    def _trimmed(self, text: ColumnElement[Any], more: str = "") -> ColumnElement[Any]:
        """Return a text without white space (and `more`) around it."""
        return self._without(text, self.white + more)

    def _without(self, text: ColumnElement[Any], characters: str) -> ColumnElement[Any]:
        """Return a text without these characters around it."""
        trim = getattr(func, self.warehouse.trim)
        return type_coerce(trim(text, characters), Text())

    # Values

    def value(self, column: Column[Any]) -> ColumnElement[Any]:
        """Return a trait's value: text, or JSON if the column has that type; `BYTES` for bytes."""
        if self.dialect == "sqlite":
            return case((func.typeof(column) == "blob", BYTES), else_=cast(column, Text))
        if isinstance(column.type, LargeBinary):
            return case((column.is_not(None), BYTES))
        # As text, because a JSON number would lose digits when it is read.
        return cast(column, Text) if isinstance(column.type, Numeric) else column

    def kinds(self, value: ColumnElement[Any]) -> tuple[ColumnElement[bool], ...]:
        """Return whether a value reads as true or false, as 1 or 0, or as neither.

        `values.boolean` reads the same. Nulls and what cannot be read are none of the three. 1.0
        and 0.0 count as words: booleans look like this after a column of real numbers, whereas a
        count is written 1.
        """
        kind = self.kind(value)
        return kind == "word", kind == "digit", kind == "other"

    def kind(self, value: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return which of these it is: "word", "digit", "other" or NULL."""
        if self.dialect == "sqlite":
            return case(self._usual(value), else_=func.kind_of_value(cast(value, LargeBinary)))
        text = self._bare(value)
        words: ColumnElement[bool] = text.in_((*WORDS, "1.0", "0.0"))
        words = or_(words, *(self._with_places(text, digit) for digit in "10"))
        other: ColumnElement[bool] = not_(text.in_(("", "null", BYTES)))
        kinds = [(words, "word"), (text.in_(("1", "0")), "digit"), (other, "other")]
        if isinstance(value.type, String):
            kinds.insert(0, self._usual(value))
        return case(*kinds, else_=None)

    def _usual(self, value: ColumnElement[Any]) -> tuple[ColumnElement[bool], str]:
        """Return the kind of nearly all values, which takes no function to see."""
        return self._by_bytes(value).in_(tuple(USUAL)), "word"

    def true(self, value: ColumnElement[Any]) -> ColumnElement[bool]:
        """Return whether a value is a boolean, as `kinds` has it, and true."""
        text = self._bare(value)
        true = text.in_((*(word for word, means in WORDS.items() if means), "1", "1.0"))
        return or_(true, self._with_places(text, "1"))

    def _bare(self, value: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return a value as text in small letters, without what stands around it."""
        quotes = '"' if isinstance(value.type, JSON) else ""
        return func.lower(self._trimmed(self._by_bytes(cast(value, Text)), quotes))

    def _with_places(self, text: ColumnElement[Any], digit: str) -> ColumnElement[bool]:
        """Return whether a text is 1.00 or 0.00: a number of a fixed scale shows all its places."""
        return and_(text.like(f"{digit}.%"), self._without(text, "0.") == digit.strip("0"))

    # Times

    def instant(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return a time column as a value that compares; NULL where it cannot be read."""
        if self.dialect == "sqlite":
            return func.julianday(column)  # SQLite stores times as text in several forms
        if isinstance(column.type, String):
            if self.dialect == "postgresql":
                read = cast(column, DateTime(timezone=True))
                column = case((self._by_bytes(column).op("~")(_TIME), read))
            else:
                column = type_coerce(self.warehouse.unread_time(column), DateTime(timezone=True))
        last = self.moment(getattr(column.type, "last", _LAST), column)
        return case((column > last, last), else_=column)

    def moment(self, moment: datetime, instant: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return a moment to compare an instant with."""
        if self.dialect == "sqlite":
            text = moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
            return func.julianday(text)
        if self.dialect == "postgresql":
            return literal(moment, DateTime(timezone=True))
        return self._as_stored(moment, instant)

    def later(self, instant: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return the instant five minutes later."""
        if self.known:
            minutes: Any = timedelta(minutes=5)
            return instant + (5 / 1440 if self.dialect == "sqlite" else literal(minutes))
        written: ColumnElement[Any] = literal_column(self.warehouse.minutes, Interval())
        return type_coerce(instant.op("+")(written), instant.type)

    def believed(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return the instant of a time column; NULL if it is unreadable or before 2000."""
        at = self.instant(column)
        return case((at >= self.moment(BELIEVED_FROM, at), at))

    def since(self, column: Column[Any], moment: datetime) -> ColumnElement[bool]:
        """Return whether a row was loaded at or after a moment, by its column of that time.

        A time that cannot be read or believed counts, too, as far as the order of the column shows
        it. The column is compared as it is, so that partitions and indexes are of use; texts are
        read as times, too.
        """
        if self.dialect != "sqlite" and not isinstance(column.type, String):
            first, believed = (self._as_stored(at, column) for at in (moment, BELIEVED_FROM))
            return or_(column.is_(None), column >= first, column < believed)
        near = or_(
            column.is_(None),
            column >= literal(self._earliest_text(moment.astimezone(UTC)), Text),
            column < literal(f"{BELIEVED_FROM:%Y-%m-%d}", Text),
        )
        loaded = self.believed(column)
        return and_(near, or_(loaded.is_(None), loaded >= self.moment(moment, loaded)))

    def _earliest_text(self, moment: datetime) -> str:
        """Return a text that no text of this moment or later comes before, whatever its zone.

        SQLite reads zones within 15 hours of UTC, and compares by bytes. Other engines read more,
        and may take a "T" for less than a blank.
        """
        if self.dialect == "sqlite":
            return f"{moment - timedelta(hours=15):%Y-%m-%d %H:%M}"
        return f"{moment - timedelta(days=1):%Y-%m-%d}"

    def _as_stored(self, moment: datetime, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return a moment in the type of a column; one without a zone is in UTC."""
        if not getattr(column.type, "timezone", False):
            moment = moment.astimezone(UTC).replace(tzinfo=None)
        return literal(moment, column.type)

    def time(self, table: FromClause) -> ColumnElement[Any]:
        """Return Segment's time of a row.

        `timestamp` is empty in backfilled rows. A time before 2000, or later than the row arrived,
        is not believed (docs/design.md §3.9).
        """
        came = func.coalesce(table.c.received_at, table.c.uuid_ts)
        time = func.coalesce(table.c.timestamp, came)
        at = self.instant(table.c.timestamp)
        beyond = or_(at < self.moment(BELIEVED_FROM, at), at > self.later(self.instant(came)))
        return case((beyond, came), else_=time)

    # Order

    def nulls_first(self, value: ColumnElement[Any]) -> tuple[ColumnElement[Any], ...]:
        """Return what to order by so that nulls come first, or last where it is descending."""
        return case((value.is_(None), 0), else_=1), value

    def sequence(self, seq: ColumnElement[Any]) -> tuple[ColumnElement[Any], ...]:
        """Return what to order by so that `seq` goes up, be it numbers or texts of numbers."""
        if isinstance(seq.type, String):
            text = self._by_bytes(seq)
            return (*self.nulls_first(func.length(seq)), text)
        return self.nulls_first(seq)

    def oldest_first(
        self, time: ColumnElement[Any], rows: FromClause
    ) -> tuple[ColumnElement[Any], ...]:
        """Return what to order the rows of a trait by, so that the last one is the newest.

        Of rows that are alike each statement has the same last one.
        """
        value = rows.c.value
        text = value if isinstance(value.type, String) else cast(value, Text)
        return time, *self.sequence(rows.c.seq), text

    def shown(self, time: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return a time as the result contains it."""
        return cast(time, Text) if self.dialect == "sqlite" else time


def _check_collation(connection: Connection) -> None:
    alike = case((or_(literal("a") == literal("A"), literal("a") == literal("a ")), 1), else_=0)
    if connection.scalar(select(alike)):
        raise SourceError(
            "the warehouse takes texts for equal that differ in case or in blanks at the end, so "
            "customers would be mixed up; give the database a binary collation"
        )


def as_datetime(value: Any) -> datetime | None:
    """Return an instant of a result, a datetime or SQLite's Julian day, as a datetime in UTC."""
    if value is None:
        return None
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    return datetime.fromtimestamp((float(value) - 2440587.5) * 86400, UTC)


def _plain(names: Collection[str]) -> list[str]:
    """Return the names that a text can be: none has a NUL."""
    return [name for name in names if "\0" not in name]


def _unnest(*arrays: ColumnElement[Any]) -> Function[Any]:
    """Return PostgreSQL's function: `func.unnest` is BigQuery's where its driver is loaded."""
    return Function("unnest", *arrays)
