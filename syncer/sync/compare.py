"""The comparison: what Engage says now against the snapshot, as a stream of changes.

Pure, no I/O. Both sides come in UTF-8 byte order of the customer id (which is the order of Python
strings), so one walk over the two finds all (facts/craft.md §5). Most customers did not change:
for them one text equals another and nothing is parsed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import orjson

from syncer.engage.catalog import AUDIENCE, READINGS, Catalog, KnownTrait, Layout, Reading, newest
from syncer.engage.source import PulledCustomer
from syncer.engage.values import Value, is_null
from syncer.errors import SourceError, SyncerError
from syncer.times import read as milliseconds
from syncer.times import since_1970

#: A customer as the snapshot has it: id, traits (canonical JSON), name, email, and the JSON of the
#: Segment times of what came by a call (None: nothing did). Any tuple of these will do, so that a
#: million rows need not be copied into a class of ours.
Known = tuple[str, str, str | None, str | None, str | None]


class TraitChange(NamedTuple):
    """One trait of one customer; None stands for absent. `observed_at` is Segment's time in
    epoch milliseconds, None for a row that vanished."""

    key: str
    trait: str
    before: Value | None
    after: Value | None
    observed_at: int | None


class CustomerChange(NamedTuple):
    """A customer that differs: the traits of Engage that Amberflo should hold from now on, and the
    name and email where they change, each with Segment's time of it (epoch milliseconds)."""

    customer_id: str
    known: bool
    traits: dict[str, Value]
    name: str | None
    email: str | None
    changes: list[TraitChange]
    name_at: int = 0
    email_at: int = 0


@dataclass
class Sums:
    """What became of one trait's values in a run.

    pulled = unchanged + entered + exited + changed + skipped. A membership or value whose row
    vanished counts as pulled too, and is told in `vanished`.
    """

    pulled: int = 0
    entered: int = 0
    exited: int = 0
    changed: int = 0
    unchanged: int = 0
    vanished: int = 0
    #: computed traits that lost their value; they are in `changed`
    dropped: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def skipped(self) -> int:
        return self.reasons.total()

    @property
    def differing(self) -> int:
        return self.entered + self.exited + self.changed

    @property
    def leaving(self) -> int:
        """Members that would leave: exits of an audience, lost values of a computed trait."""
        return self.exited + self.dropped


class Tally:
    """Counts while the comparison streams; complete after `close`."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.sums: dict[str, Sums] = {key: Sums() for key in catalog.by_key}
        self.new = self.changed = self.unchanged = 0
        #: customers and trait rows that the source gave, to hold against its own count
        self.customers = self.rows = 0
        #: customers whose traits did not change, by the keys they have
        self.unchanged_layouts: Counter[Layout] = Counter()

    def same(self, reading: Reading) -> None:
        """A customer whose traits did not change."""
        if reading.skipped:
            for key, reason in reading.skipped:
                self.sums[key].reasons[reason] += 1
                self.sums[key].unchanged -= 1  # the layout counts it as such
        self.unchanged_layouts[reading.layout] += 1

    def recount(self, counted: TraitChange, made: TraitChange | None) -> None:
        """A change that was counted came to another one in the end, or (None) to none."""
        sums, trait = self.sums[counted.key], self.catalog.by_key[counted.key]
        _count(sums, trait, counted.before, counted.after, -1)
        if made is None:
            sums.unchanged += 1
        else:
            _count(sums, trait, made.before, made.after)

    def close(self) -> None:
        """Spread the counted layouts over their traits."""
        for layout, times in self.unchanged_layouts.items():
            for key in layout.keys:
                self.sums[key].pulled += times
                self.sums[key].unchanged += times
        self.unchanged_layouts.clear()


#: What is read of a customer that the pull does not have.
NOTHING = Reading(Layout(), {}, "{}", [], [], False)

Pair = tuple[PulledCustomer | None, Known | None]


def merge(pulled: Iterable[PulledCustomer], snapshot: Iterable[Known]) -> Iterator[Pair]:
    """Full outer join of the two sorted streams: a customer of the snapshot that the pull does
    not have comes as (None, known)."""
    known_ones = _in_order(snapshot)
    known = next(known_ones, None)
    last = ""
    for row in pulled:
        customer_id = row[0]
        if customer_id <= last:
            raise SourceError(
                f"the pull is out of order: {customer_id!r} came after {last!r}; it must be in "
                "UTF-8 byte order, each customer once"
            )
        last = customer_id
        while known is not None and known[0] < customer_id:
            yield None, known
            known = next(known_ones, None)
        if known is not None and known[0] == customer_id:
            yield row, known
            known = next(known_ones, None)
        else:
            yield row, None
    while known is not None:
        yield None, known
        known = next(known_ones, None)


def _in_order(snapshot: Iterable[Known]) -> Iterator[Known]:
    last = ""
    for known in snapshot:
        if known[0] < last:
            raise SyncerError(
                f"the snapshot is out of order: {known[0]!r} came after {last!r}; "
                "nothing was changed"
            )
        last = known[0]
        yield known


def look_up(
    pulled: Iterable[PulledCustomer],
    find: Callable[[Collection[str]], Iterable[Known]],
    at_a_time: int = 500,
) -> Iterator[Pair]:
    """Pair a part of the customers with the snapshot, for runs that do not pull all of them."""
    rows = iter(pulled)
    while chunk := list(islice(rows, at_a_time)):
        known = {one[0]: one for one in find([row.customer_id for row in chunk])}
        for row in chunk:
            yield row, known.get(row.customer_id)


def compare(
    pairs: Iterable[Pair], catalog: Catalog, tally: Tally, horizon: int = 0
) -> Iterator[CustomerChange]:
    """The customers that differ, in order; `tally` counts all.

    What came by a call that is newer than the pulled row stays; so does, where the pull has no row,
    what came after `horizon` (epoch milliseconds): the pull may not know of it yet.
    """
    read, loads, unchanged = catalog.read, orjson.loads, tally.unchanged_layouts
    for row, known in pairs:
        if len(unchanged) > READINGS:
            tally.close()
        if row is None:
            assert known is not None
            change = _vanished(known, catalog, tally, horizon)
            if change is not None:
                yield change
            continue
        customer_id, keys, values, times, profile = row
        reading = read(keys, values)
        people = loads(profile)
        tally.customers += 1
        tally.rows += len(reading.layout.keys) + len(people)
        if reading.layout.twice:
            keys, values, times = newest(keys, values, times)
            reading = read(keys, values)
        if known is None:
            if reading.somebody:
                tally.new += 1
                changes = _differences(reading, {}, times, catalog, tally)
                name, email, *times_of = _name_and_email(people, None)
                yield CustomerChange(
                    customer_id, False, reading.traits, name, email, changes, *times_of
                )
            else:
                tally.same(reading)
            continue
        _, known_traits, known_name, known_email, known_stamps = known
        # The usual customer has one row of each, as they are known: nothing to find out.
        if (
            len(people) == 2
            and people[0][1] == known_email
            and people[1][1] == known_name
            and people[0][0] == "email"
            and people[1][0] == "name"
        ):
            name = email = None
            times_of = []
        else:
            name, email, *times_of = _name_and_email(people, known_stamps)
            name = name if name != known_name else None
            email = email if email != known_email else None
        if reading.text == known_traits:
            if reading.skipped:
                tally.same(reading)
            else:
                unchanged[reading.layout] += 1
            traits, changes = reading.traits, []
        else:
            before = loads(known_traits)
            newer = _newer(reading, before, times, known_stamps, horizon)
            traits = _carry_over(reading, before, catalog, newer)
            changes = _differences(reading, before, times, catalog, tally, traits)
        if not changes and name is None and email is None:
            tally.unchanged += 1
            continue
        tally.changed += 1
        yield CustomerChange(customer_id, True, traits, name, email, changes, *times_of)
    tally.close()


def _newer(
    reading: Reading, before: dict[str, Value], times: str, stamps_text: str | None, horizon: int
) -> set[str]:
    """Names with a value from a call that the pull must not undo: the newest Segment time wins."""
    if stamps_text is None:
        return set()
    stamps = {name: one.at for name, one in read_stamps(stamps_text).items()}
    found = set()
    for place, time in zip(reading.layout.places, orjson.loads(times), strict=True):
        if stamps.get(place.name, 0) > since_1970(time):
            found.add(place.name)
    pulled = {place.name for place in reading.layout.places}
    found |= {name for name in before if name not in pulled and stamps.get(name, 0) > horizon}
    return found


def _carry_over(
    reading: Reading, before: dict[str, Value], catalog: Catalog, newer: Collection[str]
) -> dict[str, Value]:
    """What the reading says, and what the snapshot has that the reading leaves open.

    A membership that is gone or null is false from now on (design §3); a computed trait that is
    gone is dropped; what could not be read, is `newer`, or is of no trait of ours, stays as it was.
    """
    unread = {key for key, _ in reading.skipped}
    traits = {name: value for name, value in reading.traits.items() if name not in newer}
    for name, value in before.items():
        if name in traits:
            continue
        trait = catalog.by_name.get(name)
        if trait is None or trait.key in unread or name in newer:
            traits[name] = value
        elif trait.kind == AUDIENCE:
            traits[name] = False
    return traits


def _differences(
    reading: Reading,
    before: dict[str, Value],
    times: str,
    catalog: Catalog,
    tally: Tally,
    after: dict[str, Value] | None = None,
) -> list[TraitChange]:
    """The traits that differ, by name; counts every trait of the customer."""
    after = reading.traits if after is None else after
    keys = reading.layout.keys
    observed = dict(zip(keys, orjson.loads(times), strict=True))
    skipped = dict(reading.skipped)
    changes: list[TraitChange] = []
    for key in keys:
        sums = tally.sums[key]
        sums.pulled += 1
        if key in skipped:
            sums.reasons[skipped[key]] += 1
            continue
        trait = catalog.by_key[key]
        was, now = before.get(trait.name), after.get(trait.name)
        if same(was, now):
            sums.unchanged += 1
        else:
            _count(sums, trait, was, now)
            changes.append(TraitChange(key, trait.name, was, now, milliseconds(observed[key])))
    there = {place.name for place in reading.layout.places}
    for name in before.keys() - there:
        change = _gone(name, before[name], after.get(name), catalog, tally)
        if change is not None:
            changes.append(change)
    changes.sort(key=lambda change: change.trait)
    return changes


def _vanished(known: Known, catalog: Catalog, tally: Tally, horizon: int) -> CustomerChange | None:
    """A customer that a whole pull does not have any more."""
    customer_id, known_traits, _, _, stamps = known
    before: dict[str, Value] = orjson.loads(known_traits)
    newer = _newer(NOTHING, before, "[]", stamps, horizon)
    after = _carry_over(NOTHING, before, catalog, newer)
    found = [
        change
        for trait in sorted(before)
        if (change := _gone(trait, before[trait], after.get(trait), catalog, tally)) is not None
    ]
    if not found:
        tally.unchanged += 1
        return None
    tally.changed += 1
    return CustomerChange(customer_id, True, after, None, None, found)


def _gone(
    name: str, was: Value, now: Value | None, catalog: Catalog, tally: Tally
) -> TraitChange | None:
    """A trait of the snapshot that the pull has no row of."""
    if same(was, now):
        return None
    trait = catalog.by_name[name]
    sums = tally.sums[trait.key]
    sums.pulled += 1
    sums.vanished += 1
    _count(sums, trait, was, now)
    return TraitChange(trait.key, name, was, now, None)


def _count(
    sums: Sums, trait: KnownTrait, was: Value | None, now: Value | None, by: int = 1
) -> None:
    if trait.kind != AUDIENCE:
        sums.changed += by
        sums.dropped += by * (now is None)
    elif now is True:
        sums.entered += by
    elif was is True:
        sums.exited += by
    else:
        sums.changed += by  # absent → false: Amberflo learns of it, nobody entered or left


def same(one: Value | None, other: Value | None) -> bool:
    """Equal as JSON: in Python True == 1, at Amberflo they differ."""
    return one is other or orjson.dumps(one) == orjson.dumps(other)


class Stamp(NamedTuple):
    """When a call said a value, by its own time and by its receipt (epoch milliseconds)."""

    at: int
    received: int


def read_stamps(text: str | None) -> dict[str, Stamp]:
    """The stamps of a customer, by trait, `name` or `email` (see `tables.Customer`)."""
    found = orjson.loads(text or "{}")
    return {
        name: Stamp(*one) if isinstance(one, list) else Stamp(one, one)
        for name, one in found.items()
    }


def _name_and_email(
    rows: list[tuple[str, object, object]], stamps_text: str | None
) -> tuple[str | None, str | None, int, int]:
    """The newest of each, None where a call said a newer one, and their times; rows are (key,
    value, time)."""
    stamps = {name: one.at for name, one in read_stamps(stamps_text).items()}
    timed = sorted(((since_1970(time), key, value) for key, value, time in rows), key=_at)
    found = {key: (value, at) for at, key, value in timed if at >= stamps.get(key, 0)}
    (name, name_at), (email, email_at) = (found.get(key, (None, 0)) for key in ("name", "email"))
    return _text(name), _text(email), name_at, email_at


def _at(row: tuple[int, str, object]) -> int:
    return row[0]


def _text(value: object) -> str | None:
    return None if is_null(value) else str(value)
