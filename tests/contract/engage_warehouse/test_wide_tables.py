"""The tables of the older Engage destination, as Segment makes them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.engine import make_url

from syncer.clock import read
from syncer.engage import engage_warehouse
from syncer.engage.engage_warehouse import EngageWarehouse
from syncer.engage.selection import KeySelection
from syncer.engage.source import ChangedSince, Everything, OnlyCustomers, Scope
from syncer.errors import SourceError
from tests.support.space import Warehouse

AT, LATER = "2026-03-04T10:00:00Z", "2026-03-04T12:00:00Z"


@pytest.fixture(params=["sqlite", "postgresql"])
def warehouse(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "sqlite":
        warehouse = Warehouse(f"sqlite:///{tmp_path / 'engage.db'}")
    else:
        warehouse = Warehouse(request.getfixturevalue("empty_postgres"), "engage_default")
        warehouse.run("CREATE SCHEMA engage_default")
    yield warehouse
    warehouse.engine.dispose()


def make(warehouse: Warehouse, name: str, columns: str, *rows: dict[str, Any]) -> None:
    """A table with the columns that Segment adds, and its rows."""
    time = "DATETIME" if warehouse.sqlite else "TIMESTAMPTZ"
    table = warehouse.table(name)
    warehouse.run(
        f"CREATE TABLE {table} (user_id TEXT, context_ip TEXT, received_at {time}, uuid_ts {time}, "
        f"{columns})"
    )
    for row in rows:
        row = {"received_at": AT, "uuid_ts": AT} | row
        marks = ", ".join(f":{name}" for name in row)
        warehouse.run(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", **row)


def source(warehouse: Warehouse, **settings: Any) -> EngageWarehouse:
    return EngageWarehouse(make_url(warehouse.url), warehouse.schema, **settings)


def pulled(
    warehouse: Warehouse, keys: list[str], scope: Scope | None = None, **settings: Any
) -> dict[str, dict[str, Any]]:
    with source(warehouse, **settings).pull(scope or Everything()) as pull:
        return {
            row.customer_id: dict(zip(json.loads(row.keys), json.loads(row.values), strict=True))
            | {key: value for key, value, _ in json.loads(row.profile)}
            for row in pull.customers(keys)
        }


SHOPPER, REVENUE = "first_time_shopper", "total_revenue_180_days"


def test_segments_sample_rows_are_read(warehouse: Warehouse) -> None:
    """The rows of the documentation: one user, by identify calls and by events."""
    columns = f"{SHOPPER} BOOLEAN, {REVENUE} NUMERIC(10, 2)"
    history = {"user_id": "u123", SHOPPER: True}, {"user_id": "u123", REVENUE: 450.0}
    make(warehouse, "identifies", columns, *history)
    make(warehouse, "users", columns, {"user_id": "u123", SHOPPER: True, REVENUE: 450.0})
    expected = {SHOPPER: "true", REVENUE: "450" if warehouse.sqlite else "450.00"}
    assert pulled(warehouse, [SHOPPER, REVENUE]) == {"u123": expected}

    event = f"audience_key TEXT, {SHOPPER} BOOLEAN"
    entered = {"user_id": "u123", "audience_key": SHOPPER, SHOPPER: True}
    exited = {**entered, SHOPPER: False, "received_at": LATER, "uuid_ts": LATER}
    make(warehouse, "audience_entered", event, entered)
    make(warehouse, "audience_exited", event, exited)
    computed = {"user_id": "u123", "trait_key": REVENUE, REVENUE: 450.0}
    make(warehouse, "trait_computed", f"trait_key TEXT, {REVENUE} REAL", computed)
    with source(warehouse).pull(OnlyCustomers(("u123",))) as pull:
        (row,) = pull.rows_of(SHOPPER)
    assert (row.value, row.observed_at, row.counts) == ("false", read(LATER), True)


@pytest.mark.parametrize("tables", ["users", "identifies", "both"])
def test_a_value_counts_by_its_own_time_and_not_by_that_of_the_users_last_call(
    warehouse: Warehouse, tables: str
) -> None:
    """A column of `users` may be stale: the row has the time of a call about another trait."""
    columns = "id TEXT, vip BOOLEAN, churn BOOLEAN, email TEXT"
    much_later = {"received_at": "2026-03-05T10:00:00Z", "uuid_ts": "2026-03-05T10:00:00Z"}
    if tables != "identifies":
        stale = {"vip": True, "churn": False, "email": "a@b.c", **much_later}
        users = [{"user_id": f"u{n}", "id": f"u{n}", **stale} for n in (1, 2, 3)]
        make(warehouse, "users", columns, *users)
    if tables != "users":
        make(
            warehouse,
            "identifies",
            columns,
            {"user_id": "u1", "id": "m1", "vip": True},
            {"user_id": "u1", "id": "m2", "churn": False, "email": "a@b.c", **much_later},
            {"user_id": "u2", "id": "m3", "vip": False},
            {"user_id": "u2", "id": "m4", "vip": True, **much_later},
            {"user_id": None, "id": "m5", "vip": True, **much_later},
        )
    exited = {"audience_key": "vip", "vip": False, "received_at": LATER, "uuid_ts": LATER}
    event = "audience_key TEXT, vip BOOLEAN"
    make(
        warehouse, "audience_exited", event, *({"user_id": user, **exited} for user in ("u1", "u2"))
    )

    rest = {"churn": "false", "email": "a@b.c"}
    expected = {
        "u1": {"vip": "false", **rest},
        "u2": {"vip": "false" if tables == "users" else "true", **rest},
        "u3": {"vip": "true", **rest},
    }
    if tables == "identifies":
        expected = {"u1": {"vip": "false", **rest}, "u2": {"vip": "true"}}
    assert pulled(warehouse, ["vip", "churn"]) == expected
    with source(warehouse).pull(ChangedSince(much_later["uuid_ts"])) as pull:
        counted = pull.count(["vip", "churn"])
        assert counted.customers == len(list(pull.customers(["vip", "churn"]))) > 0


def test_only_columns_that_may_be_ours_are_read(warehouse: Warehouse) -> None:
    columns = "vip BOOLEAN, of_others TEXT, email TEXT"
    user = {"user_id": "u1", "vip": True, "of_others": "x", "email": "a@b.c"}
    make(warehouse, "users", columns, user)
    selects = KeySelection(("vip",), ()).selects
    with source(warehouse, selects=selects).pull(Everything()) as pull:
        assert {key.key for key in pull.observed()} == {"vip", "email"}
    assert pulled(warehouse, ["vip"], selects=selects) == {"u1": {"vip": "true", "email": "a@b.c"}}
    assert pulled(warehouse, ["gone"], selects=lambda key: key == "gone") == {}
    keys = source(warehouse, selects=selects).survey().keys
    assert {key.key for key in keys} == {"vip", "of_others", "email"}


def test_events_alone_are_enough_and_the_newest_counts(warehouse: Warehouse) -> None:
    """The event's name says nothing, and its key may have two underscores in a row."""
    columns = "audience_key TEXT, vip BOOLEAN, j_o_first_step BOOLEAN"
    make(
        warehouse,
        "audience_entered",
        columns,
        {"user_id": "u1", "audience_key": "vip", "vip": True},
        {"user_id": "u1", "audience_key": "vip", "vip": False, "received_at": LATER},
        {"user_id": "u2", "audience_key": "vip", "vip": True, "received_at": LATER},
        {"user_id": "u2", "audience_key": "j_o_first__step", "j_o_first_step": True},
        {"user_id": "u3", "audience_key": "of_no_column", "vip": True},
        {"user_id": None, "audience_key": "vip", "vip": True},
    )
    assert pulled(warehouse, ["vip", "j_o_first__step"]) == {
        "u1": {"vip": "false"},
        "u2": {"vip": "true", "j_o_first__step": "true"},
    }
    with source(warehouse).pull(Everything()) as pull:
        assert pull.identified(["u1", "u3", "u9"]) == {"u1", "u3"}


def test_many_columns_and_odd_names_are_read(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than a statement may name at once: SQLite takes 500 parts of a union, here 20."""
    monkeypatch.setattr(engage_warehouse, "COLUMNS", 20)
    keys = [f"k{number}" for number in range(70)]
    columns = ", ".join(f"{key} BOOLEAN" for key in keys)
    odd = 'name TEXT, keys TEXT, value TEXT, "select" BOOLEAN'
    user = {"user_id": "u1", "name": "Ada", "keys": "x", "value": "y", "k1": True, "k69": False}
    make(warehouse, "users", f"{columns}, {odd}", user)
    warehouse.run(f'UPDATE {warehouse.table("users")} SET "select" = :yes', yes=True)
    entered = {"user_id": "u1", "audience_key": "k68", "k68": True}
    make(warehouse, "audience_entered", f"audience_key TEXT, {columns}", entered)
    expected = {"k1": "true", "k69": "false", "k68": "true", "select": "true"}
    with at_most(sqlite3.SQLITE_LIMIT_COMPOUND_SELECT, 20):
        read = pulled(warehouse, [*keys, "select", "keys", "value"])
    assert read == {"u1": {**expected, "keys": "x", "value": "y", "name": "Ada"}}


@contextmanager
def at_most(limit: int, number: int) -> Iterator[None]:
    """Give every connection to SQLite that is made in the block a limit."""

    def lower(connection: Any, _record: Any) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.setlimit(limit, number)

    event.listen(Engine, "connect", lower)
    yield
    event.remove(Engine, "connect", lower)


def test_a_part_of_a_statement_fits_into_every_warehouse() -> None:
    assert engage_warehouse.COLUMNS <= 100


def test_an_event_of_an_audience_without_a_value_says_nothing(warehouse: Warehouse) -> None:
    entered = {"user_id": "u1", "audience_key": SHOPPER, SHOPPER: True}
    again = {"user_id": "u1", "audience_key": SHOPPER, "received_at": LATER, "uuid_ts": LATER}
    columns = f"audience_key TEXT, {SHOPPER} BOOLEAN"
    make(warehouse, "audience_entered", columns, entered, again)
    computed = {"user_id": "u1", "trait_key": REVENUE, REVENUE: 450}
    gone = {"user_id": "u1", "trait_key": REVENUE, "received_at": LATER, "uuid_ts": LATER}
    make(warehouse, "trait_computed", f"trait_key TEXT, {REVENUE} INTEGER", computed, gone)
    assert pulled(warehouse, [SHOPPER, REVENUE]) == {"u1": {SHOPPER: "true", REVENUE: None}}


def test_a_column_is_no_trait_if_it_is_segments_own(warehouse: Warehouse) -> None:
    columns = "id TEXT, vip TEXT, j_o_a_b TEXT, email TEXT, context_page TEXT, anonymous_id TEXT, "
    columns += "channel TEXT"
    row = dict.fromkeys(("vip", "j_o_a_b", "email", "context_page", "anonymous_id", "channel"), "t")
    make(warehouse, "users", columns, {"user_id": "u1", "id": "u1", **row})
    with source(warehouse, named=("j_o_a__b",)).pull(Everything()) as pull:
        assert {key.key for key in pull.observed()} == {"vip", "j_o_a__b", "email"}
    assert pulled(warehouse, ["j_o_a__b", "channel"], named=("j_o_a__b", "channel")) == {
        "u1": {"j_o_a__b": "t", "channel": "t", "email": "t"}
    }


def test_a_cell_without_a_value_and_a_column_that_is_missing_are_no_rows(
    warehouse: Warehouse,
) -> None:
    make(warehouse, "users", "vip BOOLEAN", {"user_id": "u1", "vip": None}, {"user_id": "u2"})
    assert pulled(warehouse, ["vip", "churn"]) == {}
    with source(warehouse).pull(Everything()) as pull:
        assert pull.observed() == []
        assert pull.identified(["u1", "u2"]) == {"u1", "u2"}  # they are there, without a value


def test_only_users_that_were_loaded_since_come_in_an_incremental_pull(
    warehouse: Warehouse,
) -> None:
    late = {"user_id": "u2", "vip": True, "uuid_ts": "2026-03-09T10:00:00Z"}
    make(warehouse, "users", "vip BOOLEAN", {"user_id": "u1", "vip": True}, late)
    since = ChangedSince("2026-03-09T11:00:00.000+00:00")
    assert pulled(warehouse, ["vip"], since) == {"u2": {"vip": "true"}}


def test_the_filter_leaves_rows_out(warehouse: Warehouse) -> None:
    gone = {"user_id": "u2", "vip": True, "_fivetran_deleted": True}
    make(
        warehouse,
        "users",
        "vip BOOLEAN, _fivetran_deleted BOOLEAN",
        {"user_id": "u1", "vip": True},
        gone,
    )
    condition = "_fivetran_deleted IS NOT TRUE"
    assert pulled(warehouse, ["vip"], filter=condition) == {"u1": {"vip": "true"}}


def test_check_counts_members_and_says_what_is_not_there(warehouse: Warehouse) -> None:
    rows = [{"user_id": f"u{n}", "vip": n < 3} for n in range(5)]
    make(warehouse, "users", "vip BOOLEAN", *rows)
    survey = source(warehouse).survey()
    assert survey.members == {"vip": 3}
    assert "5 trait rows of 1 keys" in survey.message
    assert "without a user_id" in survey.advice[0]


def test_tables_that_are_not_there_or_not_engages_are_told(warehouse: Warehouse) -> None:
    warehouse.run(f"CREATE TABLE {warehouse.table('of_others')} (id TEXT)")
    with pytest.raises(SourceError, match="has no table users, identifies, audience"):
        pulled(warehouse, ["vip"])
    warehouse.run(f"CREATE TABLE {warehouse.table('users')} (login TEXT, password TEXT)")
    with pytest.raises(
        SourceError, match=r"users in .* is not one of Engage's: it .* id or user_id"
    ):
        pulled(warehouse, ["vip"])
    if not warehouse.sqlite:
        with (
            pytest.raises(SourceError, match=r"schema is missing.*there are engage_default"),
            EngageWarehouse(make_url(warehouse.url)).pull(Everything()),
        ):
            pass
