"""Fingerprints of customers: PostgreSQL itself computes them, and the vendors' statements do so on
DuckDB; all give what is worked out here the slow way."""

from __future__ import annotations

import pytest
from sqlalchemy import insert
from sqlalchemy.schema import CreateTable

from syncer.engage.fingerprints import differing, fingerprints, table_of
from syncer.engage.people import identifiers
from syncer.engage.source import Everything
from syncer.engage.warehouses import WAREHOUSES
from tests.contract.profiles_sync.dialects import (
    VENDORS,
    Elsewhere,
    dialect_of,
    load_duckdb,
    on_duckdb,
    parse,
    pull,
)
from tests.contract.profiles_sync.fingerprints import check_fingerprints
from tests.contract.profiles_sync.helpers import Model
from tests.support.space import KEYS, T0, TABLES, TWO_LATER, Warehouse

EARLIER = "2026-03-04T09:00:00Z"
ODD = ("it's", "\\'", 'a"b', "100%", "u:x", " u", "~", "～", "🦊", "\t")


def fill(warehouse: Warehouse) -> None:
    """Random rows with merges, and some that are odd."""
    warehouse.create()
    Model(1).fill(warehouse)
    for number, odd in enumerate(ODD):
        warehouse.id(f"odd{number}", odd)
        for key, value in (("vip", "TRUE "), ("total", odd), ("churn", None), ("name", "Ünï")):
            warehouse.trait(f"odd{number}", key, value)
    warehouse.id("bare", "without a row")
    warehouse.flush()


def changed(before: dict[str, tuple[str, int]], now: dict[str, tuple[str, int]]) -> set[str]:
    return {each for each in before.keys() | now.keys() if before.get(each) != now.get(each)}


def test_a_fingerprint_changes_with_what_is_said_of_a_customer(
    postgres_warehouse: Warehouse,
) -> None:
    warehouse = postgres_warehouse
    fill(warehouse)
    traits, ids, merges = map(warehouse.table, TABLES)

    def now() -> dict[str, tuple[str, int]]:
        with warehouse.source().pull(Everything()) as tried:
            return check_fingerprints(tried)

    before = now()
    of_odd3 = "WHERE canonical_segment_id = 'odd3' AND name"
    again = f"INSERT INTO {traits} SELECT canonical_segment_id, name, 'false', 9000, received_at, "
    of_odd4 = "WHERE canonical_segment_id = 'odd4' AND name = 'vip'"
    for statement, whose in (
        (f"UPDATE {traits} SET value = 'true' {of_odd3} = 'vip'", {"100%"}),
        (f"UPDATE {traits} SET value = '' {of_odd3} = 'churn'", {"100%"}),
        (f"UPDATE {traits} SET value = 'Ü' {of_odd3} = 'name'", {"100%"}),
        (f"DELETE FROM {traits} {of_odd3} = 'total'", {"100%"}),
        (f"UPDATE {traits} SET name = 'total' {of_odd3} = 'vip'", {"100%"}),
        # Loaded anew, or of a key that nobody asks for, is no change.
        (f"UPDATE {traits} SET uuid_ts = '{TWO_LATER}', timestamp = NULL {of_odd3} = 'name'", {}),
        (f"UPDATE {traits} SET value = 'other' WHERE name = 'plan'", {}),
        (f"DELETE FROM {ids} WHERE value = 'without a row'", {"without a row"}),
        (f"UPDATE {ids} SET value = 'U' WHERE value = ' u'", {"U", " u"}),
        # Of a customer with two rows of a trait the order counts, too.
        (f"{again} uuid_ts, timestamp FROM {traits} {of_odd4}", {"u:x"}),
        (f"UPDATE {traits} SET uuid_ts = '{TWO_LATER}' {of_odd4} AND value = 'false'", {}),
        (f"UPDATE {traits} SET timestamp = '{EARLIER}' {of_odd4} AND value = 'false'", {"u:x"}),
        (f"UPDATE {traits} SET seq = 1 {of_odd4}", {"u:x"}),
        (f"INSERT INTO {merges} VALUES ('odd6', 'odd5', 1, '{T0}', '{T0}', '{T0}')", {"U", "~"}),
    ):
        warehouse.run(statement)
        before, earlier = now(), before
        assert changed(earlier, before) == set(whose), statement


def test_a_table_keeps_them_and_shows_who_differs(postgres_warehouse: Warehouse) -> None:
    kind = WAREHOUSES["postgresql"]
    before, now = (table_of(name, "public", kind) for name in ("before", "now"))
    with postgres_warehouse.engine.begin() as connection:
        for each, rows in (
            (before, [("same", "1"), ("gone", "1"), ("differs", "1")]),
            (now, [("same", "1"), ("new", "1"), ("differs", "2"), ("x" * 5000, "1")]),
        ):
            connection.execute(CreateTable(each))
            values = [{"customer_id": own, "fingerprint": text, "number": 1} for own, text in rows]
            connection.execute(insert(each), values)
        ids = sorted(connection.execute(differing(before, now)).scalars())
    assert ids == ["differs", "gone", "new", "x" * 5000]


def test_the_vendors_statements_give_the_same(sqlite_warehouse: Warehouse) -> None:
    duckdb = pytest.importorskip("duckdb")
    fill(sqlite_warehouse)
    with duckdb.connect() as connection:
        load_duckdb(connection, sqlite_warehouse)
        for vendor in VENDORS:
            # What Databricks alone is asked, sqlglot cannot say in DuckDB's words.
            if vendor != "databricks":
                elsewhere = Elsewhere(dialect_of(vendor), on_duckdb(connection, vendor))
                with pull(elsewhere, Everything()) as tried:
                    check_fingerprints(tried)


@pytest.mark.parametrize("vendor", VENDORS)
def test_the_statements_that_keep_them_are_the_vendors_own(vendor: str) -> None:
    dialect, said = dialect_of(vendor), list[str]()
    now = table_of("now", "scratch", WAREHOUSES[vendor])
    with pull(Elsewhere(dialect, lambda text, values: []), Everything()) as tried:
        ids = identifiers(tried.space, tried.customer_id)
        chosen = fingerprints(tried.rows(KEYS), ids, tried.space.columns)
    for statement in (
        CreateTable(now),
        insert(now).from_select(["customer_id", "fingerprint", "number"], chosen),
        differing(table_of("before", "scratch", WAREHOUSES[vendor]), now),
    ):
        text = str(statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
        parse(text, vendor)
        said.append(text)
    assert "scratch" in said[0]
