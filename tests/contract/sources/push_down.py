"""Profiles Sync whose pulls of everything come through the warehouse's own comparison.

It compares with nobody, so that everybody is new and comes."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator
from contextlib import contextmanager
from typing import Any

from syncer.engage.pushdown import PushDownSource, new_table
from syncer.engage.source import (
    Counted,
    Everything,
    Fingerprints,
    Pull,
    PulledCustomer,
    PushDown,
    Scope,
    Survey,
)
from tests.contract.sources.places import ProfilesSyncPlace
from tests.support.space import Warehouse

SCRATCH, NOBODY = "scratch", Fingerprints("nobody", 0, 0)


class EverybodyIsNew:
    """A pull, whose customers are those that the warehouse gives out."""

    def __init__(self, pull: Pull, push_down: PushDown) -> None:
        self._pull, self._push_down = pull, push_down

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pull, name)

    def count(self, keys: Collection[str]) -> Counted:
        counted = self._chosen(keys)
        self._pull.count(keys)  # which knows what it need not ask again
        return counted

    def customers(self, keys: Collection[str]) -> Generator[PulledCustomer]:
        self._chosen(keys)
        yield from (row for _, row in self._push_down.given(keys) if row is not None)

    def _chosen(self, keys: Collection[str]) -> Counted:
        self._push_down.make(name := new_table())
        now = self._push_down.keep(name, keys)
        return self._push_down.choose(NOBODY, now, ())


class PushedDown:
    """The source."""

    def __init__(self, source: PushDownSource) -> None:
        self._source = source

    @contextmanager
    def pull(self, scope: Scope) -> Iterator[Any]:
        if scope != Everything():
            with self._source.pull(scope) as pull:
                yield pull
            return
        with self._source.comparing() as (pull, push_down):
            yield EverybodyIsNew(pull, push_down)

    def survey(self) -> Survey:
        return self._source.survey()


class PushDownPlace(ProfilesSyncPlace):
    """A space of Profiles Sync, with a scratch schema."""

    def __init__(self, warehouse: Warehouse) -> None:
        super().__init__(warehouse)
        warehouse.run(f"CREATE SCHEMA {SCRATCH}")
        columns = 'customer_id TEXT COLLATE "C", fingerprint TEXT, number BIGINT'
        warehouse.run(f"CREATE TABLE {SCRATCH}.{NOBODY.table} ({columns})")

    def source(self) -> Any:
        return PushedDown(PushDownSource(self._warehouse.source(), SCRATCH))
