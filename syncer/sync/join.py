"""The join: each customer of a pull beside what the state, and Amberflo, have of it.

Both sides come in UTF-8 byte order of the customer id (which is the order of Python strings), so
one walk over the two finds all pairs (docs/design.md §6). The other functions are steps that the
stream of joined rows goes through, some hundred customers at a time, so that memory stays flat.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from syncer.chunks import CHUNK, chunks
from syncer.engage.source import PulledCustomer
from syncer.errors import SourceError, SyncerError
from syncer.event_times import came_after
from syncer.ids import problem
from syncer.sync.spool import Spool
from syncer.sync.tally import Tally

#: A customer as the snapshot has it: id, traits (canonical JSON), name, email, the JSON of the
#: times of what came by a call (None: nothing did), the number of its state, and the first run that
#: pulled it with all others (None: none did). It is a plain tuple, so that the rows of the database
#: need not be copied, a million of them.
SnapshotRow = tuple[str, str, str | None, str | None, str | None, int, int | None]


class DestinationState(NamedTuple):
    """What Amberflo has of a customer, if that is not what the snapshot has.

    `traits` are all its traits by name. `rev` is the number of the customer's state at the time of
    the comparison (None: unknown). `missing` says that Amberflo has no record of it any more.
    `judged` are the trait names that this is about (None: all). `may_lag` says that Amberflo may
    have taken newer values from us than these.
    """

    rev: int | None
    traits: Mapping[str, Any]
    missing: bool = False
    judged: Collection[str] | None = None
    may_lag: bool = False


#: A customer as Engage has it, as the snapshot has it, and as Amberflo has it (None: Amberflo was
#: not read, or has the same). Engage's part is `GONE` if Engage deleted the customer, and None if
#: the pull does not have it.
JoinedRow = tuple[PulledCustomer | None, SnapshotRow | None, DestinationState | None]

#: Stands for the row of a customer that was deleted in Segment.
GONE = PulledCustomer("", "", "", "", "")


def merge(pulled: Iterable[PulledCustomer], snapshot: Iterable[SnapshotRow]) -> Iterator[JoinedRow]:
    """Join the two sorted streams in full, as a full outer join.

    A customer of the snapshot that the pull does not have comes as (None, known, None).
    """
    in_order = _in_order(snapshot)
    known = next(in_order, None)
    last = ""
    for row in pulled:
        customer_id = row[0]
        if customer_id <= last:
            raise SourceError(_out_of_order(customer_id, last))
        last = customer_id
        while known is not None and known[0] < customer_id:
            yield None, known, None
            known = next(in_order, None)
        if known is not None and known[0] == customer_id:
            yield row, known, None
            known = next(in_order, None)
        else:
            yield row, None, None
    while known is not None:
        yield None, known, None
        known = next(in_order, None)


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
        known = {customer[0]: customer for customer in find(ids)}
        for row in chunk:
            yield row, known.get(row.customer_id), None


def look_up_given(
    given: Iterable[tuple[str, PulledCustomer | None]],
    find: Callable[[Collection[str]], Iterable[SnapshotRow]],
) -> Iterator[JoinedRow]:
    """Join the customers that a source gives out with the snapshot.

    One that the source does not have comes as (None, known, None), as from `merge`, and one that
    nobody has does not come.
    """
    last = ""
    for chunk in chunks(iter(given), lambda each: 0 if each[1] is None else size_of_row(each[1])):
        ids = [customer_id for customer_id, _ in chunk]
        known = {row[0]: row for row in find([each for each in ids if problem(each) is None])}
        for customer_id, row in chunk:
            if customer_id <= last:
                raise SourceError(_out_of_order(customer_id, last))
            last = customer_id
            before = known.get(customer_id)
            if row is not None or before is not None:
                yield row, before, None


def _out_of_order(customer_id: str, last: str) -> str:
    return (
        f"the pull is out of order: {customer_id!r} came after {last!r}; it must be in "
        "UTF-8 byte order, each customer once"
    )


def with_valid_ids(rows: Iterable[JoinedRow], tally: Tally) -> Iterator[JoinedRow]:
    """Yield the same rows less those with an invalid customer id.

    These are counted, and what is known of them stays as it is.
    """
    for joined in rows:
        row = joined[0]
        if row is None or (reason := problem(row[0])) is None:
            yield joined
        else:
            tally.skip_invalid_id(row, reason)


def mark_deleted(
    rows: Iterable[JoinedRow],
    identified: Callable[[Collection[str]], Collection[str]],
    horizon: int,
    tally: Tally,
    folder: Path | None = None,
    unread: Callable[[Collection[str]], Collection[str]] = lambda customer_ids: (),
) -> Iterator[JoinedRow]:
    """Yield the same rows, last those of customers that the pull lacks.

    Customers that are `unread` are not yielded but counted: nobody knows what Engage has of them.

    A row gets `GONE` for what Engage has if Engage has no identifier of the customer any more;
    Engage is asked when the pull is read. Only customers that Engage had before are marked. If a
    call came after `horizon`, Engage may have the customer again: it is noted in
    `tally.unconfirmed_deletions` and left as it is. Until the pull is read, these rows are on disk,
    in a `Spool`.
    """
    with closing(Spool(folder)) as vanished:
        for joined in rows:
            if joined[0] is None:
                vanished.append(joined[1])
            else:
                yield joined
        for customers in chunks(iter(vanished), lambda known: len(known[1])):
            had = [known[0] for known in customers if known[6] is not None]
            gone = set(had).difference(identified(had))
            not_read = set(unread([known[0] for known in customers]))
            tally.unread += len(not_read)
            for known in customers:
                if known[0] in not_read:
                    continue
                if known[0] not in gone:
                    yield None, tuple(known), None
                elif came_after(known[4], horizon):
                    tally.unconfirmed_deletions.append(known[0])
                else:
                    yield GONE, tuple(known), None


def add_without_traits(
    rows: Iterable[JoinedRow],
    unknown: Iterator[str],
    identified: Callable[[Collection[str]], Collection[str]],
    tally: Tally,
    folder: Path | None = None,
) -> Iterator[JoinedRow]:
    """Yield the same rows of a full compare, and then customers without a trait.

    These customers are neither pulled nor known, Amberflo has them (`unknown`, in byte order of the
    id, as the rows are), and Engage has an identifier of them. Each gets a pulled row without a
    trait.
    """
    with closing(Spool(folder)) as unpaired:
        listed = next(unknown, None)
        for joined in rows:
            customer_id = _id(joined)
            while listed is not None and listed.encode() < customer_id.encode():
                unpaired.append(listed)
                listed = next(unknown, None)
            if listed == customer_id:
                listed = next(unknown, None)
            yield joined
        while listed is not None:
            unpaired.append(listed)
            listed = next(unknown, None)
        for customer_ids in chunks(iter(unpaired)):
            for customer_id in sorted(identified(customer_ids)):
                tally.without_traits += 1
                yield PulledCustomer(customer_id, "[]", "[]", "[]", "[]"), None, None


def with_destination(
    rows: Iterable[JoinedRow], before: Callable[[Collection[str]], Mapping[str, DestinationState]]
) -> Iterator[JoinedRow]:
    """Yield the same rows, with what Amberflo has of a customer if that is not what is known."""
    for part in chunks(iter(rows), size_of_joined):
        remote = before(list(map(_id, part)))
        for row, known, _ in part:
            yield row, known, remote.get(_id((row, known, None)))


def _id(joined: JoinedRow) -> str:
    row, known, _ = joined
    if known is not None:
        return known[0]
    assert row is not None
    return row.customer_id


def size_of_row(row: PulledCustomer) -> int:
    """Return about the bytes that a pulled row takes."""
    return sum(map(len, row))


def size_of_joined(joined: JoinedRow) -> int:
    """Return about the bytes that a joined row takes, with what is looked up of it."""
    row, known, _ = joined
    return (0 if row is None else size_of_row(row)) + (0 if known is None else 3 * len(known[1]))
