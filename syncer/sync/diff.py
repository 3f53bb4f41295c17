"""The diff: what Engage says now against the snapshot, as a stream of changes.

Pure, no I/O. Most customers did not change: for them one text equals another and nothing is parsed.

A missing row says something only if all customers are pulled. The diff of a part applies what the
rows say, and leaves what has no row as it is (docs/design.md §3.11).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from syncer.amberflo.record import alike, at_amberflo
from syncer.clock import read as milliseconds
from syncer.clock import since_1970
from syncer.engage.catalog import Catalog, Layout, Reading, newest
from syncer.engage.computations import AUDIENCE
from syncer.engage.source import Absence, PulledCustomer
from syncer.engage.values import (
    Value,
    boolean,
    is_unreadable,
    read_array,
    read_rows,
    same,
)
from syncer.event_times import read_stamps
from syncer.sync import profile
from syncer.sync.changes import AMBERFLO, DELETED, CustomerChange, TraitChange
from syncer.sync.join import GONE, DestinationState, JoinedRow, SnapshotRow
from syncer.sync.tally import Tally, count_change

#: Layouts are spread over their traits when this many keys are counted.
KEYS_COUNTED = 500_000
#: A horizon that no call is newer than: Engage wins over all calls.
ENGAGE_WINS = 2**63 - 1

#: What a pull that has all of Engage says by what it lacks.
EVERY_KEY = Absence()
#: What is read of a customer that the pull does not have.
NOTHING = Reading(Layout(), {}, "{}", [], [], False)


def compare(
    rows: Iterable[JoinedRow],
    catalog: Catalog,
    tally: Tally,
    horizon: int = 0,
    *,
    whole: bool = True,
    absence: Absence = EVERY_KEY,
    forget: bool = False,
) -> Iterator[CustomerChange]:
    """Yield the customers that differ, in order, and count all in `tally`.

    `whole` says that all customers are pulled, so that a missing row means something: what
    `absence` says. `forget` says
    that customers that were deleted in Segment are to be forgotten: such a customer is yielded even
    if none of its traits changes.

    Calls are provisional: what a call said of a trait stays if it came after `horizon` (epoch
    milliseconds), because the pull may not know of it yet, unless the pull has a newer row. Of
    names and emails the newest counts, whoever said it.
    """
    diff = _Diff(catalog, tally, horizon, whole, absence, forget)
    read, remembered, loads = catalog.read, catalog.remembered, orjson.loads
    unchanged = tally.unchanged_layouts
    most = KEYS_COUNTED // (len(catalog.by_key) + 1)
    for row, known, remote in rows:
        if len(unchanged) > most:
            tally.close()
        if row is None or row is GONE:
            change = diff.missing(known, remote, deleted=row is GONE)
        else:
            _, keys, values, _, profile = row
            reading = remembered((keys, values)) or read(keys, values)
            try:
                people = loads(profile)
            except orjson.JSONDecodeError:
                people = read_rows(profile)
            layout = reading.layout
            tally.customers += 1
            tally.rows += len(layout.keys) + len(people)
            # The usual customer has one row of name and email each, or none, and nothing changed.
            if known is not None and (
                not people
                or (
                    len(people) == 2
                    and people[0][1] == known[3]
                    and people[1][1] == known[2]
                    and people[0][0] == "email"
                    and people[1][0] == "name"
                )
            ):
                if (
                    remote is None
                    and reading.text == known[1]
                    and known[6] is not None
                    and not (reading.skipped or layout.twice)
                ):
                    unchanged[layout] += 1
                    tally.unchanged += 1
                    continue
                people = None
            change = diff.pulled(row, known, remote, reading, people)
        if change is not None:
            yield change
    tally.close()


@dataclass
class _Diff:
    """The settings of a diff; see `compare`."""

    catalog: Catalog
    tally: Tally
    horizon: int
    whole: bool
    absence: Absence
    forget: bool

    def pulled(
        self,
        row: PulledCustomer,
        known: SnapshotRow | None,
        remote: DestinationState | None,
        reading: Reading,
        people: list[list[Any]] | None,
    ) -> CustomerChange | None:
        """Return what changes of a pulled customer.

        `people` are its rows of name and email, None if these are as the snapshot has them.
        """
        times = row.times
        if reading.layout.twice:
            keys, values, times = newest(row.keys, row.values, times)
            reading = self.catalog.read(keys, values)
        if known is None:
            return self._new(row.customer_id, remote, reading, times, people or [])
        return self._known(known, remote, reading, times, people)

    def _new(
        self,
        customer_id: str,
        remote: DestinationState | None,
        reading: Reading,
        times: str,
        people: list[list[Any]],
    ) -> CustomerChange | None:
        """Return what changes of a customer that the snapshot does not have."""
        # Amberflo may have a customer that nobody told us of: a member that left before.
        held = {} if remote is None else ours(remote, self.catalog, {})
        traits = self._carry_over(reading, held, ())
        if not reading.somebody and all(same(held[name], traits.get(name)) for name in held):
            self.tally.count_unchanged(reading)
            return None
        self.tally.new += 1
        changes = self._differences(reading, {}, times, traits, held)
        said = profile.newest(self._readable(people), None)
        return CustomerChange(
            customer_id,
            False,
            traits,
            said.name or None,
            said.email or None,
            changes,
            said.name_at,
            said.email_at,
            compared=self.whole,
        )

    def _known(
        self,
        known: SnapshotRow,
        remote: DestinationState | None,
        reading: Reading,
        times: str,
        people: list[list[Any]] | None,
    ) -> CustomerChange | None:
        """Return what changes of a customer that the snapshot has."""
        customer_id, known_traits, known_name, known_email, stamps, rev, before_run = known
        name: str | None = None
        email: str | None = None
        name_at = email_at = 0
        unsettled = False
        if people is not None:
            rows = self._readable(people)
            said = profile.newest(rows, None if self.horizon == ENGAGE_WINS else stamps)
            unsettled = profile.overruled(rows, said, (known_name, known_email))
            name, email, name_at, email_at = said
            name, email = profile.changed(known_name, name), profile.changed(known_email, email)
        if remote is not None and remote.rev != rev:
            remote = None  # the customer changed after Amberflo was read
        if reading.text == known_traits and remote is None:
            self.tally.count_unchanged(reading)
            traits, changes = reading.traits, []
        else:
            before = orjson.loads(known_traits)
            held = before if remote is None else ours(remote, self.catalog, before)
            newer = self._newer(reading, before, times, stamps)
            unsettled = unsettled or bool(newer)
            traits = self._carry_over(reading, held | before, newer)
            if remote is not None and remote.may_lag:
                held = held | self._leaving(before, traits)
            changes = self._differences(reading, before, times, traits, held)
        if unsettled:
            self.tally.unsettled.append(customer_id)
        if changes or name is not None or email is not None:
            self.tally.changed += 1
        else:
            self.tally.unchanged += 1
            if before_run is not None or not self.whole:
                return None  # else the commit must note that the customer was pulled
        return CustomerChange(
            customer_id, True, traits, name, email, changes, name_at, email_at, compared=self.whole
        )

    def missing(
        self, known: SnapshotRow | None, remote: DestinationState | None, *, deleted: bool
    ) -> CustomerChange | None:
        """Return what changes of a customer that a whole pull does not have any more."""
        assert known is not None
        customer_id, known_traits, _, _, stamps, rev, before_run = known
        before: dict[str, Value] = orjson.loads(known_traits)
        current = remote is not None and remote.rev == rev
        held = ours(remote, self.catalog, before) if remote is not None and current else before
        if before_run is None:  # Engage never had it: values of others there are not ours to judge
            held = {name: value for name, value in held.items() if name in before}
        newer = self._newer(NOTHING, before, "[]", stamps)
        if newer:
            self.tally.unsettled.append(customer_id)
        after = self._carry_over(NOTHING, held | before, newer)
        if remote is not None and remote.may_lag:
            held = held | self._leaving(before, after)
        changes = [
            change._replace(source=change.source or (DELETED if deleted else None))
            for trait in sorted(before.keys() | held.keys())
            if (change := self._without_row(trait, before, held, after)) is not None
        ]
        if not changes and not (self.forget and deleted):
            self.tally.unchanged += 1
            return None
        self.tally.changed += 1
        return CustomerChange(customer_id, True, after, None, None, changes, deleted=deleted)

    def _newer(
        self, reading: Reading, before: dict[str, Value], times: str, stamps_text: str | None
    ) -> set[str]:
        """Return the names whose value comes from a call that the pull cannot know of yet."""
        if stamps_text is None:
            return set()
        stamps = read_stamps(stamps_text)
        provisional = {
            name: stamp.at for name, stamp in stamps.items() if stamp.received > self.horizon
        }
        for place, time in zip(reading.layout.places, read_array(times), strict=True):
            if provisional.get(place.name, -1) < since_1970(time):
                provisional.pop(place.name, None)
        return {name for name in provisional if name in before or name in reading.traits}

    def _carry_over(
        self, reading: Reading, before: dict[str, Value], newer: Collection[str]
    ) -> dict[str, Value]:
        """Return what the reading says, and what the snapshot has that the reading leaves open.

        A membership that is null, or gone from a whole pull, is false from now on (docs/design.md
        §3.4). A computed trait, and a value under an audience's name that is no membership, is
        dropped. A value stays if it could not be read, is `newer`, or belongs to no trait of ours.
        """
        unreadable = {key for key, _ in reading.skipped}
        traits = {name: value for name, value in reading.traits.items() if name not in newer}
        nulls = set(reading.nulls)
        for name, value in before.items():
            if name in traits:
                continue
            trait = self.catalog.by_name.get(name)
            if (
                trait is None
                or name in newer
                or trait.key in unreadable
                or not (self._ends(trait.key) or trait.key in nulls)
            ):
                traits[name] = value
            elif trait.kind == AUDIENCE and isinstance(value, bool):
                traits[name] = False
        return traits

    def _ends(self, key: str) -> bool:
        """Return whether a missing row of a key says that its value is gone."""
        return self.whole and self.absence.ends(key)

    def _leaving(self, before: Mapping[str, Value], after: Mapping[str, Value]) -> dict[str, Value]:
        """Return the memberships that end: those of the state do so whatever a list shows."""
        return {
            name: value
            for name, value in before.items()
            if value is True
            and after.get(name) is not True
            and (trait := self.catalog.by_name.get(name)) is not None
            and trait.kind == AUDIENCE
        }

    def _differences(
        self,
        reading: Reading,
        before: dict[str, Value],
        times: str,
        after: dict[str, Value],
        held: dict[str, Value],
    ) -> list[TraitChange]:
        """Return the traits that differ, by name, and count every trait of the customer.

        `before` is recorded, `held` is what Amberflo has.
        """
        keys = reading.layout.keys
        observed = dict(zip(keys, read_array(times), strict=True))
        skipped = dict(reading.skipped)
        changes: list[TraitChange] = []
        for key in keys:
            sums = self.tally.sums[key]
            sums.pulled += 1
            if key in skipped:
                sums.reasons[skipped[key]] += 1
                continue
            name = self.catalog.by_key[key].name
            change = self._difference(name, before, held, after, observed[key])
            if change is None:
                sums.unchanged += 1
            else:
                changes.append(change)
        names = {place.name for place in reading.layout.places}
        for name in (before.keys() | held.keys()) - names:
            change = self._without_row(name, before, held, after)
            if change is not None:
                changes.append(change)
        changes.sort(key=lambda change: change.trait)
        return changes

    def _difference(
        self,
        name: str,
        before: Mapping[str, Value],
        held: Mapping[str, Value],
        after: Mapping[str, Value],
        time: Any,
    ) -> TraitChange | None:
        """Return what changes of a trait, if something does, and count the change.

        `time` is that of its row, as the source has it; None if it has none.
        """
        was, now, has = before.get(name), after.get(name), held.get(name)
        trait = self.catalog.by_name[name]
        sums = self.tally.sums[trait.key]
        if same(was, has):
            if same(was, now):
                return None
            change = TraitChange(trait.key, name, was, now, milliseconds(time))
        else:
            # Amberflo has another value than is recorded: the change is against that.
            change = TraitChange(trait.key, name, has, now, milliseconds(time), AMBERFLO, was)
            self.tally.first_contact += has is not None
            sums.unrecorded += trait.kind == AUDIENCE and has is True and was is not True
        count_change(sums, trait, change)
        return change

    def _without_row(
        self,
        name: str,
        before: Mapping[str, Value],
        held: Mapping[str, Value],
        after: Mapping[str, Value],
    ) -> TraitChange | None:
        """Return what changes of a trait of the snapshot that the pull has no row of."""
        if name not in self.catalog.by_name:
            return None
        change = self._difference(name, before, held, after, None)
        if change is not None:
            sums = self.tally.sums[change.key]
            sums.pulled += 1
            sums.vanished += 1
        return change

    def _readable(self, rows: list[list[Any]]) -> list[list[Any]]:
        """Return the rows of name and email that can be read; the others change nothing."""
        readable = [row for row in rows if not is_unreadable(row[1])]
        self.tally.unreadable += len(rows) - len(readable)
        return readable


def ours(
    remote: DestinationState, catalog: Catalog, recorded: Mapping[str, Value]
) -> dict[str, Value]:
    """Return what Amberflo has under names of ours.

    A value is as it is recorded if it may be stored so; otherwise it is as it reads.
    """
    judged = remote.judged
    values: dict[str, Value] = (
        {} if judged is None else {name: recorded[name] for name in recorded if name not in judged}
    )
    for name, value in remote.traits.items():
        trait = catalog.by_name.get(name)
        if trait is None or value is None or not (judged is None or name in judged):
            continue
        if name in recorded and alike(at_amberflo(recorded[name]), value):
            values[name] = recorded[name]
        elif trait.kind == AUDIENCE and (member := boolean(value)) is not None:
            values[name] = member
        else:
            values[name] = value
    return values
