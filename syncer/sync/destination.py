"""What Amberflo holds, for a full compare: the third side beside Engage and the state.

The state may not know what Amberflo has: it is new, or was lost, or is an older copy, or a trait
became ours that others wrote before. So a full run reads Amberflo first, and where Amberflo differs
from what the state believes, Amberflo's value is what the comparison takes as the one before.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple, TypeVar

import orjson
import uvloop
from sqlalchemy import Connection

from state import outbox, snapshot
from state.db.database import Database
from state.removable import removable
from state.snapshot import CustomerRow
from syncer.amberflo.codec import Record, plain, read, written
from syncer.amberflo.reader import CustomerReader
from syncer.amberflo.record import Difference, is_protected
from syncer.delivery.desired import trait_differences
from syncer.engage.catalog import Catalog
from syncer.engage.computations import AUDIENCE
from syncer.errors import AmberfloError, Refused, TryAgain
from syncer.progress import Progress
from syncer.sync.consistent_reader import ConsistentReader, ListingResult, present
from syncer.sync.join import GONE, DestinationState, JoinedRow
from syncer.sync.owned_traits import EngageTraits, OwnedTraits, engage_traits
from syncer.sync.roster import DriftedRow, Roster, RosterRow

Answer = TypeVar("Answer")

#: Customers that are looked up at a time.
PAGE = 200
#: Customers that a glance looks at.
GLANCED = 100
#: Customers that a trait is shown with.
EXAMPLES = 10


@dataclass
class Destination:
    """Reads Amberflo through `connect`, and keeps what it read on disk. First `read`, then, when it
    is known which trait names are ours, `confirm`; close it when done. `as_strings` and `protected`
    say how our traits are sent, `at_a_time` customers are read by themselves at a time.

    Lists are in UTF-8 byte order of the customer id. For one thread.
    """

    database: Database
    connect: Callable[[], AbstractAsyncContextManager[CustomerReader]]
    progress: Progress
    as_strings: bool = False
    protected: tuple[str, ...] = ()
    at_a_time: int = 16
    stop: Callable[[], bool] = lambda: False
    #: this account acknowledged nothing to the state
    new_account: bool = False
    #: what the listing showed
    listed: ListingResult = ListingResult.NOBODY
    #: drifted customers that Amberflo says were updated after our newest acknowledgement …
    newer: int = 0
    #: … which is this one (epoch milliseconds); None: nothing was ever acknowledged
    acknowledged: int | None = None
    roster: Roster = field(default_factory=Roster)
    #: the names that become ours by this run
    new: Collection[str] = ()
    #: how many customers were acknowledged when the listing was read
    _sent: int = 0

    def close(self) -> None:
        self.roster.close()

    # Reading Amberflo

    def count_newer(self) -> int:
        """How many of the customers that changed last at Amberflo are not as it acknowledged them
        to this state: an older copy of the state shows so, at the cost of one request. 0 where
        Amberflo cannot tell."""

        async def newest(reader: ConsistentReader) -> list[Record]:
            return await reader.holdings.newest(GLANCED)

        try:
            listed = present(self._connected(newest))
        except AmberfloError:
            return 0
        with self.database.read() as connection:
            rows = snapshot.find(connection, listed)
            owned = removable(connection, rows)
        return sum(
            bool(self._differences(traits, row, owned[row.customer_id]))
            for row in rows
            if _settled(row) and isinstance(traits := listed[row.customer_id].get("traits"), dict)
        )

    def read(self) -> None:
        """Take in all customers of Amberflo. Raises AmberfloError where it cannot be reached."""
        self.progress.say("reading what Amberflo holds")
        self._connected(self._read)

    def confirm(self, owned: Collection[str]) -> None:
        """Find the customers of the state that Amberflo does not hold as it should: `owned` are the
        names that are ours. A listing may lag, so each is read once more alone, and counts only
        where nothing is on its way to it."""
        if self.listed is ListingResult.NOBODY or not self._sent or self.new_account:
            return
        names = frozenset(owned)
        with self.database.read() as connection:
            self.acknowledged = outbox.last_acknowledged(connection)

        async def confirm(reader: ConsistentReader) -> None:
            async def judge(row: CustomerRow) -> None:
                await self._judge(reader, row, names)

            await reader.for_each(self._suspects(reader, names), judge)

        self._connected(confirm)

    def _connected(self, work: Callable[[ConsistentReader], Awaitable[Answer]]) -> Answer:
        async def connected() -> Answer:
            async with self.connect() as holdings:
                return await work(
                    ConsistentReader(
                        self.database, holdings, self.progress, self.at_a_time, self.stop
                    )
                )

        return uvloop.run(connected())

    async def _read(self, reader: ConsistentReader) -> None:
        with self.database.read() as connection:
            self._sent = outbox.acknowledged_count(connection)
        self.listed = await reader.read_all(self._take, self._sent)
        if self.listed is ListingResult.WITHOUT_TRAITS:
            await self._read_the_unknown(reader)

    def _take(self, batch: list[Record]) -> int:
        """Note some listed customers; gives how many came without a trait though they should have
        some: those of ours that do, and those that we know nothing of."""
        found = present(batch)
        with self.database.read() as connection:
            rows = {row.customer_id: row for row in snapshot.find(connection, found)}
        self.roster.put(
            _row_of(record, one in rows and self._was_told(rows[one]))
            for one, record in found.items()
        )
        return sum(
            "traits" not in record and (one not in rows or _has_some(rows[one]))
            for one, record in found.items()
        )

    async def _read_the_unknown(self, reader: ConsistentReader) -> None:
        """No listing shows traits: read those alone that the state does not know."""
        total, done = self.roster.unknown_count(), 0
        self.progress.begin("reading alone", total)

        async def read(customer_id: str) -> None:
            nonlocal done
            reader.check_stop()
            record = await reader.holdings.one(customer_id)
            if record is None:
                self.roster.drop([customer_id])
            else:
                self.roster.put([_row_of({"traits": {}, **record}, known=False)])
            done += 1
            self.progress.at(done)

        try:
            await reader.for_each(self.roster.unknown(), read)
        finally:
            self.progress.end()

    # The customers of the state

    def _suspects(self, reader: ConsistentReader, owned: frozenset[str]) -> Iterator[CustomerRow]:
        """The acknowledged customers that are not as they should be, by the listing."""
        after = ""
        while True:
            reader.check_stop()
            with self.database.read() as connection:
                ids = outbox.acknowledged(connection, after, PAGE)
                rows = snapshot.find(connection, ids)
            if not ids:
                return
            there = {row.customer_id: row for row in self.roster.rows(ids)}
            for row in rows:
                if _settled(row) and self._is_suspect(row, there.get(row.customer_id), owned):
                    yield row
            after = ids[-1]

    def _is_suspect(self, row: CustomerRow, there: RosterRow | None, owned: frozenset[str]) -> bool:
        if there is None:
            return True
        traits = self._traits(there.traits)
        return traits is not None and bool(self._differences(traits, row, owned))

    async def _judge(
        self, reader: ConsistentReader, row: CustomerRow, owned: frozenset[str]
    ) -> None:
        try:
            found = await reader.read_one(row)
        except (Refused, TryAgain) as problem:
            self.progress.say(f"{row.customer_id} cannot be read: {problem}")
            return
        if found.row is None or not found.settled or not _settled(found.row):
            return
        if found.record is None:
            self.roster.put_drifted(row.customer_id, found.row.rev, missing=True)
            return
        seen = _row_of({"traits": {}, **found.record}, known=True)
        self.roster.put([seen])
        if self._differences(read(seen.traits or "{}"), found.row, owned):
            self.roster.put_drifted(row.customer_id, found.row.rev, missing=False)
            since = self.acknowledged
            self.newer += since is not None and (seen.updated_at or 0) > since

    def _differences(
        self, traits: dict[str, Any], row: CustomerRow, owned: frozenset[str]
    ) -> list[Difference]:
        """Where the traits of these names are not as they should be: what identify calls said is
        not Engage's to correct."""
        found = trait_differences(
            traits, row, owned, as_strings=self.as_strings, protected=self.protected
        )
        return [one for one in found if one.trait in owned]

    def _traits(self, text: str | None) -> dict[str, Any] | None:
        """A listed customer's traits; None where the listing does not show them."""
        if text is None:
            return {} if self.listed is ListingResult.WITH_TRAITS else None
        found: dict[str, Any] = read(text)
        return found

    def first_contact(self, catalog: Catalog, connection: Connection | None = None) -> FirstContact:
        """Confirm what differs of the traits of a run, and be ready to count it; `connection` is
        the run's own, to look at the state with."""
        with self._state(connection) as state:
            self.new = frozenset(catalog.by_name) - snapshot.owned(state)
        self.confirm(catalog.by_name)
        audiences = {name: trait.kind == AUDIENCE for name, trait in catalog.by_name.items()}
        ours = OwnedTraits(audiences, self.as_strings, self.protected)
        before = partial(self.before, connection=connection)
        return FirstContact(
            before,
            catalog,
            ours,
            self.roster.unknown,
            self.unknown,
            self.notice,
            new_account=self.new_account,
        )

    # What was found

    def traits(self, customer_ids: Collection[str]) -> dict[str, dict[str, Any]]:
        """All traits of those of the named customers that Amberflo shows."""
        return {
            row.customer_id: traits
            for row in self.roster.rows(customer_ids)
            if (traits := self._traits(row.traits)) is not None
        }

    def before(
        self, customer_ids: Collection[str], connection: Connection | None = None
    ) -> dict[str, DestinationState]:
        """Those of the named customers that the state does not know, or never told Amberflo of,
        that have a value under a name that is new, or that are confirmed not to be as the state
        believes."""
        with self._state(connection) as state:
            rows = {row.customer_id: row for row in snapshot.find(state, customer_ids)}
        found = {}
        for listed in self.roster.rows(customer_ids):
            row = rows.get(listed.customer_id)
            if row is not None and self._was_told(row) and (_settled(row) or not self.new):
                continue  # as nearly all are: nothing is read of them
            traits = self._traits(listed.traits)
            if traits is None:
                continue
            traits = self._free(traits)
            if row is None:
                found[listed.customer_id] = DestinationState(None, traits)
            elif not self._was_told(row):
                found[listed.customer_id] = DestinationState(row.rev, traits, judged=traits.keys())
            elif not _settled(row) and (new := traits.keys() & self.new):
                found[listed.customer_id] = DestinationState(row.rev, traits, judged=new)
        found.update(
            (row.customer_id, DestinationState(row.rev, self._free(read(row.traits)), row.missing))
            for row in self.roster.drifted(customer_ids)
        )
        return found

    def _state(self, connection: Connection | None) -> AbstractContextManager[Connection]:
        return self.database.read() if connection is None else nullcontext(connection)

    def _was_told(self, row: CustomerRow) -> bool:
        """Whether this account acknowledged a customer to the state."""
        return row.acked_rev > 0 and not self.new_account

    def _free(self, traits: Mapping[str, Any]) -> dict[str, Any]:
        """The traits less those that are protected: these are nobody's to compare."""
        return {
            name: plain(value)
            for name, value in traits.items()
            if not is_protected(name, self.protected)
        }

    def records(self, after: str = "") -> Iterator[tuple[str, str]]:
        """(customer_id, traits as JSON) of all that Amberflo shows whose id comes after `after`."""
        for customer_id, text in self.roster.records(after):
            if text is not None or self.listed is ListingResult.WITH_TRAITS:
                yield customer_id, text or "{}"

    def drifted(self) -> Iterator[DriftedRow]:
        """The customers of the state that are confirmed not to be as they should."""
        return self.roster.drifted()

    def drop(self, customer_ids: Collection[str]) -> None:
        """Take these out: they are not to be looked at."""
        self.roster.drop(customer_ids)

    @property
    def unknown(self) -> int:
        """How many customers Amberflo shows that the state does not know."""
        return self.roster.unknown_count()

    @property
    def notice(self) -> str | None:
        """One line where this state seems older than what Amberflo acknowledged."""
        if not self.newer or self.acknowledged is None:
            return None
        time = datetime.fromtimestamp(self.acknowledged / 1000, UTC)
        return (
            f"{self.newer:,} customers hold at Amberflo something newer than what this state "
            f"acknowledged last ({time:%Y-%m-%dT%H:%M:%SZ}): it may be an older copy; they are "
            "compared with Engage anew"
        )


def _row_of(record: Record, known: bool) -> RosterRow:
    traits, updated_at = record.get("traits"), record.get("updateTime")
    text = written(traits if isinstance(traits, dict) else {}).decode()
    return RosterRow(
        record["customerId"],
        text if "traits" in record else None,
        int(updated_at) if isinstance(updated_at, int | float) else None,
        known,
    )


def _settled(row: CustomerRow) -> bool:
    """Whether Amberflo acknowledged all of a customer."""
    return row.due_at is None and row.acked_rev == row.rev > 0


def _has_some(row: CustomerRow) -> bool:
    return row.acked_rev > 0 and row.due_at is None and row.traits != "{}"


# What a comparison makes of it


class Example(NamedTuple):
    """A customer whose value at Amberflo is not what Engage says; None is absent."""

    customer_id: str
    found: Any
    expected: Any


@dataclass
class TraitFirstContact:
    """Customers of Engage that hold a value at Amberflo under a name of ours that the state did not
    put there: how many, those of them where it is not what Engage says, and some of these."""

    trait: str
    found: int = 0
    differ: int = 0
    examples: list[Example] = field(default_factory=list)


@dataclass
class FirstContact:
    """What a full compare takes over from Amberflo or corrects there, by trait."""

    #: as that of `Destination`, of the run's own connection
    before: Callable[[Collection[str]], Mapping[str, DestinationState]]
    catalog: Catalog
    ours: OwnedTraits
    #: the customers that Amberflo shows and the state does not know, in byte order of the id …
    unknown_ids: Callable[[], Iterator[str]]
    #: … and how many they are
    unknown: int = 0
    #: one line where this state seems older than what Amberflo acknowledged
    notice: str | None = None
    traits: dict[str, TraitFirstContact] = field(default_factory=dict)
    #: as that of `Destination`
    new_account: bool = False

    def noting(self, pairs: Iterable[JoinedRow]) -> Iterator[JoinedRow]:
        """The same pairs of a full compare; those are counted that Amberflo does not hold as the
        state believes. Of who is not in the pull Engage says nothing."""
        for row, known, seen in pairs:
            if seen is not None:
                said = (
                    EngageTraits({})
                    if row is None or row is GONE
                    else engage_traits(self.catalog, row)
                )
                customer_id = known[0] if known is not None else row[0] if row is not None else ""
                self.note(customer_id, seen, said, orjson.loads(known[1]) if known else {})
            yield row, known, seen

    def note(
        self,
        customer_id: str,
        seen: DestinationState,
        said: EngageTraits,
        put_there: Mapping[str, Any],
    ) -> None:
        """Count a customer that `Destination.before` has, of which Engage says that, and the values
        that the state did not put there."""
        for name in self.ours.names(seen.traits):
            found = seen.traits[name]
            ours = name in put_there and self.ours.right(name, found, put_there)
            if found is None or ours or name in said.unread:
                continue
            one = self.traits.setdefault(name, TraitFirstContact(name))
            one.found += 1
            if not self.ours.right(name, found, said.traits):
                one.differ += 1
                if len(one.examples) < EXAMPLES:
                    expected = self.ours.expected(name, found, said.traits)
                    one.examples.append(Example(customer_id, found, expected))

    def by_name(self) -> list[TraitFirstContact]:
        return [self.traits[name] for name in sorted(self.traits)]
