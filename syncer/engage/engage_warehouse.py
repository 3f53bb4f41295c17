"""Pull from the warehouse of the older Engage destination (docs/facts/segment.md §1.4).

Its tables are wide. `users` has a row a user and a column a trait; `identifies`, the history, has a
row a call with the same columns. Where the destination sends events, a table each has who entered
or left which audience. They are read as if they were the tables of Profiles Sync, in the database
itself, so all that a pull means has one home.

A row of `users` has the time of the user's last call, whichever trait that was about. So a value of
it counts only where no call and no event says something of this user and trait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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

USERS, IDENTIFIES, USER_ID = "users", "identifies", "user_id"
#: The tables of Engage's events, by their usual names, which the destination may change.
EVENTS = ("audience_entered", "audience_exited", "trait_computed")
#: The columns of events that say which audience or trait they are about.
AUDIENCE_KEY = "audience_key"
_KEYS = (AUDIENCE_KEY, "trait_key")
#: `seq` of a row whose time is that of the value, and of one whose time says nothing of the value.
DATED, UNDATED = 1, 0
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

    `selects` says whether a key may be ours: a pull reads the columns of no other key. `overlap`
    and `filter` are as those of `ProfilesSync`.
    """

    url: URL
    schema: str = ""
    overlap: float = 3 * 3600.0
    filter: str = ""
    events: tuple[str, ...] = EVENTS
    named: tuple[str, ...] = ()
    selects: Callable[[str], bool] = lambda key: True

    @contextmanager
    def pull(self, scope: Scope) -> Iterator[ProfilesSyncPull]:
        """Open one snapshot of the warehouse."""
        with snapshot(self.url) as connection:
            source, space = self._as_profiles_sync, self._space(connection, self.selects)
            with ProfilesSyncPull(source, connection, space, scope).unchanged() as pull:
                yield pull

    def survey(self) -> Survey:
        """Return what the warehouse holds; raise `SourceError` if no pull can work."""
        with snapshot(self.url) as connection:
            space = self._space(connection, lambda key: True)
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

    def _space(self, connection: Connection, selects: Callable[[str], bool]) -> Space:
        """Return the tables of Profiles Sync that these tables amount to."""
        tables = self._tables(connection)
        living = conditions(connection, tables, self.filter)
        warehouse = warehouse_of(self.url)
        columns, fixed = Columns.of(connection, warehouse), warehouse.one_state(connection, tables)
        wide = [
            _Wide(columns, rows, self.named, selects, living.get(name), dated=name != USERS)
            for name, rows in (fixed or tables).items()
        ]
        if not any(table.has_traits for table in wide):
            raise SourceError("Engage's tables have no column of an audience or trait yet")
        parts = [each for table in wide for each in table.traits()] or [wide[0].no_traits()]
        traits = _together(parts)
        views: dict[str, Any] = {
            "user_traits": traits if tables.keys() == {USERS} else _newest(columns, traits),
            "user_identifiers": _together([each.identifiers() for each in wide]),
            "profile_merges": wide[0].no_merges().subquery(),
        }
        return Space(self.schema, self.url, columns, views, {}, fixed and views)

    def _tables(self, connection: Connection) -> dict[str, TableClause]:
        """Return `users`, `identifies` and the tables of events, those that are there."""
        inspector, tables = inspect(connection), dict[str, TableClause]()
        if not self.schema and connection.dialect.name != "sqlite":
            raise SourceError(
                "engage.engage_warehouse.schema is missing: a table called users may be anybody's; "
                f"name the schema of the Engage destination{self._schemas(inspector)}"
            )
        for name in (USERS, IDENTIFIES, *self.events):
            if inspector.has_table(name, schema=self.schema or None):
                described = inspector.get_columns(name, schema=self.schema or None)
                columns = [column(each["name"], each["type"]) for each in described]
                tables[name] = table(name, *columns, schema=self.schema or None)
                self._check(name, {each["name"] for each in described})
        if not tables:
            raise SourceError(
                f"{self._place} has no table {', '.join((USERS, IDENTIFIES, *self.events))} that "
                "this login may read; Segment's Engage destination makes them"
                f"{self._schemas(inspector)}"
            )
        return tables

    def _check(self, name: str, columns: set[str]) -> None:
        users = {USER_ID, "id"} if name == USERS else {USER_ID}  # any other has an id of the call
        keys = set[str]() if name in (USERS, IDENTIFIES) else set(_KEYS)
        for wanted in (users, keys, set(_TIMES["uuid_ts"])):
            if wanted and not columns & wanted:
                raise SourceError(
                    f"the table {name} in {self._place} is not one of Engage's: it has no column "
                    f"{' or '.join(sorted(wanted))}"
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
        selects: Callable[[str], bool],
        living: ColumnElement[bool] | None,
        *,
        dated: bool,
    ) -> None:
        self._columns, self._rows, self._living = columns, rows, living
        self._seq = DATED if dated else UNDATED
        present = rows.c.keys()
        self._user = rows.c[USER_ID if USER_ID in present else "id"]
        self._about = next((rows.c[name] for name in _KEYS if name in present), None)
        keys = trait_columns((name for name in present if name not in _KEYS), named)
        self.has_traits = bool(keys)
        # An event may name a key that its column does not show.
        self._keys = [
            _Key(name, key, self._value(rows.c[name]))
            for name, key in keys.items()
            if self._about is not None or selects(key)
        ]

    def traits(self) -> list[Select[Any]]:
        """Select the values of a table, of some columns each: a statement has bounds."""
        return [
            self._of_columns(keys) if self._about is None else self._of_events(self._about, keys)
            for keys in chunks(iter(self._keys), most=COLUMNS)
        ]

    def identifiers(self) -> Select[Any]:
        """Select each user once, with the times of its newest row."""
        times = {name: func.max(time) for name, time in self._times().items()}
        chosen = select(
            self._user.label("canonical_segment_id"),
            literal(USER_ID, Text).label("type"),
            self._user.label("value"),
            *self._rest(times),
        )
        return self._alive(chosen).group_by(self._user)

    def no_merges(self) -> Select[Any]:
        """Select no merge."""
        return select(
            self._user.label("canonical_segment_id"),
            self._user.label("segment_id"),
            *self._rest(self._times()),
        ).where(literal(1) == literal(0))

    def no_traits(self) -> Select[Any]:
        """Select no value."""
        nothing = literal("", Text)
        return self._row(nothing, nothing).where(literal(1) == literal(0))

    def _of_columns(self, keys: Sequence[_Key]) -> Select[Any]:
        """Select a row for each value of each row: one walk over the table.

        A column without a value says nothing: it is null for users of whom nobody ever said it.
        """
        named = [select(literal(each.key, Text).label("name")) for each in keys]
        names = union_all(*named).subquery("keys")
        value = case(*((names.c.name == each.key, each.value) for each in keys))
        each = self._row(names.c.name, value).select_from(
            self._rows.join(names, literal(1) == literal(1))
        )
        rows = self._alive(each).subquery()
        return select(rows).where(rows.c.value.is_not(None))

    def _of_events(self, about: ColumnElement[Any], keys: Sequence[_Key]) -> Select[Any]:
        """Select the events of each user and key, with the value in the column of the key.

        The name of the table says nothing: "Audience Exited" comes with `true` too. An event of an
        audience without a value says nothing either; of a trait it says that there is none.
        """
        # A column is the snake_case of its key, which has no two underscores in a row.
        of = [
            (or_(about == each.key, about == each.column, self._single(about) == each.column), each)
            for each in keys
        ]
        value = case(*((condition, each.value) for condition, each in of))
        chosen = self._alive(self._row(cast(about, Text), value))
        if about is self._rows.c.get(AUDIENCE_KEY):
            chosen = chosen.where(value.is_not(None))
        return chosen.where(or_(*(condition for condition, _ in of)))

    def _row(self, name: ColumnElement[Any], value: ColumnElement[Any]) -> Select[Any]:
        return select(
            self._user.label("canonical_segment_id"),
            name.label("name"),
            value.label("value"),
            *self._rest(self._times()),
        )

    def _single(self, key: ColumnElement[Any]) -> ColumnElement[Any]:
        return func.replace(key, "__", "_")

    def _alive(self, chosen: Select[Any]) -> Select[Any]:
        chosen = chosen.where(self._user.is_not(None))
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

    def _rest(self, times: Mapping[str, ColumnElement[Any]]) -> list[ColumnElement[Any]]:
        """Return the columns that all tables of Profiles Sync have."""
        return [
            literal(self._seq).label("seq"),
            *(time.label(name) for name, time in times.items()),
        ]


def _newest(columns: Columns, traits: FromClause) -> FromClause:
    """Select of each user and key the row that counts: the newest of those that are dated."""
    first = (
        traits.c.seq,
        *columns.nulls_first(columns.instant(columns.time(traits))),
        *columns.nulls_first(columns.instant(traits.c.uuid_ts)),
        *columns.nulls_first(traits.c.value),
    )
    of = (traits.c.canonical_segment_id, traits.c.name)
    place = func.row_number().over(partition_by=of, order_by=[each.desc() for each in first])
    ranked = select(traits, place.label("place")).subquery()
    newest = [each for each in ranked.c if each.name != "place"]
    return select(*newest).where(ranked.c.place == 1).subquery()


def _together(selects: Sequence[Select[Any]]) -> FromClause:
    return (union_all(*selects) if selects[1:] else selects[0]).subquery()
