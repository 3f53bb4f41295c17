"""What Amberflo, the destination, holds: the third side of a full compare.

The state may not know what Amberflo has: the state is new, or was lost, or is an older copy, or a
trait became ours that others wrote before. So a full run reads Amberflo first. If Amberflo differs
from what the state believes, the comparison takes Amberflo's value as the one before.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import orjson
import uvloop
from sqlalchemy import Connection

from state import outbox, snapshot
from state.db.database import Database
from state.history import listings
from state.removable import removable
from state.snapshot import CustomerRow
from syncer.amberflo.codec import Record, plain, read, written
from syncer.amberflo.listing import present
from syncer.amberflo.reader import CustomerReader
from syncer.amberflo.record import Difference, alike, at_amberflo, is_protected
from syncer.delivery.desired import trait_differences
from syncer.engage.catalog import Catalog
from syncer.engage.computations import AUDIENCE
from syncer.engage.values import boolean
from syncer.errors import AmberfloError, Refused, TryAgain
from syncer.progress import Progress
from syncer.sync.consistent_reader import ConsistentReader, ListingResult
from syncer.sync.first_contact import FirstContact
from syncer.sync.join import DestinationState
from syncer.sync.owned_traits import OwnedTraits
from syncer.sync.roster import DriftedRow, Roster, RosterRow

Answer = TypeVar("Answer")

#: Customers that are looked up at a time.
PAGE = 200
#: Customers that `count_newer` looks at.
NEWEST = 100


@dataclass
class Destination:
    """Reads Amberflo through `connect`, and keeps what it read on disk; close it when done.

    First call `read`. When the trait names of the run are known, call `first_contact`. `as_strings`
    and `protected` say how our traits are sent; `at_a_time` customers are read by themselves at a
    time. Lists are in UTF-8 byte order of the customer id. For one thread.
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
    listing: ListingResult = ListingResult.NOBODY
    #: drifted customers that Amberflo updated after our newest acknowledgement,
    newer: int = 0
    #: which was at this time (epoch milliseconds); None: nothing was ever acknowledged
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
        """Count the customers that changed last at Amberflo and differ from this state.

        Such customers show that the state is an older copy, at the cost of one request. The count
        is 0 if Amberflo cannot be asked.
        """

        async def newest(reader: ConsistentReader) -> list[Record]:
            return await reader.customers.newest(NEWEST)

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

    def read(self, *, must: bool) -> None:
        """Read all customers of Amberflo.

        Raises AmberfloError if it cannot be reached, and with `must` also if it lists nobody.
        """
        self.progress.say("reading what Amberflo holds")
        self._connected(partial(self._read, must=must))

    def confirm(self, owned: Collection[str]) -> None:
        """Find the customers of the state that Amberflo does not hold as it should.

        `owned` are the trait names that are ours. A listing may lag, so each suspect is read once
        more by itself, and counts only if nothing is on its way to it.
        """
        if self.listing is ListingResult.NOBODY or not self._sent or self.new_account:
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
            async with self.connect() as customers:
                return await work(
                    ConsistentReader(
                        self.database, customers, self.progress, self.at_a_time, self.stop
                    )
                )

        return uvloop.run(connected())

    async def _read(self, reader: ConsistentReader, must: bool) -> None:
        with self.database.read() as connection:
            self._sent = outbox.acknowledged_count(connection)
        self.listing = await reader.read_all(self._take, self._sent, must=must)
        if self.listing is ListingResult.WITHOUT_TRAITS:
            await self._read_the_unknown(reader)

    def _take(self, batch: list[Record]) -> int:
        """Note some listed customers; return how many came without traits that they should have.

        These are customers of ours that have some, and customers that the state does not know.
        """
        records = present(batch)
        with self.database.read() as connection:
            rows = {row.customer_id: row for row in snapshot.find(connection, records)}
        self.roster.put(
            _row_of(record, customer_id in rows and self._was_acknowledged(rows[customer_id]))
            for customer_id, record in records.items()
        )
        return sum(
            "traits" not in record and (customer_id not in rows or _has_traits(rows[customer_id]))
            for customer_id, record in records.items()
        )

    async def _read_the_unknown(self, reader: ConsistentReader) -> None:
        """Read unknown customers by themselves: no listing shows traits."""
        total, done = self.roster.unknown_count(), 0
        self.progress.begin("reading alone", total)

        async def read(customer_id: str) -> None:
            nonlocal done
            await self._read_alone(reader, customer_id, known=False)
            done += 1
            self.progress.at(done)

        try:
            await reader.for_each(self.roster.unknown(), read)
        finally:
            self.progress.end()

    async def _read_alone(self, reader: ConsistentReader, customer_id: str, known: bool) -> None:
        reader.check_stop()
        record = await reader.customers.one(customer_id)
        if record is None:
            self.roster.drop([customer_id])
        else:
            self.roster.put([_row_of({"traits": {}, **record}, known)])

    def read_again(self, customer_ids: Iterable[str]) -> None:
        """Read customers by themselves once more: a listing may lag, and its pages move."""

        async def read_again(reader: ConsistentReader) -> None:
            async def read(customer_id: str) -> None:
                try:
                    await self._read_alone(reader, customer_id, known=True)
                except (Refused, TryAgain) as problem:
                    self.progress.say(f"{customer_id} cannot be read: {problem}")

            await reader.for_each(iter(customer_ids), read)

        self._connected(read_again)

    # The customers of the state

    def _suspects(self, reader: ConsistentReader, owned: frozenset[str]) -> Iterator[CustomerRow]:
        """Yield the acknowledged customers that the listing shows not to be as they should be."""
        after = ""
        while True:
            reader.check_stop()
            with self.database.read() as connection:
                ids = outbox.acknowledged(connection, after, PAGE)
                rows = snapshot.find(connection, ids)
            if not ids:
                return
            listed = {row.customer_id: row for row in self.roster.rows(ids)}
            for row in rows:
                if _settled(row) and self._is_suspect(row, listed.get(row.customer_id), owned):
                    yield row
            after = ids[-1]

    def _is_suspect(
        self, row: CustomerRow, listed: RosterRow | None, owned: frozenset[str]
    ) -> bool:
        if listed is None:
            return True
        traits = self._traits(listed.traits)
        return traits is not None and bool(self._differences(traits, row, owned))

    async def _judge(
        self, reader: ConsistentReader, row: CustomerRow, owned: frozenset[str]
    ) -> None:
        try:
            single = await reader.read_one(row)
        except (Refused, TryAgain) as problem:
            self.progress.say(f"{row.customer_id} cannot be read: {problem}")
            return
        if single.row is None or not single.settled or not _settled(single.row):
            return
        if single.record is None:
            self.roster.put_drifted(row.customer_id, single.row.rev, missing=True)
            return
        shown = _row_of({"traits": {}, **single.record}, known=True)
        self.roster.put([shown])
        if self._differences(read(shown.traits or "{}"), single.row, owned):
            self.roster.put_drifted(row.customer_id, single.row.rev, missing=False)
            since = self.acknowledged
            self.newer += since is not None and (shown.updated_at or 0) > since

    def _differences(
        self, traits: dict[str, Any], row: CustomerRow, owned: frozenset[str]
    ) -> list[Difference]:
        """Return where the traits of these names are not as they should be.

        What identify calls said is not Engage's to correct.
        """
        differences = trait_differences(
            traits, row, owned, as_strings=self.as_strings, protected=self.protected
        )
        return [difference for difference in differences if difference.trait in owned]

    def _traits(self, text: str | None) -> dict[str, Any] | None:
        """Return a listed customer's traits; None if the listing does not show them."""
        if text is None:
            return {} if self.listing is ListingResult.WITH_TRAITS else None
        traits: dict[str, Any] = read(text)
        return traits

    def first_contact(self, catalog: Catalog, connection: Connection | None = None) -> FirstContact:
        """Confirm what differs of the traits of a run, and prepare to count it.

        `connection` is the run's own, to look at the state.
        """
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
            note_in_engage=self.roster.put_in_engage,
            doubtful=partial(self._doubtful, connection),
        )

    def _doubtful(self, connection: Connection | None) -> Iterator[str]:
        """Yield whom `before` has something of: nobody else's record needs a look."""
        yield from self.roster.unknown()
        yield from (row.customer_id for row in self.roster.drifted())
        with self._state(connection) as state:
            yield from outbox.never_acknowledged(state)

    # What Amberflo holds

    def record(self, listed: RosterRow) -> Record | None:
        """Return what the listing shows of a customer; None if it does not show traits."""
        traits = self._traits(listed.traits)
        if traits is None:
            return None
        fields = {"customerName": listed.name, "customerEmail": listed.email, "traits": traits}
        return {field: value for field, value in fields.items() if value is not None}

    def traits(self, customer_ids: Collection[str]) -> dict[str, dict[str, Any]]:
        """Return all traits of the named customers, as far as Amberflo shows them."""
        return {
            row.customer_id: traits
            for row in self.roster.rows(customer_ids)
            if (traits := self._traits(row.traits)) is not None
        }

    def before(
        self, customer_ids: Collection[str], connection: Connection | None = None
    ) -> dict[str, DestinationState]:
        """Return what Amberflo has of the named customers, if the state does not believe it.

        These are customers that the state does not know or that Amberflo never acknowledged,
        customers with a value under a new name, and customers that are confirmed not to be as the
        state believes.
        """
        with self._state(connection) as state:
            rows = {row.customer_id: row for row in snapshot.find(state, customer_ids)}
            # Amberflo may have taken a value from us without our learning of it. A run decided on
            # what became of it since: to judge it again could take that back.
            unsure = [key for key, row in rows.items() if not self._was_acknowledged(row)]
            maybe_sent = {} if self.new_account else listings.maybe_sent(state, unsure)
        states = {}
        for listed in self.roster.rows(customer_ids):
            row = rows.get(listed.customer_id)
            if row is not None and self._was_acknowledged(row) and (_settled(row) or not self.new):
                continue  # nearly all customers: nothing is read of them
            traits = self._traits(listed.traits)
            if traits is None:
                continue
            traits = self._comparable(traits)
            if row is None:
                states[listed.customer_id] = DestinationState(None, traits)
            elif not self._was_acknowledged(row):
                from_us = maybe_sent.get(row.customer_id, {})
                judged = {name for name in traits if not _is_one(traits[name], from_us.get(name))}
                states[listed.customer_id] = DestinationState(
                    row.rev, traits, judged=judged, may_lag=not self.new_account
                )
            elif not _settled(row) and (new := traits.keys() & self.new):
                states[listed.customer_id] = DestinationState(row.rev, traits, judged=new)
        states.update(
            (
                row.customer_id,
                DestinationState(row.rev, self._comparable(read(row.traits)), row.missing),
            )
            for row in self.roster.drifted(customer_ids)
        )
        return states

    def _state(self, connection: Connection | None) -> AbstractContextManager[Connection]:
        return self.database.read() if connection is None else nullcontext(connection)

    def _was_acknowledged(self, row: CustomerRow) -> bool:
        """Return whether this account acknowledged a customer to the state."""
        return row.acked_rev > 0 and not self.new_account

    def _comparable(self, traits: Mapping[str, Any]) -> dict[str, Any]:
        """Return the traits less the protected ones, which nobody compares."""
        return {
            name: plain(value)
            for name, value in traits.items()
            if not is_protected(name, self.protected)
        }

    def records(self, after: str = "") -> Iterator[tuple[str, str]]:
        """Yield (customer_id, traits as JSON) of all shown customers with an id after `after`."""
        for customer_id, text in self.roster.records(after):
            if text is not None or self.listing is ListingResult.WITH_TRAITS:
                yield customer_id, text or "{}"

    def drifted(self) -> Iterator[DriftedRow]:
        """Yield the customers of the state that are confirmed not to be as they should be."""
        return self.roster.drifted()

    def drop(self, customer_ids: Collection[str]) -> None:
        """Forget these customers: they are not compared."""
        self.roster.drop(customer_ids)

    @property
    def unknown(self) -> int:
        """The number of customers that Amberflo shows and the state does not know."""
        return self.roster.unknown_count()

    @property
    def notice(self) -> str | None:
        """One line if this state seems older than what Amberflo acknowledged."""
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
        _text(record.get("customerName")),
        _text(record.get("customerEmail")),
    )


def _text(value: object) -> str | None:
    return plain(value) if isinstance(value, str) else None


def _is_one(value: Any, texts: Collection[str] | None) -> bool:
    """Return whether a value at Amberflo is one of these (JSON), as Amberflo may store it.

    A membership is also what reads as one: "TRUE" and 1 are `true`.
    """
    member = boolean(value)
    return any(
        alike(at_amberflo(ours), value) or (member is not None and ours is member)
        for ours in map(orjson.loads, texts or ())
    )


def _settled(row: CustomerRow) -> bool:
    """Return whether Amberflo acknowledged all of a customer."""
    return row.due_at is None and row.acked_rev == row.rev > 0


def _has_traits(row: CustomerRow) -> bool:
    return row.acked_rev > 0 and row.due_at is None and row.traits != "{}"
