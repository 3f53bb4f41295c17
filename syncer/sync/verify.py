"""The verification: what Amberflo holds now, against what it should hold; nothing is written.

Amberflo is read the quickest way that shows traits: by pages, else as one list of all, else a
customer at a time. Pages move while customers are made and deleted, lists may lag, and a run may go
on meanwhile. So a listing only tells who is as they should be: everybody else is read once more
alone, with the state before and after, and counts only when nothing was on its way to them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import uvloop

from state import snapshot
from state.database import Database
from state.findings import EQUAL, EXTRA, SUSPECT
from state.snapshot import HeldRow
from syncer.amberflo.client import Record
from syncer.amberflo.customer import Difference, differences, ours_at_amberflo
from syncer.amberflo.delivery import Delivery
from syncer.amberflo.holdings import Holdings
from syncer.errors import AmberfloError, Locked, NotFound, Refused, Stopped, TryAgain
from syncer.sync.run import Progress
from syncer.sync.verification import Verification

Item = TypeVar("Item")

#: Customers that are read from the state at a time.
PAGE = 1000
NO_TRAITS = "customers come without their traits"
#: So many customers of ours listed without a trait, and none with: the listing leaves traits out.
ENOUGH = 10
#: Times that a customer is read anew because a run or a delivery changed it meanwhile.
TRIES = 5

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
    names that are ours; `at_a_time` customers are read by themselves at a time."""

    database: Database
    connect: Callable[[], AbstractAsyncContextManager[Holdings]]
    owned: frozenset[str]
    progress: Progress
    as_strings: bool = False
    protected: tuple[str, ...] = ()
    at_a_time: int = 16
    stop: Callable[[], bool] = lambda: False

    def verify(
        self,
        customer_id: str | None = None,
        send_again: Callable[[Iterable[str]], Delivery] | None = None,
    ) -> Verification:
        """Look at all customers that were ever sent and all that Amberflo lists, or at one
        customer. With `send_again` (that of `Runs`) what differs is sent and looked at again."""
        self._found = Verification()
        try:
            uvloop.run(self._connected(lambda: self._find(customer_id)))
            if send_again is not None and not self._found.good:
                self._repair(send_again)
        except BaseException:
            self._found.close()
            raise
        return self._found

    def _repair(self, send_again: Callable[[Iterable[str]], Delivery]) -> None:
        try:
            delivery = send_again(self._found.findings.differing())
            if delivery.failed:
                self._found.problems.append(
                    f"Amberflo refused {delivery.failed:,} customers for good: `syncer failures` "
                    "lists them"
                )
            if delivery.problem:
                self._found.problems.append(delivery.problem)
            uvloop.run(self._connected(self._check_repairs))
        except (Locked, AmberfloError, Stopped) as error:
            # What was found is worth telling all the same.
            self._found.problems.append(str(error))

    async def _connected(self, work: Callable[[], Awaitable[None]]) -> None:
        async with self.connect() as self._holdings:
            await work()

    async def _find(self, customer_id: str | None) -> None:
        if customer_id is not None:
            await self._find_one(customer_id)
            return
        with self.database.read() as connection:
            self._total = snapshot.sent_count(connection)
        await self._read_listing()
        self.progress.begin("checking", self._total)
        try:
            await self._each(self._suspects(), self._judge)
        finally:
            self.progress.end()

    async def _find_one(self, customer_id: str) -> None:
        row = self._row(customer_id)
        if row is not None and row.acked_rev > 0:
            self._found.checked = 1
            await self._judge(row)
        elif row is not None and row.due_at is not None:
            raise NotFound(f"the customer {customer_id!r} is still to be sent: `syncer sync` does")
        elif await self._holdings.one(customer_id) is not None:
            self._found.findings.put_looks([(customer_id, EXTRA)])
        else:
            raise NotFound(f"the customer {customer_id!r} was never sent, and is not at Amberflo")

    async def _check_repairs(self) -> None:
        await self._each(self._found.findings.differing(), self._judge_repair)

    # The listing

    async def _read_listing(self) -> None:
        """Look at all that Amberflo lists, in a way that shows traits if there is one; else only at
        who is there."""
        ways = (
            ("paging", self._holdings.pages, "its list of all customers"),
            ("list", self._holdings.everybody, "every customer by itself"),
        )
        usable = []
        for name, way, instead in ways:
            reason = await self._read(way())
            if reason is None:
                return
            self.progress.say(f"Amberflo's {name} is of no use ({reason}): reading {instead}")
            if reason is NO_TRAITS:
                usable.append(way)
        if not usable or await self._read(usable[0](), whole=True) is not None:
            self.progress.say("Amberflo lists no customers: what it has besides ours is not known")

    async def _read(
        self, listing: AsyncGenerator[list[Record]], *, whole: bool = False
    ) -> str | None:
        """Look at everybody in a listing. Gives why it cannot be used, if so: it is not to be had
        or, unless it is wanted `whole` all the same, it leaves traits out."""
        bare = done = 0
        self.progress.begin("reading", self._total)
        try:
            async with aclosing(listing) as batches:
                async for batch in batches:
                    self._check_stop()
                    bare += self._look(batch)
                    whole = whole or any("traits" in record for record in batch)
                    if bare >= ENOUGH and not whole:
                        return NO_TRAITS
                    done += len(batch)
                    self.progress.at(min(done, self._total))
        except (Refused, TryAgain) as problem:
            return str(problem)
        finally:
            self.progress.end()
        return None

    def _look(self, batch: list[Record]) -> int:
        """Look at some listed customers; gives how many of ours lack all their traits."""
        found = {
            one["customerId"]: one
            for one in batch
            if isinstance(one.get("customerId"), str) and not one.get("deleteTime")
        }
        with self.database.read() as connection:
            rows = {row.customer_id: row for row in snapshot.held(connection, found)}
        before = self._found.findings.looks(found)
        looks: list[tuple[str, int]] = []
        bare = 0
        for customer_id, record in found.items():
            row = rows.get(customer_id)
            if before.get(customer_id) == EQUAL:
                continue  # a page that moved brought it twice
            if row is None or (row.acked_rev == 0 and row.due_at is None):
                looks.append((customer_id, EXTRA))
            elif row.acked_rev > 0 and row.due_at is None:
                bare += "traits" not in record and row.traits != "{}"
                drifts, names = self._compare(row, record)
                looks.append((customer_id, SUSPECT if drifts else EQUAL))
                if not drifts:
                    self._found.equal_traits.update(names)
        self._found.findings.put_looks(looks)
        return bare

    # One customer

    def _suspects(self) -> Iterator[HeldRow]:
        """Every customer that was ever sent, less those that the listing showed to be right."""
        after = ""
        while True:
            self._check_stop()
            with self.database.read() as connection:
                ids = snapshot.sent(connection, after, PAGE)
                if not ids:
                    return
                looks = self._found.findings.looks(ids)
                suspects = [one for one in ids if looks.get(one) != EQUAL]
                rows = snapshot.held(connection, suspects)
            # Who was erased meanwhile is not judged.
            self._found.checked += len(ids) - len(suspects) + len(rows)
            self._found.equal += len(ids) - len(suspects)
            for done, row in enumerate(rows, self._found.checked - len(rows)):
                self.progress.at(done)
                yield row
            self.progress.at(self._found.checked)
            after = ids[-1]

    async def _judge(self, row: HeldRow) -> None:
        judged = await self._judged(row)
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
        row = self._row(customer_id)
        judged = Judged(FORGOTTEN) if row is None else await self._judged(row)
        if judged.verdict == GOOD:
            traits = [drift.trait for drift in self._found.drifts(customer_id)]
            self.progress.say(f"repaired {customer_id}: {', '.join(traits) or 'it was missing'}")
            self._found.findings.repaired(customer_id)
            return
        why = {
            FORGOTTEN: "it was erased meanwhile",
            PENDING: "it is still to be sent",
            MISSING: "Amberflo does not show it; if it was deleted there, reinstate it there",
            DRIFTED: "it still differs in " + ", ".join(drift.trait for drift in judged.drifts),
        }
        self.progress.say(f"not repaired {customer_id}: {why[judged.verdict]}")

    async def _judged(self, row: HeldRow) -> Judged:
        """Read one customer, and judge it if nothing of it changed or was on its way since `row`
        was read; else again with what it is now."""
        for _ in range(TRIES):
            if row.due_at is not None:
                break
            record = await self._holdings.one(row.customer_id)
            now = self._row(row.customer_id)
            if now == row:
                if record is None:
                    return Judged(MISSING)
                drifts, names = self._compare(row, record)
                return Judged(DRIFTED if drifts else GOOD, drifts, names)
            if now is None:
                return Judged(FORGOTTEN)
            row = now
        return Judged(PENDING)

    def _row(self, customer_id: str) -> HeldRow | None:
        with self.database.read() as connection:
            return next(iter(snapshot.held(connection, [customer_id])), None)

    def _compare(self, row: HeldRow, record: Record) -> tuple[list[Difference], list[str]]:
        """Where the record is not as it should be, and the names of all that was compared."""
        how: Any = {"as_strings": self.as_strings, "protected": self.protected}
        drifts = differences(record, row, self.owned, **how)
        names = [*ours_at_amberflo(row, **how), "customerName"]
        return drifts, [*names, "customerEmail"] if row.email else names

    # Helpers

    async def _each(self, items: Iterator[Item], work: Callable[[Item], Awaitable[None]]) -> None:
        """Do the work for each, some at a time; the first error ends all."""

        async def take_the_next() -> None:
            for item in items:
                await work(item)

        tasks = [asyncio.create_task(take_the_next()) for _ in range(self.at_a_time)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _check_stop(self) -> None:
        if self.stop():
            raise Stopped("stopped before all was looked at")
