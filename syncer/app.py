"""The composition root: builds the parts from the config and joins them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import uvloop

from state import compaction, failures, queue, snapshot
from state.compaction import Compacted, compact
from state.database import Database, sqlite_path
from state.errors import Locked
from state.lock import lock, lock_holder
from syncer.amberflo.client import AmberfloClient
from syncer.amberflo.delivery import CustomerDelivery, Delivery
from syncer.amberflo.farewell import farewell
from syncer.amberflo.meters import MeterDelivery
from syncer.config import Config
from syncer.engage.profiles_sync import ProfilesSync
from syncer.engage.source import Source
from syncer.errors import ConfigError
from syncer.sync.forget import Forget
from syncer.sync.guard import Guard
from syncer.sync.realtime import Sorter
from syncer.sync.run import Progress, Runs, Selection

#: Seconds that a run waits for another process that is delivering customers.
DELIVERY_WAIT = 600.0
#: Seconds that a command waits for Amberflo, and for others, before it erases a customer.
FORGET_WAIT = 30.0


@dataclass
class App:
    """The service with its settings. `stop` says whether the user asked to stop."""

    config: Config
    progress: Progress
    stop: Callable[[], bool] = lambda: False

    @contextmanager
    def runs(self, *, writes: bool = True) -> Iterator[Runs]:
        """Runs on the configured state; without `writes` only for looking (`diff`)."""
        source = self.source()  # what is wrong with it is said before a state is made
        with self.state(writes=writes) as database:
            yield Runs(
                database=database,
                source=source,
                selection=self._selection(),
                guard=Guard(self.config.guard.max_exits, self.config.guard.min_exits),
                deliver=lambda until, progress: uvloop.run(
                    self.deliver_customers(database, until, progress)
                ),
                delivery_lock=lambda: lock(
                    database, "delivery", wait=DELIVERY_WAIT, stop=self.stop
                ),
                progress=self.progress,
                stop=self.stop,
            )

    @contextmanager
    def state(self, *, writes: bool) -> Iterator[Database]:
        """The state database; without `writes` nothing is made where nothing is."""
        url = self.config.state.url
        path = sqlite_path(url)
        if path is not None and not path.parent.is_dir():
            raise ConfigError(
                f"state.url: the folder {path.parent} does not exist; make it, or name another"
            )
        database = Database.open(url) if writes else Database.peek(url)
        try:
            yield database
        finally:
            database.close()

    @contextmanager
    def queue(self, *, writes: bool) -> Iterator[Database]:
        """The queue of calls, as `state`."""
        url = self.config.state.url
        database = Database.open(url, "queue") if writes else Database.peek(url, "queue")
        try:
            yield database
        finally:
            database.close()

    def source(self) -> Source:
        """The configured way to pull from Engage."""
        settings = self.config.engage.profiles_sync
        url = settings.url
        if url.get_backend_name() == "sqlite" and not str(url.database or "").startswith("file:"):
            path = Path(str(url.database or ""))
            if not path.is_file():
                raise ConfigError(
                    f"engage.profiles_sync.url: the SQLite file {path} does not exist; name the "
                    "file that holds the Profiles Sync tables"
                )
        return ProfilesSync(
            url=url,
            schema=settings.schema_,
            customer_id=self.config.engage.customer_id,
            overlap=settings.overlap,
        )

    def sorter(self, queue: Database, state: Database) -> Sorter:
        """What sorts accepted calls."""
        engage = self.config.engage
        return Sorter(queue, state, engage.audiences, engage.computed_traits)

    def client(self) -> AmberfloClient:
        """A client for Amberflo; use it as `async with`."""
        settings = self.config.amberflo
        return AmberfloClient(
            settings.api_key.get_secret_value(),
            customers_url=settings.customers_url,
            ingest_url=settings.ingest_url,
            rate=settings.rate,
            timeout=settings.timeout,
            connections=settings.concurrency,
        )

    async def check_amberflo(self) -> None:
        """Raises what is wrong with the key or the way to Amberflo."""
        async with self.client() as client:
            await client.check()

    async def deliver_customers(
        self,
        database: Database,
        until: int | None = None,
        progress: Callable[[int], None] = lambda finished: None,
    ) -> Delivery:
        """Deliver the customers that are due (by `until`); the caller holds the delivery lock."""
        settings = self.config.amberflo
        with database.read() as connection:
            owned = frozenset(row.trait for row in snapshot.traits(connection))
        async with self.client() as client:
            return await CustomerDelivery(
                database=database,
                client=client,
                owned=owned,
                concurrency=settings.concurrency,
                as_strings=settings.trait_values == "string",
                patience=settings.patience,
                until=until,
                stop=self.stop,
                progress=progress,
            ).run()

    def retry_meters(
        self, database: Database, rows: Sequence[Mapping[str, Any]]
    ) -> tuple[int, int]:
        """Send refused meter records again, the same bytes; gives how many Amberflo took and
        refused. A daemon that runs does the sending: then none is counted."""
        with self.queue(writes=True) as calls:
            with calls.write() as connection:
                for row in rows:
                    body = row["request"].encode()
                    queue.send_again(connection, row["message_id"], body, _now())
            with database.write() as connection:
                failures.remove(connection, [row["id"] for row in rows])
            try:
                with lock(database, "worker"):
                    asyncio.run(self._deliver_meters(calls, database))
            except Locked:
                return 0, 0
            with calls.read() as connection:
                left = queue.waiting(connection)[1]
        with database.read() as connection:
            refs = {row["ref"] for row in rows}
            refused = sum(row["ref"] in refs for row in failures.find(connection))
        return len(rows) - refused - left, refused

    async def _deliver_meters(self, calls: Database, database: Database) -> None:
        """Deliver meter records until none is due, or for as long as `amberflo.patience`."""
        until = time.monotonic() + self.config.amberflo.patience

        def done() -> bool:
            with calls.read() as connection:
                due = queue.waiting(connection)[1]
            return self.stop() or not due or time.monotonic() > until

        async with self.client() as client:
            await MeterDelivery(calls, database, client, done).run()

    def compact(self, database: Database) -> Compacted:
        """Take out of the history what is older than `retention.history`, and finish what a
        compaction left undone."""
        keep = int(self.config.retention.history * 1000)
        with lock(database, "history"):
            return compact(database, _now() - keep if keep else None, _now, self.stop)

    def forget(self, database: Database, calls: Database, *, wait: float = FORGET_WAIT) -> Forget:
        """What forgets customers; waits so many seconds for Amberflo and for other processes."""
        wait = min(wait, self.config.amberflo.patience)

        def say_farewell(customer_id: str, called: Collection[str]) -> None:
            async def say() -> None:
                async with self.client() as client:
                    await farewell(client, customer_id, called, wait)

            asyncio.run(say())

        @contextmanager
        def locks() -> Iterator[None]:
            with (
                lock(database, "run"),
                lock(database, "history", wait=wait, stop=self.stop),
                lock(database, "delivery", wait=wait, stop=self.stop),
            ):
                yield

        return Forget(
            state=database,
            calls=calls,
            farewell=say_farewell,
            locks=locks,
            settle=lambda: compaction.finish(database, _now),
        )

    def daemon_process(self, database: Database) -> dict[str, int] | None:
        """The process of the daemon on this state, if one runs."""
        sqlite = database.engine.dialect.name == "sqlite"
        holder = lock_holder(database, "daemon" if sqlite else "worker")
        return None if holder is None else {"pid": holder}

    def _selection(self) -> Selection:
        engage = self.config.engage
        settings = orjson.dumps(
            {
                "customer_id": engage.customer_id,
                "audiences": engage.audiences,
                "computed_traits": engage.computed_traits,
                "source": [engage.source, str(engage.profiles_sync.url)],
                "schema": engage.profiles_sync.schema_,
            }
        ).decode()
        return Selection(engage.audiences, engage.computed_traits, settings)


def _now() -> int:
    """Epoch milliseconds."""
    return time.time_ns() // 1_000_000
