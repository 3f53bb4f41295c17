"""The verification: what Amberflo holds now, against what it should hold; it writes nothing.

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
from syncer.amberflo.listing import present
from syncer.amberflo.reader import CustomerReader
from syncer.amberflo.record import Difference, alike
from syncer.delivery.customers import Delivery
from syncer.delivery.desired import compared_names, differences
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
from syncer.sync.consistent_reader import ConsistentReader, ListingResult
from syncer.sync.engage_lookup import AT_A_TIME, EngageLookup
from syncer.sync.findings import CLAIMS, EQUAL, EXTRA, STRANGER, SUSPECT, UNSEEN
from syncer.sync.owned_traits import EngageTraits
from syncer.verify.result import Verification

Item = TypeVar("Item")

#: Customers that are read from the state at a time.
PAGE = 1000

#: The verdicts on a customer that is read by itself.
GOOD, DRIFTED, MISSING, PENDING = "good", "drifted", "missing", "pending"
FORGOTTEN = "forgotten"


class Judged(NamedTuple):
    """The verdict on a customer; `names` are the traits that were compared."""

    verdict: str
    drifts: Sequence[Difference] = ()
    names: Sequence[str] = ()


@dataclass
class Verifier:
    """Verifies a state database against Amberflo.

    `connect` opens the way to Amberflo, `owned` are the trait names that are ours. `engage_lookup`
    asks Engage about customers that the state does not know. `at_a_time` customers are read by
    themselves at a time.
    """

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
        """Check all customers that were ever sent and all that Amberflo lists, or one customer.

        With `repair` (that of `Runs`), what differs is compared with Engage again, sent, and
        checked again.
        """
        self._result, self._engage_answers = Verification(), True
        try:
            uvloop.run(self._connected(lambda: self._find(customer_id)))
            if repair is not None and not self._result.good:
                self._repair(repair)
        except BaseException:
            self._result.close()
            raise
        return self._result

    def _repair(self, repair: Callable[[Iterable[str]], Delivery]) -> None:
        try:
            delivery = repair(self._result.findings.differing())
            if delivery.failed:
                self._result.problems.append(
                    f"Amberflo does not take {delivery.failed:,} customers: `syncer failures` "
                    "lists them"
                )
            if delivery.problem:
                self._result.problems.append(delivery.problem)
            uvloop.run(self._connected(self._check_repairs))
        except (StateError, SyncerError) as error:
            # The result so far is worth reporting all the same.
            self._result.problems.append(str(error))

    async def _connected(self, work: Callable[[], Awaitable[None]]) -> None:
        async with self.connect() as customers:
            self._reader = ConsistentReader(
                self.database, customers, self.progress, self.at_a_time, self.stop
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
            self._result.checked = 1
            await self._judge(row)
        elif row is not None and row.due_at is not None:
            raise NotFound(f"the customer {customer_id!r} is still to be sent: `syncer sync` does")
        elif (record := await self._reader.customers.one(customer_id)) is not None:
            look = EXTRA if row is not None else self._look_of_stranger({"traits": {}, **record})
            self._result.findings.put_looks([(customer_id, look)])
            await self._judge_strangers(CLAIMS)
        else:
            raise NotFound(f"the customer {customer_id!r} was never sent, and is not at Amberflo")

    async def _check_repairs(self) -> None:
        await self._reader.for_each(self._result.findings.differing(), self._judge_repair)

    # The listing

    def _look(self, batch: list[Record]) -> int:
        """Look at some listed customers; return how many of ours lack all their traits."""
        records = present(batch)
        with self.database.read() as connection:
            rows = {row.customer_id: row for row in snapshot.find(connection, records)}
        before = self._result.findings.looks(records)
        looks: list[tuple[str, int]] = []
        bare = 0
        for customer_id, record in records.items():
            row = rows.get(customer_id)
            if before.get(customer_id) == EQUAL:
                continue  # it came twice, because a page moved
            if row is None:
                looks.append((customer_id, self._look_of_stranger(record)))
            elif row.acked_rev == 0 and row.due_at is None:
                looks.append((customer_id, EXTRA))
            elif row.acked_rev > 0 and row.due_at is None:
                bare += "traits" not in record and row.traits != "{}"
                drifts, names = self._compare(row, record)
                looks.append((customer_id, SUSPECT if drifts else EQUAL))
                if not drifts:
                    self._result.equal_traits.update(names)
        self._result.findings.put_looks(looks)
        return bare

    # Customers that the state does not know

    def _look_of_stranger(self, record: Record) -> int:
        if "traits" not in record:
            return UNSEEN
        return CLAIMS if self._claims(record) else EXTRA

    def _claims(self, record: Record) -> list[str]:
        """Return the names of ours under which a customer holds something."""
        traits = record.get("traits")
        return self.engage_lookup.ours.held(traits) if isinstance(traits, dict) else []

    async def _judge_strangers(self, look: int) -> None:
        """Judge customers that the state does not know, and that looked like `look`.

        Under our names they should hold what Engage says, also if Engage cannot be asked. Customers
        that Engage does not know are not judged by what they hold elsewhere.
        """
        after = ""
        while ids := self._result.findings.with_look(look, after, AT_A_TIME):
            self._reader.check_stop()
            answers = self._ask(ids)
            await self._reader.for_each(iter(answers.items()), self._judge_stranger)
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
        customer_id, engage = stranger
        record = await self._reader.customers.one(customer_id)
        if record is None or self._reader.state_row(customer_id) is not None:
            return  # it was deleted, or a run or a call brought it in meanwhile
        ours, drifts = self.engage_lookup.ours, []
        for name in self._claims(record):
            value = record["traits"][name]
            if engage is None:
                drifts.append(Difference(name, None, value))
            elif name not in engage.unreadable and not ours.right(name, value, engage.traits):
                drifts.append(Difference(name, ours.expected(name, value, engage.traits), value))
        if drifts:
            self._result.checked += 1
            self._result.findings.put(customer_id, drifts)
            self._result.findings.put_looks([(customer_id, STRANGER)])

    async def _judge_repaired_stranger(self, customer_id: str) -> Judged:
        """Judge a customer that the run did not bring in: is it as it was expected to be?"""
        record = await self._reader.customers.one(customer_id)
        traits = {} if record is None else record.get("traits") or {}
        drifts = [
            Difference(drift.trait, drift.expected, traits.get(drift.trait))
            for drift in self._result.findings.drifts(customer_id)
            if not alike(drift.expected, traits.get(drift.trait))
        ]
        return Judged(DRIFTED if drifts else GOOD, drifts)

    # One customer

    def _suspects(self) -> Iterator[CustomerRow]:
        """Yield every customer that was ever sent, less those that the listing cleared."""
        after = ""
        while True:
            self._reader.check_stop()
            with self.database.read() as connection:
                ids = outbox.acknowledged(connection, after, PAGE)
                if not ids:
                    return
                looks = self._result.findings.looks(ids)
                suspects = [it for it in ids if looks.get(it) != EQUAL]
                rows = snapshot.find(connection, suspects)
            # Customers that were erased meanwhile are not judged.
            self._result.checked += len(ids) - len(suspects) + len(rows)
            self._result.equal += len(ids) - len(suspects)
            for done, row in enumerate(rows, self._result.checked - len(rows)):
                self.progress.at(done)
                yield row
            self.progress.at(self._result.checked)
            after = ids[-1]

    async def _judge(self, row: CustomerRow) -> None:
        try:
            judged = await self._judged(row)
        except (Refused, TryAgain) as problem:
            self._result.unread += 1
            self._result.checked -= 1
            self._result.problems.append(f"{row.customer_id} cannot be read: {problem}")
            return
        if judged.verdict == FORGOTTEN:
            self._result.checked -= 1
            return
        if judged.verdict == PENDING:
            self._result.pending += 1
            return
        drifted = {drift.trait for drift in judged.drifts}
        self._result.equal_traits.update(name for name in judged.names if name not in drifted)
        if judged.verdict == GOOD:
            self._result.equal += 1
            return
        missing = judged.verdict == MISSING
        self._result.findings.put(row.customer_id, judged.drifts, missing=missing)

    async def _judge_repair(self, customer_id: str) -> None:
        row = self._reader.state_row(customer_id)
        if row is not None:
            judged = await self._judged(row)
        elif self._result.findings.looks([customer_id]).get(customer_id) == STRANGER:
            judged = await self._judge_repaired_stranger(customer_id)
        else:
            judged = Judged(FORGOTTEN)
        if judged.verdict == GOOD:
            traits = [drift.trait for drift in self._result.findings.drifts(customer_id)]
            self.progress.say(f"repaired {customer_id}: {', '.join(traits) or 'it was missing'}")
            self._result.findings.repaired(customer_id)
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
        single = await self._reader.read_one(row)
        if single.row is None:
            return Judged(FORGOTTEN)
        if not single.settled:
            return Judged(PENDING)
        if single.record is None:
            return Judged(MISSING)
        drifts, names = self._compare(single.row, single.record)
        return Judged(DRIFTED if drifts else GOOD, drifts, names)

    def _compare(self, row: CustomerRow, record: Record) -> tuple[list[Difference], list[str]]:
        """Return where the record is not as it should be, and the names of all compared traits."""
        how: Any = {"as_strings": self.as_strings, "protected": self.protected}
        owned = self.owned
        if row.compared is None:
            with self.database.read() as connection:
                owned = removable(connection, [row])[row.customer_id]
        return differences(record, row, owned, **how), compared_names(row, owned, **how)
