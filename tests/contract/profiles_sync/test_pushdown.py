"""What a warehouse gives out of a pull whose fingerprints it compares: on PostgreSQL, and on DuckDB
by the statements of the vendors."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from syncer.engage.profiles_sync import ProfilesSyncPull
from syncer.engage.pushdown import PREFIX, PushDown, PushDownSource, new_table
from syncer.engage.source import Counted, Everything, Fingerprints, PulledCustomer, Unchanged
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
    push_down: PushDown,
    before: Fingerprints | None,
    differ: Collection[str],
    wanted: Collection[str],
) -> Fingerprints:
    """Hold what is given out, and what is counted of the others, against all that is pulled."""
    all_rows = {row.customer_id: row for row in push_down._pull.customers(KEYS)}
    push_down.make(name := new_table())
    now = push_down.keep(name, KEYS)
    assert now.table.startswith(PREFIX)
    assert now.rows == sum(map(number_of_rows, all_rows.values()))
    if before is not None:
        assert push_down.fault(before) is None
        counted = push_down.choose(before, now, iter(wanted))
        given = dict(push_down.given(KEYS))
        assert list(given) == sorted({*differ, *wanted}, key=str.encode)
        assert given == {own: all_rows.get(own) for own in given}
        with_rows = [row for row in given.values() if row is not None]
        assert counted == Counted(len(with_rows), sum(map(number_of_rows, with_rows)))
        others = [row for own, row in all_rows.items() if own not in given]
        keys: dict[str, int] = {}
        for row in others:
            for key in {*json.loads(row.keys), *(each[0] for each in json.loads(row.profile))}:
                keys[key] = keys.get(key, 0) + 1
        expected = Unchanged(len(others), sum(map(number_of_rows, others)), keys)
        assert push_down.unchanged(now, KEYS) == expected
        push_down.drop([before.table])
        assert push_down.fault(before)
    return now


def number_of_rows(row: PulledCustomer) -> int:
    return len(json.loads(row.keys)) + len(json.loads(row.profile))


def test_only_who_differs_is_given_out(postgres_warehouse: Warehouse) -> None:
    warehouse = postgres_warehouse
    fill(warehouse)
    warehouse.run(f"CREATE SCHEMA {SCRATCH}")
    traits, ids = warehouse.table("user_traits"), warehouse.table("user_identifiers")

    source = PushDownSource(warehouse.source(), SCRATCH)

    def run(
        before: Fingerprints | None, differ: Collection[str], wanted: Collection[str] = ()
    ) -> Fingerprints:
        warehouse.flush()
        with source.comparing() as (_, push_down):
            kept = check(push_down, before, differ, wanted)
            push_down.finish()
        return kept

    before = run(run(None, ()), ())
    warehouse.run(f"UPDATE {traits} SET value = 'false' WHERE canonical_segment_id = 'm3'")
    warehouse.run(f"DELETE FROM {traits} WHERE canonical_segment_id = 'm4'")  # its id stays
    for table in (traits, ids):
        warehouse.run(f"DELETE FROM {table} WHERE canonical_segment_id = 'm5'")
    warehouse.member("m20", "new")
    warehouse.merge("m6", "m7", TWO_LATER)
    moved = {f"member{number:02d}" for number in (3, 4, 5, 6, 7)} | {"new"}
    before = run(before, moved, ("member00", "member03", "without a row", "nobody"))
    before = run(before, (), ("member01", "member01"))

    # A pull that ends before its commit leaves nothing; what it would compare with stays.
    with source.comparing() as (_, push_down):
        push_down.make(name := new_table())
        lost = push_down.keep(name, KEYS)
    with source.comparing() as (_, push_down):
        fault = push_down.fault(lost)
        assert fault == f"the table {lost.table} is not in the scratch schema 'scratch' any more"
        assert push_down.fault(before) is None
    warehouse.run(f"DELETE FROM {SCRATCH}.{before.table} WHERE customer_id = 'member01'")
    with source.comparing() as (_, push_down):
        assert "was changed: it had 27 customers" in (push_down.fault(before) or "")

    assert "created, filled, read and dropped in the schema 'scratch'" in source.try_scratch()
    count = "SELECT count(*) FROM pg_tables WHERE schemaname = 'scratch'"
    with warehouse.engine.connect() as connection:
        assert connection.execute(text(count)).scalar_one() == 1
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
        with pytest.raises(SourceError) as caught:
            PushDownSource(reader.source(), SCRATCH).try_scratch()
        reader.engine.dispose()
    finally:
        warehouse.run("DROP OWNED BY scratch_reader")
        warehouse.run("DROP ROLE scratch_reader")
    said = str(caught.value)
    assert "no table can be made in the scratch schema 'scratch': permission denied" in said
    assert "create, fill, read and drop tables there" in said


def test_a_duckdb_file_gives_out_the_same(duckdb_warehouse: Warehouse) -> None:
    fill(duckdb_warehouse)
    duckdb_warehouse.run(f"CREATE SCHEMA {SCRATCH}")
    source, before = PushDownSource(duckdb_warehouse.source(), SCRATCH), None
    for value, differ in (("true", ()), ("false", {"member03"}), ("false", ())):
        duckdb_warehouse.run(
            f"UPDATE user_traits SET value = '{value}' WHERE canonical_segment_id = 'm3'"
        )
        with source.comparing() as (_, push_down):
            before = check(push_down, before, differ, ("member05", "without a row"))
            push_down.finish()
    with source.comparing() as (_, push_down):
        push_down.make(name := new_table())
        lost = push_down.keep(name, KEYS)
    with source.comparing() as (_, push_down):
        assert push_down.fault(lost)
        assert before is not None
        assert push_down.fault(before) is None
    assert "created, filled, read and dropped in the schema 'scratch'" in source.try_scratch()
    with pytest.raises(SourceError, match="no table can be made in the scratch schema 'nowhere'"):
        PushDownSource(duckdb_warehouse.source(), "nowhere").try_scratch()


def test_the_vendors_statements_give_out_the_same(
    sqlite_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    duckdb = pytest.importorskip("duckdb")
    fill(sqlite_warehouse)
    with duckdb.connect() as connection:
        load_duckdb(connection, sqlite_warehouse)
        connection.execute(f"CREATE SCHEMA {SCRATCH}")
        monkeypatch.setattr(ProfilesSyncPull, "tables", tables_on(connection))
        for vendor in VENDORS:
            if vendor == "databricks":  # sqlglot cannot say it in DuckDB's words
                continue
            elsewhere = Elsewhere(dialect_of(vendor), on_duckdb(connection, vendor))
            connection.execute("UPDATE user_traits SET value = 'true'")
            with pull(elsewhere, Everything()) as tried:
                before = check(PushDown(tried, SCRATCH), None, (), ())
            connection.execute(
                "UPDATE user_traits SET value = ? WHERE value = 'true' AND "
                "canonical_segment_id = 'm3'",
                [vendor],
            )
            with pull(elsewhere, Everything()) as tried:
                check(PushDown(tried, SCRATCH), before, {"member03"}, ("member05", "without a row"))


def tables_on(connection: Any) -> Callable[[ProfilesSyncPull, str], set[str]]:
    def tables(_pull: ProfilesSyncPull, schema: str) -> set[str]:
        named = "SELECT table_name FROM information_schema.tables WHERE table_schema = ?"
        return {name for (name,) in connection.execute(named, [schema]).fetchall()}

    return tables
