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

from syncer.engage.catalog import AUDIENCE, READINGS, Catalog, KnownTrait, Reading, newest
from syncer.engage.source import PulledCustomer
from syncer.engage.values import Value, is_null, milliseconds
from syncer.errors import SourceError


class Known(NamedTuple):
    """A customer as the snapshot has it; `traits` is canonical JSON."""

    customer_id: str
    traits: str
    name: str | None
    email: str | None


class TraitChange(NamedTuple):
    """One trait of one customer; None stands for absent. `observed_at` is Segment's time in
    epoch milliseconds, None for a row that vanished."""

    key: str
    trait: str
    before: Value | None
    after: Value | None
    observed_at: int | None


class CustomerChange(NamedTuple):
    """A customer that differs: all that Amberflo should hold of ours from now on."""

    customer_id: str
    known: bool
    traits: dict[str, Value]
    name: str | None
    email: str | None
    changes: list[TraitChange]


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
        self.sums: dict[str, Sums] = {key: Sums() for key in catalog.keys}
        self.new = self.changed = self.unchanged = 0
        #: customers and trait rows that the source gave, to hold against its own count
        self.customers = self.rows = 0
        self._same: Counter[Reading] = Counter()

    def same(self, reading: Reading) -> None:
        """A customer whose traits did not change."""
        self._same[reading] += 1
        if len(self._same) > READINGS:
            self.close()

    def close(self) -> None:
        """Spread the counted readings over their traits."""
        for reading, times in self._same.items():
            skipped = dict(reading.skipped)
            for key in reading.keys:
                sums = self.sums[key]
                sums.pulled += times
                if key in skipped:
                    sums.reasons[skipped[key]] += times
                else:
                    sums.unchanged += times
        self._same.clear()


Pair = tuple[PulledCustomer | None, Known | None]


def merge(pulled: Iterable[PulledCustomer], snapshot: Iterable[Known]) -> Iterator[Pair]:
    """Full outer join of the two sorted streams: a customer of the snapshot that the pull does
    not have comes as (None, known)."""
    known_ones = iter(snapshot)
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


def look_up(
    pulled: Iterable[PulledCustomer],
    find: Callable[[Collection[str]], Iterable[Known]],
    at_a_time: int = 500,
) -> Iterator[Pair]:
    """Pair a part of the customers with the snapshot, for runs that do not pull all of them."""
    rows = iter(pulled)
    while chunk := list(islice(rows, at_a_time)):
        known = {one.customer_id: one for one in find([row.customer_id for row in chunk])}
        for row in chunk:
            yield row, known.get(row.customer_id)


def compare(pairs: Iterable[Pair], catalog: Catalog, tally: Tally) -> Iterator[CustomerChange]:
    """The customers that differ, in order; `tally` counts all."""
    read = catalog.read
    for row, known in pairs:
        if row is None:
            assert known is not None
            change = _vanished(known, catalog, tally)
            if change is not None:
                yield change
            continue
        tally.customers += 1
        reading = read(row.keys, row.values)
        tally.rows += reading.rows
        times = row.times
        if reading.twice:
            keys, values, times = newest(row.keys, row.values, row.times)
            reading = read(keys, values)
        name = email = None
        if row.profile != "[]":
            name, email, profile_rows = _profile(row.profile)
            tally.rows += profile_rows
        if known is None:
            if reading.somebody:
                tally.new += 1
                changes = _differences(reading, {}, times, catalog, tally)
                yield CustomerChange(row.customer_id, False, reading.traits, name, email, changes)
            else:
                tally.same(reading)
            continue
        name, email = name or known.name, email or known.email
        if reading.text == known.traits:
            tally.same(reading)
            if name == known.name and email == known.email:
                tally.unchanged += 1
                continue
            traits, changes = reading.traits, []
        else:
            before = orjson.loads(known.traits)
            traits = _carry_over(reading, before, catalog)
            changes = _differences(reading, before, times, catalog, tally, traits)
            if not changes and name == known.name and email == known.email:
                tally.unchanged += 1
                continue
        tally.changed += 1
        yield CustomerChange(row.customer_id, True, traits, name, email, changes)
    tally.close()


def _carry_over(reading: Reading, before: dict[str, Value], catalog: Catalog) -> dict[str, Value]:
    """What the reading says, and what the snapshot has that the reading leaves open.

    A membership that is gone or null is false from now on (design §3); a computed trait that is
    gone is dropped; what could not be read, or is of no trait of ours, stays as it was.
    """
    unread = {key for key, _ in reading.skipped}
    traits = dict(reading.traits)
    for name, value in before.items():
        if name in traits:
            continue
        trait = catalog.by_name.get(name)
        if trait is None or trait.key in unread:
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
    observed = dict(zip(reading.keys, orjson.loads(times), strict=True))
    skipped = dict(reading.skipped)
    changes: list[TraitChange] = []
    for key in reading.keys:
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
    there = {trait.name for key in reading.keys if (trait := catalog.by_key[key])}
    for name in before.keys() - there:
        change = _gone(name, before[name], after.get(name), catalog, tally)
        if change is not None:
            changes.append(change)
    changes.sort(key=lambda change: change.trait)
    return changes


def _vanished(known: Known, catalog: Catalog, tally: Tally) -> CustomerChange | None:
    """A customer that a whole pull does not have any more."""
    before: dict[str, Value] = orjson.loads(known.traits)
    after = _carry_over(Reading(), before, catalog)
    found = [
        change
        for name in sorted(before)
        if (change := _gone(name, before[name], after.get(name), catalog, tally)) is not None
    ]
    if not found:
        tally.unchanged += 1
        return None
    tally.changed += 1
    return CustomerChange(known.customer_id, True, after, known.name, known.email, found)


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


def _count(sums: Sums, trait: KnownTrait, was: Value | None, now: Value | None) -> None:
    if trait.kind != AUDIENCE:
        sums.changed += 1
        sums.dropped += now is None
    elif now is True:
        sums.entered += 1
    elif was is True:
        sums.exited += 1
    else:
        sums.changed += 1  # absent → false: Amberflo learns of it, nobody entered or left


def same(one: Value | None, other: Value | None) -> bool:
    """Equal as JSON: in Python True == 1, at Amberflo they differ."""
    return one is other or orjson.dumps(one) == orjson.dumps(other)


def _profile(text: str) -> tuple[str | None, str | None, int]:
    """Name and email, the newest of each, and how many rows there were."""
    rows = orjson.loads(text)
    found: dict[str, tuple[int, str | None]] = {}
    for key, value, time in rows:
        if len(rows) > 2:
            at = milliseconds(time) or 0
            if key in found and at < found[key][0]:
                continue
        else:
            at = 0
        found[key] = (at, None if is_null(value) else str(value))
    name, email = found.get("name"), found.get("email")
    return name and name[1], email and email[1], len(rows)
