"""Warehouses on SQLite, on PostgreSQL and on DuckDB."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import spark
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


@pytest.fixture(scope="session")
def spark_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A session of a cluster, to which Databricks' driver gives out connections."""
    if (why := spark.missing()) is not None:
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("spark")
    with spark.cluster(folder) as address, spark.connected(address) as session:
        yield session


@pytest.fixture
def postgres_warehouse(empty_postgres: str) -> Iterator[Warehouse]:
    warehouse = Warehouse(empty_postgres)
    yield warehouse
    warehouse.engine.dispose()
