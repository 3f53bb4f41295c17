"""What stands beside a comparison's rows: who was deleted, what Amberflo has, what was decided.

Each is a step that the stream of a comparison goes through, some hundred customers at a time, so
that memory stays flat.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Connection

from state import holds
from state.holds import InForce
from syncer.chunks import CHUNK, chunks
from syncer.engage.catalog import Catalog
from syncer.engage.source import PulledCustomer
from syncer.event_times import read_stamps
from syncer.sync.diff import (
    GONE,
    CustomerChange,
    DestinationState,
    Pair,
    Ruling,
    Tally,
    TraitChange,
    leaves,
    size_of,
    size_of_pair,
)
from syncer.sync.spool import Spool


class MentionedCustomers:
    """The customers of whom a pull has a row of some trait: (trait, customer ids), many times;
    on disk, as `Spool`."""

    def __init__(self, folder: Path | None = None) -> None:
        self._spool = Spool(folder)
        self._ids: dict[str, list[str]] = {}

    def noted(
        self, pairs: Iterator[Pair], catalog: Catalog, traits: Collection[str]
    ) -> Iterator[Pair]:
        """The same pairs; the customers with a row of one of these traits are noted."""
        keys = {catalog.by_name[name].key: name for name in traits if name in catalog.by_name}
        return self._noted(pairs, keys) if keys else pairs

    def _noted(self, pairs: Iterator[Pair], keys: Mapping[str, str]) -> Iterator[Pair]:
        for pair in pairs:
            row = pair[0]
            assert row is not None  # a part is pulled, and nobody else is looked at
            for key in set(orjson.loads(row.keys)) & keys.keys():
                self._note(keys[key], row.customer_id)
            yield pair

    def _note(self, trait: str, customer_id: str) -> None:
        ids = self._ids.setdefault(trait, [])
        ids.append(customer_id)
        if len(ids) >= CHUNK:
            self._spool.append((trait, self._ids.pop(trait)))

    def __iter__(self) -> Iterator[tuple[str, list[str]]]:
        yield from self._ids.items()
        yield from self._spool

    def close(self) -> None:
        self._spool.close()


def mark_deleted(
    pairs: Iterable[Pair],
    identified: Callable[[Collection[str]], Collection[str]],
    horizon: int,
    unconfirmed_deletions: list[str],
    folder: Path | None = None,
) -> Iterator[Pair]:
    """Yield the same pairs, last those of customers that the pull lacks.

    A pair gets `GONE` for a row if Engage has no identifier of the customer any more; Engage is
    asked when the pull is read. Only customers that Engage had before are marked. If a call came
    after `horizon`, Engage may have the customer again: it is noted in `unconfirmed_deletions` and
    left as it is. Until the pull is read these pairs lie on disk, in a `Spool`.
    """
    with closing(Spool(folder)) as vanished:
        for pair in pairs:
            if pair[0] is None:
                vanished.append(pair[1])
            else:
                yield pair
        for known in chunks(iter(vanished), lambda one: len(one[1])):
            had = [one[0] for one in known if one[6] is not None]
            gone = set(had).difference(identified(had))
            for one in known:
                if one[0] not in gone:
                    yield None, tuple(one), None
                elif _was_called(one, horizon):
                    unconfirmed_deletions.append(one[0])
                else:
                    yield GONE, tuple(one), None


def add_without_traits(
    pairs: Iterable[Pair],
    unknown: Iterator[str],
    identified: Callable[[Collection[str]], Collection[str]],
    tally: Tally,
    folder: Path | None = None,
) -> Iterator[Pair]:
    """The same pairs of a full compare, and at the end the customers of whom Engage says nothing
    but that it has them: neither pulled nor known, with an identifier, among those that Amberflo
    has (`unknown`, in byte order of the id, as the pairs are). Each has a row without a trait."""
    with closing(Spool(folder)) as unpaired:
        left = next(unknown, None)
        for pair in pairs:
            customer_id = _id(pair)
            while left is not None and left.encode() < customer_id.encode():
                unpaired.append(left)
                left = next(unknown, None)
            if left == customer_id:
                left = next(unknown, None)
            yield pair
        while left is not None:
            unpaired.append(left)
            left = next(unknown, None)
        for customer_ids in chunks(iter(unpaired)):
            for customer_id in sorted(identified(customer_ids)):
                tally.silent += 1
                yield PulledCustomer(customer_id, "[]", "[]", "[]", "[]"), None, None


def _was_called(known: Sequence[Any], horizon: int) -> bool:
    return any(one.received > horizon for one in read_stamps(known[4]).values())


def beside(
    pairs: Iterable[Pair], before: Callable[[Collection[str]], Mapping[str, DestinationState]]
) -> Iterator[Pair]:
    """The same pairs, with what Amberflo has of a customer where that is not what is known."""
    for part in chunks(iter(pairs), size_of_pair):
        found = before([_id(pair) for pair in part])
        for row, known, _ in part:
            yield row, known, found.get(_id((row, known, None)))


def _id(pair: Pair) -> str:
    row, known, _ = pair
    if known is not None:
        return known[0]
    assert row is not None
    return row.customer_id


class Rulings:
    """What was decided on what a comparison finds: before, or by the approval that it is made for
    (of the holds `approved` what runs up to `until` found). `excused` counts, by key, what leaves
    and needs no guard any more."""

    def __init__(
        self,
        connection: Connection,
        tally: Tally,
        approved: Collection[int] = (),
        until: int = 0,
    ) -> None:
        self._connection, self._tally = connection, tally
        self._approved, self._until = approved, until
        self.traits = holds.traits_in_force(connection)
        self.excused: Counter[str] = Counter()

    def read(self, changes: Iterable[CustomerChange]) -> Iterator[CustomerChange]:
        """The same changes with their rulings."""
        for part in chunks(iter(changes), size_of):
            decided: dict[tuple[str, str], InForce] = {}
            if self.traits:
                decided = holds.in_force(self._connection, [one.customer_id for one in part])
            for change in part:
                yield self._ruled(change, decided)

    def _ruled(
        self, change: CustomerChange, decided: Mapping[tuple[str, str], InForce]
    ) -> CustomerChange:
        if change.deleted:
            self._tally.deleted += 1
            # These are guarded as deletions, and no trait's exits beside that.
            self.excused.update(one.key for one in change.changes if self._leaves(one))
            found = decided.get((change.customer_id, holds.DELETED))
            ruling = None if found is None else self._ruling(found, None, None)
            self.excused[holds.DELETED] += ruling is not None
            return change._replace(ruling=ruling)
        changes = []
        for one in change.changes:
            found = decided.get((change.customer_id, one.trait))
            if found is not None:
                ruling = self._ruling(found, one.after, one.observed_at)
                self.excused[one.key] += ruling is not None and self._leaves(one)
                changes.append(one._replace(ruling=ruling))
            else:
                changes.append(one)
        return change._replace(changes=changes)

    def _ruling(self, found: InForce, after: Any, observed_at: int | None) -> Ruling | None:
        """What was decided on this change; None where Engage says something that nobody saw."""
        if found.after != (None if after is None else orjson.dumps(after).decode()):
            return None
        if found.hold in self._approved and found.since_run <= self._until:
            return "approved"
        newer = observed_at is not None and observed_at > (found.observed_at or 0)
        return "rejected" if found.decision == holds.REJECTED and not newer else None

    def _leaves(self, one: TraitChange) -> bool:
        return leaves(one, self._tally.catalog.by_key[one.key].kind)
