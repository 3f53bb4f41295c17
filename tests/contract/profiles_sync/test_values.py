"""The values and times that a warehouse may have."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from syncer.engage.source import (
    Everything,
)
from syncer.engage.values import boolean
from tests.contract.profiles_sync.helpers import assert_watermark, on_duckdb_too
from tests.support.space import (
    KEYS,
    T0,
    TWO_LATER,
    Warehouse,
)


@on_duckdb_too
def test_values_are_text_of_every_sort(warehouse: Warehouse) -> None:
    values = ["true", "false", "t", "f", "1", "0", " TRUE ", "False"]
    for number, value in enumerate(values):
        warehouse.member(f"p{number}", f"u{number}", value)
        warehouse.trait(f"p{number}", "churn", "true")
    flags = [customer["vip"] for customer in warehouse.wanted().values()]
    assert flags == [True, False, True, False, True, False, True, False]


@on_duckdb_too
def test_null_and_empty_are_no_value(warehouse: Warehouse) -> None:
    for number, value in enumerate([None, "", " ", "null"]):
        warehouse.member(f"p{number}", f"u{number}", value)
        warehouse.trait(f"p{number}", "total", "1")
        warehouse.trait(f"p{number}", "name", value)
    warehouse.member("p", "v")
    changes = warehouse.changes()
    assert [change[1] for change in changes] == [{"total": 1}] * 4 + [{"vip": True}]
    assert {change[2] for change in changes} == {None}


def test_a_key_that_the_source_has_is_observed_with_its_values(warehouse: Warehouse) -> None:
    for number, value in enumerate(["true", "f", "1", "0", "0", "gold", None, "", "null"]):
        warehouse.trait(f"p{number}", "vip", value)
    warehouse.trait("p1", "total", "12")
    with warehouse.source().pull(Everything()) as pull:
        observed = {key.key: key for key in pull.observed()}
    vip = observed["vip"]
    assert (vip.rows, vip.words, vip.digits, vip.others) == (9, 2, 3, 1)
    assert (observed["total"].rows, observed["total"].others) == (1, 1)


@on_duckdb_too
def test_the_count_and_the_reader_of_booleans_agree(warehouse: Warehouse) -> None:
    """A key must not become an audience by values that are all skipped afterwards."""
    texts = ["true", "T", " FALSE ", "f", "1", "0", "1.0", "0.0", " 1.0", "1.00", "2", "yes", "01"]
    texts += ["\ttrue\n", "\u00a0f", "0.", "0.000", "0.10", "1.01", "10", "[1", '"true"']
    for number, value in enumerate(texts):
        warehouse.trait("p1", f"key{number}", value)
    with warehouse.source().pull(Everything()) as pull:
        observed = {key.key: key for key in pull.observed()}
    for number, value in enumerate(texts):
        counts = observed[f"key{number}"]
        assert (counts.others == 0) is (boolean(value) is not None), value
        assert counts.words + counts.digits + counts.others == 1


@pytest.mark.parametrize(("yes", "no"), [(1, 0), (1.0, 0.0)])
def test_sqlite_may_keep_typed_values(
    sqlite_warehouse: Warehouse, yes: int | float, no: int | float
) -> None:
    """A column without a type keeps integers, reals and NULL as they came."""
    sqlite_warehouse.create(value="")
    for number, value in enumerate([yes, no, None, yes]):
        sqlite_warehouse.member(f"p{number}", f"u{number}", value)
        sqlite_warehouse.trait(f"p{number}", "total", (7, 2.5, -1, 1e15)[number])
    assert list(sqlite_warehouse.wanted().values()) == [
        {"vip": True, "total": 7},
        {"vip": False, "total": 2.5},
        {"total": -1},
        {"vip": True, "total": 1e15},
    ]


def test_postgresql_may_keep_typed_values(postgres_warehouse: Warehouse) -> None:
    postgres_warehouse.create(value="JSONB")
    postgres_warehouse.member("p1", "u1", "true")
    postgres_warehouse.trait("p1", "total", "[1, 2]")
    postgres_warehouse.member("p2", "u2", "false")
    postgres_warehouse.trait("p2", "total", "2.5")
    postgres_warehouse.trait("p2", "churn", "null")
    assert postgres_warehouse.wanted() == {
        "u1": {"vip": True, "total": [1, 2]},
        "u2": {"vip": False, "total": 2.5},
    }


def test_postgresql_may_keep_text_in_varchar_and_times_without_a_zone(
    postgres_warehouse: Warehouse,
) -> None:
    """Times without a zone are UTC, whatever the zone of the server is."""
    postgres_warehouse.create(value="VARCHAR(40)", time="TIMESTAMP")
    name = make_url(postgres_warehouse.url).database
    postgres_warehouse.run(f"ALTER DATABASE {name} SET timezone TO 'Asia/Tokyo'")
    postgres_warehouse.engine.dispose()
    try:
        postgres_warehouse.member("p1", "u1", at="2026-03-04 10:00:00")
        postgres_warehouse.member("p2", "u2", at="2026-03-04 12:00:00")
        assert postgres_warehouse.touched("2026-03-04T11:00:00+00:00", overlap=60) == ["u2"]
        with postgres_warehouse.source().pull(Everything()) as pull:
            assert_watermark(pull, "2026-03-04T12:00:00.000+00:00")
            assert [json.loads(customer.times) for customer in pull.customers(KEYS)] == [
                ["2026-03-04T10:00:00"],
                ["2026-03-04T12:00:00"],
            ]
    finally:
        postgres_warehouse.run(f"ALTER DATABASE {name} RESET timezone")


#: One moment, 2026-03-04 12:00 UTC, in forms that SQLite's own date functions read …
FORMS = [
    "2026-03-04 12:00:00",
    "2026-03-04 12:00:00.000000",
    "2026-03-04T12:00:00",
    "2026-03-04T12:00:00Z",
    "2026-03-04T12:00:00.000Z",
    "2026-03-04 12:00:00+00:00",
    "2026-03-04T13:30:00+01:30",
    "2026-03-04T07:00:00.000-05:00",
]


#: … and in some that they do not.
UNREAD = [
    "2026-03-04 12:00:00+00",
    "2026-03-04T12:00:00+0000",
    1772625600,
    1772625600.5,
    "",
    "soon",
]


@pytest.mark.parametrize("form", FORMS)
def test_sqlite_times_are_compared_in_any_form(sqlite_warehouse: Warehouse, form: str) -> None:
    sqlite_warehouse.create()
    sqlite_warehouse.member("p1", "u1", at=form)
    sqlite_warehouse.member("p0", "u0", at=T0)
    assert sqlite_warehouse.touched("2026-03-04T12:00:00.000+00:00", overlap=0.5) == ["u1"]
    assert sqlite_warehouse.touched("2026-03-04T12:00:01.000+00:00", overlap=0.5) == []
    with sqlite_warehouse.source().pull(Everything()) as pull:
        assert_watermark(pull, "2026-03-04T12:00:00.000+00:00")


@pytest.mark.parametrize("form", [*UNREAD, None])
def test_a_load_time_that_cannot_be_read_counts_as_new(
    sqlite_warehouse: Warehouse, form: Any
) -> None:
    sqlite_warehouse.create()
    sqlite_warehouse.member("p0", "u0", at=T0)
    sqlite_warehouse.member("p1", "u1", at=T0)
    sqlite_warehouse.trait("p1", "total", "1", T0, uuid_ts=form)
    assert sqlite_warehouse.touched(TWO_LATER, overlap=1) == ["u1"]
    with sqlite_warehouse.source().pull(Everything()) as pull:
        assert_watermark(pull, "2026-03-04T10:00:00.000+00:00")


def test_a_load_time_of_null_counts_as_new(warehouse: Warehouse) -> None:
    warehouse.member("p0", "u0")
    warehouse.member("p1", "u1")
    warehouse.trait("p1", "total", "1", T0, uuid_ts=None)
    assert warehouse.touched(TWO_LATER, overlap=1) == ["u1"]


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("2026-03-04T10:00:00Z", "2026-03-04 12:00:00"),
        ("2026-03-04 12:00:00+02:00", "2026-03-04 11:00:00+00:00"),
        (1772618400, "2026-03-04 12:00:00"),
        ("2026-03-04 10:00:00", 1772625600),
        (1772618400, 1772625600.5),
        (1772618400000, 1772625600),
        (None, 1772625600),
        ("soon", "2026-03-04 12:00:00"),
    ],
)
def test_the_newest_wins_in_any_mix_of_forms(
    sqlite_warehouse: Warehouse, older: Any, newer: Any
) -> None:
    sqlite_warehouse.create()
    rest = {"received_at": None, "uuid_ts": None}
    sqlite_warehouse.merge("old", "gone")
    sqlite_warehouse.id("gone", "u1")
    for profile, at, value in (("old", newer, "true"), ("gone", older, "false")):
        sqlite_warehouse.trait(profile, "vip", value, at, **rest)
        sqlite_warehouse.trait(profile, "name", value, at, **rest)
    assert sqlite_warehouse.changes() == [("u1", {"vip": True}, "true", None)]


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("2026-03-04T10:00:00Z", "2026-03-04 12:00:00"),
        ("2026-03-04 12:00:00+02:00", "2026-03-04 11:00:00+00:00"),
    ],
)
def test_the_newest_merge_counts_in_any_mix_of_forms(
    sqlite_warehouse: Warehouse, older: str, newer: str
) -> None:
    sqlite_warehouse.create()
    sqlite_warehouse.merge("old", "second", newer)
    sqlite_warehouse.merge("old", "first", older)
    sqlite_warehouse.trait("old", "vip", "true")
    sqlite_warehouse.id("first", "u1")
    sqlite_warehouse.id("second", "u2")
    assert sqlite_warehouse.wanted() == {"u2": {"vip": True}}
