"""Warehouses that are written as no two are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.space import Warehouse


@pytest.fixture(params=["sqlite", "postgresql"])
def warehouse(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Warehouse]:
    url = f"sqlite:///{tmp_path / 'engage.db'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("empty_postgres")
    warehouse = Warehouse(url)
    warehouse.create()
    yield warehouse
    warehouse.engine.dispose()


@pytest.fixture
def sqlite_warehouse(tmp_path: Path) -> Iterator[Warehouse]:
    """One whose columns have no type, so take anything."""
    warehouse = Warehouse(f"sqlite:///{tmp_path / 'engage.db'}")
    rest = "seq, received_at, uuid_ts, timestamp"
    warehouse.run(f"CREATE TABLE user_traits (canonical_segment_id, name, value, {rest})")
    warehouse.run(f"CREATE TABLE user_identifiers (canonical_segment_id, type, value, {rest})")
    warehouse.run(f"CREATE TABLE profile_merges (canonical_segment_id, segment_id, {rest})")
    yield warehouse
    warehouse.engine.dispose()


@pytest.fixture
def postgres_warehouse(empty_postgres: str) -> Iterator[Warehouse]:
    warehouse = Warehouse(empty_postgres)
    yield warehouse
    warehouse.engine.dispose()
