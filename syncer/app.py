"""The composition root: builds the parts of the service from its config."""

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
from math import inf
from typing import TYPE_CHECKING, Any

import uvloop

from state import holds, restored, runs, snapshot
from state.db import workers
from state.db.database import Database
from state.db.locks import lock
from state.db.workers import Worker
from state.history import compaction
from state.history.compaction import Compacted, compact
from state.snapshot import CustomerRow
from syncer.amberflo.client import AmberfloClient
from syncer.amberflo.codec import Record
from syncer.amberflo.reader import CustomerReader
from syncer.amberflo.silence import TellTrouble, ignore
from syncer.config import Config
from syncer.databases import open_database
from syncer.delivery.customers import CustomerDelivery, Delivery
from syncer.delivery.rate_share import Share
from syncer.delivery.trouble import TroubleReport
from syncer.engage.catalog import Catalog
from syncer.engage.computations import Computations
from syncer.engage.source import Source, Survey
from syncer.errors import AmberfloError, ConfigError, StateError
from syncer.passthrough.processor import Processor
from syncer.privacy.anonymize import anonymize
from syncer.privacy.forget import Forget
from syncer.progress import LineProgress, Progress
from syncer.sync.amberflo_account import AmberfloAccount
from syncer.sync.comparison import Comparison
from syncer.sync.customer_ids import KnownIds
from syncer.sync.destination import Destination
from syncer.sync.engage_lookup import EngageLookup
from syncer.sync.guard import Guard
from syncer.sync.run_problems import RunProblems
from syncer.sync.runs import Runs
from syncer.sync.source_context import source_context
from syncer.sync.source_watch import SourceWatch, telling
from syncer.sync.trait_selection import Selection
from syncer.verify.result import Verification
from syncer.verify.verifier import Verifier

if TYPE_CHECKING:
    from syncer.engage.public_api import PublicApi

#: Seconds that a command waits for Amberflo, and for other processes, to erase a customer.
FORGET_WAIT = 30.0
#: Seconds that a question about one customer waits for Amberflo.
READ_WAIT = 5.0


@dataclass
class App:
    """The service with its settings. `stop` returns whether a stop was asked for."""

    config: Config
    progress: Progress
    stop: Callable[[], bool] = lambda: False

    @contextmanager
    def runs(self, *, writes: bool = True, recorded: bool = False) -> Iterator[Runs]:
        """Open the state for runs; without `writes` they can only compare (`diff`).

        With `recorded` the state has the progress of the current run, for `status`.
        """
        self.source()  # its errors come before a state is created
        public_api, settings = self.public_api(), self.config.engage.public_api
        with self.state(writes=writes) as database:
            progress = self.progress
            if recorded:
                progress = LineProgress(progress.say, _progress_recorder(database))
            problems = RunProblems.on(database if writes else None)
            report = TroubleReport(progress, problems.customers)
            engage = self.config.engage.settings
            watch = SourceWatch(telling(engage.place, progress, problems.source))
            comparison = Comparison(
                database=database,
                source=self.source(progress, watch.answered),
                selection=Selection.of(self.config.engage),
                guard=Guard(**self.config.guard.model_dump()),
                progress=progress,
                stop=self.stop,
                computations=public_api.computations if public_api else None,
                open_destination=partial(self._open_destination, database, report),
                count_newer=partial(self._count_newer, database, report),
                size_tolerance=settings.size_tolerance if settings else 0.0,
                watch=watch,
            )
            yield Runs(
                database=database,
                comparison=comparison,
                deliver=partial(self._deliver_run, database, report),
                progress=progress,
                account=self.account(database, report),
                problems=problems,
                rate=self.config.amberflo.rate,
                trait_values=self.config.amberflo.trait_values,
                always_whole=engage.ALWAYS_WHOLE,
            )

    def state(self, *, writes: bool) -> AbstractContextManager[Database]:
        """Open the state; without `writes` it is read-only and never created."""
        return open_database(self.config, writes=writes)

    def queue(self, *, writes: bool) -> AbstractContextManager[Database]:
        """Open the queue of calls, as `state`."""
        return open_database(self.config, "queue", writes=writes)

    def source(
        self, progress: Progress | None = None, answered: Callable[[], None] = lambda: None
    ) -> Source:
        """Return the configured source; `answered` is called for each sign of its life."""
        progress, connect = progress or self.progress, self._customer_reader
        known = KnownIds(self.state, self.queue, connect, progress, self.stop)
        context = source_context(self.config, known.lists, progress, self.stop, answered)
        return self.config.engage.settings.source(context)

    def public_api(self) -> PublicApi | None:
        """Return the client of Segment's Public API, if it is configured."""
        settings = self.config.engage.public_api
        if settings is None:
            return None
        # Not at the top: httpx loads its command line with rich and click (9 MB).
        from syncer.engage.public_api import PublicApi

        return PublicApi(
            settings.token.get_secret_value(), settings.space_id, url=settings.url, stop=self.stop
        )

    def computations(self) -> Computations | None:
        """Return what the Public API lists, if it is configured."""
        public_api = self.public_api()
        return None if public_api is None else Computations.of(public_api.computations())

    def catalog(self, survey: Survey, computations: Computations | None) -> Catalog:
        """Return the traits that a run would take of what a survey saw, by what the state knows."""
        with self.state(writes=False) as database, database.read() as connection:
            traits = snapshot.traits(connection)
            rows = snapshot.traits(connection, released=True)
        released = [row for row in rows if row.released_at is not None]
        return Selection.of(self.config.engage).catalog(survey.keys, traits, released, computations)

    def processor(self, queue: Database, state: Database) -> Processor:
        """Return the processor of accepted calls."""
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
        """Return a client of Amberflo, for `async with`."""
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
        """Raise what is wrong with Amberflo's key or URL.

        Also raises if the account is not the one that the state belongs to.
        """

        async def check() -> None:
            async with self.client() as client:
                await client.check()

        asyncio.run(check())
        # An error of the state is not one of Amberflo.
        with suppress(StateError, ConfigError), self.state(writes=False) as database:
            self.account(database).recorded()

    def read_customer(self, database: Database, customer_id: str) -> Record | None:
        """Return what Amberflo has of a customer now; None: nothing. Raises AmberfloError soon."""
        connect = partial(self._customer_reader, database, ignore, READ_WAIT)
        replace(self.account(database), connect=connect).recorded()

        async def read() -> Record | None:
            async with connect() as customers:
                return await customers.one(customer_id)

        return asyncio.run(read())

    def _deliver_run(
        self,
        database: Database,
        report: TroubleReport,
        run: int,
        progress: Callable[[int], None],
    ) -> Delivery:
        """Deliver the customers of a run; other processes may deliver at the same time."""

        account = self.account(database, report).check()

        async def deliver(worker: Worker) -> Delivery:
            async with self.client() as client:
                delivery = self.customer_delivery(database, worker, client, account)
                return await replace(delivery, for_run=run, progress=progress, trouble=report).run()

        workers.prune_dead(database)
        with workers.register(database, "run") as worker:
            delivery = uvloop.run(deliver(worker))
        if delivery.problem or delivery.delivered:
            report.ended(delivery.on_record)
        return delivery

    def account(self, database: Database, report: TellTrouble = ignore) -> AmberfloAccount:
        """Return the configured Amberflo account, to compare with that of the state."""
        settings = self.config.amberflo
        api_key = settings.api_key.get_secret_value()
        return AmberfloAccount(
            database,
            partial(self._customer_reader, database, report),
            settings.customers_url,
            api_key,
        )

    def customer_delivery(
        self,
        database: Database,
        worker: Worker,
        client: AmberfloClient,
        account: str | None = None,
    ) -> CustomerDelivery:
        """Return the delivery of due customers to the `account` that was checked.

        A state that was restored delivers nothing before a run has compared everything.
        """
        with database.read() as connection:
            restored.check(connection)
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

    def verify(
        self,
        database: Database,
        customer_id: str | None = None,
        *,
        repair: Callable[[Iterable[str]], Delivery] | None = None,
    ) -> Verification:
        """Compare what Amberflo holds with what it should hold, of all customers or of one.

        `repair` (that of `Runs`) repairs what differs. The caller closes the result.
        """
        settings = self.config.amberflo
        with database.read() as connection:
            owned = snapshot.owned(connection) - holds.traits_in_force(connection)
        return Verifier(
            database=database,
            connect=partial(self._customer_reader, database, TroubleReport(self.progress)),
            owned=owned,
            engage_lookup=EngageLookup(
                database,
                self.source,
                Selection.of(self.config.engage),
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
    def _open_destination(
        self, database: Database, report: TroubleReport, *, must: bool, new_account: bool
    ) -> Iterator[Destination | None]:
        """Read what Amberflo holds, for a full compare.

        `new_account` says that it acknowledged nothing to this state. If Amberflo cannot be read,
        `must` raises AmberfloError; otherwise one line says so, and there is nothing.
        """
        reader = replace(self._destination(database, report), new_account=new_account)
        with closing(reader) as destination:
            readable = True
            try:
                destination.read(must=must)
            except AmberfloError as problem:
                if must:
                    raise
                self.progress.say(f"what Amberflo holds is not compared: {problem}")
                readable = False
            yield destination if readable else None

    def _count_newer(self, database: Database, report: TroubleReport) -> int:
        """Count the customers that changed last at Amberflo and differ from the state."""
        with closing(self._destination(database, report)) as destination:
            return destination.count_newer()

    def _destination(self, database: Database, report: TroubleReport) -> Destination:
        settings = self.config.amberflo
        return Destination(
            database=database,
            connect=partial(self._customer_reader, database, report),
            progress=self.progress,
            as_strings=settings.trait_values == "string",
            protected=settings.protected,
            at_a_time=settings.concurrency,
            stop=self.stop,
        )

    @asynccontextmanager
    async def _customer_reader(
        self, database: Database, report: TellTrouble, patience: float = inf
    ) -> AsyncIterator[CustomerReader]:
        """Open a reader of Amberflo's customers that takes its share of the configured rate.

        It gives up after `amberflo.patience`, or after `patience` seconds if these are fewer.
        """
        async with self.client() as client:
            with self._registered_reader(database) as state:
                share = Share(state, client.pace)
                await share.begin()
                patience = min(patience, self.config.amberflo.patience)
                reader = CustomerReader(client, patience, self.stop, trouble=report)
                beside = [asyncio.create_task(it) for it in (share.keep(), reader.watch())]
                try:
                    yield reader
                finally:
                    for task in beside:
                        task.cancel()
                    await asyncio.gather(*beside, return_exceptions=True)

    @contextmanager
    def _registered_reader(self, database: Database) -> Iterator[Database]:
        """Register as a process that uses Amberflo's rate; return the database of all of them.

        That is needed only if the rate is limited, and possible only if the state can be written.
        """
        stored = database.engine.url.database not in (None, "", ":memory:")
        with ExitStack() as stack:
            if stored and self.config.amberflo.rate:
                with suppress(StateError):
                    state = stack.enter_context(self.state(writes=True))
                    stack.enter_context(workers.register(state, "reader"))
            yield database

    def compact(self, database: Database) -> Compacted:
        """Remove changes older than `retention.history`, and finish an interrupted compaction."""
        keep = int(self.config.retention.history * 1000)
        with lock(database, "history"):
            return compact(database, _now() - keep if keep else None, _now, self.stop)

    def forget(self, database: Database, calls: Database, *, wait: float = FORGET_WAIT) -> Forget:
        """Return what erases customers; it waits `wait` seconds for Amberflo and for others."""
        wait = min(wait, self.config.amberflo.patience)

        def anonymize_customer(row: CustomerRow, owned: Collection[str]) -> bool:
            self.account(database).check()

            async def send() -> bool:
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

            return asyncio.run(send())

        @contextmanager
        def working() -> Iterator[Worker]:
            with lock(database, "run"), lock(database, "history", wait=wait, stop=self.stop):
                workers.prune_dead(database)
                with workers.register(database, "forget") as worker:
                    yield worker

        return Forget(
            state=database,
            calls=calls,
            anonymize=anonymize_customer,
            working=working,
            settle=lambda: compaction.finish(database, _now),
            wait=wait,
        )


def _now() -> int:
    """Return epoch milliseconds."""
    return time.time_ns() // 1_000_000


def _progress_recorder(database: Database) -> Callable[[Mapping[str, Any] | None], None]:
    """Return a function that records the progress of the current run, for `status`."""

    def record(progress: Mapping[str, Any] | None) -> None:
        # Progress is only for display: a database that is busy now is no failure.
        with suppress(StateError), database.write() as connection:
            runs.set_progress(connection, progress)

    return record
