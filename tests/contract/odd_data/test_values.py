"""Values and times as no two warehouses write them: each costs itself, and no run."""

from __future__ import annotations

import json
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from state import runs
from state.db.database import Database
from syncer.engage.profiles_sync import _grouped_here
from syncer.engage.source import Everything
from syncer.engage.values import BYTES, Unreadable, read_array, read_rows, typed
from syncer.errors import SourceError
from tests.contract.odd_data.helpers import NOT_UTF8, reasons, sync, traits
from tests.support.space import HOUR_LATER, T0, TWO_LATER, Warehouse
from tests.support.state import ask, records

# Values


def test_values_that_cannot_be_read_are_skipped_with_a_reason(
    sqlite_warehouse: Warehouse, database: Database
) -> None:
    values = ["true", b"true", b"\xff\0", float("inf"), "tr\0ue", '["a", "b', "odd", "true"]
    for number, value in enumerate(values):
        sqlite_warehouse.member(f"p{number}", f"u{number}", value)
        sqlite_warehouse.trait(f"p{number}", "total", value)
    sqlite_warehouse.flush()
    sqlite_warehouse.run(f"UPDATE user_traits SET value = {NOT_UTF8} WHERE value = 'odd'")
    result = sync(database, sqlite_warehouse)
    assert result.state == runs.DONE
    cut, boolean = "a list or object that is cut off", "not a boolean"
    unreadable = "text that is not valid Unicode, or JSON that cannot be read"
    told = {"bytes, not text": 2, cut: 1, unreadable: 1}
    assert reasons(database, result.run, "total") == told
    assert reasons(database, result.run, "vip") == told | {boolean: 2}
    assert traits(database) == {
        "u0": {"vip": True, "total": True},
        "u3": {"total": "Inf"},
        "u4": {"total": "tr\ufffdue"},
        "u7": {"vip": True, "total": True},
    }
    later = sync(database, sqlite_warehouse, full=True)
    assert (later.state, ask(database, lambda c: runs.get(c, later.run)).changed) == (
        runs.DONE,
        0,
    )


def test_what_cannot_be_read_says_nothing_of_what_a_key_is(sqlite_warehouse: Warehouse) -> None:
    for number, value in enumerate(["true", b"\xff", "tr\0ue", "\0", "odd", "Zoë"]):
        sqlite_warehouse.member(f"p{number}", f"u{number}", value)
    sqlite_warehouse.flush()
    sqlite_warehouse.run(f"UPDATE user_traits SET value = {NOT_UTF8} WHERE value = 'odd'")
    with sqlite_warehouse.source().pull(Everything()) as pull:
        (vip,) = pull.observed()
    assert (vip.rows, vip.words, vip.digits, vip.others) == (6, 1, 0, 1)


def test_a_name_that_cannot_be_read_stays_as_it_is(
    sqlite_warehouse: Warehouse, database: Database
) -> None:
    sqlite_warehouse.member("p1", "u1")
    sqlite_warehouse.trait("p1", "name", "Ada")
    sqlite_warehouse.trait("p1", "email", "a\0@b.c")
    sync(database, sqlite_warehouse)
    known = records(database)["u1"]
    assert (known["name"], known["email"]) == ("Ada", "a\ufffd@b.c")
    sqlite_warehouse.run("UPDATE user_traits SET value = X'ff' WHERE name = 'name'")
    sqlite_warehouse.run(f"UPDATE user_traits SET value = {NOT_UTF8} WHERE name = 'email'")
    result = sync(database, sqlite_warehouse, full=True)
    known = records(database)["u1"]
    assert (known["name"], known["email"]) == ("Ada", "a\ufffd@b.c")
    assert result.notices == ["2 names and emails cannot be read and stay as they are"]


def test_a_column_of_bytes(postgres_warehouse: Warehouse, tmp_path: Path) -> None:
    postgres_warehouse.create(value="BYTEA")
    postgres_warehouse.member("p1", "u1", b"true")
    with closing(Database.open(f"sqlite:///{tmp_path / 'state.db'}")) as database:
        result = sync(database, postgres_warehouse)
        assert reasons(database, result.run, "vip") == {"bytes, not text": 1}
    postgres_warehouse.run(
        "ALTER TABLE user_identifiers ALTER COLUMN value TYPE BYTEA USING value::bytea"
    )
    with pytest.raises(SourceError, match=r"column value of user_identifiers .* holds bytes"):
        postgres_warehouse.wanted()


@pytest.mark.parametrize("kind", ["JSON", "JSONB", "NUMERIC(10,2)", "NUMERIC"])
def test_values_of_a_type(postgres_warehouse: Warehouse, kind: str) -> None:
    """JSON that our reader does not take, a fixed scale, more digits than a number has."""
    postgres_warehouse.create(value=kind)
    values: list[str | None] = ["1.00", "0.00", "1", None]
    totals = ["12.50", "0.00", "7", "-3"]
    if kind == "NUMERIC":
        totals = ["1e-400", "123456789012345678901234567890", "1e-7", "NaN"]
    if kind.startswith("JSON"):
        values = ["true", '"false"', '"T"', "null"]
        totals = ['"a"', "[1]", '{"a": 1}', '"\\ud800"' if kind == "JSON" else "1e400"]
    for number, (value, total) in enumerate(zip(values, totals, strict=True)):
        user = f"u{number}"
        postgres_warehouse.member(f"p{number}", user, value)
        postgres_warehouse.trait(f"p{number}", "total", total)
    postgres_warehouse._waiting, waiting = [], postgres_warehouse._waiting
    for table, row in waiting:
        names = ", ".join(row)
        marks = ", ".join(
            f"CAST(:{name} AS {kind})" if (table, name) == ("user_traits", "value") else f":{name}"
            for name in row
        )
        postgres_warehouse.run(f"INSERT INTO {table} ({names}) VALUES ({marks})", **row)
    with postgres_warehouse.source().pull(Everything()) as pull:
        vip = next(observed for observed in pull.observed() if observed.key == "vip")
    assert (vip.rows, vip.words + vip.digits, vip.others) == (4, 3, 0)
    customers = postgres_warehouse.wanted()
    assert [customers[user]["vip"] for user in ("u0", "u1", "u2")] == [True, False, True]
    expected: list[Any] = [12.5, 0.0, 7.0, -3.0]
    if kind == "NUMERIC":
        expected = [f"0.{'0' * 399}1", totals[1], 1e-07, "NaN"]
    if kind.startswith("JSON"):
        expected = ["a", [1], '{"a":1}', None]
    assert [customers.get(f"u{number}", {}).get("total") for number in range(4)] == expected


def test_what_other_drivers_give_is_taken_whatever_it_is() -> None:
    """Engines whose JSON we do not know are grouped here."""
    values = ["true", b"\xff", Decimal("1.50"), 2**70, "\ud800", float("nan"), None, "x"]
    rows = [("u1", f"k{number}", value, T0) for number, value in enumerate(values)]
    (customer,) = _grouped_here(iter([*rows, ("u1", "name", b"x", T0)]))
    odd = Unreadable("text that is not valid Unicode, or JSON that cannot be read")
    assert [typed(element) if element else element for element in read_array(customer.values)] == [
        *(True, Unreadable("bytes, not text"), 1.5, float(2**70), odd, None, None, "x")
    ]
    assert len(json.loads(customer.keys)) == len(json.loads(customer.times)) == len(values)
    assert read_rows(customer.profile) == [["name", BYTES, T0]]


# Times


POSTGRES_TIMES = [
    "infinity",
    "-infinity",
    "12026-01-01 00:00:00+00",
    "294276-12-31 23:59:59+00",
    "0044-03-15 00:00:00+00 BC",
    "1970-01-01 00:00:00+00",
]
TEXT_TIMES = [*POSTGRES_TIMES, "2026-02-30 00:00:00", "today-ish", "", "0000-00-00", "2026-13-01"]


@pytest.mark.parametrize(
    ("column", "times"),
    [("TIMESTAMPTZ", POSTGRES_TIMES), ("TIMESTAMP", POSTGRES_TIMES), ("TEXT", TEXT_TIMES)],
)
def test_a_time_beyond_all_times_costs_itself(
    postgres_warehouse: Warehouse, column: str, times: list[str]
) -> None:
    postgres_warehouse.create(time=column)
    check_times(postgres_warehouse, times)


def test_a_time_beyond_all_times_costs_itself_on_sqlite(sqlite_warehouse: Warehouse) -> None:
    odd = [b"\xff", 1e300, -1, 1_772_618_400_000, "-0044-03-15 00:00:00", float("inf")]
    # SQLite takes the 30th of February for the 2nd of March.
    texts = [time for time in TEXT_TIMES if time != "2026-02-30 00:00:00"]
    check_times(sqlite_warehouse, [*texts, *odd])


def check_times(warehouse: Warehouse, times: list[Any]) -> None:
    for number, time in enumerate(times):
        warehouse.id(f"p{number:02}", f"u{number:02}", time)
        warehouse.trait(f"p{number:02}", "vip", "true", time)
        warehouse.merge(f"q{number}", f"p{number:02}", time)
        warehouse.merge(f"q{number}", f"p{number:02}", T0)
        warehouse.trait(f"q{number}", "churn", "true", time)
    users = [f"u{number:02}" for number in range(len(times))]
    assert warehouse.wanted() == {user: {"churn": True, "vip": True} for user in users}
    warehouse.member("p", "v", at=HOUR_LATER)
    with warehouse.source().pull(Everything()) as pull:
        watermark = pull.watermark()
    assert watermark is not None
    assert watermark > "2026"
    # What cannot be believed may be new, unless it stands before what is new in its column.
    old = {f"u{times.index(time):02}" for time in times if time == "2026-02-30 00:00:00"}
    assert warehouse.touched(TWO_LATER, overlap=0.0) == sorted(set(users) - old)


def test_check_compares_times_as_a_sync_does(postgres_warehouse: Warehouse) -> None:
    postgres_warehouse.create(time="BIGINT")
    with pytest.raises(SourceError, match="bigint > timestamp"):
        postgres_warehouse.source().survey()
