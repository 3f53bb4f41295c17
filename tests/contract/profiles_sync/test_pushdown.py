"""What a warehouse gives out of a pull whose fingerprints it compares: on PostgreSQL, and on DuckDB
by the statements of the vendors."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from syncer.engage.profiles_sync import ProfilesSyncPull
from syncer.engage.pushdown import PREFIX, Kept, PushDown, Unchanged
from syncer.engage.source import Everything, PulledCustomer
from syncer.errors import SourceError
from tests.contract.profiles_sync.dialects import (
    VENDORS,
    Elsewhere,
    dialect_of,
    load_duckdb,
    on_duckdb,
    pull,
)
from tests.contract.profiles_sync.helpers import Model
from tests.support.space import KEYS, TWO_LATER, Warehouse

SCRATCH = "scratch"


def fill(warehouse: Warehouse) -> None:
    """Random rows with merges, and customers with and without a row."""
    warehouse.create()
    Model(1).fill(warehouse)
    for number in range(20):
        warehouse.member(f"m{number}", f"member{number:02d}")
    warehouse.trait("m7", "name", "Ünï")
    warehouse.id("bare", "without a row")
    warehouse.flush()


def check(
    tried: ProfilesSyncPull, before: Kept | None, differ: Collection[str], wanted: Collection[str]
) -> Kept:
    """Hold what is given out, and what is counted of the others, against all that is pulled."""
    push_down = PushDown(tried, SCRATCH)
    all_rows = {row.customer_id: row for row in tried.customers(KEYS)}
    now = push_down.keep(KEYS)
    assert now.table.startswith(PREFIX)
    assert now.rows == sum(map(number_of_rows, all_rows.values()))
    if before is not None:
        assert push_down.fault(before) is None
        given = dict(push_down.differing(before, now, KEYS, wanted))
        assert list(given) == sorted({*differ, *wanted}, key=str.encode)
        assert given == {own: all_rows.get(own) for own in given}
        others = [row for own, row in all_rows.items() if own not in given]
        keys: dict[str, int] = {}
        for row in others:
            for key in {*json.loads(row.keys), *(each[0] for each in json.loads(row.profile))}:
                keys[key] = keys.get(key, 0) + 1
        expected = Unchanged(len(others), sum(map(number_of_rows, others)), keys)
        assert push_down.unchanged(before, now, KEYS, wanted) == expected
        push_down.drop(before)
        assert push_down.fault(before)
    return now


def number_of_rows(row: PulledCustomer) -> int:
    return len(json.loads(row.keys)) + len(json.loads(row.profile))


def test_only_who_differs_is_given_out(postgres_warehouse: Warehouse) -> None:
    warehouse = postgres_warehouse
    fill(warehouse)
    warehouse.run(f"CREATE SCHEMA {SCRATCH}")
    traits, ids = warehouse.table("user_traits"), warehouse.table("user_identifiers")

    def run(before: Kept | None, differ: Collection[str], wanted: Collection[str] = ()) -> Kept:
        with warehouse.source().pull(Everything(), writes=True) as tried:
            kept = check(tried, before, differ, wanted)
            PushDown(tried, SCRATCH).finish()
        return kept

    before = run(run(None, ()), ())
    warehouse.run(f"UPDATE {traits} SET value = 'false' WHERE canonical_segment_id = 'm3'")
    warehouse.run(f"DELETE FROM {traits} WHERE canonical_segment_id = 'm4'")  # its id stays
    for table in (traits, ids):
        warehouse.run(f"DELETE FROM {table} WHERE canonical_segment_id = 'm5'")
    warehouse.member("m20", "new")
    warehouse.merge("m6", "m7", TWO_LATER)
    moved = {f"member{number:02d}" for number in (3, 4, 5, 6, 7)} | {"new"}
    before = run(before, moved, ("member00", "member03", "without a row"))
    before = run(before, (), ("member01",))

    # A pull that ends before its commit leaves nothing; what it would compare with stays.
    with warehouse.source().pull(Everything(), writes=True) as tried:
        lost = PushDown(tried, SCRATCH).keep(KEYS)
    with warehouse.source().pull(Everything(), writes=True) as tried:
        fault = PushDown(tried, SCRATCH).fault(lost)
        assert fault == f"the table {lost.table} is not in the scratch schema 'scratch' any more"
        assert PushDown(tried, SCRATCH).fault(before) is None
    warehouse.run(f"DELETE FROM {SCRATCH}.{before.table} WHERE customer_id = 'member01'")
    with warehouse.source().pull(Everything(), writes=True) as tried:
        assert "was changed: it had 27 customers" in (PushDown(tried, SCRATCH).fault(before) or "")

    refused_without_permission(warehouse)


def refused_without_permission(warehouse: Warehouse) -> None:
    warehouse.run("CREATE ROLE scratch_reader LOGIN")
    try:
        for schema in ("public", SCRATCH):
            warehouse.run(f"GRANT USAGE ON SCHEMA {schema} TO scratch_reader")
            warehouse.run(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO scratch_reader")
        reader = Warehouse(
            make_url(warehouse.url)
            .set(username="scratch_reader")
            .render_as_string(hide_password=False)
        )
        with (
            reader.source().pull(Everything(), writes=True) as tried,
            pytest.raises(SourceError) as caught,
        ):
            PushDown(tried, SCRATCH).keep(KEYS)
        reader.engine.dispose()
    finally:
        warehouse.run("DROP OWNED BY scratch_reader")
        warehouse.run("DROP ROLE scratch_reader")
    said = str(caught.value)
    assert "no table can be made in the scratch schema 'scratch': permission denied" in said
    assert "create, fill, read and drop tables there" in said


def test_the_vendors_statements_give_out_the_same(
    sqlite_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    duckdb = pytest.importorskip("duckdb")
    fill(sqlite_warehouse)
    with duckdb.connect() as connection:
        load_duckdb(connection, sqlite_warehouse)
        connection.execute(f"CREATE SCHEMA {SCRATCH}")
        monkeypatch.setattr(ProfilesSyncPull, "has_table", has_table_on(connection))
        for vendor in VENDORS:
            if vendor == "databricks":  # sqlglot cannot say it in DuckDB's words
                continue
            elsewhere = Elsewhere(dialect_of(vendor), on_duckdb(connection, vendor))
            connection.execute("UPDATE user_traits SET value = 'true'")
            with pull(elsewhere, Everything()) as tried:
                before = check(tried, None, (), ())
            connection.execute(
                "UPDATE user_traits SET value = ? WHERE value = 'true' AND "
                "canonical_segment_id = 'm3'",
                [vendor],
            )
            with pull(elsewhere, Everything()) as tried:
                check(tried, before, {"member03"}, ("member05", "without a row"))


def has_table_on(connection: Any) -> Callable[[ProfilesSyncPull, str, str], bool]:
    def has_table(_pull: ProfilesSyncPull, name: str, schema: str) -> bool:
        named = "SELECT 1 FROM information_schema.tables WHERE table_schema = ? AND table_name = ?"
        return connection.execute(named, [schema, name]).fetchone() is not None

    return has_table
