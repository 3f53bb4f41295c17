"""Pull from Segment's Profile API, for spaces without a warehouse (docs/facts/segment.md §1.1).

A pull of everybody sweeps all ids that are known, and reads the finished sweep as Profiles Sync
tables. A pull of some customers asks for these alone. There is no pull of what changed: to ask
whether a profile changed takes the same request as to read it, so each run sweeps and compares all.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from syncer.chunks import chunks
from syncer.clock import iso, now_ms
from syncer.engage import stage, sweep
from syncer.engage.profile_client import ProfileClient, TryAgain, Unreadable
from syncer.engage.profiles_sync import ProfilesSync, ProfilesSyncPull
from syncer.engage.source import (
    Absence,
    Counted,
    Everything,
    ObservedKey,
    OnlyCustomers,
    PulledCustomer,
    Scope,
    SourceRow,
    Survey,
    WithoutCustomerId,
)
from syncer.engage.source_settings import SourceContext
from syncer.engage.sweep import Pace, Reader, Sweep
from syncer.engage.sweep_file import FAILED, READ, REFUSED, UNKNOWN, FinishedSweep, SweepFile
from syncer.errors import SourceError
from syncer.ids import problem
from syncer.json_text import to_json
from syncer.pause import sleep_thread

#: Milliseconds without work after which a sweep that was cut off is begun anew.
STALE = 6 * 3600 * 1000
#: The part of the rate that a pull of some customers uses: a sweep may go on beside it.
BESIDE = 0.25
#: Seconds between two looks whether another process is done with its sweep.
LOOK = 1.0


@dataclass
class ProfileApi:
    """The source. `folder` is where its sweeps lie; `rate` is the limit of the space."""

    token: str
    space_id: str
    folder: Path
    url: str
    rate: float = 100.0
    ids_file: str = ""
    timeout: float = 30.0
    patience: float = 300.0
    context: SourceContext = field(default_factory=SourceContext)
    clock: Callable[[], int] = now_ms
    #: whether this source swept: one run compares one sweep, however often it opens a pull
    _swept: bool = False

    @property
    def place(self) -> str:
        return f"the Profile API at {self.url}, space {self.space_id}"

    @contextmanager
    def pull(self, scope: Scope) -> Iterator[ProfileApiPull]:
        """Open a pull: of a sweep of all ids, or of some customers as they are now."""
        if isinstance(scope, OnlyCustomers):
            with self._pull_some(scope) as pull:
                yield pull
            return
        self.sweep()
        with self._pull_swept() as pull:
            yield pull

    def survey(self) -> Survey:
        """Return what the last sweep saw; raise `SourceError` if no request can work."""
        sweep.run(self._check())
        finished = self._finished()
        if finished is None:
            return Survey(
                self.place,
                share=0.0,
                note="the token reads the space; what it has is known after the first sweep",
            )
        counts, at = finished.counts(), iso(finished.ended)
        finished.close()
        survey = self._tables(self._path).survey()
        unread = counts.get(FAILED, 0) + counts.get(REFUSED, 0)
        note = (
            f"at the sweep of {at} Segment knew {counts.get(READ, 0):,} of "
            f"{sum(counts.values()):,} ids"
            + (f", and {unread:,} could not be read" if unread else "")
        )
        return Survey(self.place, survey.keys, survey.members, note=note)

    # The sweep

    def sweep(self) -> None:
        """Sweep all ids, unless this source did; another process that sweeps is waited for."""
        if self._swept:
            return
        began = self.clock()
        with stage.translated(self.folder), self._alone() as waited:
            if not (waited and self._ended_since(began)):
                self._sweep()
        self._swept = True

    def _sweep(self) -> None:
        path = self._path.with_suffix(".part.db")
        file = SweepFile(path, self._identity, self.clock(), STALE)
        try:
            for ids in chunks(self._ids()):
                file.add(ids)
            sweep.run(self._read_all(file))
            counts = file.counts()
            try:
                sweep.whole(counts, file.reason(), self.space_id)
            except SourceError:
                file.discard()  # all are asked for again: what was refused may be let through
                raise
            file.finish(self._path, self.clock())
        except BaseException:
            file.close()
            raise
        self.context.progress.say(_ended(counts))

    async def _read_all(self, file: SweepFile) -> None:
        pace = Pace(self.rate)
        async with self._client(pace, sweep.AT_A_TIME) as client:
            reader = self._reader(client, pace)
            await Sweep(
                file, reader, self.context.customer_id, self.context.progress, self.clock
            ).run()

    def _ids(self) -> Iterator[str]:
        """Yield the ids that are known anywhere; one may come several times."""
        lists: list[Iterator[str]] = [iter(ids()) for ids in self.context.customer_ids.values()]
        if self.ids_file:
            lists.append(sweep.from_file(self.ids_file))
        for ids in lists:
            yield from (each for each in ids if problem(each) is None)

    def _ended_since(self, moment: int) -> bool:
        finished = self._finished()
        if finished is None:
            return False
        finished.close()
        return finished.ended >= moment

    def _alone(self) -> AbstractContextManager[bool]:
        """Hold the lock of the sweeps in this folder; it says whether another process had it."""
        return stage.alone(self._path, self.context.progress, "reads the profiles", self._pause)

    def _pause(self) -> None:
        self._check_stop()
        self.context.answered()
        sleep_thread(LOOK, self.context.stop)

    # Some customers

    @contextmanager
    def _pull_some(self, scope: OnlyCustomers) -> Iterator[ProfileApiPull]:
        with stage.passing(self.folder, "profile-api") as path:
            with stage.tables(path) as tables:
                sweep.run(self._read_some(scope.customer_ids, tables))
            with self._tables(path).pull(scope) as tables_pull:
                yield ProfileApiPull(tables_pull, self._observed_by_sweep)

    async def _read_some(self, customer_ids: Collection[str], tables: stage.Tables) -> None:
        pace, kind = Pace(self.rate * BESIDE), self.context.customer_id
        async with self._client(pace) as client:
            reader = self._reader(client, pace)

            async def read(customer_id: str) -> None:
                at = str(iso(self.clock()))
                try:
                    traits = await reader.traits(customer_id)
                except (TryAgain, Unreadable) as error:
                    raise SourceError(
                        f"the Profile API does not tell the profile of {customer_id!r}: {error}"
                    ) from None
                if traits is not None:
                    profile = f"{kind}:{customer_id}"
                    tables.identify(profile, kind, customer_id, at)
                    for name, value, updated_at in map(sweep.stored, traits):
                        tables.trait(profile, name, value, at, updated_at)

            for ids in chunks(iter(customer_ids), most=sweep.AT_A_TIME):
                await asyncio.gather(*(read(each) for each in ids if problem(each) is None))

    def _observed_by_sweep(self) -> list[ObservedKey]:
        """Return the keys of the last sweep; the first one is made now if there was none."""
        if not self._ended_since(0):
            self.sweep()
        with self._pull_swept() as pull:
            return pull.observed()

    # What both need

    @contextmanager
    def _pull_swept(self) -> Iterator[ProfileApiPull]:
        with ExitStack() as opened:
            while True:
                file = self._path.stat().st_ino if self._path.exists() else None
                finished = self._finished()
                if finished is None:
                    raise SourceError(
                        f"the sweep in {self._path} went away; the next run makes another"
                    )
                opened.callback(finished.close)
                tables = self._tables(self._path)
                tables_pull = opened.enter_context(tables.pull(Everything()))
                # Another process may have put its sweep there between the two.
                if file == self._path.stat().st_ino:
                    break
                opened.close()
            yield ProfileApiPull(tables_pull, tables_pull.observed, finished)

    async def _check(self) -> None:
        pace = Pace(self.rate)
        async with self._client(pace) as client:
            try:
                await client.check()
            except (TryAgain, Unreadable) as error:
                raise SourceError(
                    f"{self.place}: no usable answer: {error}; see whether engage.profile_api.url "
                    "is right, and whether this machine reaches it"
                ) from None

    def _client(self, pace: Pace, connections: int = 1) -> ProfileClient:
        return ProfileClient(
            self.token,
            self.space_id,
            pace.permit,
            url=self.url,
            id_type=self.context.customer_id,
            timeout=self.timeout,
            connections=connections,
        )

    def _reader(self, client: ProfileClient, pace: Pace) -> Reader:
        context = self.context
        return Reader(client, pace, self.patience, context.stop, context.answered)

    def _tables(self, path: Path) -> ProfilesSync:
        return ProfilesSync(stage.url(path), customer_id=self.context.customer_id)

    @property
    def _path(self) -> Path:
        return self.folder / "syncer-profile-api.db"

    @property
    def _identity(self) -> str:
        return to_json([self.url, self.space_id, self.context.customer_id])

    def _finished(self) -> FinishedSweep | None:
        """Return the last finished sweep, if there is one of this space."""
        if not self._path.exists():
            return None
        try:
            finished = FinishedSweep(self._path)
        except (sqlite3.Error, KeyError):
            return None  # it is no sweep: the next one takes its place
        if finished.place == self._identity:
            return finished
        finished.close()
        return None

    def _check_stop(self) -> None:
        sweep.check_stop(self.context.stop)


class ProfileApiPull:
    """A pull over the tables that were read; `source.Pull` describes the methods."""

    def __init__(
        self,
        tables: ProfilesSyncPull,
        observed: Callable[[], list[ObservedKey]],
        finished: FinishedSweep | None = None,
    ) -> None:
        self._tables, self._observed, self._finished = tables, observed, finished

    def watermark(self) -> str | None:
        """Return when the sweep began: what changed later may have been read before."""
        if self._finished is None or not self._finished.counts().get(READ):
            return None
        return iso(self._finished.began)

    def absence(self) -> Absence:
        """Return that those are unknown who could not be read, or who are known since the sweep."""
        return Absence() if self._finished is None else Absence(unread=self._finished.unread)

    def observed(self) -> list[ObservedKey]:
        return self._observed()

    def count(self, keys: Collection[str]) -> Counted:
        return self._tables.count(keys)

    def customers(self, keys: Collection[str]) -> Generator[PulledCustomer]:
        return self._tables.customers(keys)

    def rows_of(self, key: str) -> list[SourceRow]:
        return self._tables.rows_of(key)

    def identified(self, customer_ids: Collection[str]) -> set[str]:
        return self._tables.identified(customer_ids)

    def without_customer_id(self, keys: Collection[str]) -> WithoutCustomerId:
        return self._tables.without_customer_id(keys)

    def profiles_without_customer_id(self, keys: Collection[str]) -> Iterator[str]:
        return self._tables.profiles_without_customer_id(keys)


def _ended(counts: dict[Any, int]) -> str:
    unread = counts.get(FAILED, 0) + counts.get(REFUSED, 0)
    return (
        f"{sum(counts.values()):,} ids were asked for: Segment knows {counts.get(READ, 0):,} of "
        f"them, and {counts.get(UNKNOWN, 0):,} not"
        + (f"; {unread:,} could not be read and are left as they are" if unread else "")
    )
