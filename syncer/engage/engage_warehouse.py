"""Pull from the warehouse of the older Engage destination (docs/facts/segment.md §1.4).

Its tables are wide: `users` has a row a user, and a column a trait. Where the destination sends
events, a table each has who entered or left which audience. They are read as if they were the
tables of Profiles Sync, in the database itself, so all that a pull means has one home.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Connection,
    FromClause,
    Select,
    TableClause,
    Text,
    case,
    cast,
    column,
    func,
    inspect,
    literal,
    or_,
    select,
    table,
    union_all,
)
from sqlalchemy.engine import URL

from syncer.chunks import chunks
from syncer.engage.columns import Columns
from syncer.engage.profiles_sync import ProfilesSync, ProfilesSyncPull
from syncer.engage.rows import conditions
from syncer.engage.source import ObservedKey, OnlyCustomers, Scope, Survey
from syncer.engage.survey import by_key
from syncer.engage.warehouse import NAMED, Space, shown, snapshot, translated_errors
from syncer.engage.warehouses import warehouse_of
from syncer.engage.wide import trait_columns
from syncer.errors import SourceError

USERS, USER_ID = "users", "user_id"
#: The tables of Engage's events, by their usual names, which the destination may change.
EVENTS = ("audience_entered", "audience_exited", "trait_computed")
#: The columns of events that say which audience or trait they are about.
AUDIENCE_KEY = "audience_key"
_KEYS = (AUDIENCE_KEY, "trait_key")
#: Columns of one part of a statement: SQLite takes 500 parts of a union, and the time to plan a
#: part grows with the square of its columns.
COLUMNS = 50
#: Where a row has each time; the first that the table has counts.
_TIMES = {
    "timestamp": ("timestamp", "received_at", "uuid_ts", "loaded_at"),
    "received_at": ("received_at", "uuid_ts", "loaded_at"),
    "uuid_ts": ("uuid_ts", "loaded_at", "received_at"),
}
UNSEEN = "profiles without a user_id are not in these tables, nor is which profiles were merged"


@dataclass(frozen=True)
class EngageWarehouse:
    """The source; `events` are the tables of its events, `named` the keys that the config names.

    `overlap` and `filter` are as those of `ProfilesSync`.
    """

    url: URL
    schema: str = ""
    overlap: float = 3 * 3600.0
    filter: str = ""
    events: tuple[str, ...] = EVENTS
    named: tuple[str, ...] = ()

    @contextmanager
    def pull(self, scope: Scope) -> Iterator[ProfilesSyncPull]:
        """Open one snapshot of the warehouse."""
        with snapshot(self.url) as connection:
            source, space = self._as_profiles_sync, self._space(connection)
            with ProfilesSyncPull(source, connection, space, scope).unchanged() as pull:
                yield pull

    def survey(self) -> Survey:
        """Return what the warehouse holds; raise `SourceError` if no pull can work."""
        with snapshot(self.url) as connection:
            space = self._space(connection)
            source = self._as_profiles_sync
            ProfilesSyncPull(source, connection, space, OnlyCustomers(())).check_times()
            traits, columns = space.rows("user_traits"), space.columns
            counts = by_key(traits, (*columns.kinds(traits.c.value), columns.true(traits.c.value)))
            with translated_errors(self.url):
                counted = [
                    (str(key), [int(number or 0) for number in numbers])
                    for key, *numbers in connection.execute(counts)
                ]
        keys = tuple(ObservedKey(key, *numbers[:4]) for key, numbers in counted)
        members = {key: numbers[4] for key, numbers in counted}
        return Survey(f"Engage's warehouse at {shown(self.url)}", keys, members, advice=(UNSEEN,))

    @property
    def _as_profiles_sync(self) -> ProfilesSync:
        return ProfilesSync(self.url, self.schema, USER_ID, self.overlap)

    def _space(self, connection: Connection) -> Space:
        """Return the tables of Profiles Sync that these tables amount to."""
        tables = self._tables(connection)
        living = conditions(connection, tables, self.filter)
        warehouse = warehouse_of(self.url)
        columns, fixed = Columns.of(connection, warehouse), warehouse.one_state(connection, tables)
        wide = [
            _Wide(columns, rows, self.named, living.get(name))
            for name, rows in (fixed or tables).items()
        ]
        views: dict[str, Any] = {
            "user_traits": _together([each for table in wide for each in table.traits()]),
            "user_identifiers": _together([each.identifiers() for each in wide]),
            "profile_merges": wide[0].no_merges().subquery(),
        }
        return Space(self.schema, self.url, columns, views, {}, fixed and views)

    def _tables(self, connection: Connection) -> dict[str, TableClause]:
        """Return `users` and the tables of events that are there."""
        inspector, tables = inspect(connection), dict[str, TableClause]()
        if not self.schema and connection.dialect.name != "sqlite":
            raise SourceError(
                "engage.engage_warehouse.schema is missing: a table called users may be anybody's; "
                f"name the schema of the Engage destination{self._schemas(inspector)}"
            )
        for name in (USERS, *self.events):
            if inspector.has_table(name, schema=self.schema or None):
                described = inspector.get_columns(name, schema=self.schema or None)
                columns = [column(each["name"], each["type"]) for each in described]
                tables[name] = table(name, *columns, schema=self.schema or None)
                self._check(name, {each["name"] for each in described})
        if not tables:
            raise SourceError(
                f"{self._place} has no table {USERS}, {', '.join(self.events)} that this login may "
                f"read; Segment's Engage destination makes them{self._schemas(inspector)}"
            )
        return tables

    def _check(self, name: str, columns: set[str]) -> None:
        wanted = [USER_ID, *(_KEYS if name != USERS else ("id",))]
        has_key = name == USERS or columns.intersection(_KEYS)
        if not (columns & {USER_ID, "id"} and has_key and columns.intersection(_TIMES["uuid_ts"])):
            raise SourceError(
                f"the table {name} in {self._place} is not one of Engage's: it has none of "
                f"{', '.join(wanted)}, or no received_at or uuid_ts"
            )

    @property
    def _place(self) -> str:
        place = shown(self.url)
        return f"the schema {self.schema!r} of {place}" if self.schema else place

    def _schemas(self, inspector: Any) -> str:
        """Return the schemas that look like Engage's, for a message."""
        names = [
            name
            for name in sorted(inspector.get_schema_names())
            if name.startswith(("engage_", "personas_"))
        ]
        return f"; there are {', '.join(names[:NAMED])}" if names else ""


class _Key(NamedTuple):
    """A column that is a trait: its key, and its value as text."""

    column: str
    key: str
    value: ColumnElement[Any]


class _Wide:
    """One wide table, and what it says as rows of Profiles Sync."""

    def __init__(
        self,
        columns: Columns,
        rows: FromClause,
        named: Sequence[str],
        living: ColumnElement[bool] | None,
    ) -> None:
        self._columns, self._rows, self._living = columns, rows, living
        present = rows.c.keys()
        self._user = rows.c[USER_ID if USER_ID in present else "id"]
        self._about = next((rows.c[name] for name in _KEYS if name in present), None)
        keys = trait_columns((name for name in present if name not in _KEYS), named)
        self._keys = [_Key(name, key, self._value(rows.c[name])) for name, key in keys.items()]

    def traits(self) -> list[Select[Any]]:
        """Select the values of a table, of some columns each: a statement has bounds."""
        return [
            self._of_users(keys) if self._about is None else self._of_events(self._about, keys)
            for keys in chunks(iter(self._keys), most=COLUMNS)
        ]

    def identifiers(self) -> Select[Any]:
        """Select each user once, with the times of its newest row."""
        times = {name: func.max(time) for name, time in self._times().items()}
        chosen = select(
            self._user.label("canonical_segment_id"),
            literal(USER_ID, Text).label("type"),
            self._user.label("value"),
            *_rest(times),
        )
        return self._alive(chosen).group_by(self._user)

    def no_merges(self) -> Select[Any]:
        """Select no merge."""
        return select(
            self._user.label("canonical_segment_id"),
            self._user.label("segment_id"),
            *_rest(self._times()),
        ).where(literal(1) == literal(0))

    def _of_users(self, keys: Sequence[_Key]) -> Select[Any]:
        """Select a row for each value of each user: one walk over the table.

        A column without a value says nothing: it is null for users of whom nobody ever said it.
        """
        named = [select(literal(each.key, Text).label("name")) for each in keys]
        names = union_all(*named).subquery("keys")
        value = case(*((names.c.name == each.key, each.value) for each in keys))
        chosen = select(
            self._user.label("canonical_segment_id"),
            names.c.name,
            value.label("value"),
            *_rest(self._times()),
        ).select_from(self._rows.join(names, literal(1) == literal(1)))
        return self._alive(chosen).where(value.is_not(None))

    def _of_events(self, about: ColumnElement[Any], keys: Sequence[_Key]) -> Select[Any]:
        """Select the newest event of each user and key, with the value in the column of the key.

        The name of the table says nothing: "Audience Exited" comes with `true` too. An event of an
        audience without a value says nothing either; of a trait it says that there is none.
        """
        times = self._times()
        # A column is the snake_case of its key, which has no two underscores in a row.
        of = [
            (or_(about == each.key, about == each.column, self._single(about) == each.column), each)
            for each in keys
        ]
        value = case(*((condition, each.value) for condition, each in of))
        newest_first = (times["timestamp"].desc(), times["uuid_ts"].desc())
        ranked = self._alive(
            select(
                self._user.label("canonical_segment_id"),
                cast(about, Text).label("name"),
                value.label("value"),
                *_rest(times),
                func.row_number()
                .over(partition_by=(self._user, about), order_by=newest_first)
                .label("place"),
            )
        ).where(or_(*(condition for condition, _ in of)))
        if about is self._rows.c.get(AUDIENCE_KEY):
            ranked = ranked.where(value.is_not(None))
        newest = ranked.subquery()
        columns = [each for each in newest.c if each.name != "place"]
        return select(*columns).where(newest.c.place == 1)

    def _single(self, key: ColumnElement[Any]) -> ColumnElement[Any]:
        return func.replace(key, "__", "_")

    def _alive(self, chosen: Select[Any]) -> Select[Any]:
        return chosen if self._living is None else chosen.where(self._living)

    def _value(self, cell: Any) -> ColumnElement[Any]:
        """Return a cell as Profiles Sync stores a value: a boolean is a word, whatever has it."""
        text = cast(self._columns.value(cell), Text)
        if not isinstance(cell.type, Boolean):
            return text
        if self._columns.dialect != "sqlite":
            return case((cell.is_(True), "true"), (cell.is_(False), "false"))
        return case((text == "1", "true"), (text == "0", "false"), else_=text)

    def _times(self) -> dict[str, ColumnElement[Any]]:
        present = self._rows.c
        return {
            name: next(present[each] for each in (*names, *_TIMES["uuid_ts"]) if each in present)
            for name, names in _TIMES.items()
        }


def _rest(times: Mapping[str, ColumnElement[Any]]) -> list[ColumnElement[Any]]:
    """Return the columns that all tables of Profiles Sync have."""
    return [literal(1).label("seq"), *(time.label(name) for name, time in times.items())]


def _together(selects: Sequence[Select[Any]]) -> FromClause:
    if not selects:
        raise SourceError("Engage's tables have no column of an audience or trait yet")
    return (union_all(*selects) if selects[1:] else selects[0]).subquery()
