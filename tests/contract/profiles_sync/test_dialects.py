"""The statements for Snowflake, BigQuery, Redshift and Databricks: each is parsed strictly in its
dialect, and gives what the same pull gives on SQLite."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import TIMESTAMP, VARCHAR
from sqlalchemy.engine import make_url

from syncer.clock import read
from syncer.engage.profiles_sync import ProfilesSync, ProfilesSyncPull
from syncer.engage.source import ChangedSince, Everything, OnlyCustomers, Scope
from tests.contract.profiles_sync.dialects import (
    OWN,
    VENDORS,
    Elsewhere,
    dialect_of,
    load_duckdb,
    load_spark,
    on_duckdb,
    pull,
)
from tests.contract.profiles_sync.fingerprints import check_fingerprints
from tests.contract.profiles_sync.helpers import Model, on_a_cluster
from tests.support import spark
from tests.support.space import KEYS, Warehouse

SINCE = "2026-03-04T12:00:00.000+00:00"
SCOPES: list[Scope] = [Everything(), ChangedSince(SINCE), OnlyCustomers(("u1", "it's", "\\'", "é"))]


def answers(pull: ProfilesSyncPull) -> dict[str, Any]:
    """All that a pull says, in a form that does not tell which engine says it."""
    customers = [
        (
            row.customer_id,
            json.loads(row.keys),
            json.loads(row.values),
            [read(time) for time in json.loads(row.times)],
            [(key, value, read(time)) for key, value, time in json.loads(row.profile)],
        )
        for row in pull.customers(KEYS)
    ]
    watermark = pull.watermark()
    return {
        "customers": customers,
        "count": pull.count(KEYS),
        "observed": {key.key: key for key in pull.observed()},
        "watermark": watermark and round((read(watermark) or 0) / 10),  # SQLite counts in days
        "without": pull.without_customer_id(KEYS),
        "nameless": list(pull.profiles_without_customer_id(KEYS)),
        "identified": pull.identified(["u1", "nobody", "it's", "\\'", "é"]),
        "rows of": [row._replace(counts=False) for row in pull.rows_of("vip")],
    }


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


@on_a_cluster
def test_databricks_statements_run_on_a_cluster(spark_session: Any, filled: Warehouse) -> None:
    """The tables are Parquet, which has no versions: they are counted before and after."""
    load_spark(spark_session, "segment", filled)
    source = ProfilesSync(make_url(spark.URL.format(schema="segment")), "segment", overlap=0)
    for scope in SCOPES[1:2]:
        with filled.source(overlap=0).pull(scope) as expected:
            wanted = answers(expected)
        with source.pull(scope) as tried:
            assert answers(tried) == wanted, scope
    with source.pull(Everything()) as tried:
        check_fingerprints(tried)


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
