"""Ids and keys as no two warehouses write them: each costs itself, and no run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.exc import NotSupportedError

from state import runs, snapshot
from state.db.database import Database
from syncer.engage.source import Everything, OnlyCustomers
from syncer.ids import LONG_ID, MAX_ID, MAX_KEY, NO_ID, ODD_ID
from syncer.sync.trait_selection import Selection
from tests.contract.odd_data.helpers import NOT_UTF8, reasons, sync, traits
from tests.support.space import HOUR_LATER, TWO_LATER, Warehouse, runs_on

# Texts are what their bytes are


ICU = "CREATE COLLATION no_case (provider=icu, locale='und-u-ks-level2', deterministic=false)"


@pytest.fixture(params=["sqlite", "postgresql"])
def without_case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Warehouse]:
    """A warehouse that takes small and large letters for the same (on PostgreSQL where it is built
    with ICU)."""
    if request.param == "sqlite":
        warehouse, text = Warehouse(f"sqlite:///{tmp_path / 'engage.db'}"), "TEXT COLLATE NOCASE"
    else:
        warehouse, text = (
            Warehouse(request.getfixturevalue("empty_postgres")),
            "TEXT COLLATE no_case",
        )
        try:
            warehouse.run(ICU)
        except NotSupportedError:
            text = "TEXT"
    rest = "seq BIGINT, received_at TEXT, uuid_ts TEXT, timestamp TEXT"
    for table, *columns in (
        ("user_traits", "name", "value"),
        ("user_identifiers", "type", "value"),
        ("profile_merges", "segment_id"),
    ):
        own = ", ".join(f"{column} {text}" for column in ["canonical_segment_id", *columns])
        warehouse.run(f"CREATE TABLE {table} ({own}, {rest})")
    yield warehouse
    warehouse.engine.dispose()


def test_two_ids_of_a_profile_that_differ_in_case_are_two_customers(
    without_case: Warehouse,
) -> None:
    without_case.member("p1", "U1")
    without_case.id("p1", "u1")
    assert without_case.wanted() == {"U1": {"vip": True}, "u1": {"vip": True}}


def test_profiles_and_customers_that_differ_in_case_are_not_mixed(without_case: Warehouse) -> None:
    without_case.member("P1", "U1", "true")
    without_case.member("p1", "u1", "false")
    without_case.trait("p1", "churn", "true")
    without_case.merge("P2", "P1")
    without_case.trait("p2", "vip", "false", TWO_LATER)
    assert without_case.wanted() == {"U1": {"vip": True}, "u1": {"churn": True, "vip": False}}
    with without_case.source().pull(Everything()) as pull:
        assert pull.identified(["U1", "u1", "p1"]) == {"U1", "u1"}
        assert pull.without_customer_id(["vip"]).rows == {"vip": 1}
    assert [customer.customer_id for customer in without_case.pulled(OnlyCustomers(("u1",)))] == [
        "u1"
    ]


def test_keys_that_differ_in_case_are_two_and_named(without_case: Warehouse) -> None:
    without_case.member("p1", "u1")
    without_case.id("p2", "u2", type="USER_ID")
    without_case.trait("p1", "VIP", "true")
    with without_case.source().pull(Everything()) as pull:
        assert sorted((observed.key, observed.rows) for observed in pull.observed()) == [
            ("VIP", 1),
            ("vip", 1),
        ]
        assert [customer.customer_id for customer in pull.customers(["VIP", "vip"])] == ["u1"]


def test_blanks_at_the_end_tell_ids_apart(warehouse: Warehouse) -> None:
    for number, user in enumerate(("u1", "u1 ", " u1", "\tu1")):
        warehouse.member(f"p{number}", user)
    assert list(warehouse.wanted()) == ["\tu1", " u1", "u1", "u1 "]


# Ids


@pytest.mark.parametrize("blank", ["", " ", "\t", "\n", "\r\n", "\u00a0", "\u3000 \t", "\x1f"])
def test_an_id_of_white_space_is_none(warehouse: Warehouse, blank: str) -> None:
    warehouse.member("p1", blank)
    warehouse.member("p2", "u2")
    assert list(warehouse.wanted()) == ["u2"]
    with warehouse.source().pull(Everything()) as pull:
        assert pull.without_customer_id(["vip"]).rows == {"vip": 1}
        assert list(pull.profiles_without_customer_id(["vip"])) == ["p1"]


LONG = ["x" * (MAX_ID + 1), "é" * (MAX_ID // 2) + "x", "x" * 6000]


@pytest.mark.parametrize("full", [True, False])
def test_ids_that_are_too_long_are_skipped_and_counted(
    sqlite_warehouse: Warehouse, database: Database, full: bool
) -> None:
    sqlite_warehouse.member("p0", "u0")
    sync(database, sqlite_warehouse)
    fits = "é" * (MAX_ID // 2)
    for number, user in enumerate([*LONG, fits], start=1):
        sqlite_warehouse.member(f"p{number}", user, at=HOUR_LATER)
    result = sync(database, sqlite_warehouse, full=full)
    assert result.state == runs.DONE
    assert traits(database) == {"u0": {"vip": True}, fits: {"vip": True}}
    assert reasons(database, result.run, "vip") == {LONG_ID: 3}
    (notice,) = result.notices
    assert f"3: {LONG_ID}" in notice
    assert repr("x" * 40) in notice
    assert len(notice) < 300


def test_what_is_known_of_a_customer_with_an_id_that_is_too_long_stays(
    sqlite_warehouse: Warehouse, tmp_path: Path
) -> None:
    """Older programs took such ids, and SQLite keeps them."""
    sqlite_warehouse.member("p1", LONG[0], "false")
    with closing(Database.open(f"sqlite:///{tmp_path / 'state.db'}")) as database:
        with database.write() as connection:
            known = snapshot.CustomerRow(LONG[0], '{"vip":true}', None, None, None, None)
            snapshot.insert_customers(connection, [known], 1, 1)
            snapshot.put_traits(connection, [snapshot.TraitRow("vip", "vip", "audience", 1)])
        result = sync(database, sqlite_warehouse)
        assert result.held == {}
        assert traits(database) == {LONG[0]: {"vip": True}}
        assert reasons(database, result.run, "vip") == {LONG_ID: 1}


def test_ids_with_characters_that_a_database_cannot_keep_are_skipped(
    sqlite_warehouse: Warehouse, database: Database
) -> None:
    sqlite_warehouse.member("p1", "a\0b")
    sqlite_warehouse.member("p2", "ok")
    sqlite_warehouse.member("p3", b"u3")
    sqlite_warehouse.member("p4", "odd")
    sqlite_warehouse.run(f"UPDATE user_identifiers SET value = {NOT_UTF8} WHERE value = 'odd'")
    result = sync(database, sqlite_warehouse)
    assert result.state == runs.DONE
    assert traits(database) == {"ok": {"vip": True}}
    assert reasons(database, result.run, "vip") == {ODD_ID: 1, NO_ID: 2}
    again = sync(database, sqlite_warehouse, full=True)
    assert (again.state, again.held) == (runs.DONE, {})


def test_a_key_that_a_database_cannot_keep_is_named_and_not_sent(
    sqlite_warehouse: Warehouse, database: Database
) -> None:
    sqlite_warehouse.member("p1", "u1")
    long = "k" * (MAX_KEY + 1)
    for key in (long, "k\0", b"bytes", "k" * 6000):
        sqlite_warehouse.trait("p1", key, "true")
    everything = runs_on(database, sqlite_warehouse.source())
    everything.comparison = replace(everything.comparison, selection=Selection(("*",), (), "{}"))
    result = everything.sync()
    assert result.state == runs.DONE
    assert traits(database) == {"u1": {"vip": True}}
    shown = [repr("k\0"), *[repr("k" * 40) + "…"] * 2]
    assert sorted(result.notices) == sorted(
        f"{key}: its 1 values are skipped: the key is longer than {MAX_KEY} bytes or has "
        "characters that a database cannot keep"
        for key in shown
    )
