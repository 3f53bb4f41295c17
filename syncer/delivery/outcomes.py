"""What became of customers that were sent, and how it is recorded.

Each outcome is a verdict on one customer. Nobody waits for its commit: a customer stays claimed
until its outcome is on disk, and is sent again if the process dies before. So the outcomes of a
moment share one commit.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from state import failures, outbox, runs
from state.db.database import Database
from state.errors import Busy
from state.failures import FailureRow
from state.snapshot import CustomerRow
from syncer import retry
from syncer.clock import now_ms
from syncer.errors import Refused, TryAgain

#: Seconds that an outcome waits for a long commit of a run.
BUSY = 300.0
#: Seconds in which outcomes are gathered for one commit, and how many may not be on disk yet.
GATHER, UNWRITTEN = 0.02, 512


@dataclass(frozen=True)
class Sent:
    """Amberflo has the customer as of `rev`; without `written` it had it already."""

    row: CustomerRow
    written: bool = True


@dataclass(frozen=True)
class Later:
    """The customer did not get through; `wait` seconds until the next attempt."""

    row: CustomerRow
    wait: float


@dataclass(frozen=True)
class PutOff:
    """The customer does not get through, and others do: it is tried again now and then."""

    row: CustomerRow
    problem: TryAgain | Refused

    @property
    def wait(self) -> float:
        """The seconds until the next attempt."""
        after = self.problem.after if isinstance(self.problem, TryAgain) else None
        return retry.put_off(self.row.attempts + 1, after)


@dataclass(frozen=True)
class Never:
    """Amberflo refused the customer for good."""

    row: CustomerRow
    problem: Refused


@dataclass(frozen=True)
class Settled:
    """A probe was not taken: Amberflo has the customer as before."""

    row: CustomerRow


Outcome = Sent | Later | PutOff | Never | Settled


class Outcomes:
    """Writes outcomes to the database, many in one commit."""

    def __init__(self, database: Database, written: Callable[[Outcome], None]) -> None:
        """`written` gets each outcome when it is on disk."""
        self._database, self._written = database, written
        self._waiting: list[Outcome] = []
        #: outcomes that are not on disk, also those that wait for room
        self._unwritten = 0
        self._some, self._all_written = asyncio.Event(), asyncio.Event()
        self._room = asyncio.Semaphore(UNWRITTEN)
        self._all_written.set()

    async def put(self, outcome: Outcome) -> None:
        """Have an outcome written soon; wait only if too many are not on disk yet."""
        self._unwritten += 1
        self._all_written.clear()
        await self._room.acquire()
        self._waiting.append(outcome)
        self._some.set()

    async def flush(self) -> None:
        """Return when all outcomes are on disk."""
        await self._all_written.wait()

    async def write_all(self) -> None:
        """Write what comes in, until cancelled."""
        while True:
            await self._some.wait()
            await asyncio.sleep(GATHER)
            self._some.clear()
            outcomes, self._waiting = self._waiting, []
            await self._commit(outcomes)
            for outcome in outcomes:
                self._room.release()
                self._written(outcome)
            self._unwritten -= len(outcomes)
            if not self._unwritten:
                self._all_written.set()

    async def _commit(self, outcomes: Sequence[Outcome]) -> None:
        """Write outcomes, and wait for a long commit of a run if there is one: they happened."""
        until = time.monotonic() + BUSY
        while True:
            try:
                return await asyncio.to_thread(self._write, outcomes)
            except Busy:
                if time.monotonic() > until:
                    raise

    def _write(self, outcomes: Sequence[Outcome]) -> None:
        now = now_ms()
        with self._database.write(beside=True) as connection:
            sent = [it for it in outcomes if isinstance(it, Sent)]
            written = _acknowledge(connection, [it.row for it in sent if it.written], now)
            right = _acknowledge(connection, [it.row for it in sent if not it.written], now)
            _postpone(connection, [it for it in outcomes if isinstance(it, Later)], now)
            given_up = [it for it in outcomes if isinstance(it, PutOff | Never)]
            failed = _give_up(connection, given_up, now)
            settled = [it.row for it in outcomes if isinstance(it, Settled)]
            if settled:
                outbox.dead_letter(connection, settled)
            # Last: all processes that deliver for a run wait for each other's commit at its row.
            for run in sorted({*written, *right, *failed}):
                runs.add_outcomes(
                    *(connection, run),
                    delivered=written[run] + right[run],
                    failed=failed[run],
                    already_right=right[run],
                )


def _acknowledge(connection: Connection, rows: Sequence[CustomerRow], now: int) -> Counter[int]:
    """Note that Amberflo has them; return for how many a run waits no more, by run."""
    if not rows:
        return Counter()
    # Another process may have recorded that Amberflo refused them.
    failures.clear(connection, [failures.customer_ref(row.customer_id) for row in rows])
    return Counter(outbox.acknowledge(connection, rows, now))


def _postpone(connection: Connection, later: Sequence[Later], now: int) -> None:
    if later:
        outbox.postpone(
            connection,
            [(it.row.customer_id, it.row.attempts + 1, now + int(it.wait * 1000)) for it in later],
        )


def _give_up(connection: Connection, failed: Sequence[PutOff | Never], now: int) -> Counter[int]:
    """Note that they are not delivered; return for how many a run waits no more, by run."""
    put_off = [(it.row, now + int(it.wait * 1000)) for it in failed if isinstance(it, PutOff)]
    never = [it.row for it in failed if isinstance(it, Never)]
    finished = Counter[int]()
    if put_off:
        finished.update(outbox.put_off(connection, put_off))
    if never:
        finished.update(outbox.dead_letter(connection, never))
    if failed:
        failures.put(connection, [_failure(it, now) for it in failed])
    return finished


def _failure(outcome: Never | PutOff, now: int) -> FailureRow:
    return FailureRow(
        ref=failures.customer_ref(outcome.row.customer_id),
        kind=failures.CUSTOMER,
        customer_id=outcome.row.customer_id,
        reason=str(outcome.problem),
        status=outcome.problem.status,
        request=outcome.problem.request,
        body=outcome.problem.body,
        attempts=outcome.row.attempts + 1,
        failed_at=now,
    )
