"""The statements for Snowflake, BigQuery, Redshift and Databricks: each is parsed strictly in its
dialect, and gives what the same pull gives on SQLite."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import TIMESTAMP, VARCHAR
from sqlalchemy.engine import make_url

from syncer.engage.source import Everything, Scope
from tests.contract.profiles_sync.answers import SCOPES, answers
from tests.contract.profiles_sync.dialects import (
    OWN,
    VENDORS,
    Elsewhere,
    dialect_of,
    load_duckdb,
    on_duckdb,
    pull,
)
from tests.contract.profiles_sync.fingerprints import check_fingerprints
from tests.contract.profiles_sync.helpers import Model
from tests.support import processes, spark
from tests.support.space import KEYS, Warehouse


@pytest.fixture
def filled(sqlite_warehouse: Warehouse) -> Warehouse:
    """Random rows, and some that are odd."""
    sqlite_warehouse.create()
    Model(1).fill(sqlite_warehouse)
    for number, odd in enumerate(
        ("it's", "\\'", 'a"b', "100%", "u:x", " u", "~", "～", "🦊", "\t")
    ):
        sqlite_warehouse.id(f"odd{number}", odd)
        for key, value in (("vip", "TRUE "), ("total", odd), ("churn", None), ("name", "Ünï")):
            sqlite_warehouse.trait(f"odd{number}", key, value, f"2026-03-04T1{number % 6}:00:00Z")
    sqlite_warehouse.id("odd-id", None)
    sqlite_warehouse.id("odd-id", " ")
    sqlite_warehouse.trait("odd-id", "vip", "true", timestamp="1970-01-01T00:00:00Z", seq=None)
    sqlite_warehouse.trait("odd1", "vip", "f", timestamp="2036-01-01T00:00:00Z", seq=None)
    sqlite_warehouse.flush()
    return sqlite_warehouse


@pytest.fixture
def duckdb(filled: Warehouse) -> Any:
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect() as connection:
        load_duckdb(connection, filled)
        yield connection


# What Databricks alone is asked, sqlglot cannot say in DuckDB's words: it runs on Spark.
@pytest.mark.parametrize("vendor", [each for each in VENDORS if each != "databricks"])
def test_a_warehouse_gives_what_sqlite_gives(vendor: str, duckdb: Any, filled: Warehouse) -> None:
    check(Elsewhere(dialect_of(vendor), on_duckdb(duckdb, vendor)), filled, SCOPES)


def test_duckdb_gives_what_sqlite_gives(duckdb_warehouse: Warehouse, filled: Warehouse) -> None:
    import duckdb

    with duckdb.connect(str(make_url(duckdb_warehouse.url).database)) as connection:
        load_duckdb(connection, filled)
    for scope in SCOPES:
        with filled.source(overlap=0).pull(scope) as expected:
            wanted = answers(expected)
        with duckdb_warehouse.source(overlap=0).pull(scope) as tried:
            assert answers(tried) == wanted, scope
    with duckdb_warehouse.source().pull(Everything()) as tried:
        check_fingerprints(tried)


def check(elsewhere: Elsewhere, filled: Warehouse, scopes: list[Scope]) -> None:
    for scope in scopes:
        with filled.source(overlap=0).pull(scope) as expected:
            wanted = answers(expected)
        with pull(elsewhere, scope, overlap=0) as tried:
            assert answers(tried) == wanted, scope
            assert len(tried.size()) == len(OWN)
    for text in elsewhere.said:
        assert "RECURSIVE" not in text.upper()
        assert "NULLS" not in text.upper()


def test_databricks_statements_run_on_a_cluster(filled: Warehouse, tmp_path: Path) -> None:
    """In a process of its own: what is forked from one that talks to Spark does not work."""
    if (why := spark.missing()) is not None:
        pytest.skip(why)
    asking = processes.start(
        *("-m", "tests.contract.profiles_sync.on_spark", filled.engine.url, tmp_path / "spark"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said, _ = asking.communicate(timeout=300)
    assert asking.returncode == 0, said


@pytest.mark.parametrize("vendor", VENDORS)
def test_other_types_of_columns_are_parsed(vendor: str) -> None:
    """Times with a zone or as text, and `seq` as text, as older warehouses have them."""
    elsewhere = Elsewhere(dialect_of(vendor), lambda text, values: [])
    for times in (TIMESTAMP(timezone=True), VARCHAR()):
        for scope in SCOPES:
            with pull(elsewhere, scope, VARCHAR(), times) as tried:
                assert list(tried.customers(KEYS)) == []
                assert tried.observed() == []
                tried.watermark()
