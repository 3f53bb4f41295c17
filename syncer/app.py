"""The composition root: builds the parts from the config and joins them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import (
    AbstractContextManager,
    ExitStack,
    asynccontextmanager,
    closing,
    contextmanager,
    suppress,
)
from dataclasses import dataclass, replace
from functools import partial
from hashlib import scrypt
from itertools import chain, islice
from pathlib import Path
from typing import Any

import orjson
import uvloop
from sqlalchemy.engine import URL

from state import failures, holds, queue, runs, snapshot
from state.db import workers
from state.db.database import Database, shown
from state.db.locks import lock
from state.db.workers import Worker
from state.history import compaction
from state.history.compaction import Compacted, compact
from state.snapshot import CustomerRow
from syncer.amberflo.client import AmberfloClient
from syncer.amberflo.reader import CustomerReader
from syncer.config import Config
from syncer.databases import opened
from syncer.delivery.customers import CustomerDelivery, Delivery
from syncer.delivery.meters import MeterDelivery
from syncer.delivery.rate_share import Share
from syncer.engage.profiles_sync import ProfilesSync
from syncer.engage.public_api import PublicApi
from syncer.engage.source import Source
from syncer.errors import AmberfloError, ConfigError, StateError
from syncer.passthrough.processor import Processor
from syncer.privacy.anonymize import anonymize
from syncer.privacy.forget import Forget
from syncer.progress import Progress
from syncer.sync.amberflo_account import AmberfloAccount
from syncer.sync.destination import Destination
from syncer.sync.engage_lookup import EngageLookup
from syncer.sync.guard import Guard
from syncer.sync.runs import Runs, Selection
from syncer.verify.result import Verification
from syncer.verify.verifier import Verifier

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
        public_api, settings = self.public_api(), self.config.engage.public_api
        with self.state(writes=writes) as database:
            yield Runs(
                database=database,
                source=source,
                selection=self._selection(),
                guard=Guard(**self.config.guard.model_dump()),
                deliver=lambda run, progress: self._deliver_run(database, run, progress),
                progress=self.progress,
                stop=self.stop,
                account=self.account(database),
                look=partial(self._look, database),
                glance=partial(self._glance, database),
                computations=public_api.computations if public_api else None,
                trait_values=self.config.amberflo.trait_values,
                size_tolerance=settings.size_tolerance if settings else 0.0,
            )

    def state(self, *, writes: bool) -> AbstractContextManager[Database]:
        """The state database; without `writes` nothing is made where nothing is."""
        return opened(self.config, writes=writes)

    def queue(self, *, writes: bool) -> AbstractContextManager[Database]:
        """The queue of calls, as `state`."""
        return opened(self.config, "queue", writes=writes)

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
            filter=self.config.engage.filter,
        )

    def public_api(self) -> PublicApi | None:
        """Segment's Public API, where it is to be asked."""
        settings = self.config.engage.public_api
        if settings is None:
            return None
        return PublicApi(
            settings.token.get_secret_value(), settings.space_id, url=settings.url, stop=self.stop
        )

    def processor(self, queue: Database, state: Database) -> Processor:
        """What sorts accepted calls."""
        engage = self.config.engage
        return Processor(
            queue,
            state,
            engage.audiences,
            engage.computed_traits,
            protected=self.config.amberflo.protected,
            deletes_per_day=self.config.passthrough.deletes_per_day,
        )

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

    def check_amberflo(self) -> None:
        """Raises what is wrong with the key or the way to Amberflo, and where it is another account
        than the state is about."""

        async def check() -> None:
            async with self.client() as client:
                await client.check()

        asyncio.run(check())
        # What is wrong with the state is not Amberflo's.
        with suppress(StateError, ConfigError), self.state(writes=False) as database:
            self.account(database).look()

    def _deliver_run(
        self, database: Database, run: int, progress: Callable[[int], None]
    ) -> Delivery:
        """Deliver what a run waits for, beside whoever else delivers."""

        account = self.account(database).check()

        async def deliver(worker: Worker) -> Delivery:
            async with self.client() as client:
                delivery = self.customer_delivery(database, worker, client, account)
                return await replace(delivery, for_run=run, progress=progress).run()

        workers.bury(database)
        with workers.join(database, "run") as worker:
            return uvloop.run(deliver(worker))

    def account(self, database: Database) -> AmberfloAccount:
        """The Amberflo account of the settings, for the state."""
        settings = self.config.amberflo
        api_key = settings.api_key.get_secret_value()
        return AmberfloAccount(
            database, partial(self._holdings, database), settings.customers_url, api_key
        )

    def customer_delivery(
        self,
        database: Database,
        worker: Worker,
        client: AmberfloClient,
        account: str | None = None,
    ) -> CustomerDelivery:
        """What delivers the customers that are due, to the `account` that was checked."""
        settings = self.config.amberflo
        return CustomerDelivery(
            database=database,
            worker=worker,
            client=client,
            account=account,
            concurrency=settings.concurrency,
            as_strings=settings.trait_values == "string",
            protected=settings.protected,
            patience=settings.patience,
            stop=self.stop,
        )

    def retry(self, found: Runs, ids: Collection[int] | None, until: int) -> Delivery:
        """Send what was refused again, up to a number, all or the numbered ones: customers as they
        are now, meter records the same bytes."""
        refused = partial(failures.refused, found.database, ids=ids, until=until)
        customers = (str(row["customer_id"]) for row in refused(failures.CUSTOMER))
        delivery = Delivery()
        if (first := next(customers, None)) is not None:
            delivery = found.send_again(chain([first], customers))
        meters = refused(failures.METER)
        while rows := list(islice(meters, failures.CHUNK)):
            sent, again = self.retry_meters(found.database, rows)
            delivery.delivered += sent
            delivery.failed += again
            if (left := len(rows) - sent - again) > 0:
                delivery.problem = delivery.problem or (
                    f"Amberflo did not take {left:,} meter records in time: they stay due, and "
                    "what was not tried stays a failure"
                )
                break
        return delivery

    def verify(
        self,
        database: Database,
        customer_id: str | None = None,
        *,
        repair: Callable[[Iterable[str]], Delivery] | None = None,
    ) -> Verification:
        """Compare what Amberflo holds now with what it should hold: of all customers, or of one.
        With `repair` (that of `Runs`) what differs is repaired. Close the result when done."""
        settings = self.config.amberflo
        with database.read() as connection:
            owned = snapshot.owned(connection) - holds.traits_in_force(connection)
        return Verifier(
            database=database,
            connect=partial(self._holdings, database),
            owned=owned,
            asking=EngageLookup(
                database,
                self.source,
                self._selection(),
                as_strings=settings.trait_values == "string",
                protected=settings.protected,
            ),
            progress=self.progress,
            as_strings=settings.trait_values == "string",
            protected=settings.protected,
            at_a_time=settings.concurrency,
            stop=self.stop,
        ).verify(customer_id, repair)

    @contextmanager
    def _look(self, database: Database, *, must: bool, anew: bool) -> Iterator[Destination | None]:
        """What Amberflo holds, read for a full compare; `anew` says that it acknowledged nothing to
        this state. Where Amberflo cannot be read that is raised if it `must` be; else one line says
        so, and there is nothing."""
        with closing(replace(self._contact(database), anew=anew)) as contact:
            try:
                contact.read()
                found: Destination | None = contact
            except AmberfloError as problem:
                if must:
                    raise
                self.progress.say(f"what Amberflo holds is not compared: {problem}")
                found = None
            yield found

    def _glance(self, database: Database) -> int:
        """How many of the customers that changed last at Amberflo are not as the state has them."""
        with closing(self._contact(database)) as contact:
            return contact.glance()

    def _contact(self, database: Database) -> Destination:
        settings = self.config.amberflo
        return Destination(
            database=database,
            connect=partial(self._holdings, database),
            progress=self.progress,
            as_strings=settings.trait_values == "string",
            protected=settings.protected,
            at_a_time=settings.concurrency,
            stop=self.stop,
        )

    @asynccontextmanager
    async def _holdings(self, database: Database) -> AsyncIterator[CustomerReader]:
        """What Amberflo holds, read as one of those that share the configured rate."""
        async with self.client() as client:
            with self._one_of_them(database) as state:
                share = Share(state, client.pace)
                await share.begin()
                keeping = asyncio.create_task(share.keep())
                try:
                    yield CustomerReader(
                        client, patience=self.config.amberflo.patience, stop=self.stop
                    )
                finally:
                    keeping.cancel()
                    await asyncio.gather(keeping, return_exceptions=True)

    @contextmanager
    def _one_of_them(self, database: Database) -> Iterator[Database]:
        """Count among those that speak to Amberflo, where the rate is limited and the state is
        there to be written; gives the database that says who else does."""
        there = database.engine.url.database not in (None, "", ":memory:")
        with ExitStack() as stack:
            if there and self.config.amberflo.rate:
                with suppress(StateError):
                    state = stack.enter_context(self.state(writes=True))
                    stack.enter_context(workers.join(state, "reader"))
            yield database

    def retry_meters(
        self, database: Database, rows: Sequence[Mapping[str, Any]]
    ) -> tuple[int, int]:
        """Send refused meter records again, the same bytes, beside a daemon that may run; gives how
        many Amberflo took and refused."""
        now = _now()
        records = [(row["message_id"], row["via"] or "") for row in rows]
        with self.queue(writes=True) as calls:
            with calls.write() as connection:
                for row, (message_id, key) in zip(rows, records, strict=True):
                    queue.send_again(connection, message_id, row["request"].encode(), now, key)
            with database.write() as connection:
                failures.remove(connection, [row["id"] for row in rows])
            workers.bury(database, calls)
            with workers.join(database, "retry", calls) as worker:
                asyncio.run(self._deliver_meters(calls, database, worker, records))
            with calls.read() as connection:
                left = queue.unsettled(connection, records)
        with database.read() as connection:
            refused = failures.count(connection, [row["ref"] for row in rows])
        return len(rows) - refused - left, refused

    async def _deliver_meters(
        self,
        calls: Database,
        database: Database,
        worker: Worker,
        records: Collection[tuple[str, str]],
    ) -> None:
        """Deliver meter records until these (each a messageId and its key) are settled, or for as
        long as `amberflo.patience`."""
        until = time.monotonic() + self.config.amberflo.patience

        def done() -> bool:
            with calls.read() as connection:
                left = queue.unsettled(connection, records)
            return self.stop() or not left or time.monotonic() > until

        async with self.client() as client:
            await MeterDelivery(calls, database, worker.number, client, done, judged=True).run()

    def compact(self, database: Database) -> Compacted:
        """Take out of the history what is older than `retention.history`, and finish what a
        compaction left undone."""
        keep = int(self.config.retention.history * 1000)
        with lock(database, "history"):
            return compact(database, _now() - keep if keep else None, _now, self.stop)

    def forget(self, database: Database, calls: Database, *, wait: float = FORGET_WAIT) -> Forget:
        """What forgets customers; waits so many seconds for Amberflo and for other processes."""
        wait = min(wait, self.config.amberflo.patience)

        def anonymize_customer(row: CustomerRow, owned: Collection[str]) -> bool:
            self.account(database).check()

            async def say() -> bool:
                settings = self.config.amberflo
                async with self.client() as client:
                    return await anonymize(
                        client,
                        row,
                        owned,
                        wait,
                        as_strings=settings.trait_values == "string",
                        protected=settings.protected,
                    )

            return asyncio.run(say())

        @contextmanager
        def working() -> Iterator[Worker]:
            with lock(database, "run"), lock(database, "history", wait=wait, stop=self.stop):
                workers.bury(database)
                with workers.join(database, "forget") as worker:
                    yield worker

        return Forget(
            state=database,
            calls=calls,
            anonymize=anonymize_customer,
            working=working,
            settle=lambda: compaction.finish(database, _now),
            wait=wait,
        )

    def _selection(self) -> Selection:
        engage = self.config.engage
        settings: dict[str, Any] = {
            "customer_id": engage.customer_id,
            "audiences": engage.audiences,
            "computed_traits": engage.computed_traits,
            "source": [engage.source, _told_apart(engage.profiles_sync.url)],
            "schema": engage.profiles_sync.schema_,
        }
        if engage.filter:
            settings["filter"] = engage.filter
        if engage.public_api is not None:
            settings["space_id"] = engage.public_api.space_id
        text = orjson.dumps(settings).decode()
        return Selection(
            engage.audiences,
            engage.computed_traits,
            text,
            forget_deleted=engage.deleted == "forget",
            hold_first_contact=engage.first_contact == "hold",
        )


def _told_apart(url: URL) -> str:
    """A text that says whether it is the same URL, to be stored: neither the password nor what is
    in the query can be read from it, and finding it by trying is slow."""
    if not url.query:
        return shown(url)
    salt, query = shown(url).encode(), repr(sorted(url.query.items())).encode()
    return f"{shown(url)}?{scrypt(query, salt=salt, n=2**14, r=8, p=1, dklen=16).hex()}"


def _now() -> int:
    """Epoch milliseconds."""
    return time.time_ns() // 1_000_000


def teller(database: Database) -> Any:
    """What puts a run's progress where `status` finds it."""

    def tell(doing: Mapping[str, Any] | None) -> None:
        # It is only to look at: nothing breaks where somebody else writes just now.
        with suppress(StateError), database.write() as connection:
            runs.tell(connection, None if doing is None else orjson.dumps(doing).decode())

    return tell
