"""The customer ids that are known beside Segment, for a source that cannot list its profiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, closing
from dataclasses import dataclass
from typing import Protocol

import uvloop

from state import pending_calls, queue, snapshot, suppression
from state.db.database import Database
from syncer.amberflo.codec import Record
from syncer.amberflo.listing import present
from syncer.amberflo.reader import CustomerReader
from syncer.delivery.trouble import TroubleReport
from syncer.errors import AmberfloError, KeyRefused, OtherAccount
from syncer.progress import Progress
from syncer.sync.consistent_reader import ConsistentReader
from syncer.sync.spool import Spool


class Open(Protocol):
    """Opens a part of the state."""

    def __call__(self, *, writes: bool) -> AbstractContextManager[Database]: ...


@dataclass(frozen=True)
class KnownIds:
    """Lists the ids; `connect` opens a reader of Amberflo's customers."""

    state: Open
    queue: Open
    connect: Callable[[Database, TroubleReport], AbstractAsyncContextManager[CustomerReader]]
    progress: Progress
    stop: Callable[[], bool]

    @property
    def lists(self) -> Mapping[str, Callable[[], Iterator[str]]]:
        """The lists by where they come from; an id may come several times.

        Customers that were forgotten are in none.
        """
        return {
            "here": lambda: self._remembered(self._here()),
            "Amberflo": lambda: self._remembered(self._at_amberflo()),
        }

    def _remembered(self, ids: Iterator[str]) -> Iterator[str]:
        with self.state(writes=False) as state, state.read() as connection:
            forgotten = suppression.load(connection)
        yield from (customer_id for customer_id in ids if customer_id not in forgotten)

    def _here(self) -> Iterator[str]:
        """Yield the ids of the snapshot and of calls that wait."""
        with self.state(writes=False) as state, state.read() as connection:
            for customer in snapshot.customers(connection):
                yield customer[0]
            yield from pending_calls.customer_ids(connection)
        with self.queue(writes=False) as calls, calls.read() as connection:
            yield from queue.waiting_customer_ids(connection)

    def _at_amberflo(self) -> Iterator[str]:
        """Yield the ids of all customers that Amberflo lists.

        If it cannot be read, one line says so: those that are known here are not missed by that. A
        wrong key or account is an error.
        """
        with self.state(writes=False) as state, closing(Spool(state.folder)) as ids:

            def look(batch: list[Record]) -> int:
                for customer_id in present(batch):
                    ids.append(customer_id)
                return 0

            async def read() -> None:
                async with self.connect(state, TroubleReport(self.progress)) as customers:
                    reader = ConsistentReader(state, customers, self.progress, stop=self.stop)
                    with state.read() as connection:
                        total = snapshot.size(connection)
                    await reader.read_all(look, total)

            self.progress.say("reading the ids of Amberflo's customers")
            try:
                uvloop.run(read())
            except (KeyRefused, OtherAccount):
                raise
            except AmberfloError as problem:
                self.progress.say(f"Amberflo's customers are not asked for: {problem}")
            yield from ids
