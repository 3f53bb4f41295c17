"""The verification: what Amberflo holds now, against what it should hold; nothing is written.

The listing can only clear customers, never convict them: every other customer is read once more by
itself (consistent_reader.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import uvloop

from state import holds, outbox, snapshot
from state.db.database import Database
from state.removable import removable
from state.snapshot import CustomerRow
from syncer.amberflo.codec import Record
from syncer.amberflo.reader import CustomerReader
from syncer.amberflo.record import Difference, alike
from syncer.delivery.customers import Delivery
from syncer.delivery.desired import differences, ours_at_amberflo
from syncer.errors import (
    ConfigError,
    NotFound,
    Refused,
    SourceError,
    StateError,
    SyncerError,
    TryAgain,
)
from syncer.progress import Progress
from syncer.sync.consistent_reader import ConsistentReader, ListingResult, present
from syncer.sync.engage_lookup import AT_A_TIME, EngageLookup
from syncer.sync.owned_traits import EngageTraits
from syncer.verify.findings import CLAIMS, EQUAL, EXTRA, STRANGER, SUSPECT, UNSEEN
from syncer.verify.result import Verification

Item = TypeVar("Item")

#: Customers that are read from the state at a time.
PAGE = 1000

#: What becomes of a customer that is read by itself.
GOOD, DRIFTED, MISSING, PENDING = "good", "drifted", "missing", "pending"
FORGOTTEN = "forgotten"


class Judged(NamedTuple):
    """How a customer was found: `names` are the traits that were compared."""

    verdict: str
    drifts: Sequence[Difference] = ()
    names: Sequence[str] = ()


@dataclass
class Verifier:
    """Compares on a state database. `connect` opens the way to Amberflo, `owned` are the trait
    names that are ours; `engage_lookup` asks Engage about customers that the state does not know;
    `at_a_time` customers are read by themselves at a time."""

    database: Database
    connect: Callable[[], AbstractAsyncContextManager[CustomerReader]]
    owned: frozenset[str]
    engage_lookup: EngageLookup
    progress: Progress
    as_strings: bool = False
    protected: tuple[str, ...] = ()
    at_a_time: int = 16
    stop: Callable[[], bool] = lambda: False

    def verify(
        self,
        customer_id: str | None = None,
        repair: Callable[[Iterable[str]], Delivery] | None = None,
    ) -> Verification:
        """Look at all customers that were ever sent and all that Amberflo lists, or at one
        customer. With `repair` (that of `Runs`) what differs is compared with Engage anew, sent and
        looked at again."""
        self._found, self._engage_answers = Verification(), True
        try:
            uvloop.run(self._connected(lambda: self._find(customer_id)))
            if repair is not None and not self._found.good:
                self._repair(repair)
        except BaseException:
            self._found.close()
            raise
        return self._found

    def _repair(self, repair: Callable[[Iterable[str]], Delivery]) -> None:
        try:
            delivery = repair(self._found.findings.differing())
            if delivery.failed:
                self._found.problems.append(
                    f"Amberflo does not take {delivery.failed:,} customers: `syncer failures` "
                    "lists them"
                )
            if delivery.problem:
                self._found.problems.append(delivery.problem)
            uvloop.run(self._connected(self._check_repairs))
        except (StateError, SyncerError) as error:
            # What was found is worth telling all the same.
            self._found.problems.append(str(error))

    async def _connected(self, work: Callable[[], Awaitable[None]]) -> None:
        async with self.connect() as holdings:
            self._reader = ConsistentReader(
                self.database, holdings, self.progress, self.at_a_time, self.stop
            )
            await work()

    async def _find(self, customer_id: str | None) -> None:
        if customer_id is not None:
            await self._find_one(customer_id)
            return
        with self.database.read() as connection:
            total = outbox.acknowledged_count(connection)
        listed = await self._reader.read_all(self._look, total)
        self.progress.begin("checking", total)
        try:
            await self._reader.for_each(self._suspects(), self._judge)
        finally:
            self.progress.end()
        await self._judge_strangers(CLAIMS)
        if listed is ListingResult.WITHOUT_TRAITS:
            await self._judge_strangers(UNSEEN)

    async def _find_one(self, customer_id: str) -> None:
        row = self._reader.state_row(customer_id)
        if row is not None and row.acked_rev > 0:
            self._found.checked = 1
            await self._judge(row)
        elif row is not None and row.due_at is not None:
            raise NotFound(f"the customer {customer_id!r} is still to be sent: `syncer sync` does")
        elif (record := await self._reader.holdings.one(customer_id)) is not None:
            look = EXTRA if row is not None else self._look_of_stranger({"traits": {}, **record})
            self._found.findings.put_looks([(customer_id, look)])
            await self._judge_strangers(CLAIMS)
        else:
            raise NotFound(f"the customer {customer_id!r} was never sent, and is not at Amberflo")

    async def _check_repairs(self) -> None:
        await self._reader.for_each(self._found.findings.differing(), self._judge_repair)

    # The listing

    def _look(self, batch: list[Record]) -> int:
        """Look at some listed customers; gives how many of ours lack all their traits."""
        found = present(batch)
        with self.database.read() as connection:
            rows = {row.customer_id: row for row in snapshot.find(connection, found)}
        before = self._found.findings.looks(found)
        looks: list[tuple[str, int]] = []
        bare = 0
        for customer_id, record in found.items():
            row = rows.get(customer_id)
            if before.get(customer_id) == EQUAL:
                continue  # a page that moved brought it twice
            if row is None:
                looks.append((customer_id, self._look_of_stranger(record)))
            elif row.acked_rev == 0 and row.due_at is None:
                looks.append((customer_id, EXTRA))
            elif row.acked_rev > 0 and row.due_at is None:
                bare += "traits" not in record and row.traits != "{}"
                drifts, names = self._compare(row, record)
                looks.append((customer_id, SUSPECT if drifts else EQUAL))
                if not drifts:
                    self._found.equal_traits.update(names)
        self._found.findings.put_looks(looks)
        return bare

    # Customers that the state does not know

    def _look_of_stranger(self, record: Record) -> int:
        if "traits" not in record:
            return UNSEEN
        return CLAIMS if self._claims(record) else EXTRA

    def _claims(self, record: Record) -> list[str]:
        """The names of ours under which a customer holds something."""
        traits = record.get("traits")
        return self.engage_lookup.ours.held(traits) if isinstance(traits, dict) else []

    async def _judge_strangers(self, look: int) -> None:
        """Those of them that Engage knows, or that it cannot be asked about, are to hold under our
        names what Engage says. Those that it does not know are nobody's business here."""
        after = ""
        while ids := self._found.findings.with_look(look, after, AT_A_TIME):
            self._reader.check_stop()
            said = self._ask(ids)
            await self._reader.for_each(iter(said.items()), self._judge_stranger)
            after = ids[-1]

    def _ask(self, ids: list[str]) -> Mapping[str, EngageTraits | None]:
        try:
            if self._engage_answers:
                return self.engage_lookup.traits_of(ids)
        except (SourceError, ConfigError) as error:
            self._engage_answers = False
            self.progress.say(
                f"Engage cannot be asked ({error}): what customers that were never sent hold under "
                "our names counts as if it should not be there"
            )
        return dict.fromkeys(ids)

    async def _judge_stranger(self, stranger: tuple[str, EngageTraits | None]) -> None:
        customer_id, said = stranger
        record = await self._reader.holdings.one(customer_id)
        if record is None or self._reader.state_row(customer_id) is not None:
            return  # it is gone, or a run or a call brought it in meanwhile
        ours, drifts = self.engage_lookup.ours, []
        for name in self._claims(record):
            found = record["traits"][name]
            if said is None:
                drifts.append(Difference(name, None, found))
            elif name not in said.unreadable and not ours.right(name, found, said.traits):
                drifts.append(Difference(name, ours.expected(name, found, said.traits), found))
        if drifts:
            self._found.checked += 1
            self._found.put(customer_id, drifts)
            self._found.findings.put_looks([(customer_id, STRANGER)])

    async def _judge_repaired_stranger(self, customer_id: str) -> Judged:
        """One that the run did not bring in: is it as it was expected to be?"""
        record = await self._reader.holdings.one(customer_id)
        there = {} if record is None else record.get("traits") or {}
        drifts = [
            Difference(one.trait, one.expected, there.get(one.trait))
            for one in self._found.drifts(customer_id)
            if not alike(one.expected, there.get(one.trait))
        ]
        return Judged(DRIFTED if drifts else GOOD, drifts)

    # One customer

    def _suspects(self) -> Iterator[CustomerRow]:
        """Every customer that was ever sent, less those that the listing showed to be right."""
        after = ""
        while True:
            self._reader.check_stop()
            with self.database.read() as connection:
                ids = outbox.acknowledged(connection, after, PAGE)
                if not ids:
                    return
                looks = self._found.findings.looks(ids)
                suspects = [one for one in ids if looks.get(one) != EQUAL]
                rows = snapshot.find(connection, suspects)
            # Who was erased meanwhile is not judged.
            self._found.checked += len(ids) - len(suspects) + len(rows)
            self._found.equal += len(ids) - len(suspects)
            for done, row in enumerate(rows, self._found.checked - len(rows)):
                self.progress.at(done)
                yield row
            self.progress.at(self._found.checked)
            after = ids[-1]

    async def _judge(self, row: CustomerRow) -> None:
        try:
            judged = await self._judged(row)
        except (Refused, TryAgain) as problem:
            self._found.unread += 1
            self._found.checked -= 1
            self._found.problems.append(f"{row.customer_id} cannot be read: {problem}")
            return
        if judged.verdict == FORGOTTEN:
            self._found.checked -= 1
            return
        if judged.verdict == PENDING:
            self._found.pending += 1
            return
        drifted = {drift.trait for drift in judged.drifts}
        self._found.equal_traits.update(name for name in judged.names if name not in drifted)
        if judged.verdict == GOOD:
            self._found.equal += 1
            return
        self._found.put(row.customer_id, judged.drifts)

    async def _judge_repair(self, customer_id: str) -> None:
        row = self._reader.state_row(customer_id)
        if row is not None:
            judged = await self._judged(row)
        elif self._found.findings.looks([customer_id]).get(customer_id) == STRANGER:
            judged = await self._judge_repaired_stranger(customer_id)
        else:
            judged = Judged(FORGOTTEN)
        if judged.verdict == GOOD:
            traits = [drift.trait for drift in self._found.drifts(customer_id)]
            self.progress.say(f"repaired {customer_id}: {', '.join(traits) or 'it was missing'}")
            self._found.findings.repaired(customer_id)
            return
        if self._is_held(customer_id):
            self.progress.say(f"not repaired {customer_id}: held")
            return
        why = {
            FORGOTTEN: "it was erased meanwhile",
            PENDING: "it is still to be sent",
            MISSING: "Amberflo does not show it; if it was deleted there, reinstate it there",
            DRIFTED: "it still differs in " + ", ".join(drift.trait for drift in judged.drifts),
        }
        self.progress.say(f"not repaired {customer_id}: {why[judged.verdict]}")

    def _is_held(self, customer_id: str) -> bool:
        with self.database.read() as connection:
            return bool(holds.in_force(connection, [customer_id]))

    async def _judged(self, row: CustomerRow) -> Judged:
        """Read one customer, and judge it if nothing is on its way to it."""
        found = await self._reader.read_one(row)
        if found.row is None:
            return Judged(FORGOTTEN)
        if not found.settled:
            return Judged(PENDING)
        if found.record is None:
            return Judged(MISSING)
        drifts, names = self._compare(found.row, found.record)
        return Judged(DRIFTED if drifts else GOOD, drifts, names)

    def _compare(self, row: CustomerRow, record: Record) -> tuple[list[Difference], list[str]]:
        """Where the record is not as it should be, and the names of all that was compared."""
        how: Any = {"as_strings": self.as_strings, "protected": self.protected}
        owned = self.owned
        if row.compared is None:
            with self.database.read() as connection:
                owned = removable(connection, [row])[row.customer_id]
        drifts = differences(record, row, owned, **how)
        names = [*ours_at_amberflo(row, owned, **how), "customerName"]
        return drifts, [*names, "customerEmail"] if row.email else names
