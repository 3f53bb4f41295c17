"""Columns of a warehouse as SQL that says the same in every engine.

Ids and keys are compared by their bytes, whatever the collation; bytes are no text; a time beyond
the year 9999 is of that year, which the drivers can read.
"""

from __future__ import annotations

import string
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import (
    ARRAY,
    JSON,
    Column,
    ColumnElement,
    Connection,
    DateTime,
    LargeBinary,
    Numeric,
    String,
    Text,
    and_,
    case,
    cast,
    collate,
    func,
    literal,
    not_,
    or_,
    select,
)

from syncer.engage.values import BYTES, WORDS
from syncer.errors import SourceError
from syncer.ids import WHITE

#: Engines that we know: what they take is used, others get plain SQL.
KNOWN = {"sqlite", "postgresql"}
#: Names that a statement of any other engine takes.
MOST_NAMES = 10_000
#: No time before this is believed.
BELIEVED_FROM = datetime(2000, 1, 1, tzinfo=UTC)
_LAST = datetime(9999, 12, 31, tzinfo=UTC)

#: A time as text that PostgreSQL can cast without an error (but the 29th of February, which is
#: taken for unreadable).
_TIME = (
    r"^\s*[12][0-9]{3}-"
    r"((01|03|05|07|08|10|12)-(0[1-9]|[12][0-9]|3[01])"
    r"|(04|06|09|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
    r"([T ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9]([.][0-9]+)?)?"
    r" ?(Z|UTC|[+-](0[0-9]|1[0-4])(:?[0-5][0-9])?)?)?\s*$"
)


@dataclass(frozen=True)
class Columns:
    """The expressions of one engine; `white` is the white space that its encoding has."""

    dialect: str
    white: str = WHITE

    @staticmethod
    def of(connection: Connection) -> Columns:
        """Those of a connection. Raises SourceError where the engine takes two texts for one."""
        dialect = connection.dialect.name
        if dialect == "postgresql":
            encoding = connection.scalar(select(func.current_setting("server_encoding")))
            return Columns(dialect, WHITE if encoding == "UTF8" else string.whitespace)
        if dialect not in KNOWN:
            _check_collation(connection)
        return Columns(dialect)

    @property
    def known(self) -> bool:
        return self.dialect in KNOWN

    # Texts

    def text(self, column: Column[Any]) -> ColumnElement[Any]:
        """Ids or keys: NULL where it is no text."""
        if self.dialect == "sqlite":
            return self._by_bytes(case((func.typeof(column) != "blob", cast(column, Text))))
        if self.dialect == "postgresql":
            return self._by_bytes(cast(column, Text))
        # Where it is text already it stays as it is: TEXT is short at some warehouses.
        return column if isinstance(column.type, String) else cast(column, Text)

    def is_id(self, text: ColumnElement[Any]) -> ColumnElement[bool]:
        """Whether a text says something, and can be read."""
        if self.dialect == "sqlite":
            return and_(func.trim(text, self.white) != "", func.is_utf8(cast(text, LargeBinary)))
        return self._trimmed(text) != ""

    def one_of(self, text: ColumnElement[Any], names: Collection[str]) -> ColumnElement[bool]:
        """Whether a text is one of these names, however many they are: as one parameter, since the
        parameters of a statement are few. One with NUL is no text of theirs."""
        if self.known:
            names = [name for name in names if "\0" not in name]
        if self.dialect == "postgresql":
            listed = cast(literal(list(names), ARRAY(Text)), ARRAY(Text))
            return text.in_(select(func.unnest(listed)))
        if self.dialect == "sqlite":
            each = func.json_each(orjson.dumps(list(names)).decode()).table_valued("value")
            return text.in_(select(each.c.value))
        if len(names) > MOST_NAMES:
            raise SourceError(
                f"{len(names):,} keys are more than a statement of {self.dialect} may name "
                f"({MOST_NAMES:,}); narrow engage.audiences and engage.computed_traits"
            )
        return text.in_(list(names))

    def _by_bytes(self, text: ColumnElement[Any]) -> ColumnElement[Any]:
        collation = {"sqlite": "BINARY", "postgresql": "C"}.get(self.dialect)
        return text if collation is None else collate(text, collation)

    def _trimmed(self, text: ColumnElement[Any], more: str = "") -> ColumnElement[Any]:
        """A text without white space (and `more`) around it."""
        return func.trim(text, self.white + more) if self.known else func.trim(text)

    # Values

    def value(self, column: Column[Any]) -> ColumnElement[Any]:
        """A trait's value: text, or JSON where the column is that; `BYTES` for bytes."""
        if self.dialect == "sqlite":
            return case((func.typeof(column) == "blob", BYTES), else_=cast(column, Text))
        if isinstance(column.type, LargeBinary):
            return case((column.is_not(None), BYTES))
        # A number of JSON would lose digits when it is read.
        return cast(column, Text) if isinstance(column.type, Numeric) else column

    def kinds(self, value: ColumnElement[Any]) -> tuple[ColumnElement[bool], ...]:
        """Whether a value reads as true or false, as 1 or 0, or as neither, as `values.boolean`
        reads it. One that is bytes says nothing; 1.0 and 0.0 are booleans on their way through a
        column of real numbers, whereas a count is written 1."""
        quotes = '"' if isinstance(value.type, JSON) else ""
        text = func.lower(self._trimmed(self._by_bytes(cast(value, Text)), quotes))
        words: ColumnElement[bool] = text.in_((*WORDS, "1.0", "0.0"))
        digits = text.in_(("1", "0"))
        if self.known:
            # 1.00 too: a number of a fixed scale shows all its places.
            short = func.trim(text, "0.")
            one, zero = (and_(text.like(f"{digit}.%"), short == rest) for digit, rest in _DIGITS)
            words = or_(words, one, zero)
        return words, digits, not_(or_(words, digits, text.in_(("", "null", BYTES))))

    # Times

    def instant(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """A time column as something that compares; NULL where it cannot be read."""
        if self.dialect == "sqlite":
            return func.julianday(column)  # it keeps times as text of several forms
        if isinstance(column.type, String):
            read = cast(column, DateTime(timezone=True))
            readable = self._by_bytes(column).op("~")(_TIME)
            column = case((readable, read)) if self.dialect == "postgresql" else read
        last = self.moment(_LAST)
        return case((column > last, last), else_=column)

    def moment(self, moment: datetime) -> ColumnElement[Any]:
        """A moment to compare instants with."""
        if self.dialect == "sqlite":
            text = moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
            return func.julianday(text)
        return literal(moment, DateTime(timezone=True))

    def later(self, instant: ColumnElement[Any]) -> ColumnElement[Any]:
        """Five minutes after."""
        return instant + (5 / 1440 if self.dialect == "sqlite" else literal(timedelta(minutes=5)))

    def believed(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """The instant of a time column where it can be read and is from 2000 on, else NULL."""
        at = self.instant(column)
        return case((at >= self.moment(BELIEVED_FROM), at))

    def shown(self, time: ColumnElement[Any]) -> ColumnElement[Any]:
        """A time as it is read from the result."""
        return cast(time, Text) if self.dialect == "sqlite" else time


#: How a digit that is followed by zeros alone looks when these are trimmed.
_DIGITS = (("1", "1"), ("0", ""))


def _check_collation(connection: Connection) -> None:
    alike = case((or_(literal("a") == literal("A"), literal("a") == literal("a ")), 1), else_=0)
    if connection.scalar(select(alike)):
        raise SourceError(
            "the warehouse takes texts for equal that differ in case or in blanks at the end, so "
            "customers would be mixed up; give the database a binary collation"
        )


def as_datetime(value: Any) -> datetime | None:
    """What an instant (from 2000 on) comes out as: a datetime, or a Julian day from SQLite."""
    if value is None:
        return None
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    return datetime.fromtimestamp((float(value) - 2440587.5) * 86400, UTC)
