"""Ids, keys, values and times as no two warehouses write them: each costs itself, and no run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import NotSupportedError

from state import runs, snapshot
from state.db.database import Database
from syncer.engage.profiles_sync import _grouped_here
from syncer.engage.source import Everything, OnlyCustomers
from syncer.engage.values import BYTES, Unreadable, read_array, read_rows, typed
from syncer.errors import SourceError
from syncer.ids import LONG_ID, MAX_ID, MAX_KEY, NO_ID, ODD_ID
from syncer.sync.runs import Result
from syncer.sync.trait_selection import Selection
from tests.support.space import HOUR_LATER, T0, TWO_LATER, Warehouse, runs_on
from tests.support.state import ask, records

NOT_UTF8 = "CAST(X'c328' AS TEXT)"


@pytest.fixture(params=["sqlite", "postgresql"])
def warehouse(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Warehouse]:
    url = f"sqlite:///{tmp_path / 'engage.db'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("empty_postgres")
    found = Warehouse(url)
    found.create()
    yield found
    found.engine.dispose()


@pytest.fixture
def sqlite_warehouse(tmp_path: Path) -> Iterator[Warehouse]:
    """One whose columns have no type, so take anything."""
    found = Warehouse(f"sqlite:///{tmp_path / 'engage.db'}")
    rest = "seq, received_at, uuid_ts, timestamp"
    found.run(f"CREATE TABLE user_traits (canonical_segment_id, name, value, {rest})")
    found.run(f"CREATE TABLE user_identifiers (canonical_segment_id, type, value, {rest})")
    found.run(f"CREATE TABLE profile_merges (canonical_segment_id, segment_id, {rest})")
    yield found
    found.engine.dispose()


@pytest.fixture
def postgres_warehouse(empty_postgres: str) -> Iterator[Warehouse]:
    found = Warehouse(empty_postgres)
    yield found
    found.engine.dispose()


def sync(database: Database, warehouse: Warehouse, **how: Any) -> Result:
    return runs_on(database, warehouse.source()).sync(**how)


def traits(database: Database) -> dict[str, Any]:
    return {one: json.loads(row["traits"]) for one, row in records(database).items()}


def reasons(database: Database, run: int, key: str) -> dict[str, int]:
    (found,) = [row for row in ask(database, lambda c: runs.traits(c, run)) if row.key == key]
    parts = ("unchanged", "entered", "exited", "changed", "skipped")
    assert found.pulled == sum(getattr(found, part) for part in parts)
    return dict(found.reasons)


# Texts are what their bytes are


ICU = "CREATE COLLATION no_case (provider=icu, locale='und-u-ks-level2', deterministic=false)"


@pytest.fixture(params=["sqlite", "postgresql"])
def without_case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Warehouse]:
    """A warehouse that takes small and large letters for the same (on PostgreSQL where it is built
    with ICU)."""
    if request.param == "sqlite":
        found, text = Warehouse(f"sqlite:///{tmp_path / 'engage.db'}"), "TEXT COLLATE NOCASE"
    else:
        found, text = Warehouse(request.getfixturevalue("empty_postgres")), "TEXT COLLATE no_case"
        try:
            found.run(ICU)
        except NotSupportedError:
            text = "TEXT"
    rest = "seq BIGINT, received_at TEXT, uuid_ts TEXT, timestamp TEXT"
    for table, *columns in (
        ("user_traits", "name", "value"),
        ("user_identifiers", "type", "value"),
        ("profile_merges", "segment_id"),
    ):
        own = ", ".join(f"{column} {text}" for column in ["canonical_segment_id", *columns])
        found.run(f"CREATE TABLE {table} ({own}, {rest})")
    yield found
    found.engine.dispose()


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
    assert [one.customer_id for one in without_case.pulled(OnlyCustomers(("u1",)))] == ["u1"]


def test_keys_that_differ_in_case_are_two_and_named(without_case: Warehouse) -> None:
    without_case.member("p1", "u1")
    without_case.id("p2", "u2", type="USER_ID")
    without_case.trait("p1", "VIP", "true")
    with without_case.source().pull(Everything()) as pull:
        assert sorted((one.key, one.rows) for one in pull.observed()) == [("VIP", 1), ("vip", 1)]
        assert [one.customer_id for one in pull.customers(["VIP", "vip"])] == ["u1"]


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
        vip = next(one for one in pull.observed() if one.key == "vip")
    assert (vip.rows, vip.words + vip.digits, vip.others) == (4, 3, 0)
    found = postgres_warehouse.wanted()
    assert [found[user]["vip"] for user in ("u0", "u1", "u2")] == [True, False, True]
    expected: list[Any] = [12.5, 0.0, 7.0, -3.0]
    if kind == "NUMERIC":
        expected = [f"0.{'0' * 399}1", totals[1], 1e-07, "NaN"]
    if kind.startswith("JSON"):
        expected = ["a", [1], '{"a":1}', None]
    assert [found.get(f"u{number}", {}).get("total") for number in range(4)] == expected


def test_what_other_drivers_give_is_taken_whatever_it_is() -> None:
    """Engines whose JSON we do not know are grouped here."""
    values = ["true", b"\xff", Decimal("1.50"), 2**70, "\ud800", float("nan"), None, "x"]
    rows = [("u1", f"k{number}", value, T0) for number, value in enumerate(values)]
    (found,) = _grouped_here(iter([*rows, ("u1", "name", b"x", T0)]))
    odd = Unreadable("text that is not valid Unicode, or JSON that cannot be read")
    assert [typed(one) if one else one for one in read_array(found.values)] == [
        *(True, Unreadable("bytes, not text"), 1.5, float(2**70), odd, None, None, "x")
    ]
    assert len(json.loads(found.keys)) == len(json.loads(found.times)) == len(values)
    assert read_rows(found.profile) == [["name", BYTES, T0]]


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


# Many keys, and rows that do not count


def test_there_may_be_more_keys_than_parameters(warehouse: Warehouse) -> None:
    keys = [f"flag_{number:05}" for number in range(70_000)]
    warehouse.id("p1", "u1")
    for key in (keys[0], keys[-1], "other", "name"):
        warehouse.trait("p1", key, "true")
    warehouse.trait("p2", keys[1], "true")
    with warehouse.source().pull(Everything()) as pull:
        assert pull.count(keys).rows == 3
        (found,) = pull.customers(keys)
        assert json.loads(found.keys) == [keys[0], keys[-1]]
        assert pull.without_customer_id(keys).rows == {keys[1]: 1}


def mark(warehouse: Warehouse, *tables: str) -> Callable[[str, str], None]:
    """Give the tables a mark as tools that copy them do; gives what sets it."""
    for table in tables:
        warehouse.run(f"ALTER TABLE {table} ADD COLUMN _fivetran_deleted BOOLEAN DEFAULT FALSE")

    def delete(table: str, where: str) -> None:
        warehouse.run(f"UPDATE {table} SET _fivetran_deleted = TRUE WHERE {where}")

    return delete


@pytest.mark.parametrize(
    "condition",
    ["NOT _fivetran_deleted", '"_fivetran_deleted" IS NOT TRUE', "not _FIVETRAN_deleted or 1 = 0"],
)
def test_rows_that_the_filter_leaves_out_are_not_there(
    warehouse: Warehouse, condition: str
) -> None:
    delete = mark(warehouse, "user_traits", "user_identifiers")
    for number in range(4):
        warehouse.member(f"p{number}", f"u{number}")
    warehouse.trait("p3", "churn", "true")
    warehouse.merge("p0", "p1")  # this table has no mark
    delete("user_traits", "canonical_segment_id = 'p3' AND name = 'vip'")
    delete("user_identifiers", "value = 'u2'")
    assert warehouse.wanted(filter=condition) == {
        "u0": {"vip": True},
        "u1": {"vip": True},
        "u3": {"churn": True},
    }
    with warehouse.source(filter=condition).pull(Everything()) as pull:
        assert pull.identified(["u1", "u2"]) == {"u1"}
        assert {one.key: one.rows for one in pull.observed()} == {"vip": 3, "churn": 1}
    assert len(warehouse.wanted()) == 4


def test_a_filter_may_say_anything(warehouse: Warehouse) -> None:
    warehouse.member("p1", "u:1%")
    warehouse.member("p2", "it's")
    condition = "value LIKE 'u:%' OR value IN ('true', ':name', 'a;b', 'it''s not')"
    assert list(warehouse.wanted(filter=condition)) == ["u:1%"]


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("NOT _fivetran_deletd", "no table of the warehouse has all columns"),
        ('"_fivetran_deletd" = 1', "no table of the warehouse has all columns"),
        ("1 = 1", "no table of the warehouse has all columns"),
        ("NOT value AND nothing_such", "does not take"),
        ("value = ", "does not take"),
        ("value IS NULL) OR (", "does not take"),
        ("value IS NULL; DROP TABLE user_traits", "does not take"),
        ("value = 'a", "does not take"),
    ],
)
def test_a_filter_that_is_none_is_refused_in_one_line(
    warehouse: Warehouse, condition: str, said: str
) -> None:
    warehouse.member("p1", "u1")
    with pytest.raises(SourceError) as caught:
        warehouse.source(filter=condition).survey()
    line = str(caught.value)
    assert line.startswith("engage.filter: ")
    assert said in line
    assert "\n" not in line
    assert warehouse.wanted() == {"u1": {"vip": True}}


def test_what_the_filter_leaves_out_has_left(warehouse: Warehouse, tmp_path: Path) -> None:
    delete = mark(warehouse, "user_traits")
    for number in (1, 2):
        warehouse.member(f"p{number}", f"u{number}")
        warehouse.trait(f"p{number}", "churn", "true")
    with closing(Database.open(f"sqlite:///{tmp_path / 'state.db'}")) as database:
        runs_on(database, warehouse.source(filter="NOT _fivetran_deleted")).sync()
        delete("user_traits", "name = 'churn' AND canonical_segment_id = 'p1'")
        runs_on(database, warehouse.source(filter="NOT _fivetran_deleted")).sync(full=True)
        found = traits(database)
    assert found == {"u1": {"vip": True, "churn": False}, "u2": {"vip": True, "churn": True}}


@pytest.mark.parametrize("encoding", ["LATIN1", "WIN1252", "EUC_JP", "SQL_ASCII"])
def test_a_server_may_keep_texts_in_any_encoding(empty_postgres: str, encoding: str) -> None:
    server = create_engine(empty_postgres, isolation_level="AUTOCOMMIT")
    name = f"of_{encoding.lower()}"
    with server.connect() as connection:
        connection.execute(
            text(
                f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0"
                " LC_COLLATE 'C' LC_CTYPE 'C'"
            )
        )
    url = make_url(empty_postgres).set(database=name)
    url = url.update_query_dict({"client_encoding": "utf8"})
    found = Warehouse(url.render_as_string(hide_password=False))
    try:
        found.create(value="BYTEA")
        found.member("p1", "u1", b"true")
        found.run("ALTER TABLE user_traits ALTER value TYPE TEXT USING 'true'")
        found.member("p2", "u 2", "false")
        assert "2 trait rows" in found.source().survey().message
        assert found.wanted() == {"u1": {"vip": True}}
    finally:
        found.engine.dispose()
        with server.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name}"))
        server.dispose()


def test_check_compares_times_as_a_sync_does(postgres_warehouse: Warehouse) -> None:
    postgres_warehouse.create(time="BIGINT")
    with pytest.raises(SourceError, match="bigint > timestamp"):
        postgres_warehouse.source().survey()
