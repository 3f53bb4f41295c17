"""What an incremental pull takes up, and all of it against a reading in plain Python."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event

from syncer.engage import lineage, people
from syncer.engage.catalog import newest
from syncer.engage.source import (
    ChangedSince,
    Everything,
    OnlyCustomers,
    Scope,
)
from tests.contract.profiles_sync.helpers import Model, assert_watermark
from tests.support.space import (
    HOUR_LATER,
    KEYS,
    T0,
    TWO_LATER,
    Warehouse,
)

# only what changed


SINCE = "2026-03-04T11:30:00.000+00:00"


def test_a_customer_is_touched_by_a_trait_an_identifier_or_a_merge(warehouse: Warehouse) -> None:
    for number in range(5):
        warehouse.member(f"p{number}", f"u{number}")
    warehouse.trait("p1", "total", "1", TWO_LATER)
    warehouse.id("p2", "a@b.c", TWO_LATER, type="email")
    warehouse.merge("p9", "p3", TWO_LATER)
    assert warehouse.touched(SINCE, overlap=60) == ["u1", "u2", "u3"]


def test_a_touched_customer_comes_with_all_rows_of_all_its_profiles(warehouse: Warehouse) -> None:
    warehouse.member("p1", "u1")
    warehouse.id("p2", "u1")
    warehouse.id("p2", "u2")
    warehouse.trait("p2", "total", "5")
    warehouse.trait("p2", "churn", "true", TWO_LATER)
    warehouse.member("p3", "u3")
    customers = {
        customer.customer_id: customer
        for customer in warehouse.pulled(ChangedSince(SINCE), overlap=60)
    }
    assert {
        customer_id: sorted(json.loads(row.keys)) for customer_id, row in customers.items()
    } == {
        "u1": ["churn", "total", "vip"],
        "u2": ["churn", "total"],
    }


def test_a_merge_touches_what_it_ends_in(warehouse: Warehouse) -> None:
    """The chain's end, though its own rows are old."""
    warehouse.merge("b", "c")
    warehouse.merge("a", "b", TWO_LATER)
    warehouse.member("c", "u1")
    warehouse.trait("a", "churn", "true")
    warehouse.member("d", "u4")
    (customer,) = warehouse.pulled(ChangedSince(SINCE), overlap=60)
    assert customer.customer_id == "u1"
    assert sorted(json.loads(customer.keys)) == ["churn", "vip"]


def test_a_row_of_a_merged_profile_touches_the_customer(warehouse: Warehouse) -> None:
    warehouse.merge("old", "new")
    warehouse.member("new", "u1")
    warehouse.trait("old", "churn", "true", TWO_LATER)
    assert warehouse.touched(SINCE, overlap=60) == ["u1"]


def test_the_overlap_looks_back(warehouse: Warehouse) -> None:
    warehouse.member("p1", "u1", at=HOUR_LATER)
    warehouse.member("p2", "u2", at=TWO_LATER)
    since = "2026-03-04T12:00:00.000+00:00"
    assert warehouse.touched(since, overlap=0) == ["u2"]
    assert warehouse.touched(since, overlap=3599) == ["u2"]
    assert warehouse.touched(since, overlap=3600) == ["u1", "u2"]


@pytest.mark.parametrize(
    ("column", "odd"), [("TEXT", ["someday", "1999-01-01 00:00:00", ""]), ("", [])]
)
def test_a_row_whose_time_is_unknown_is_new(
    warehouse: Warehouse, column: str, odd: list[str]
) -> None:
    """Times as text are compared as such, and then as times, whatever zone they have."""
    if column:
        for table in ("user_traits", "user_identifiers", "profile_merges"):
            warehouse.run(f"DROP TABLE {warehouse.table(table)}")
        if warehouse.schema:
            warehouse.run(f"DROP SCHEMA {warehouse.schema}")
        warehouse.create(time=column)
    times = ["2026-03-04T11:29:00Z", "2026-03-04T12:29:30+01:00", None, "1999-12-31T23:00:00Z"]
    times += ["2026-03-03T20:31:00-14:59", "2026-03-04 11:30", *odd]
    for number, time in enumerate(times):
        warehouse.member(f"p{number}", f"u{number}", at=T0)
        warehouse.trait(f"p{number}", "total", "1", T0, uuid_ts=time)
    assert warehouse.touched(SINCE, overlap=20) == [f"u{n}" for n in range(2, len(times))]
    with warehouse.source(overlap=20).pull(ChangedSince(SINCE)) as pull:
        assert [(key.key, key.rows) for key in pull.observed()] == [("total", len(times) - 2)]


def test_profiles_without_an_id_are_counted_in_scope(warehouse: Warehouse) -> None:
    warehouse.trait("old one", "vip", "true", T0)
    warehouse.trait("new one", "vip", "true", TWO_LATER)
    with warehouse.source(overlap=60).pull(ChangedSince(SINCE)) as pull:
        assert pull.without_customer_id(KEYS).profiles == 1
        assert list(pull.profiles_without_customer_id(KEYS)) == ["new one"]


def test_only_the_named_customers(warehouse: Warehouse) -> None:
    for number in range(3):
        warehouse.member(f"p{number}", f"u{number}")
    warehouse.id("other", "u1")
    warehouse.trait("other", "total", "4")
    (customer,) = warehouse.pulled(OnlyCustomers(("u1",)))
    assert (customer.customer_id, sorted(json.loads(customer.keys))) == ("u1", ["total", "vip"])
    several = warehouse.pulled(OnlyCustomers(("u2", "nobody", "u0")))
    assert [customer.customer_id for customer in several] == ["u0", "u2"]
    many = (*(f"nobody {number}" for number in range(498)), "u1", "u2")
    assert [customer.customer_id for customer in warehouse.pulled(OnlyCustomers(many))] == [
        "u1",
        "u2",
    ]
    assert warehouse.pulled(OnlyCustomers(())) == []
    assert warehouse.pulled(OnlyCustomers(("nobody",))) == []
    assert warehouse.pulled(OnlyCustomers(("' OR 1=1 --",))) == []


def test_the_watermark_is_the_newest_load_of_any_table(warehouse: Warehouse) -> None:
    with warehouse.source().pull(Everything()) as pull:
        assert pull.watermark() is None
    warehouse.merge("p9", "p9", "2026-03-04T12:00:00.500Z")
    warehouse.id("p9", "u9", HOUR_LATER, uuid_ts=None)
    warehouse.trait("p9", "vip", "true", T0, timestamp=TWO_LATER, received_at=TWO_LATER)
    for scope in (Everything(), ChangedSince(T0), ChangedSince("2026-03-04T12:00:00.400+00:00")):
        with warehouse.source(overlap=0).pull(scope) as pull:
            assert_watermark(pull, "2026-03-04T12:00:00.500+00:00")
    with warehouse.source().pull(ChangedSince("2026-03-04T13:00:00+00:00")) as pull:
        assert pull.watermark() == "2026-03-04T13:00:00.000+00:00"
    with warehouse.source().pull(OnlyCustomers(("u9",))) as pull:
        assert pull.watermark() is None
    warehouse.id("p9", "u10", "2026-03-04T12:00:01Z")
    with warehouse.source().pull(Everything()) as pull:
        assert_watermark(pull, "2026-03-04T12:00:01.000+00:00")


def test_a_row_from_the_future_does_not_hide_what_comes_before(warehouse: Warehouse) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    warehouse.member("p1", "u1", at="2999-01-01T00:00:00Z")
    with warehouse.source().pull(Everything()) as pull:
        watermark = datetime.fromisoformat(pull.watermark() or "")
    assert before < watermark < datetime.now(UTC) + timedelta(seconds=1)
    warehouse.member("p2", "u2", at=datetime.now(UTC).isoformat())
    assert warehouse.touched(watermark.isoformat(), overlap=5) == ["u1", "u2"]


def test_of_rows_that_are_alike_each_scope_takes_the_same(warehouse: Warehouse) -> None:
    """Whatever index a statement goes by; else customers would come and go with each run."""
    for table, columns in (
        ("profile_merges", "segment_id, canonical_segment_id"),
        ("user_traits", "canonical_segment_id, value"),
    ):
        warehouse.run(f"CREATE INDEX on_{table} ON {warehouse.table(table)} ({columns})")
    for number in range(8):
        for profile in ("b", "c"):
            warehouse.id(f"{profile}{number}", f"u{number}{profile}")
        for place in (0, 1) if number % 2 else (1, 0):
            into, value = "bc"[place], str(place)
            warehouse.merge(f"a{number}", f"{into}{number}", T0, seq=None)
            warehouse.trait(f"a{number}", "total", value, T0, seq=None)
        warehouse.trait(f"a{number}", "churn", "true", TWO_LATER)
    everybody = tuple(f"u{number}{profile}" for number in range(8) for profile in "bc")
    full, *others = (
        {
            (customer.customer_id, newest(customer.keys, customer.values, customer.times)[:2])
            for customer in warehouse.pulled(scope, overlap=0)
        }
        for scope in (Everything(), ChangedSince(TWO_LATER), OnlyCustomers(everybody))
    )
    assert len(full) == 8
    assert others == [full, full]
    for customer_id, (keys, values) in full:
        with warehouse.source().pull(OnlyCustomers((customer_id,))) as pull:
            (row,) = (row for row in pull.rows_of("total") if row.counts)
        assert json.loads(values)[json.loads(keys).index("total")] == row.value


def test_many_profiles_are_looked_up_by_few_statements(sqlite_warehouse: Warehouse) -> None:
    """Without an index each one reads a whole table."""
    sqlite_warehouse.create()
    for number in range(2_000):
        sqlite_warehouse.member(f"p{number}", f"u{number}", at=TWO_LATER)
    statements = []
    with sqlite_warehouse.source().pull(ChangedSince(TWO_LATER)) as pull:
        event.listen(
            pull._connection, "before_cursor_execute", lambda *told: statements.append(told[2])
        )
        assert pull.count(KEYS).customers == 2_000
    assert len(statements) < 12


def test_profiles_of_very_many_ids_are_not_looked_up(
    sqlite_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is looked up is in memory: its bound is that of all ids, not of those with new rows."""
    warehouse = sqlite_warehouse
    warehouse.create()
    warehouse.member("p1", "u1", at=TWO_LATER)
    for number in range(9):
        warehouse.merge(f"a{number}", "p1")
    scopes = (ChangedSince(TWO_LATER), OnlyCustomers(("u1",)))
    looked_up = [warehouse.pulled(scope, overlap=0) for scope in scopes]
    monkeypatch.setattr(lineage, "FEW", 9)
    assert [warehouse.pulled(scope, overlap=0) for scope in scopes] == looked_up
    for scope in scopes:
        with warehouse.source().pull(scope) as pull:
            assert isinstance(pull._people, people._Many)


# against a reading of the tables in plain Python


@pytest.mark.parametrize("few", [-1, people.FEW])
@pytest.mark.parametrize("seed", range(3))
def test_the_pull_is_what_the_tables_say(
    warehouse: Warehouse, seed: int, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the profiles that changed are looked up, or all rows are read because of so many."""
    monkeypatch.setattr(people, "FEW", few)
    model = Model(seed)
    model.fill(warehouse)
    scopes: list[tuple[Scope, dict[str, str]]] = [(Everything(), {})]
    for since in ("2026-03-04T12:00:00Z", "2026-03-04T15:00:00Z"):
        scopes.append((ChangedSince(since), {"since": since}))
    scopes.append((OnlyCustomers(("🦊",)), {"only": "🦊"}))
    for scope, asked in scopes:
        customers = warehouse.pulled(scope, overlap=0)
        with warehouse.source(overlap=0).pull(scope) as pull:
            nameless = set(pull.profiles_without_customer_id([*KEYS, "plan"]))
        rows: dict[str, Counter[tuple[str, str]]] = {}
        for customer in customers:
            pairs = zip(json.loads(customer.keys), json.loads(customer.values), strict=True)
            rows[customer.customer_id] = Counter(pairs)
            rows[customer.customer_id].update(
                (key, value) for key, value, _ in json.loads(customer.profile)
            )
        assert rows == model.expected(**asked), scope
        if not isinstance(scope, OnlyCustomers):
            with_rows = {model.profile(row[0]) for row in model.traits if row[1] != "name"}
            assert nameless == model.nameless & with_rows
        assert list(rows) == sorted(rows, key=str.encode)
        assert len(rows) == len(customers)
