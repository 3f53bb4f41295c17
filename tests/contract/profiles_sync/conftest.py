"""Warehouses on SQLite, on PostgreSQL and on DuckDB."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.space import Warehouse


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Warehouse]:
    """A warehouse without tables, on each engine; on PostgreSQL in a schema of its own.

    On DuckDB it is where a test says `on_duckdb_too`.
    """
    if request.param == "duckdb":
        warehouse = request.getfixturevalue("duckdb_warehouse")
    elif request.param == "sqlite":
        warehouse = Warehouse(f"sqlite:///{tmp_path / 'engage.db'}")
    else:
        warehouse = Warehouse(request.getfixturevalue("empty_postgres"), "my_space")
    yield warehouse
    warehouse.engine.dispose()


@pytest.fixture
def warehouse(empty: Warehouse) -> Warehouse:
    empty.create()
    return empty


@pytest.fixture
def sqlite_warehouse(tmp_path: Path) -> Iterator[Warehouse]:
    warehouse = Warehouse(f"sqlite:///{tmp_path / 'engage.db'}")
    yield warehouse
    warehouse.engine.dispose()


@pytest.fixture
def duckdb_warehouse(tmp_path: Path) -> Iterator[Warehouse]:
    pytest.importorskip("duckdb", reason="duckdb (the extra duckdb has it)")
    warehouse = Warehouse(f"duckdb:///{tmp_path / 'engage.duckdb'}")
    yield warehouse
    warehouse.engine.dispose()


@pytest.fixture
def postgres_warehouse(empty_postgres: str) -> Iterator[Warehouse]:
    warehouse = Warehouse(empty_postgres)
    yield warehouse
    warehouse.engine.dispose()
