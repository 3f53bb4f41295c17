"""The join: each customer of a pull beside what the state, and Amberflo, have of it.

Both sides come in UTF-8 byte order of the customer id (which is the order of Python strings), so
one walk over the two finds all pairs (docs/design.md §6). The other functions are steps that the
stream of joined rows goes through, some hundred customers at a time, so that memory stays flat.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from syncer.chunks import CHUNK, chunks
from syncer.engage.source import PulledCustomer
from syncer.errors import SourceError, SyncerError
from syncer.event_times import read_stamps
from syncer.ids import problem
from syncer.sync.spool import Spool
from syncer.sync.tally import Tally

#: A customer as the snapshot has it: id, traits (canonical JSON), name, email, the JSON of the
#: times of what came by a call (None: nothing did), the number of its state, and the first run that
#: pulled it with all others (None: none did). Any tuple of these will do, so that a million rows
#: need not be copied into a class of ours.
SnapshotRow = tuple[str, str, str | None, str | None, str | None, int, int | None]


class DestinationState(NamedTuple):
    """What Amberflo has of a customer, all its traits by name, where that is not what the snapshot
    has: `rev` is the number of the customer's state that it was held against (None: unknown);
    `missing`: Amberflo has no record of it any more; `judged` are the names that this is about
    (None: all)."""

    rev: int | None
    traits: Mapping[str, Any]
    missing: bool = False
    judged: Collection[str] | None = None


#: A customer as Engage has it, as the snapshot has it, and as Amberflo has it where that is looked
#: at and differs. `GONE` is a customer that Engage deleted, None one that the pull does not have.
JoinedRow = tuple[PulledCustomer | None, SnapshotRow | None, DestinationState | None]

#: Stands for the row of a customer that was deleted in Segment.
GONE = PulledCustomer("", "", "", "", "")


def merge(pulled: Iterable[PulledCustomer], snapshot: Iterable[SnapshotRow]) -> Iterator[JoinedRow]:
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


def _in_order(snapshot: Iterable[SnapshotRow]) -> Iterator[SnapshotRow]:
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
    find: Callable[[Collection[str]], Iterable[SnapshotRow]],
    at_a_time: int = CHUNK,
) -> Iterator[JoinedRow]:
    """Join a part of the customers with the snapshot, for runs that do not pull all of them."""
    for chunk in chunks(iter(pulled), size_of_row, most=at_a_time):
        ids = [row.customer_id for row in chunk if problem(row.customer_id) is None]
        known = {one[0]: one for one in find(ids)}
        for row in chunk:
            yield row, known.get(row.customer_id), None


def with_usable_ids(pairs: Iterable[JoinedRow], tally: Tally) -> Iterator[JoinedRow]:
    """The same pairs less those whose row has an id that can be no customer's: they are counted,
    and what is known of them stays as it is."""
    for pair in pairs:
        row = pair[0]
        if row is None or (reason := problem(row[0])) is None:
            yield pair
        else:
            tally.leave_out_id(row, reason)


def mark_deleted(
    pairs: Iterable[JoinedRow],
    identified: Callable[[Collection[str]], Collection[str]],
    horizon: int,
    unconfirmed_deletions: list[str],
    folder: Path | None = None,
) -> Iterator[JoinedRow]:
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
    pairs: Iterable[JoinedRow],
    unknown: Iterator[str],
    identified: Callable[[Collection[str]], Collection[str]],
    tally: Tally,
    folder: Path | None = None,
) -> Iterator[JoinedRow]:
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


def with_destination(
    pairs: Iterable[JoinedRow], before: Callable[[Collection[str]], Mapping[str, DestinationState]]
) -> Iterator[JoinedRow]:
    """The same pairs, with what Amberflo has of a customer where that is not what is known."""
    for part in chunks(iter(pairs), size_of_pair):
        found = before([_id(pair) for pair in part])
        for row, known, _ in part:
            yield row, known, found.get(_id((row, known, None)))


def _id(pair: JoinedRow) -> str:
    row, known, _ = pair
    if known is not None:
        return known[0]
    assert row is not None
    return row.customer_id


def size_of_row(row: PulledCustomer) -> int:
    """About the bytes that a pulled row takes."""
    return sum(map(len, row))


def size_of_pair(pair: JoinedRow) -> int:
    """About the bytes that a pair takes, with what is looked up of it."""
    row, known, _ = pair
    return (0 if row is None else size_of_row(row)) + (0 if known is None else 3 * len(known[1]))
