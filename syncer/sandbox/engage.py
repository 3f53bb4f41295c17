"""A stand-in for Segment Engage: a Profiles Sync warehouse whose profiles change over time.

    sandbox = EngageSandbox("sqlite:///engage.db")
    sandbox.fill(10_000)      # the three tables of Profiles Sync, with 10,000 profiles
    ...                       # a sync runs; Amberflo must hold sandbox.expected()
    sandbox.observe()         # later syncs are compared with that one
    sandbox.evolve()          # some hours later: entries, exits, new values, merges, new users
    ...                       # and so on

`expected()` and `Evolution` come from the model, never from the tables, so they can judge a reader
of the tables. A profile is a pure function of the seed and its number: only the profiles that
merged or changed are kept in memory. The tables have no key and no index, so that no reader depends
on any. Names, values and ids depend on the seed alone, times also on the clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import shake_256
from itertools import chain, cycle, islice
from random import Random
from string import ascii_letters, digits
from typing import Any, NamedTuple

import orjson
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    DateTime,
    MetaData,
    Table,
    Text,
    create_engine,
    delete,
    inspect,
)
from sqlalchemy.schema import CreateSchema

from syncer.errors import ConfigError

#: The keys of the first audiences; the next are `audience_011`, `audience_012`, …
AUDIENCES = (
    "order_completed_last_30days",
    "vip",
    "first_time_shopper",
    "j_o_first_purchase__opened_email_dje83h",
    "big_spender",
    "all_users_order_completed",
    "3_product_views_in_last_60_days",
    "cart_abandoned_7_days",
    "newsletter_subscribers",
    "churn_risk",
)
#: The prefix of computed traits: a number for most profiles, text or a list for some.
COMPUTED_PREFIX = "total_revenue_"
REVENUE = "total_revenue_180_days"

Value = bool | int | float | str | list[Any]


class Customer(NamedTuple):
    """What Amberflo must have of one customer id."""

    customer_id: str
    traits: dict[str, Value]
    name: str | None
    email: str | None


@dataclass(frozen=True)
class Evolution:
    """The differences from what the last `observe()` saw, or from nothing without one."""

    #: Customers whose traits, name or email differ, including new ones.
    changed: set[str]
    #: The number of customers by audience that entered it, and that left it.
    entered: Counter[str]
    exited: Counter[str]
    #: The number of profiles that the step itself created, and merged away.
    created: int
    merged: int


class Moment(NamedTuple):
    """The time columns of a row, shared by many rows."""

    seq: int
    received_at: str
    uuid_ts: str
    timestamp: str


#: Value and moment of each trait, by name; a value of None is a row with NULL.
Traits = dict[str, tuple[str | None, Moment]]


@dataclass(slots=True)
class Profile:
    """A profile with its external ids and traits."""

    segment_id: str
    #: (type, value) of each external id.
    ids: dict[tuple[str, str], Moment]
    traits: Traits
    #: The segment ids that are this profile now, itself included, and since when.
    segments: dict[str, Moment]
    #: A profile that merged into this one and whose rows are still in the tables.
    standing: Profile | None = None

    def customers(self) -> list[str]:
        """Return the customer ids of the profile."""
        ids = self.ids if self.standing is None else self.ids | self.standing.ids
        return [value for kind, value in ids if kind == "user_id"]

    def external_ids(self) -> list[tuple[str, str]]:
        """Return type and value of each external id of the profile."""
        return list(self.ids if self.standing is None else self.ids | self.standing.ids)

    def newest(self) -> Traits:
        """Return the newest row of each trait."""
        if self.standing is None:
            return self.traits
        mine, theirs = self.traits, self.standing.traits
        return mine | {name: row for name, row in theirs.items() if _wins(row, mine.get(name))}


class EngageSandbox:
    """One space of Engage in the database at `url` (SQLite or PostgreSQL).

    `clock` is now by default. `evolve` moves it on, so start in the past to end at the present.
    """

    def __init__(
        self, url: str, *, schema: str = "", seed: int = 0, clock: datetime | None = None
    ) -> None:
        self._engine = create_engine(url)
        self._postgres = self._engine.dialect.name == "postgresql"
        if not self._postgres and (schema or self._engine.dialect.name != "sqlite"):
            raise ConfigError(
                "the Engage sandbox needs postgresql+psycopg://… or, without a schema, sqlite:///…"
            )
        self._schema = schema
        self._tables = _tables(schema)
        self._seed = seed
        self.clock = (clock or datetime.now(UTC)).astimezone(UTC)
        self.audiences: tuple[str, ...] = ()
        self._loaded = self.clock  # the time of the last hourly sync into the warehouse
        self._past: list[Moment] = []
        self._count = 0
        self._step = 0
        #: The profiles by number that changed since their creation; None is merged away.
        self._kept: dict[int, Profile | None] = {}
        self._observed = False
        #: The customers of kept profiles as the last `observe()` saw them.
        self._known: dict[str, Customer] = {}

    def close(self) -> None:
        """Close the connections to the database."""
        self._engine.dispose()

    # The content of the warehouse

    def fill(self, users: int, audiences: int = 10) -> None:
        """Start over with this many profiles; the tables of an older sandbox are dropped."""
        self.audiences = _audience_keys(audiences)
        self._count, self._step, self._observed = users, 0, False
        self._kept, self._known = {}, {}
        self._loaded = _hour(self.clock)
        yesterday = self._loaded - timedelta(days=1)
        self._past = self._moments(yesterday - timedelta(days=60), yesterday, 4096)
        prompt, late = users // 100 + 1, users // 2000 + 1
        drawn = self._drawn(Random(f"{self._seed}/fill"))
        merges = iter(self._moments(yesterday, self._loaded, prompt + late))
        self._merge_pairs(drawn, islice(merges, prompt), late=False)
        self._merge_pairs(drawn, merges, late=True)
        with self._engine.begin() as connection:
            self._create(connection)
            profiles = (profile for _, profile in self._profiles())
            while chunk := list(islice(profiles, 500)):
                self._write(connection, chunk)

    def evolve(self, hours: float = 2.5, fraction: float = 0.01, *, vanish: int = 0) -> Evolution:
        """Let time pass, in one transaction of the warehouse.

        Rows have the `uuid_ts` of the hourly sync that brought them. About `fraction` of the
        profiles change one trait each (at least one profile for each kind of change), a few merge,
        and some users are new. `vanish` more profiles lose a trait: its row goes, which only a full
        pull can see, or becomes NULL.
        """
        self._step += 1
        rng = Random(f"{self._seed}/{self._step}")
        since, self.clock = self._loaded, self.clock + timedelta(hours=hours)
        self._loaded = _hour(self.clock) if _hour(self.clock) > since else self.clock
        changes = max(len(_CHANGES), round(self._count * fraction))
        pairs = births = max(2, changes // 20)
        late = pairs // 5 + 1
        moments = iter(self._moments(since, self._loaded, 1 + changes + vanish + pairs))

        settled = self._settle(next(moments))
        drawn = self._drawn(rng)
        changed = list(islice(drawn, changes))
        for kind, number in zip(cycle(_CHANGES), changed, strict=False):
            self._change(kind, self._take(number).traits, next(moments), rng)
        lost = list(islice(drawn, vanish))
        for n, number in enumerate(lost):
            self._vanish(n, self._take(number).traits, next(moments))
        merged = self._merge_pairs(drawn, islice(moments, pairs - late), late=False)
        merged += self._merge_pairs(drawn, islice(moments, late), late=True)
        created = self._give_birth(births, self._moments(since, self._loaded, 100))

        touched = sorted({*settled, *changed, *lost, *merged, *created})
        with self._engine.begin() as connection:
            self._rewrite(connection, [profile for _, profile in self._profiles(touched)])
        return self._evolution(len(created), len(merged))

    # What Amberflo must have

    def expected(self) -> Iterator[Customer]:
        """Yield every customer that must exist at Amberflo after a sync, in byte order of the id.

        A customer has what its profile says and what earlier syncs left, as `observe()` remembers
        it: a customer that was sent stays, and a membership that vanished is false.
        """
        numbers = sorted(
            (customer, number)
            for number in range(self._count)
            for customer in self._customers(number)
        )
        for customer_id, number in numbers:
            profile = self._profile(number)
            assert profile is not None
            customer = self._record(profile.newest(), customer_id)
            if customer is not None:
                yield customer

    def sizes(self) -> Counter[str]:
        """Return the number of profiles in each audience, and with each computed trait."""
        sizes = Counter(dict.fromkeys(self.audiences, 0))
        for _, profile in self._profiles():
            for key, (text, _) in profile.newest().items():
                if key in self.audiences:
                    sizes[key] += text == "true"
                elif key.startswith(COMPUTED_PREFIX) and text is not None:
                    sizes[key] += 1
        return sizes

    def observe(self) -> None:
        """Remember the present state: call it after each sync, before the next `evolve()`."""
        for profile in self._kept.values():
            if profile is not None:
                self._remember(profile)
        self._observed = True

    def _remember(self, profile: Profile) -> None:
        traits = profile.newest()
        for customer_id in profile.customers():
            record = self._record(traits, customer_id)
            if record is not None:
                self._known[customer_id] = record

    def _record(self, traits: Traits, customer_id: str) -> Customer | None:
        """Return a customer; None if it was never sent, is in no audience and has no trait."""
        member: dict[str, Value] = {}
        computed: dict[str, Value] = {}
        for key, (text, _) in traits.items():
            if text is not None and key in self.audiences:
                member[key] = text == "true"
            elif text is not None and key.startswith(COMPUTED_PREFIX):
                computed[key] = _typed(text)
        known = self._known.get(customer_id)
        if known is not None:
            member = {key: False for key in self.audiences if key in known.traits} | member
        elif not computed and True not in member.values():
            return None
        name, email = (traits[key][0] if key in traits else None for key in ("name", "email"))
        return Customer(customer_id, member | computed, name, email)

    def _evolution(self, created: int, merged: int) -> Evolution:
        evolution = Evolution(set(), Counter(), Counter(), created, merged)
        for _, profile in self._profiles(self._kept if self._observed else None):
            traits = profile.newest()
            for customer_id in profile.customers():
                before = self._known.get(customer_id)
                after = self._record(traits, customer_id)
                if after is None or after == before:
                    continue
                evolution.changed.add(customer_id)
                was = before.traits if before is not None else {}
                for key in self.audiences:
                    if (is_in := after.traits.get(key) is True) != (was.get(key) is True):
                        (evolution.entered if is_in else evolution.exited)[key] += 1
        return evolution

    # The profiles

    def customer_ids(self) -> Iterator[str]:
        """Yield the ids of all customers."""
        for number in range(self._count):
            yield from self._customers(number)

    def profiles(self) -> Iterator[Profile]:
        """Yield every profile as it is now."""
        yield from (profile for _, profile in self._profiles())

    def _profiles(self, numbers: Iterable[int] | None = None) -> Iterator[tuple[int, Profile]]:
        for number in range(self._count) if numbers is None else numbers:
            profile = self._profile(number)
            if profile is not None:
                yield number, profile

    def _profile(self, number: int) -> Profile | None:
        return self._kept[number] if number in self._kept else self._born(number, self._past)

    def _customers(self, number: int) -> Sequence[str]:
        if number not in self._kept:
            return _user_ids(number, self._dice(number))
        profile = self._kept[number]
        return profile.customers() if profile is not None else ()

    def _take(self, number: int) -> Profile:
        """Return a profile that will change; first remember what `observe()` saw of it."""
        profile = self._profile(number)
        assert profile is not None
        if number not in self._kept:
            self._kept[number] = profile
            if self._observed:
                self._remember(profile)
        return profile

    def _drawn(self, rng: Random) -> Iterator[int]:
        """Yield the numbers of existing profiles, each once, in random order."""
        drawn: set[int] = set()
        while len(drawn) < self._count:
            number = rng.randrange(self._count)
            if number not in drawn:
                drawn.add(number)
                if self._kept.get(number, self) is not None:
                    yield number

    def _dice(self, number: int) -> bytes:
        return shake_256(b"%d/%d" % (self._seed, number)).digest(64 + 2 * len(self.audiences))

    def _born(self, number: int, moments: Sequence[Moment]) -> Profile:
        """Return the profile of a number as it is created, from the dice of the number."""
        dice = self._dice(number)
        segment_id = "use_" + dice[:27].translate(_BASE62).decode()
        first, second, third = (
            moments[(dice[n] << 8 | dice[n + 1]) % len(moments)] for n in (28, 30, 32)
        )
        slug = f"u{number:06d}"
        email = f"{slug}@example.com"
        ids = {("user_id", user_id): first for user_id in _user_ids(number, dice)}
        ids["anonymous_id", dice[34:50].hex()] = first
        ids["email", email] = second
        traits: Traits = {}
        for key, state, when in zip(self.audiences, dice[64::2], dice[65::2], strict=True):
            if state < 128:  # 30 % are in, 20 % were
                moment = moments[(when << 8 | state) % len(moments)]
                traits[key] = ("true" if state < 77 else "false", moment)
        if dice[50] < 180:
            traits[REVENUE] = (_amount(dice[51] << 8 | dice[52]), third)
        if dice[53] < 12:
            traits["total_revenue_currency"] = (("EUR", "USD", "JPY")[dice[54] % 3], third)
        elif dice[53] < 24:
            traits["total_revenue_categories"] = ('["books","toys"]', third)
        traits["plan"] = (("premium", "free")[dice[55] % 2], second)
        if dice[56] < 128:
            traits["Campaign Name"] = ("Organic", first)
        if dice[57] < 230:
            traits["first_name"] = (_FIRST[dice[58] % len(_FIRST)], first)
            traits["name"] = (_full_name(dice[58], dice[59]), first)
        if dice[60] < 230:
            traits["email"] = (email, second)
        return Profile(segment_id, ids, traits, {segment_id: first})

    # Changes of profiles

    def _give_birth(self, births: int, moments: Sequence[Moment]) -> list[int]:
        """Create profiles; one in four is not identified yet."""
        numbers = list(range(self._count, self._count + births))
        for n, number in enumerate(numbers):
            self._kept[number] = profile = self._born(number, moments)
            if n % 4 == 1:
                profile.ids = {key: at for key, at in profile.ids.items() if key[0] != "user_id"}
        self._count += births
        return numbers

    def _change(self, kind: str, traits: Traits, moment: Moment, rng: Random) -> None:
        inside = [key for key in self.audiences if traits.get(key, _NOTHING)[0] == "true"]
        outside = [key for key in self.audiences if key not in inside]
        if kind == "name":
            traits["name"] = (_full_name(rng.randrange(256), rng.randrange(256)), moment)
        elif kind == "email":
            traits["email"] = (f"moved.{rng.randrange(10**9)}@example.org", moment)
        elif kind == "revenue" or not self.audiences:
            traits[REVENUE] = (_amount(rng.randrange(1 << 16)), moment)
        elif not outside or (kind == "exit" and inside):
            traits[rng.choice(inside)] = ("false", moment)
        else:
            traits[rng.choice(outside)] = ("true", moment)

    def _vanish(self, n: int, traits: Traits, moment: Moment) -> None:
        """Remove a membership or, every other time, a computed trait: as NULL, or its row."""
        audiences = [key for key in traits if key in self.audiences]
        computed = [key for key in traits if key.startswith(COMPUTED_PREFIX)]
        if n % 2 == 0 and audiences:
            del traits[max(audiences, key=lambda key: traits[key][0] or "")]
        elif computed and n % 4 == 1:
            traits[computed[0]] = (None, moment)
        elif computed:
            del traits[computed[0]]

    def _merge_pairs(
        self, numbers: Iterator[int], moments: Iterable[Moment], *, late: bool
    ) -> list[int]:
        """Merge the next two profiles at each moment.

        If the rows come `late`, the row of `profile_merges` exists already, and the rows of the old
        profile stay until the next step.
        """
        merged = []
        for moment, winner, loser in zip(moments, numbers, numbers, strict=False):
            into, gone = self._take(winner), self._take(loser)
            both = into.traits.keys() & gone.traits.keys()
            if any(into.traits[key][1].seq == gone.traits[key][1].seq for key in both):
                continue  # both have one time, so neither is newer
            into.segments |= dict.fromkeys(gone.segments, moment)
            into.standing, self._kept[loser] = gone, None
            if not late:
                _absorb(into, moment)
            merged.append(winner)
        return merged

    def _settle(self, moment: Moment) -> list[int]:
        """Complete the merges whose rows came late."""
        late = [number for number, profile in self._profiles(self._kept) if profile.standing]
        for number in late:
            _absorb(self._take(number), moment)
        return late

    # Time

    def _moments(self, since: datetime, until: datetime, count: int) -> list[Moment]:
        """Return `count` different moments in between, in order."""
        step = (until - since) / (count + 1)
        return [self._moment(since + step * n) for n in range(1, count + 1)]

    def _moment(self, at: datetime) -> Moment:
        loaded = min(_hour(at) + timedelta(hours=1), self._loaded)
        received = min(at + timedelta(seconds=2), loaded)
        seq = (at - _EPOCH) // timedelta(microseconds=1)
        return Moment(seq, *map(self._text, (received, loaded, at)))

    def _text(self, at: datetime) -> str:
        """Return a time as SQLAlchemy stores it in SQLite, with its zone for PostgreSQL."""
        text = at.replace(tzinfo=None).isoformat(" ", "microseconds")
        return f"{text}+00" if self._postgres else text

    # The tables

    def _create(self, connection: Connection) -> None:
        if self._schema:
            connection.execute(CreateSchema(self._schema, if_not_exists=True))
        existing = inspect(connection).get_table_names(schema=self._schema or None)
        if _MARK not in existing and any(name in existing for name in _COLUMNS):
            raise ConfigError(
                f"{self._engine.url} already has tables of Profiles Sync that no sandbox made; "
                "give the sandbox a database or a schema of its own"
            )
        metadata = self._tables[_MARK].metadata
        metadata.drop_all(connection)
        metadata.create_all(connection)

    def _write(self, connection: Connection, profiles: list[Profile]) -> None:
        traits: list[tuple[object, ...]] = []
        ids: list[tuple[object, ...]] = []
        merges: list[tuple[object, ...]] = []
        for profile in profiles:
            merges += ((profile.segment_id, old, *at) for old, at in profile.segments.items())
            for each in (profile, profile.standing):
                if each is not None:
                    own = each.segment_id
                    ids += ((own, kind, value, *at) for (kind, value), at in each.ids.items())
                    traits += ((own, name, value, *at) for name, (value, at) in each.traits.items())
        self._insert(connection, self._tables["user_traits"], traits)
        self._insert(connection, self._tables["user_identifiers"], ids)
        self._insert(connection, self._tables["profile_merges"], merges)

    def _rewrite(self, connection: Connection, profiles: list[Profile]) -> None:
        segments = list(chain.from_iterable(profile.segments for profile in profiles))
        for table in map(self._tables.__getitem__, _COLUMNS):
            key = table.c.get("segment_id", table.c.canonical_segment_id)
            for start in range(0, len(segments), 10_000):
                connection.execute(delete(table).where(key.in_(segments[start : start + 10_000])))
        self._write(connection, profiles)

    def _insert(self, connection: Connection, table: Table, rows: list[tuple[object, ...]]) -> None:
        """Insert without SQLAlchemy, whose work on each value takes longer than all the rest."""
        name = connection.dialect.identifier_preparer.format_table(table)
        if self._postgres:
            driver: Any = connection.connection.driver_connection
            with driver.cursor() as cursor, cursor.copy(f"COPY {name} FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
            return
        placeholders = f"({', '.join('?' * len(table.c))})"
        ten = [tuple(chain.from_iterable(rows[n : n + 10])) for n in range(0, len(rows) - 9, 10)]
        for width, batch in ((10, ten), (1, rows[10 * len(ten) :])):
            if batch:
                values = ", ".join([placeholders] * width)
                connection.exec_driver_sql(f"INSERT INTO {name} VALUES {values}", batch)


_COLUMNS = {
    "user_traits": ("canonical_segment_id", "name", "value"),
    "user_identifiers": ("canonical_segment_id", "type", "value"),
    "profile_merges": ("canonical_segment_id", "segment_id"),
}
#: The table that marks the others as made by a sandbox, which may drop them.
_MARK = "engage_sandbox"


def _tables(schema: str) -> dict[str, Table]:
    metadata = MetaData(schema=schema or None)
    tables = {_MARK: Table(_MARK, metadata, Column("note", Text))}
    for name, columns in _COLUMNS.items():
        tables[name] = Table(
            name,
            metadata,
            *(Column(column, Text) for column in columns),
            Column("seq", BigInteger),
            Column("received_at", DateTime(timezone=True)),
            Column("uuid_ts", DateTime(timezone=True)),
            Column("timestamp", DateTime(timezone=True)),
        )
    return tables


#: The kinds of change in a step, in turn.
_CHANGES = (
    *("enter", "exit", "revenue", "enter", "exit"),
    *("name", "enter", "email", "enter", "revenue"),
)
_NOTHING: tuple[None, None] = (None, None)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BASE62 = bytes(map(ord, (digits + ascii_letters) * 4 + digits[:8]))
_FIRST = ("Ada", "Zoë", "Björn", "美咲", "Łukasz", "Grace", "Mbali", "Noor", "Siân", "Tomás", "Уля")
_LAST = ("Lovelace", "Ångström", "O'Neil", "van der Berg", "佐藤", "Nowak", "de la Cruz", "Hopper")
#: Ids that break programs which build URLs or CSV carelessly, or expect ASCII.
_AWKWARD = (
    "ünï-{}",
    "用户{}",
    "🦊{}",
    "org/{}/eu",
    "user {}",
    "first+{}@example.com",
    "100%25{}",
    'o\'neil "{}"',
    "back\\slash|{}",
    "Z{}?a=1&b#c",
)


def _user_ids(number: int, dice: bytes) -> tuple[str, ...]:
    """Return the user ids of a profile: mostly one; 5 % have none, 3 % two, 3 % an awkward one."""
    if dice[61] < 13:
        return ()
    plain = f"u{number:06d}"
    odd = dice[62] < 8
    first = (
        _AWKWARD[(dice[62] + dice[63]) % len(_AWKWARD)].format(f"{number:06d}") if odd else plain
    )
    return (first, f"crm-{number:06d}") if dice[63] < 8 else (first,)


def _audience_keys(count: int) -> tuple[str, ...]:
    return (
        *AUDIENCES[:count],
        *(f"audience_{n:03d}" for n in range(len(AUDIENCES) + 1, count + 1)),
    )


def _amount(cents: int) -> str:
    return f"{cents / 100:.10g}"


def _full_name(first: int, last: int) -> str:
    return f"{_FIRST[first % len(_FIRST)]} {_LAST[last % len(_LAST)]}"


def _hour(at: datetime) -> datetime:
    return at.replace(minute=0, second=0, microsecond=0)


def _wins(row: tuple[object, Moment], other: tuple[object, Moment] | None) -> bool:
    return other is None or row[1].seq > other[1].seq


def _absorb(profile: Profile, moment: Moment) -> None:
    """Take over the rows of the merged profile with their own times, loaded at this moment."""
    gone = profile.standing
    assert gone is not None
    for name, (value, at) in gone.traits.items():
        if _wins((value, at), profile.traits.get(name)):
            profile.traits[name] = (value, at._replace(uuid_ts=moment.uuid_ts))
    for key, at in gone.ids.items():
        profile.ids[key] = at._replace(uuid_ts=moment.uuid_ts)
    profile.standing = None


def _typed(text: str) -> Value:
    """Return a boolean, a number or a list for a text that reads as one; else the text."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    return value if isinstance(value, bool | int | float | list) else text
