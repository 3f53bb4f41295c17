"""The proof that the history is as it was sealed.

A walk over the whole chain names the first place where it does not hold. It is streamed: memory
does not grow with the history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import islice
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Connection, Table, func, not_, select
from sqlalchemy.exc import DBAPIError

from state.db import metadata
from state.db.tables import CHANGE, ERASED, RUN, SEAL
from state.history.retention import removable
from state.history.seal import (
    CHANGES,
    CHUNK,
    COMPACTED,
    COMPACTION,
    ERASURE,
    GENESIS,
    LINKS,
    MARK,
    Link,
    Sum,
    hash_of,
    leaf,
    newest,
    packed,
    read,
)


@dataclass(frozen=True)
class Broken:
    """The first place where the chain does not hold.

    It names what is wrong, at which seal of which run, and at which change where that can be told.
    """

    what: str
    seal: int | None = None
    run: int | None = None
    change: int | None = None


@dataclass
class Proof:
    """The result of a walk, in numbers.

    `changes` are those that the seals vouch for now, `erased` of which are hashes only; `unsealed`
    came by calls since the last seal. `compacted` seals are older than what the history `begins`
    with.
    """

    head: str | None = None
    seals: int = 0
    changes: int = 0
    erased: int = 0
    erasures: int = 0
    unsealed: int = 0
    compacted: int = 0
    begins: int | None = None
    #: the last compaction was cut off: some of what it removes may still be there
    unfinished: bool = False
    broken: Broken | None = None


#: A change by its id: its leaf hash, and its `LEAF` columns with `delivered_at` (None: erased).
Leaf = tuple[int, bytes, Sequence[Any] | None]


class Witness(Protocol):
    """Sees what a walk reads, in its order, for instance to write it down."""

    def seal(self, link: Link, *, rows: bool) -> None:
        """See a seal; with `rows` its changes come next."""

    def change(self, change: Leaf) -> None: ...


def prove(
    connection: Connection,
    *,
    expect: str | None = None,
    rows_to: int | None = None,
    witness: Witness | None = None,
    check: Callable[[], None] = lambda: None,
) -> Proof:
    """Walk the chain from its beginning.

    It must contain the hash `expect`, a head that was kept elsewhere. With `rows_to` seals beyond
    this change are not held against their changes. An error that `check` raises, now and then, ends
    the walk.
    """
    walk = _Walk(connection, rows_to, witness, check)
    try:
        walk.go(expect)
    except _Wrong as wrong:
        at = walk.at
        walk.proof.broken = Broken(str(wrong), at and at.number, at and at.run, wrong.change)
    return walk.proof


class _Wrong(Exception):
    """Says what is wrong, and at which change where that is known."""

    def __init__(self, what: str, change: int | None = None) -> None:
        super().__init__(what)
        self.change = change


class _Walk:
    """A walk; `at` is the seal that it is at."""

    def __init__(
        self,
        connection: Connection,
        rows_to: int | None,
        witness: Witness | None,
        check: Callable[[], None],
    ) -> None:
        self._connection, self._rows_to, self._witness = connection, rows_to, witness
        self._check = check
        self._zone = newest(connection, COMPACTION, COMPACTED)
        self._sealed_to = 0
        self._any_erased = _count(connection, ERASED) > 0
        self._erased = 0
        self.at: Link | None = None
        self.proof = Proof()
        if self._zone is not None:
            self.proof.begins = self._zone.until
            self.proof.unfinished = self._zone.kind == COMPACTION

    def go(self, expect: str | None) -> None:
        previous, expected = GENESIS, expect is None
        for number, (link, marks) in enumerate(_links(self._connection), start=1):
            self.at = link
            if link.number != number:
                raise _Wrong(f"seal {number} is gone")
            if link.previous != previous:
                raise _Wrong(f"seal {number} does not follow the one before it")
            if link.hash != hash_of(link):
                raise _Wrong(f"seal {number} was changed")
            self._look_at(link, marks)
            previous = link.hash
            expected = expected or link.hash == expect
            self.proof.seals, self.proof.head = number, link.hash
        self.at = None
        self._look_at_the_end()
        if not expected:
            raise _Wrong(f"the hash {expect} is not in the chain: it was cut, or written anew")

    def _look_at(self, link: Link, marks: bytes | None) -> None:
        zone = self._zone
        if link.kind == CHANGES:
            if link.first_id != self._sealed_to + 1 or link.last_id < self._sealed_to:
                raise _Wrong(f"seal {link.number} does not go on where the one before it ended")
            self._sealed_to = link.last_id
            compacted = (
                zone is not None and link.number < zone.number and link.last_id <= zone.last_id
            )
            rows = not compacted and (self._rows_to is None or link.last_id <= self._rows_to)
            self.proof.compacted += compacted
            without_marks = not link.changes or (compacted and not self.proof.unfinished)
            if (marks is None) != without_marks:
                raise _Wrong(f"the marks of seal {link.number} were changed")
        elif marks is not None:
            raise _Wrong(f"the marks of seal {link.number} were changed")
        else:
            rows = zone is not None and link.number == zone.number
            if link.kind == ERASURE:
                self._check_erasure(link)
        if self._witness is not None:
            self._witness.seal(link, rows=rows)
        if rows:
            self._compare(link, marks)

    def _compare(self, link: Link, marks: bytes | None) -> None:
        """Compare a seal with its changes."""
        total, rows = Sum(), self._rows(link)
        while chunk := list(islice(rows, CHUNK)):
            self._check()
            total.add([row[1] for row in chunk])
            self.proof.erased += sum(row[2] is None for row in chunk)
            if self._witness is not None:
                for row in chunk:
                    self._witness.change(row)
        self.proof.changes += total.changes
        if (total.changes, total.digest) != (link.changes, link.digest):
            raise self._difference(link, total, marks)
        if marks is not None and marks != total.marks:
            raise _Wrong(f"the marks of seal {link.number} were changed")

    def _rows(self, link: Link) -> Iterator[Leaf]:
        """Return the changes that a seal is about: its own, or those that a compaction kept."""
        after, since, only = link.first_id - 1, 0, list[ColumnElement[bool]]()
        if link.kind != CHANGES:
            after, since = 0, link.number  # what was erased before is not among the kept
            if link.kind == COMPACTION:
                only = [not_(removable(link.last_id, link.until or 0))]
        changes = _changes(self._connection, after, link.last_id, *only)
        if not self._any_erased:
            return changes
        return merge(changes, self._tombstones(after, link.last_id, since), key=lambda row: row[0])

    def _tombstones(self, after: int, until: int, since: int) -> Iterator[Leaf]:
        statement = (
            select(ERASED.c.id, ERASED.c.leaf)
            .where(ERASED.c.id > after, ERASED.c.id <= until, ERASED.c.seal > since)
            .order_by(ERASED.c.id)
        )
        with self._connection.execute(statement, execution_options={"yield_per": CHUNK}) as result:
            for number, text in result:
                yield number, _unhex(number, text), None

    def _check_erasure(self, link: Link) -> None:
        total = Sum()
        statement = (
            select(ERASED.c.id, ERASED.c.leaf)
            .where(ERASED.c.seal == link.number)
            .order_by(ERASED.c.id)
        )
        for row in self._connection.execute(statement):
            total.add([packed(tuple(row))])
        if (total.changes, total.digest) != (link.changes, link.digest):
            raise _Wrong(
                f"what was erased is not as seal {link.number} says: {link.changes:,} changes, of "
                f"which {total.changes:,} are there"
            )
        self.proof.erasures += 1
        self._erased += total.changes

    def _difference(self, link: Link, total: Sum, marks: bytes | None) -> _Wrong:
        """Say where the changes differ from what was sealed, by the marks."""
        if marks is None:
            return _Wrong(
                f"the changes up to {link.last_id} that the compaction kept are not as they were: "
                f"{total.changes:,} of {link.changes:,} are there, or some were changed"
            )
        place = _first_difference(marks, bytes(total.marks)) // MARK
        change = next((row[0] for row in islice(self._rows(link), place, None)), None)
        missing = link.changes - total.changes
        if missing > 0:
            where = "at the end" if change is None else f"before or at change {change}"
            what = f"{missing:,} of the changes {link.first_id} to {link.last_id} are gone, {where}"
        elif missing < 0:
            what = f"change {change} was added, or is not where it was"
        elif change is None:
            what = f"one of the changes {link.first_id} to {link.last_id} was changed"
        else:
            what = f"change {change} is not as it was sealed"
        return _Wrong(what, change)

    def _look_at_the_end(self) -> None:
        """Check what is beyond the last seal, and what no seal is about."""
        connection, proof = self._connection, self.proof
        head = metadata.get(connection, "head")
        if head != (f"{proof.seals} {proof.head}" if proof.head else None):
            raise _Wrong(f"the chain ends with seal {proof.seals}, its head is noted as {head}")
        zone, end = self._zone, self._sealed_to
        if zone is not None and zone.last_id > end:
            raise _Wrong(f"seal {zone.number} is about changes that were never sealed")
        for stranger, what in (
            (CHANGE.c.id < 1, "was added before the first one"),
            ((CHANGE.c.id > end) & CHANGE.c.run.is_not(None), "is of a run that did not seal it"),
        ):
            stray = connection.execute(select(func.min(CHANGE.c.id)).where(stranger)).scalar()
            if stray is not None:
                raise _Wrong(f"change {stray} {what}", int(stray))
        if _count(connection, ERASED) != self._erased:
            raise _Wrong("there are erased changes that no seal is about")
        sealed = select(SEAL.c.run).where(SEAL.c.kind == CHANGES, SEAL.c.run.is_not(None))
        first = select(func.min(SEAL.c.run)).scalar_subquery()
        run = connection.execute(
            select(func.min(RUN.c.id)).where(
                RUN.c.committed_at.is_not(None), RUN.c.id >= first, RUN.c.id.not_in(sealed)
            )
        ).scalar()
        if run is not None:
            raise _Wrong(f"the seal of run {run} is gone")
        proof.unsealed = _count(connection, CHANGE, CHANGE.c.id > end)


def _links(connection: Connection) -> Iterator[tuple[Link, bytes | None]]:
    statement = select(*LINKS, SEAL.c.marks).order_by(SEAL.c.number)
    with connection.execute(statement, execution_options={"yield_per": 100}) as result:
        for row in result:
            yield Link._make(row[:-1]), None if row[-1] is None else bytes(row[-1])


def _changes(
    connection: Connection, after: int, until: int, *only: ColumnElement[bool]
) -> Iterator[Leaf]:
    try:
        for rows in read(connection, after, until, *only):
            for row in rows:
                yield row[0], leaf(row[:-1]), row
                after = row[0]
    except (DBAPIError, TypeError):
        # Bytes that are no text, for instance.
        number = _unreadable(connection, after, until)
        raise _Wrong(f"change {number} cannot be read", number) from None


def _unreadable(connection: Connection, after: int, until: int) -> int:
    """Return the first change that cannot be read."""
    ids = select(CHANGE.c.id).where(CHANGE.c.id > after, CHANGE.c.id <= until).order_by(CHANGE.c.id)
    for number in connection.execute(ids.limit(2 * CHUNK)).scalars().all():
        try:
            for (row,) in read(connection, number - 1, number):
                leaf(row[:-1])
        except (DBAPIError, TypeError):
            return int(number)
    return after + 1


def _unhex(number: int, text: object) -> bytes:
    try:
        return bytes.fromhex(str(text))
    except ValueError:
        raise _Wrong(f"the hash of the erased change {number} was changed", number) from None


def _first_difference(first: bytes, second: bytes) -> int:
    """Return the place where two texts differ; that of the shorter one's end when they do not."""
    places = (place for place, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    return next(places, min(len(first), len(second)))


def _count(connection: Connection, table: Table, *only: ColumnElement[bool]) -> int:
    statement = select(func.count()).select_from(table).where(*only)
    return int(connection.execute(statement).scalar_one())
