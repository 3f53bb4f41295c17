"""The Profiles Sync source on SQLite and PostgreSQL, read from small tables written by hand."""

from __future__ import annotations

import gc
import json
import random
import re
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.engine import make_url

from state import runs as run_records
from state import snapshot
from state.db.database import Database
from syncer.cli import main
from syncer.clock import read as milliseconds
from syncer.engage.profiles_sync import ProfilesSync, ProfilesSyncPull
from syncer.engage.source import (
    ChangedSince,
    Counted,
    Everything,
    OnlyCustomers,
    Scope,
)
from syncer.engage.values import boolean
from syncer.errors import SourceError
from tests.support.postgres import end_others
from tests.support.space import (
    HOUR_LATER,
    KEYS,
    T0,
    TABLES,
    TWO_LATER,
    Quiet,
    Warehouse,
    runs_on,
)


def assert_watermark(pull: ProfilesSyncPull, newest: str) -> None:
    """It is the time of the newest row, or a trifle before (SQLite counts in days): never later."""
    found = datetime.fromisoformat(pull.watermark() or "")
    expected = datetime.fromisoformat(newest)
    assert expected - timedelta(milliseconds=2) < found <= expected


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Warehouse]:
    """A warehouse without tables, on each engine; on PostgreSQL in a schema of its own."""
    if request.param == "sqlite":
        found = Warehouse(f"sqlite:///{tmp_path / 'engage.db'}")
    else:
        found = Warehouse(request.getfixturevalue("empty_postgres"), "my_space")
    yield found
    found.engine.dispose()


@pytest.fixture
def warehouse(empty: Warehouse) -> Warehouse:
    empty.create()
    return empty


@pytest.fixture
def sqlite_warehouse(tmp_path: Path) -> Iterator[Warehouse]:
    found = Warehouse(f"sqlite:///{tmp_path / 'engage.db'}")
    yield found
    found.engine.dispose()


@pytest.fixture
def postgres_warehouse(empty_postgres: str) -> Iterator[Warehouse]:
    found = Warehouse(empty_postgres)
    yield found
    found.engine.dispose()


# -- who is a customer, in which order


def test_the_rows_of_a_customer_come_together(warehouse: Warehouse) -> None:
    warehouse.id("p1", "u1")
    warehouse.trait("p1", "vip", "true", T0)
    warehouse.trait("p1", "email", "a@b.c", HOUR_LATER)
    warehouse.trait("p1", "total", "12.5", TWO_LATER)
    warehouse.trait("p1", "name", "Zoë 🦊", T0)
    warehouse.trait("p1", "plan", "free", T0)
    warehouse.member("p2", "u2", "false")

    first, second = warehouse.pulled()

    assert first.customer_id == "u1"
    rows = zip(*(json.loads(part) for part in (first.keys, first.values)), strict=True)
    assert dict(rows) == {"vip": "true", "total": "12.5"}
    assert [one[:2] for one in json.loads(first.profile)] == [
        ["email", "a@b.c"],
        ["name", "Zoë 🦊"],
    ]
    assert (second.customer_id, second.keys, second.values) == ("u2", '["vip"]', '["false"]')
    assert second.profile == "[]"


def test_the_time_of_a_change_is_the_rows(warehouse: Warehouse) -> None:
    warehouse.member("p1", "u1", at="2026-03-04T12:00:00.250+02:00")
    with closing(Database.open("sqlite://")) as database:
        compared = runs_on(database, warehouse.source()).diff()
        ((change,),) = [one.changes for one in compared.plan]
        compared.close()
    expected = datetime(2026, 3, 4, 10, 0, 0, 250_000, tzinfo=UTC)
    assert change.observed_at == round(expected.timestamp() * 1000)


@pytest.mark.parametrize(
    ("timestamp", "counts"),
    [
        ("2036-01-01T00:00:00Z", T0),
        ("1970-01-01T00:00:00Z", T0),
        ("2026-03-04T10:04:00Z", "2026-03-04T10:04:00Z"),
        ("2026-03-04T10:06:00Z", T0),
        ("2001-01-01T00:00:00Z", "2001-01-01T00:00:00Z"),
    ],
)
def test_a_time_that_cannot_be_is_the_time_when_the_row_came(
    warehouse: Warehouse, timestamp: str, counts: str
) -> None:
    """docs/design.md §3.9: from 2000 to the receipt and five minutes."""
    warehouse.member("p1", "u1")
    warehouse.trait("p1", "churn", "true", T0, timestamp=timestamp)
    ((keys, times),) = [(json.loads(row.keys), json.loads(row.times)) for row in warehouse.pulled()]
    at = milliseconds(times[keys.index("churn")])
    assert at == round(datetime.fromisoformat(counts).timestamp() * 1000)


def test_a_customer_with_an_identifier_was_not_deleted(warehouse: Warehouse) -> None:
    warehouse.member("p1", "u1")
    warehouse.id("p1", "other", type="email")
    with warehouse.source().pull(Everything()) as pull:
        list(pull.customers(KEYS))
        assert pull.identified(["u1", "other", "nobody"]) == {"u1"}


def test_customers_come_in_utf8_byte_order(warehouse: Warehouse) -> None:
    """Not in the order of a language, nor of UTF-16 (which has 🦊 before ～)."""
    ids = ["a", "B", "b", "A", "Z", "_", "é", "z", "zz", "ß", "10", "9", " 9", "a b", "a-b", "ab"]
    ids += ["用户", "🦊", "～", "ä", "a\u0301", "o'neil", 'say "hi"', "back\\slash", "%", "u/1"]
    for number, one in enumerate(random.Random(1).sample(ids, len(ids))):
        warehouse.member(f"p{number}", one)
    expected = sorted(ids, key=str.encode)
    assert [one.customer_id for one in warehouse.pulled()] == expected
    assert list(warehouse.wanted()) == expected


def test_postgresql_is_asked_for_byte_order(postgres_warehouse: Warehouse) -> None:
    """Its own order is that of the database's locale, which may be "C" where the tests run."""
    postgres_warehouse.create()
    said: list[str] = []

    def listen(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        said.append(statement)

    event.listen(Engine, "before_cursor_execute", listen)
    try:
        postgres_warehouse.pulled()
    finally:
        event.remove(Engine, "before_cursor_execute", listen)
    assert any('COLLATE "C"' in one and "ORDER BY" in one for one in said)


def test_every_user_id_of_a_profile_is_a_customer(warehouse: Warehouse) -> None:
    warehouse.member("p1", "u1")
    warehouse.id("p1", "u2")
    warehouse.id("p1", "a@b.c", type="email")
    warehouse.trait("p1", "total", "3")
    both = {"vip": True, "total": 3}
    assert warehouse.wanted() == {"u1": both, "u2": both}


def test_an_identifier_that_stands_twice_counts_once(warehouse: Warehouse) -> None:
    warehouse.member("p1", "u1")
    warehouse.id("p1", "u1", HOUR_LATER)
    (one,) = warehouse.pulled()
    assert one.keys == '["vip"]'


def test_a_profile_without_a_customer_id_is_counted_and_listed(warehouse: Warehouse) -> None:
    warehouse.member("p1", "u1")
    for profile in ("anonymous", "blank", "null", "spaces"):
        warehouse.trait(profile, "vip", "true")
    warehouse.trait("blank", "churn", "false")
    warehouse.id("anonymous", "an-1", type="anonymous_id")
    warehouse.id("blank", "")
    warehouse.id("null", None)
    warehouse.id("spaces", "   ")
    warehouse.id("nothing asked for", "an-2", type="anonymous_id")
    warehouse.trait("nothing asked for", "plan", "free")

    with warehouse.source().pull(Everything()) as pull:
        found = pull.without_customer_id(KEYS)
        listed = list(pull.profiles_without_customer_id(KEYS))
        customers = [one.customer_id for one in pull.customers(KEYS)]

    assert (found.profiles, found.rows) == (4, {"vip": 4, "churn": 1})
    assert sorted(listed) == ["anonymous", "blank", "null", "spaces"]
    assert customers == ["u1"]


def test_any_external_id_can_be_the_customer(warehouse: Warehouse) -> None:
    warehouse.member("p1", "u1")
    warehouse.id("p1", "crm-7", type="crm_id")
    warehouse.member("p2", "u2")
    (one,) = warehouse.pulled(customer_id="crm_id")
    assert one.customer_id == "crm-7"
    with warehouse.source(customer_id="crm_id").pull(Everything()) as pull:
        assert pull.without_customer_id(KEYS).profiles == 1


def test_one_user_id_on_two_profiles_has_the_newest_of_both(warehouse: Warehouse) -> None:
    warehouse.member("p1", "u1", "true", T0)
    warehouse.member("p2", "u1", "false", HOUR_LATER)
    warehouse.trait("p2", "total", "1", HOUR_LATER)
    assert warehouse.wanted() == {"u1": {"vip": False, "total": 1}}


# -- merges


def test_a_row_that_merges_a_profile_into_itself_says_nothing(warehouse: Warehouse) -> None:
    warehouse.merge("p1", "p1")
    warehouse.member("p1", "u1")
    assert warehouse.wanted() == {"u1": {"vip": True}}


def test_a_chain_of_merges_is_followed_to_its_end(warehouse: Warehouse) -> None:
    for profile in "abc":
        warehouse.merge(profile, profile, T0)
    warehouse.merge("b", "c", HOUR_LATER)
    warehouse.merge("a", "b", TWO_LATER)
    warehouse.member("a", "u1")
    warehouse.trait("b", "churn", "true")
    warehouse.id("c", "u2")
    warehouse.trait("c", "total", "5")
    all_of_it = {"vip": True, "churn": True, "total": 5}
    assert warehouse.wanted() == {"u1": all_of_it, "u2": all_of_it}


def test_a_long_chain_too(warehouse: Warehouse) -> None:
    for n in range(30):
        warehouse.merge(f"p{n}", f"p{n + 1}")
    warehouse.trait("p0", "vip", "true")
    warehouse.id("p30", "u1")
    assert warehouse.wanted() == {"u1": {"vip": True}}


def test_a_circle_resolves_nothing_and_ends(warehouse: Warehouse) -> None:
    warehouse.merge("a", "b")
    warehouse.merge("b", "a")
    warehouse.merge("x", "a")
    warehouse.member("a", "u1")
    warehouse.member("x", "u2")
    warehouse.trait("b", "churn", "true")
    assert warehouse.wanted() == {"u1": {"vip": True}, "u2": {"vip": True}}
    with warehouse.source().pull(Everything()) as pull:
        assert list(pull.profiles_without_customer_id(KEYS)) == ["b"]


def test_of_two_rows_for_one_segment_id_the_newest_counts(warehouse: Warehouse) -> None:
    warehouse.merge("old", "second", HOUR_LATER)
    warehouse.merge("old", "first", T0)
    warehouse.trait("old", "vip", "true")
    warehouse.id("first", "u1")
    warehouse.id("second", "u2")
    assert warehouse.wanted() == {"u2": {"vip": True}}


@pytest.mark.parametrize("stored", ["in sequence", "the other way"])
def test_of_two_rows_of_one_time_the_later_in_sequence_counts(
    warehouse: Warehouse, stored: str
) -> None:
    """However the table has them."""
    rows = [("first", 7), ("second", 8)]
    for into, seq in rows if stored == "in sequence" else reversed(rows):
        warehouse.merge("old", into, seq=seq)
    warehouse.trait("old", "vip", "true")
    warehouse.id("first", "u1")
    warehouse.id("second", "u2")
    assert warehouse.wanted() == {"u2": {"vip": True}}


def test_a_merge_row_without_any_time_is_the_oldest(warehouse: Warehouse) -> None:
    warehouse.merge("old", "first", None, seq=9)
    warehouse.merge("old", "second", T0, seq=1)
    warehouse.trait("old", "vip", "true")
    warehouse.id("first", "u1")
    warehouse.id("second", "u2")
    assert warehouse.wanted() == {"u2": {"vip": True}}


def test_where_rows_of_a_merged_profile_still_stand_the_newest_wins(warehouse: Warehouse) -> None:
    warehouse.merge("old", "new", TWO_LATER)
    warehouse.id("old", "u1")
    warehouse.id("new", "u1")
    for key, old, new in (("vip", T0, HOUR_LATER), ("churn", HOUR_LATER, T0)):
        warehouse.trait("old", key, "true", old)
        warehouse.trait("new", key, "false", new)
    warehouse.trait("new", "total", "1", HOUR_LATER)
    warehouse.trait("old", "total", "2", T0)
    warehouse.trait("old", "name", "Old", T0)
    warehouse.trait("new", "name", "New", HOUR_LATER)
    warehouse.trait("old", "email", "newer@old", HOUR_LATER)
    warehouse.trait("new", "email", "older@new", T0)
    expected = {"vip": False, "churn": True, "total": 1}
    assert warehouse.changes() == [("u1", expected, "New", "newer@old")]


@pytest.mark.parametrize("newest", ["old", "new"])
def test_the_newest_of_two_names_wins_without_an_email(warehouse: Warehouse, newest: str) -> None:
    warehouse.merge("old", "new")
    warehouse.member("new", "u1")
    for profile in ("old", "new"):
        at = HOUR_LATER if profile == newest else T0
        warehouse.trait(profile, "name", profile, at)
    assert [one[2] for one in warehouse.changes()] == [newest]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            {"timestamp": HOUR_LATER, "received_at": HOUR_LATER},
            {"timestamp": T0, "received_at": TWO_LATER},
        ),
        ({"timestamp": None, "received_at": HOUR_LATER}, {"timestamp": T0}),
        (
            {"timestamp": None, "received_at": None, "uuid_ts": HOUR_LATER},
            {"timestamp": None, "received_at": T0, "uuid_ts": TWO_LATER},
        ),
        ({"timestamp": T0}, {"timestamp": None, "received_at": None, "uuid_ts": None}),
        ({"timestamp": T0, "seq": 900}, {"timestamp": T0, "seq": 899}),
    ],
    ids=["timestamp", "received_at", "uuid_ts", "no time is the oldest", "seq"],
)
@pytest.mark.parametrize("stored_first", ["old", "new"])
def test_which_of_two_rows_is_the_newest(
    warehouse: Warehouse, old: dict[str, Any], new: dict[str, Any], stored_first: str
) -> None:
    """By `timestamp`, where it is empty by `received_at`, then by `uuid_ts`; of one time by `seq`.
    However the table has them."""
    warehouse.merge("old", "new")
    warehouse.member("new", "u1", "false")
    warehouse.run(f"DELETE FROM {warehouse.table('user_traits')}")
    rows = [("old", "true", old), ("new", "false", new)]
    for profile, value, row in rows if stored_first == "old" else reversed(rows):
        warehouse.trait(profile, "vip", value, T0, **row)
        warehouse.trait(profile, "name", profile, T0, **row)
    assert warehouse.changes() == [("u1", {"vip": True}, "old", None)]


def test_identifiers_that_have_not_moved_yet_count_for_the_merged_profile(
    warehouse: Warehouse,
) -> None:
    warehouse.merge("old", "new")
    warehouse.id("old", "u1")
    warehouse.id("new", "u2")
    warehouse.trait("new", "vip", "true")
    assert warehouse.wanted() == {"u1": {"vip": True}, "u2": {"vip": True}}
    with warehouse.source().pull(Everything()) as pull:
        assert pull.without_customer_id(KEYS).profiles == 0


def test_a_segment_id_that_vanished_by_a_merge_is_no_exit(warehouse: Warehouse) -> None:
    warehouse.member("p1", "u1")
    warehouse.member("p2", "u2", "false")
    warehouse.trait("p2", "churn", "true")
    with closing(Database.open("sqlite://")) as database:
        runs = runs_on(database, warehouse.source())
        assert runs.sync().problems == []
        for table in ("user_traits", "user_identifiers"):
            name = warehouse.table(table)
            warehouse.run(f"DELETE FROM {name} WHERE canonical_segment_id = 'p1'")
        warehouse.merge("p1", "p2", HOUR_LATER)
        warehouse.id("p2", "u1", HOUR_LATER)
        warehouse.run(f"DELETE FROM {warehouse.table('user_traits')} WHERE name = 'vip'")
        warehouse.trait("p2", "vip", "true", HOUR_LATER)
        warehouse.flush()
        result = runs.sync()
        with database.read() as connection:
            record = run_records.get(connection, result.run)
            held = {row[0]: row[1] for row in snapshot.customers(connection)}
    assert record is not None
    assert (record["kind"], record["exited"], record["entered"]) == ("incremental", 0, 2)
    assert held == dict.fromkeys(("u1", "u2"), '{"churn":true,"vip":true}')


# -- values and times


def test_values_are_text_of_every_sort(warehouse: Warehouse) -> None:
    values = ["true", "false", "t", "f", "1", "0", " TRUE ", "False"]
    for number, value in enumerate(values):
        warehouse.member(f"p{number}", f"u{number}", value)
        warehouse.trait(f"p{number}", "churn", "true")
    found = [one["vip"] for one in warehouse.wanted().values()]
    assert found == [True, False, True, False, True, False, True, False]


def test_null_and_empty_are_no_value(warehouse: Warehouse) -> None:
    for number, value in enumerate([None, "", " ", "null"]):
        warehouse.member(f"p{number}", f"u{number}", value)
        warehouse.trait(f"p{number}", "total", "1")
        warehouse.trait(f"p{number}", "name", value)
    warehouse.member("p", "v")
    found = warehouse.changes()
    assert [one[1] for one in found] == [{"total": 1}] * 4 + [{"vip": True}]
    assert {one[2] for one in found} == {None}


def test_a_key_that_the_source_has_is_observed_with_its_values(warehouse: Warehouse) -> None:
    for number, value in enumerate(["true", "f", "1", "0", "0", "gold", None, "", "null"]):
        warehouse.trait(f"p{number}", "vip", value)
    warehouse.trait("p1", "total", "12")
    with warehouse.source().pull(OnlyCustomers(("nobody",))) as pull:
        found = {one.key: one for one in pull.observed()}
    vip = found["vip"]
    assert (vip.rows, vip.words, vip.digits, vip.others) == (9, 2, 3, 1)
    assert (found["total"].rows, found["total"].others) == (1, 1)


def test_the_count_and_the_reader_of_booleans_agree(warehouse: Warehouse) -> None:
    """A key must not become an audience by values that are all skipped afterwards."""
    texts = ["true", "T", " FALSE ", "f", "1", "0", "1.0", "0.0", " 1.0", "1.00", "2", "yes", "01"]
    texts += ["\ttrue\n", "\u00a0f", "0.", "0.000", "0.10", "1.01", "10", "[1", '"true"']
    for number, value in enumerate(texts):
        warehouse.trait("p1", f"key{number}", value)
    with warehouse.source().pull(OnlyCustomers(["nobody"])) as pull:
        found = {one.key: one for one in pull.observed()}
    for number, value in enumerate(texts):
        one = found[f"key{number}"]
        assert (one.others == 0) is (boolean(value) is not None), value
        assert one.words + one.digits + one.others == 1


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
            assert [json.loads(one.times) for one in pull.customers(KEYS)] == [
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


# -- only what changed


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
    found = {one.customer_id: one for one in warehouse.pulled(ChangedSince(SINCE), overlap=60)}
    assert {one: sorted(json.loads(row.keys)) for one, row in found.items()} == {
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
    (one,) = warehouse.pulled(ChangedSince(SINCE), overlap=60)
    assert one.customer_id == "u1"
    assert sorted(json.loads(one.keys)) == ["churn", "vip"]


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
    (one,) = warehouse.pulled(OnlyCustomers(("u1",)))
    assert (one.customer_id, sorted(json.loads(one.keys))) == ("u1", ["total", "vip"])
    several = warehouse.pulled(OnlyCustomers(("u2", "nobody", "u0")))
    assert [one.customer_id for one in several] == ["u0", "u2"]
    many = (*(f"nobody {number}" for number in range(498)), "u1", "u2")
    assert [one.customer_id for one in warehouse.pulled(OnlyCustomers(many))] == ["u1", "u2"]
    assert warehouse.pulled(OnlyCustomers(())) == []
    assert warehouse.pulled(OnlyCustomers(("nobody",))) == []
    assert warehouse.pulled(OnlyCustomers(("' OR 1=1 --",))) == []


def test_the_watermark_is_the_newest_load_of_any_table(warehouse: Warehouse) -> None:
    with warehouse.source().pull(Everything()) as pull:
        assert pull.watermark() is None
    warehouse.merge("p9", "p9", "2026-03-04T12:00:00.500Z")
    warehouse.id("p9", "u9", HOUR_LATER, uuid_ts=None)
    warehouse.trait("p9", "vip", "true", T0, timestamp=TWO_LATER, received_at=TWO_LATER)
    for scope in (Everything(), OnlyCustomers(("nobody",))):
        with warehouse.source().pull(scope) as pull:
            assert_watermark(pull, "2026-03-04T12:00:00.500+00:00")
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


# -- against a reading of the tables in plain Python


class Model:
    """The same tables as lists, and what should be pulled of them, worked out the slow way."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        profiles = [f"p{n}" for n in range(14)]
        times = [f"2026-03-04T{hour:02d}:00:00Z" for hour in range(10, 16)]
        self.merges = [
            (rng.choice(profiles), rng.choice(profiles), rng.choice(times))
            for _ in range(rng.randrange(12))
        ]
        self.ids = [
            (rng.choice(profiles), rng.choice(["user_id", "user_id", "email"]), user, time)
            for user in ("u1", "u2", "é", "Z", "🦊", "", "u7", "u8")
            for time in rng.sample(times, rng.choice([1, 1, 2]))
        ]
        self.traits = [
            (rng.choice(profiles), rng.choice([*KEYS, "name", "plan"]), str(n), rng.choice(times))
            for n in range(40)
        ]

    def fill(self, warehouse: Warehouse) -> None:
        for old, into, time in self.merges:
            warehouse.merge(old, into, time)
        for profile, kind, value, time in self.ids:
            warehouse.id(profile, value, time, type=kind)
        for profile, name, value, time in self.traits:
            warehouse.trait(profile, name, value, time)

    def profile(self, segment_id: str) -> str:
        newest: dict[str, str] = {}
        for old, into, _ in sorted(self.merges, key=lambda row: row[2]):  # stable: seq goes up
            newest[old] = into
        seen, here = {segment_id}, segment_id
        while newest.get(here, here) != here:
            here = newest[here]
            if here in seen:
                return segment_id
            seen.add(here)
        return here

    def expected(self, since: str = "", only: str = "") -> dict[str, Counter[tuple[str, str]]]:
        customers: dict[str, set[str]] = {}
        for profile, kind, value, _ in self.ids:
            if kind == "user_id" and value:
                customers.setdefault(value, set()).add(self.profile(profile))
        touched = {self.profile(row[0]) for row in (*self.ids, *self.traits) if row[-1] >= since}
        touched |= {self.profile(into) for _, into, time in self.merges if time >= since}
        found = {}
        for customer, profiles in customers.items():
            if (only and customer != only) or (since and not profiles & touched):
                continue
            rows = Counter(
                (name, value)
                for profile, name, value, _ in self.traits
                if self.profile(profile) in profiles and name != "plan"
            )
            if rows:
                found[customer] = rows
        return found


@pytest.mark.parametrize("seed", range(3))
def test_the_pull_is_what_the_tables_say(warehouse: Warehouse, seed: int) -> None:
    model = Model(seed)
    model.fill(warehouse)
    scopes: list[tuple[Scope, dict[str, str]]] = [(Everything(), {})]
    for since in ("2026-03-04T12:00:00Z", "2026-03-04T15:00:00Z"):
        scopes.append((ChangedSince(since), {"since": since}))
    scopes.append((OnlyCustomers(("🦊",)), {"only": "🦊"}))
    for scope, asked in scopes:
        found = warehouse.pulled(scope, overlap=0)
        rows: dict[str, Counter[tuple[str, str]]] = {}
        for one in found:
            pairs = zip(json.loads(one.keys), json.loads(one.values), strict=True)
            rows[one.customer_id] = Counter(pairs)
            rows[one.customer_id].update((key, value) for key, value, _ in json.loads(one.profile))
        assert rows == model.expected(**asked), scope
        assert list(rows) == sorted(rows, key=str.encode)
        assert len(rows) == len(found)


# -- what a warehouse may look like


def test_the_singular_spelling_is_known(empty: Warehouse) -> None:
    empty.create(identifiers="user_identifier")
    empty.run(
        f"INSERT INTO {empty.table('user_identifier')} "
        f"VALUES ('p1', 'user_id', 'u1', 1, '{T0}', '{T0}', '{T0}')"
    )
    empty.trait("p1", "vip", "true")
    assert empty.wanted() == {"u1": {"vip": True}}


def test_views_and_further_columns_are_fine(warehouse: Warehouse) -> None:
    warehouse.member("p1", "u1")
    traits = warehouse.table("user_traits")
    warehouse.run(f"ALTER TABLE {traits} ADD COLUMN etl_ts TEXT")
    warehouse.run(f"ALTER TABLE {traits} RENAME TO all_traits")
    warehouse.run(f"CREATE VIEW {traits} AS SELECT * FROM {warehouse.table('all_traits')}")
    assert warehouse.wanted() == {"u1": {"vip": True}}


def test_the_schema_decides(postgres_warehouse: Warehouse) -> None:
    postgres_warehouse.create()
    postgres_warehouse.member("p1", "in public")
    other = Warehouse(postgres_warehouse.url, "my_space")
    other.create()
    other.member("p1", "in my_space")
    try:
        assert list(postgres_warehouse.wanted()) == ["in public"]
        assert list(other.wanted()) == ["in my_space"]
    finally:
        other.engine.dispose()


def test_a_pull_writes_nothing(warehouse: Warehouse) -> None:
    warehouse.member("p1", "u1")

    def everything() -> list[list[Any]]:
        with warehouse.engine.connect() as connection:
            return [
                list(connection.execute(text(f"SELECT * FROM {warehouse.table(name)}")))
                for name in TABLES
            ]

    warehouse.flush()
    before = everything()
    warehouse.wanted()
    assert everything() == before
    if not warehouse.sqlite:
        with warehouse.source().pull(Everything()) as pull:
            connection = pull._connection
            with pytest.raises(Exception, match="read-only transaction"):
                connection.execute(text("CREATE TABLE nonsense (one INTEGER)"))


def test_what_others_change_during_a_pull_is_not_seen(warehouse: Warehouse) -> None:
    if warehouse.sqlite:
        warehouse.run("PRAGMA journal_mode = WAL")
    for number in range(3):
        warehouse.member(f"p{number}", f"u{number}")
    with warehouse.source().pull(Everything()) as pull:
        warehouse.member("p9", "u9", at=TWO_LATER)
        warehouse.run(
            f"DELETE FROM {warehouse.table('user_traits')} WHERE canonical_segment_id='p1'"
        )
        warehouse.run(f"UPDATE {warehouse.table('user_traits')} SET value = 'false'")
        assert {one.key: one.rows for one in pull.observed()} == {"vip": 3}
        assert_watermark(pull, "2026-03-04T10:00:00.000+00:00")
        assert pull.count(KEYS) == Counted(3, 3)
        found = {one.customer_id: one.values for one in pull.customers(KEYS)}
        assert found == dict.fromkeys(("u0", "u1", "u2"), '["true"]')
    assert [one.customer_id for one in warehouse.pulled()] == ["u0", "u2", "u9"]


def test_sqlite_without_wal_makes_a_writer_wait(sqlite_warehouse: Warehouse) -> None:
    sqlite_warehouse.create()
    sqlite_warehouse.member("p1", "u1")
    path = str(make_url(sqlite_warehouse.url).database)
    with (
        sqlite_warehouse.source().pull(Everything()),
        closing(sqlite3.connect(path, timeout=0)) as writer,
    ):
        writer.execute("DELETE FROM user_traits")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            writer.commit()


# -- what can go wrong


def one_line(caught: pytest.ExceptionInfo[SourceError]) -> str:
    said = str(caught.value)
    assert "\n" not in said
    assert "hunter2" not in said
    return said


@pytest.mark.parametrize("table", TABLES)
def test_a_missing_table_is_named(warehouse: Warehouse, table: str) -> None:
    warehouse.run(f"DROP TABLE {warehouse.table(table)}")
    with pytest.raises(SourceError) as caught:
        warehouse.wanted()
    said = one_line(caught)
    assert f"the table {table} is missing" in said
    assert "Selective Sync" in said
    if warehouse.schema:
        assert "'my_space'" in said


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("user_traits", "value"),
        ("user_traits", "uuid_ts"),
        ("user_identifiers", "type"),
        ("profile_merges", "segment_id"),
        ("profile_merges", "timestamp"),
    ],
)
def test_a_missing_column_is_named(warehouse: Warehouse, table: str, column: str) -> None:
    warehouse.run(f"ALTER TABLE {warehouse.table(table)} DROP COLUMN {column}")
    with pytest.raises(SourceError) as caught:
        warehouse.wanted()
    assert re.search(f"the table {table} in .* has no column {column};", one_line(caught))


def test_a_wrong_schema_is_named(postgres_warehouse: Warehouse) -> None:
    postgres_warehouse.create()
    wrong = ProfilesSync(make_url(postgres_warehouse.url), schema="your_space")
    with pytest.raises(SourceError) as caught, wrong.pull(Everything()):
        pass
    assert "the table user_traits is missing in the schema 'your_space'" in one_line(caught)


def test_a_sqlite_file_that_is_none(sqlite_warehouse: Warehouse, tmp_path: Path) -> None:
    path = tmp_path / "engage.db"
    path.write_bytes(b"This is a text file, and a long one at that. " * 40)
    with pytest.raises(SourceError, match="not a database") as caught:
        sqlite_warehouse.wanted()
    one_line(caught)
    path.unlink()
    with pytest.raises(SourceError, match="unable to open") as caught:
        sqlite_warehouse.wanted()
    one_line(caught)
    assert not path.exists()


def settings(path: Path, source: str, **profiles_sync: str) -> Path:
    """A config file with this source; nothing listens at its Amberflo."""
    more = "".join(f'{key} = "{value}"\n' for key, value in profiles_sync.items())
    path.write_text(
        f"""
[amberflo]
api_key = "key"
customers_url = "http://127.0.0.1:9/customers"
[engage.profiles_sync]
url = "{source}"
{more}
[state]
url = "sqlite:///{path.parent / "syncer.db"}"
""",
        encoding="utf-8",
    )
    return path


@pytest.mark.parametrize(
    ("trouble", "status", "said"),
    [
        ("no file", 2, "engage.db does not exist"),
        ("no table", 1, "the table profile_merges is missing"),
        ("no column", 1, "has no column value"),
        ("no schema", 1, "the table user_traits is missing in the schema 'your_space'"),
        ("no role", 1, "nobody_here"),
        ("no host", 1, "127.0.0.1"),
    ],
)
def test_the_command_line_says_it_in_one_line_and_takes_nothing(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    trouble: str,
    status: int,
    said: str,
) -> None:
    more = {}
    source = f"sqlite:///{tmp_path / 'engage.db'}"
    if trouble in ("no table", "no column"):
        warehouse = Warehouse(source)
        warehouse.create()
        warehouse.member("p1", "u1")
        if trouble == "no table":
            warehouse.run("DROP TABLE profile_merges")
        else:
            warehouse.run("ALTER TABLE user_traits DROP COLUMN value")
        warehouse.engine.dispose()
    elif trouble != "no file":
        url = make_url(request.getfixturevalue("empty_postgres"))
        if trouble == "no schema":
            more = {"schema": "your_space"}
        elif trouble == "no role":
            url = url.set(username="nobody_here", password="hunter2")
        else:
            url = url.set(host="127.0.0.1", port=9, query={}, password="hunter2")
        source = url.render_as_string(hide_password=False)

    config = settings(tmp_path / "config.toml", source, **more)
    monkeypatch.setattr(sys, "argv", ["syncer", "sync", "--config", str(config)])
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(SystemExit) as exited:
            main()
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)

    out, err = capsys.readouterr()
    assert (exited.value.code, out) == (status, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err
    assert "hunter2" not in err
    if trouble == "no file":
        assert not (tmp_path / "engage.db").exists()
    with (
        closing(Database.peek(f"sqlite:///{tmp_path / 'syncer.db'}")) as database,
        database.read() as connection,
    ):
        assert snapshot.size(connection) == 0
        assert snapshot.traits(connection) == []
        assert run_records.last_whole(connection) is None
        records = run_records.newest(connection)
    if status == 1:
        assert [record["state"] for record in records] == ["failed"]
        assert said in records[0]["error"]
        assert "hunter2" not in records[0]["error"]


# -- a connection that dies in the middle


POPULATION = 6000


@pytest.fixture
def crowd(postgres_warehouse: Warehouse) -> Warehouse:
    """More customers than one fetch brings."""
    postgres_warehouse.create()
    rest = f"n, '{T0}', '{T0}', '{T0}' FROM generate_series(1, {POPULATION}) n"
    postgres_warehouse.run(
        f"INSERT INTO user_identifiers SELECT 'p' || n, 'user_id', 'u' || n, {rest}"
    )
    postgres_warehouse.run(f"INSERT INTO user_traits SELECT 'p' || n, 'vip', 'true', {rest}")
    return postgres_warehouse


def test_a_connection_that_dies_in_the_stream_ends_the_pull(crowd: Warehouse) -> None:
    seen = []

    def pull_and_kill() -> None:
        with crowd.source().pull(Everything()) as pull:
            for one in pull.customers(KEYS):
                seen.append(one.customer_id)
                if len(seen) == 10:
                    assert end_others(crowd.engine) == 1

    with pytest.raises(SourceError) as caught:
        pull_and_kill()
    assert 10 <= len(seen) < POPULATION
    assert "broke off" in one_line(caught)


def test_a_stream_that_nobody_reads_to_its_end_is_closed(crowd: Warehouse) -> None:
    """A cursor left open warns when it is collected, and here a warning is an error."""
    with crowd.source().pull(Everything()) as pull:
        stream: Any = pull.customers(KEYS)
        next(stream)
        stream.close()
        assert pull.count(KEYS) == Counted(POPULATION, POPULATION)
    del stream
    gc.collect()


def test_nothing_of_a_pull_that_died_is_taken(crowd: Warehouse, tmp_path: Path) -> None:
    killed: list[int] = []

    class Killing(Quiet):
        def at(self, done: int) -> None:
            if done and not killed:
                killed.append(end_others(crowd.engine))

    sent: list[int] = []
    with closing(Database.open(f"sqlite:///{tmp_path / 'syncer.db'}")) as database:
        with pytest.raises(SourceError):
            runs_on(database, crowd.source(), Killing(), sent).sync()
        assert (killed, sent) == ([1], [])
        with database.read() as connection:
            assert snapshot.size(connection) == 0
            assert snapshot.traits(connection) == []
            assert run_records.last_whole(connection) is None
            (record,) = run_records.newest(connection)
        assert record["state"] == "failed"
        assert "broke off" in record["error"]

        result = runs_on(database, crowd.source(), sent=sent).sync()
        with database.read() as connection:
            assert snapshot.size(connection) == POPULATION
    assert (result.kind, result.problems, sent) == ("initial", [], [POPULATION])
