"""A month of the schedule, on a clock that stands still."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace

import pytest
from freezegun import freeze_time
from freezegun.api import FrozenDateTimeFactory

from state.db.database import Database
from syncer.daemon import schedule as schedules
from tests.unit.schedule_month.helpers import BEGIN, World


@pytest.fixture
def seed() -> int:
    return 7


@pytest.fixture(scope="package")
def frozen() -> Iterator[FrozenDateTimeFactory]:
    """The clock of all these tests: to take it from every module takes as long as a test."""
    with freeze_time(BEGIN, ignore=["_pytest.timing"]) as frozen:
        yield frozen


@pytest.fixture
def world(
    seed: int, frozen: FrozenDateTimeFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    frozen.move_to(BEGIN)
    with closing(Database.open("sqlite://")) as database:
        world = World(frozen, database, seed)
        clocks = SimpleNamespace(time=time.time, monotonic=lambda: world.monotonic)
        monkeypatch.setattr(schedules, "time", clocks)
        yield world
