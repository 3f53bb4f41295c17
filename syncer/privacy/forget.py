"""Forgets a customer: at Amberflo first, then everything here, then the traces in the files.

What is known of a customer is erased when Amberflo has taken its last write, and not before. From
then on no pull and no call brings the customer in again, until that is lifted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection

from state import erasure, queue, suppression
from state.db import metadata
from state.db.database import Database
from state.db.workers import Worker
from state.erasure import Erased, Taken
from state.errors import Locked
from state.snapshot import CustomerRow
from syncer.clock import now_ms
from syncer.errors import AmberfloError, NotFound, SyncerError


class Forgot(NamedTuple):
    """What was erased here, and whether Amberflo knew the customer and took its last write."""

    erased: Erased
    at_amberflo: bool


@dataclass
class Forget:
    """Forgets customers.

    `anonymize` brings the last write of a customer to Amberflo (with the trait names that are
    ours), and returns whether Amberflo knows it, or raises. Meanwhile this process is a worker
    (`working`), beside which no run goes on, so no run waits for the customer, and no other process
    removes history. It claims the customer as a delivery does, so the writes of one customer stay
    serial. `wait` is how many seconds it waits for a delivery that has the customer.
    """

    state: Database
    calls: Database
    anonymize: Callable[[CustomerRow, Collection[str]], bool]
    working: Callable[[], AbstractContextManager[Worker]]
    #: finishes a compaction that was cut off: it must find all that it left
    settle: Callable[[], object]
    wait: float = 0.0
    clock: Callable[[], int] = now_ms

    def forget(self, customer_id: str) -> Forgot:
        """Forget a customer, also one that only Amberflo knows: this state may be new.

        If Amberflo does not take the last write, nothing is erased.
        """
        with self.working() as worker, self._taken(customer_id, worker) as taken:
            try:
                at_amberflo = self.anonymize(taken.row, taken.owned)
            except AmberfloError as error:
                raise SyncerError(
                    f"nothing was erased, Amberflo did not take the last write: {error}"
                ) from None
            self.settle()
            worker.check()
            with self.state.write(alone=True) as connection:
                erased = erasure.erase(connection, customer_id, self.clock())
        return Forgot(erased, at_amberflo)

    @contextmanager
    def _taken(self, customer_id: str, worker: Worker) -> Iterator[Taken]:
        """Claim the customer for the block, and give it back as it was if it is not erased."""
        taken = self._take(customer_id, worker)
        try:
            yield taken
        except BaseException:
            with self.state.write(alone=True) as connection:
                erasure.release(connection, taken)
            raise

    def _take(self, customer_id: str, worker: Worker) -> Taken:
        until = time.monotonic() + self.wait
        while True:
            try:
                with self.state.write(alone=True) as connection:
                    return erasure.take(connection, customer_id, worker.number, self.clock())
            except Locked:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)

    def forget_all_asked(self) -> int:
        """Forget the customers that Segment's delete calls name; return their number.

        A customer that cannot be erased does not block the others.
        """
        with self.state.read() as connection:
            asked = suppression.asked(connection)
        problem: SyncerError | None = None
        for customer_id in asked:
            try:
                self.forget(customer_id)
            except SyncerError as error:
                problem = error
        if problem is not None:
            raise problem
        return len(asked)

    def forget_waiting(self, customer_ids: Collection[str]) -> tuple[int, str | None]:
        """Erase customers that waited for an approval; return how many, and what keeps the others.

        The others stay asked for: a daemon erases them as soon as it can.
        """
        with self.state.write(alone=True) as connection:
            suppression.approve(connection, customer_ids)
        erased = 0
        for customer_id in customer_ids:
            try:
                self.forget(customer_id)
            except (Locked, SyncerError) as problem:
                return erased, str(problem)
            erased += 1
        return erased, None

    def lift(self, customer_id: str) -> bool:
        """Let a customer in again; return whether it was forgotten."""
        with self.state.write(alone=True) as connection:
            return suppression.lift(connection, customer_id)

    def traces(self) -> bool:
        """Return whether the files may hold traces of what was erased."""
        with self.state.read() as connection:
            return metadata.get(connection, erasure.TRACES) is not None

    def scrub(self) -> bool:
        """Remove the traces from the files; return whether all are gone.

        Calls that came before the erasure must be delivered first: they are billed.
        """
        with self.state.read() as connection:
            erased_at = metadata.get(connection, erasure.TRACES)
        if erased_at is None:
            return True
        if not self.state.scrub():
            return False
        if self._calls_until(int(erased_at)) or not self.calls.scrub():
            return False
        with self.state.write(alone=True) as connection:
            if metadata.get(connection, erasure.TRACES) == erased_at:
                metadata.drop(connection, erasure.TRACES)
        return True

    def _calls_until(self, moment: int) -> bool:
        """Return whether calls of that time still wait."""
        with self.calls.read() as connection:
            oldest = queue.oldest_waiting(connection)
        return oldest is not None and oldest <= moment


def check_not_forgotten(connection: Connection, customer_id: str) -> None:
    """Raise NotFound, with what to do, if a customer was forgotten or is about to be."""
    if suppression.is_suppressed(connection, customer_id):
        raise NotFound(
            f"the customer {customer_id!r} was forgotten; `syncer forget --undo` lets it in again"
        )
