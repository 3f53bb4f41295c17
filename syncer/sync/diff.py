"""The comparison: what Engage says now against the snapshot, as a stream of changes.

Pure, no I/O. Both sides come in UTF-8 byte order of the customer id (which is the order of Python
strings), so one walk over the two finds all (docs/design.md §6). Most customers did not change:
for them one text equals another and nothing is parsed.

That a row is missing says something only where all customers are pulled. A comparison of a part
applies what the rows say, and leaves what has no row as it is (docs/design.md §3.11).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import orjson

from syncer.amberflo.record import alike, at_amberflo
from syncer.chunks import CHUNK, chunks
from syncer.clock import read as milliseconds
from syncer.clock import since_1970
from syncer.engage.catalog import Catalog, KnownTrait, Layout, Reading, newest
from syncer.engage.computations import AUDIENCE, Kind
from syncer.engage.selection import PROFILE_KEYS
from syncer.engage.source import Counted, PulledCustomer
from syncer.engage.values import (
    Value,
    boolean,
    is_null,
    is_unreadable,
    read_array,
    read_rows,
    same,
)
from syncer.errors import SourceError, SyncerError
from syncer.event_times import read_stamps
from syncer.ids import cleaned, problem

#: A customer as the snapshot has it: id, traits (canonical JSON), name, email, the JSON of the
#: times of what came by a call (None: nothing did), the number of its state, and the first run that
#: pulled it with all others (None: none did). Any tuple of these will do, so that a million rows
#: need not be copied into a class of ours.
Known = tuple[str, str, str | None, str | None, str | None, int, int | None]

#: Ids that a notice shows.
EXAMPLES = 3
#: Of so many keys layouts are counted before they are spread over their traits.
KEYS_COUNTED = 500_000
#: A horizon that no call is newer than: Engage wins in everything.
ENGAGE_WINS = 2**63 - 1


#: The source of a change that is against what Amberflo has (see `tables.SOURCES`).
AMBERFLO, DELETED = "amberflo", "deleted"
#: What was decided on a change before this run, or by it: see state/holds.py.
Ruling = Literal["approved", "rejected"]


class TraitChange(NamedTuple):
    """One trait of one customer; None stands for absent. `observed_at` is Segment's time in
    epoch milliseconds, None for a row that vanished. `source` is as in `tables.SOURCES`: where it
    is "amberflo", `before` is what Amberflo has, and `recorded` what the snapshot has instead."""

    key: str
    trait: str
    before: Value | None
    after: Value | None
    observed_at: int | None
    source: str | None = None
    recorded: Value | None = None
    ruling: Ruling | None = None

    @property
    def was(self) -> Value | None:
        """What the snapshot has before."""
        return self.recorded if self.source == AMBERFLO else self.before


class CustomerChange(NamedTuple):
    """A customer that differs: the traits of Engage that Amberflo should hold from now on, and the
    name and email where they change ("": taken away), each with Segment's time of it (epoch
    milliseconds). `deleted` says that Segment has no identifier of it left, and `ruling` what was
    decided on that."""

    customer_id: str
    known: bool
    traits: dict[str, Value]
    name: str | None
    email: str | None
    changes: list[TraitChange]
    name_at: int = 0
    email_at: int = 0
    deleted: bool = False
    ruling: Ruling | None = None
    #: a run that compares all has pulled it
    compared: bool = False


class DestinationState(NamedTuple):
    """What Amberflo has of a customer, all its traits by name, where that is not what the snapshot
    has: `rev` is the number of the customer's state that it was held against (None: unknown);
    `missing`: Amberflo has no record of it any more; `judged` are the names that this is about
    (None: all)."""

    rev: int | None
    traits: Mapping[str, Any]
    missing: bool = False
    judged: Collection[str] | None = None


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
    #: members that Amberflo has and the snapshot does not know
    found: int = 0
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
        #: customers among these that have an identifier there and no row of a trait
        self.silent = 0
        self.counted: Counted | None = None
        #: customers that were to be forgotten, and that Segment has again
        self.returned: list[str] = []
        #: customers that Segment may have deleted, and of whom a call came that it may not know yet
        self.unconfirmed_deletions: list[str] = []
        #: customers known before, and those that were deleted in Segment
        self.known = self.deleted = 0
        #: values that Amberflo has under names of ours and the snapshot does not know of
        self.first_contact = 0
        #: ids that can be no customer's, by the reason, and some of them
        self.unusable: Counter[str] = Counter()
        self.examples: list[str] = []
        #: names and emails that cannot be read
        self.unread = 0
        #: customers whose traits did not change, by the keys they have
        self.unchanged_layouts: Counter[Layout] = Counter()

    def same(self, reading: Reading) -> None:
        """A customer whose traits did not change."""
        if reading.skipped:
            for key, reason in reading.skipped:
                self.sums[key].reasons[reason] += 1
                self.sums[key].unchanged -= 1  # the layout counts it as such
        self.unchanged_layouts[reading.layout] += 1

    def leave_out(self, row: PulledCustomer, reason: str) -> None:
        """A customer that is not looked at: what was pulled of it is skipped."""
        keys = orjson.loads(row.keys)
        self.customers += 1
        self.rows += len(keys) + len(read_rows(row.profile))
        for key in set(keys):
            self.sums[key].pulled += 1
            self.sums[key].reasons[reason] += 1

    def leave_out_id(self, row: PulledCustomer, reason: str) -> None:
        """A customer whose id can be none."""
        self.leave_out(row, reason)
        self.unusable[reason] += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(row.customer_id[:40])

    def recount(self, counted: TraitChange, made: TraitChange | None) -> None:
        """A change that was counted came to another one in the end, or (None) to none."""
        sums, trait = self.sums[counted.key], self.catalog.by_key[counted.key]
        _count(sums, trait, counted, -1)
        if made is None:
            sums.unchanged += 1
        else:
            _count(sums, trait, made)

    def close(self) -> None:
        """Spread the counted layouts over their traits."""
        for layout, times in self.unchanged_layouts.items():
            for key in layout.keys:
                self.sums[key].pulled += times
                self.sums[key].unchanged += times
        self.unchanged_layouts.clear()


#: What is read of a customer that the pull does not have.
NOTHING = Reading(Layout(), {}, "{}", [], [], False)

#: A customer as Engage has it, as the snapshot has it, and as Amberflo has it where that is looked
#: at and differs. `GONE` is a customer that Engage deleted, None one that the pull does not have.
Pair = tuple[PulledCustomer | None, Known | None, DestinationState | None]

#: Stands for the row of a customer that was deleted in Segment.
GONE = PulledCustomer("", "", "", "", "")


#: What a value or a change takes beside its text.
_ONE = 300


def size_of(change: CustomerChange) -> int:
    """About the bytes that a change takes."""
    texts = sum(len(value) for value in change.traits.values() if isinstance(value, str | list))
    return _ONE * (len(change.traits) + len(change.changes)) + 2 * texts


def size_of_row(row: PulledCustomer) -> int:
    """About the bytes that a pulled row takes."""
    return sum(map(len, row))


def size_of_pair(pair: Pair) -> int:
    """About the bytes that a pair takes, with what is looked up of it."""
    row, known, _ = pair
    return (0 if row is None else size_of_row(row)) + (0 if known is None else 3 * len(known[1]))


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
            yield None, known, None
            known = next(known_ones, None)
        if known is not None and known[0] == customer_id:
            yield row, known, None
            known = next(known_ones, None)
        else:
            yield row, None, None
    while known is not None:
        yield None, known, None
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
    at_a_time: int = CHUNK,
) -> Iterator[Pair]:
    """Pair a part of the customers with the snapshot, for runs that do not pull all of them."""
    for chunk in chunks(iter(pulled), size_of_row, most=at_a_time):
        ids = [row.customer_id for row in chunk if problem(row.customer_id) is None]
        known = {one[0]: one for one in find(ids)}
        for row in chunk:
            yield row, known.get(row.customer_id), None


def with_usable_ids(pairs: Iterable[Pair], tally: Tally) -> Iterator[Pair]:
    """The same pairs less those whose row has an id that can be no customer's: they are counted,
    and what is known of them stays as it is."""
    for pair in pairs:
        row = pair[0]
        if row is None or (reason := problem(row[0])) is None:
            yield pair
        else:
            tally.leave_out_id(row, reason)


def compare(
    pairs: Iterable[Pair],
    catalog: Catalog,
    tally: Tally,
    horizon: int = 0,
    *,
    whole: bool = True,
    forget: bool = False,
) -> Iterator[CustomerChange]:
    """The customers that differ, in order; `tally` counts all. `whole` says that all customers are
    pulled, so that a missing row means something; `forget` that who was deleted in Segment is to be
    forgotten, so such a customer comes also where none of its traits changes.

    Calls are provisional: what one said of a trait stays where it came after `horizon` (epoch
    milliseconds), unless the pull has a row that is newer: the pull may not know of it yet. Of name
    and email the newest counts, whoever said it.
    """
    read, remembered, loads = catalog.read, catalog.remembered, orjson.loads
    unchanged = tally.unchanged_layouts
    most = KEYS_COUNTED // (len(catalog.by_key) + 1)
    for row, known, seen in pairs:
        if len(unchanged) > most:
            tally.close()
        if row is None or row is GONE:
            assert known is not None
            change = _vanished(known, seen, catalog, tally, horizon, deleted=row is GONE)
            if change.changes or (forget and change.deleted):
                tally.changed += 1
                yield change
            else:
                tally.unchanged += 1
            continue
        customer_id, keys, values, times, profile = row
        reading = remembered((keys, values)) or read(keys, values)
        try:
            people = loads(profile)
        except orjson.JSONDecodeError:
            people = read_rows(profile)
        tally.customers += 1
        tally.rows += len(reading.layout.keys) + len(people)
        if reading.layout.twice:
            keys, values, times = newest(keys, values, times)
            reading = read(keys, values)
        if known is None:
            # Amberflo may have somebody whom nobody told us of: a member who left before.
            there = {} if seen is None else ours(seen, catalog, {})
            traits = _carry_over(reading, there, catalog, (), whole=whole)
            if reading.somebody or any(not same(there[name], traits.get(name)) for name in there):
                tally.new += 1
                changes = _differences(reading, {}, times, catalog, tally, traits, there)
                people = _readable(people, tally)
                name, email, name_at, email_at = _name_and_email(people, None, horizon)
                name, email = name or None, email or None
                yield CustomerChange(
                    customer_id,
                    False,
                    traits,
                    name,
                    email,
                    changes,
                    name_at,
                    email_at,
                    compared=whole,
                )
            else:
                tally.same(reading)
            continue
        _, known_traits, known_name, known_email, known_stamps, rev, before_run = known
        # The usual customer has one row of each, as they are known: nothing to find out.
        if (
            len(people) == 2
            and people[0][1] == known_email
            and people[1][1] == known_name
            and people[0][0] == "email"
            and people[1][0] == "name"
        ):
            name = email = None
            name_at = email_at = 0
        else:
            people = _readable(people, tally)
            name, email, name_at, email_at = _name_and_email(people, known_stamps, horizon)
            name = _changed(known_name, name)
            email = _changed(known_email, email)
        if seen is not None and seen.rev != rev:
            seen = None  # it changed since: what Amberflo has is of before that
        if reading.text == known_traits and seen is None:
            if reading.skipped:
                tally.same(reading)
            else:
                unchanged[reading.layout] += 1
            traits, changes = reading.traits, []
        else:
            before = loads(known_traits)
            there = before if seen is None else ours(seen, catalog, before)
            newer = _newer(reading, before, times, known_stamps, horizon)
            traits = _carry_over(reading, there | before, catalog, newer, whole=whole)
            changes = _differences(reading, before, times, catalog, tally, traits, there)
        if changes or name is not None or email is not None:
            tally.changed += 1
        else:
            tally.unchanged += 1
            if before_run is not None or not whole:
                continue  # else it is to be noted that it was pulled
        yield CustomerChange(
            customer_id, True, traits, name, email, changes, name_at, email_at, compared=whole
        )
    tally.close()


def ours(
    seen: DestinationState, catalog: Catalog, recorded: Mapping[str, Value]
) -> dict[str, Value]:
    """What Amberflo has under names of ours: as it is recorded where it may be stored so, else as
    it reads."""
    judged = seen.judged
    found: dict[str, Value] = (
        {} if judged is None else {name: recorded[name] for name in recorded if name not in judged}
    )
    for name, value in seen.traits.items():
        trait = catalog.by_name.get(name)
        if trait is None or value is None or not (judged is None or name in judged):
            continue
        if name in recorded and alike(at_amberflo(recorded[name]), value):
            found[name] = recorded[name]
        elif trait.kind == AUDIENCE and (member := boolean(value)) is not None:
            found[name] = member
        else:
            found[name] = value
    return found


def _newer(
    reading: Reading, before: dict[str, Value], times: str, stamps_text: str | None, horizon: int
) -> set[str]:
    """Names with a value from a call that the pull cannot know of yet."""
    if stamps_text is None:
        return set()
    stamps = read_stamps(stamps_text)
    provisional = {name: one.at for name, one in stamps.items() if one.received > horizon}
    for place, time in zip(reading.layout.places, read_array(times), strict=True):
        if provisional.get(place.name, -1) < since_1970(time):
            provisional.pop(place.name, None)
    return {name for name in provisional if name in before or name in reading.traits}


def _carry_over(
    reading: Reading,
    before: dict[str, Value],
    catalog: Catalog,
    newer: Collection[str],
    *,
    whole: bool,
) -> dict[str, Value]:
    """What the reading says, and what the snapshot has that the reading leaves open.

    A membership that is null, or gone where all are pulled, is false from now on
    (docs/design.md §3.4); a computed trait, and what is no membership under an audience's name, is
    dropped. What could not be read, is `newer`, or is of no trait of ours, stays as it was.
    """
    unread = {key for key, _ in reading.skipped}
    traits = {name: value for name, value in reading.traits.items() if name not in newer}
    said = set(reading.nulls)
    for name, value in before.items():
        if name in traits:
            continue
        trait = catalog.by_name.get(name)
        if (
            trait is None
            or name in newer
            or trait.key in unread
            or not (whole or trait.key in said)
        ):
            traits[name] = value
        elif trait.kind == AUDIENCE and isinstance(value, bool):
            traits[name] = False
    return traits


def _differences(
    reading: Reading,
    before: dict[str, Value],
    times: str,
    catalog: Catalog,
    tally: Tally,
    after: dict[str, Value],
    there: dict[str, Value],
) -> list[TraitChange]:
    """The traits that differ, by name; counts every trait of the customer. `before` is recorded,
    `there` is what Amberflo has."""
    keys = reading.layout.keys
    observed = dict(zip(keys, read_array(times), strict=True))
    skipped = dict(reading.skipped)
    changes: list[TraitChange] = []
    for key in keys:
        sums = tally.sums[key]
        sums.pulled += 1
        if key in skipped:
            sums.reasons[skipped[key]] += 1
            continue
        name, at = catalog.by_key[key].name, milliseconds(observed[key])
        change = _difference(name, before, there, after, catalog, tally, at)
        if change is None:
            sums.unchanged += 1
        else:
            changes.append(change)
    places = {place.name for place in reading.layout.places}
    for name in (before.keys() | there.keys()) - places:
        change = _gone(name, before, there, after, catalog, tally)
        if change is not None:
            changes.append(change)
    changes.sort(key=lambda change: change.trait)
    return changes


def _difference(
    name: str,
    before: Mapping[str, Value],
    there: Mapping[str, Value],
    after: Mapping[str, Value],
    catalog: Catalog,
    tally: Tally,
    observed_at: int | None,
) -> TraitChange | None:
    """What becomes of a trait; counts it, if it is a change."""
    was, now, has = before.get(name), after.get(name), there.get(name)
    trait = catalog.by_name[name]
    sums = tally.sums[trait.key]
    if same(was, has):
        if same(was, now):
            return None
        change = TraitChange(trait.key, name, was, now, observed_at)
    else:
        # Amberflo has something else than is recorded: the change is against that.
        change = TraitChange(trait.key, name, has, now, observed_at, AMBERFLO, was)
        tally.first_contact += has is not None
        sums.found += trait.kind == AUDIENCE and has is True and was is not True
    _count(sums, trait, change)
    return change


def _vanished(
    known: Known,
    seen: DestinationState | None,
    catalog: Catalog,
    tally: Tally,
    horizon: int,
    *,
    deleted: bool,
) -> CustomerChange:
    """A customer that a whole pull does not have any more."""
    customer_id, known_traits, _, _, stamps, rev, before_run = known
    before: dict[str, Value] = orjson.loads(known_traits)
    there = before if seen is None or seen.rev != rev else ours(seen, catalog, before)
    if before_run is None:  # Engage never knew it: what others have there is not ours to judge
        there = {name: value for name, value in there.items() if name in before}
    newer = _newer(NOTHING, before, "[]", stamps, horizon)
    after = _carry_over(NOTHING, there | before, catalog, newer, whole=True)
    found = [
        change._replace(source=change.source or (DELETED if deleted else None))
        for trait in sorted(before.keys() | there.keys())
        if (change := _gone(trait, before, there, after, catalog, tally)) is not None
    ]
    return CustomerChange(customer_id, True, after, None, None, found, deleted=deleted)


def _gone(
    name: str,
    before: Mapping[str, Value],
    there: Mapping[str, Value],
    after: Mapping[str, Value],
    catalog: Catalog,
    tally: Tally,
) -> TraitChange | None:
    """A trait of the snapshot that the pull has no row of."""
    if name not in catalog.by_name:
        return None
    change = _difference(name, before, there, after, catalog, tally, None)
    if change is not None:
        sums = tally.sums[change.key]
        sums.pulled += 1
        sums.vanished += 1
    return change


def _count(sums: Sums, trait: KnownTrait, change: TraitChange, by: int = 1) -> None:
    if trait.kind != AUDIENCE:
        sums.changed += by
        sums.dropped += by * (change.after is None)
    elif change.after is True and change.was is not True:
        sums.entered += by
    elif change.before is True and change.after is not True:
        sums.exited += by
    else:
        sums.changed += by  # absent → false: Amberflo learns of it, nobody entered or left


def leaves(change: TraitChange, kind: Kind) -> bool:
    """Whether a member leaves, or a computed trait loses its value, as `Sums.leaving` counts."""
    if kind == AUDIENCE:
        return change.before is True and change.after is not True
    return change.after is None


def _readable(rows: list[list[Any]], tally: Tally) -> list[list[Any]]:
    """The rows of name and email that can be read; the others leave things as they are."""
    found = [row for row in rows if not is_unreadable(row[1])]
    tally.unread += len(rows) - len(found)
    return found


def _name_and_email(
    rows: list[list[Any]], stamps_text: str | None, horizon: int
) -> tuple[str | None, str | None, int, int]:
    """The newest of each ("": a row takes it away), None where there is no row or a call said a
    newer one, and their times; rows are (key, value, time)."""
    stamps = {} if stamps_text is None or horizon == ENGAGE_WINS else read_stamps(stamps_text)
    timed = sorted(((since_1970(time), key, value) for key, value, time in rows), key=_at)
    found = {
        key: (value, at) for at, key, value in timed if key not in stamps or at >= stamps[key].at
    }
    (name, name_at), (email, email_at) = (found.get(key, (_NO_ROW, 0)) for key in PROFILE_KEYS)
    return _text(name), _text(email), name_at, email_at


def _changed(known: str | None, pulled: str | None) -> str | None:
    """A name or email where it is another than is known; what we never had is not taken away."""
    return None if pulled is None or pulled == (known or "") else pulled


#: Stands for the value of a row that is not there.
_NO_ROW = object()


def _at(row: tuple[int, str, object]) -> int:
    return row[0]


def _text(value: object) -> str | None:
    if value is _NO_ROW:
        return None
    return "" if is_null(value) else cleaned(str(value))
