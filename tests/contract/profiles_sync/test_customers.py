"""Who is a customer, in which order, and what becomes of merged profiles."""

from __future__ import annotations

import json
import random
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, event

from state import runs as run_records
from state import snapshot
from state.db.database import Database
from syncer.clock import read as milliseconds
from syncer.engage.source import ChangedSince, Counted, Everything, WithoutCustomerId
from tests.support.space import (
    HOUR_LATER,
    KEYS,
    T0,
    TWO_LATER,
    Warehouse,
    runs_on,
)

# who is a customer, in which order


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
    assert [row[:2] for row in json.loads(first.profile)] == [
        ["email", "a@b.c"],
        ["name", "Zoë 🦊"],
    ]
    assert (second.customer_id, second.keys, second.values) == ("u2", '["vip"]', '["false"]')
    assert second.profile == "[]"


def test_the_time_of_a_change_is_the_rows(warehouse: Warehouse) -> None:
    warehouse.member("p1", "u1", at="2026-03-04T12:00:00.250+02:00")
    with closing(Database.open("sqlite://")) as database:
        compared = runs_on(database, warehouse.source()).diff()
        ((change,),) = [customer.changes for customer in compared.changes]
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
    for number, customer_id in enumerate(random.Random(1).sample(ids, len(ids))):
        warehouse.member(f"p{number}", customer_id)
    expected = sorted(ids, key=str.encode)
    assert [customer.customer_id for customer in warehouse.pulled()] == expected
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
    assert any('COLLATE "C"' in statement and "ORDER BY" in statement for statement in said)


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
    (customer,) = warehouse.pulled()
    assert customer.keys == '["vip"]'


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
        missing = pull.without_customer_id(KEYS)
        listed = list(pull.profiles_without_customer_id(KEYS))
        customers = [customer.customer_id for customer in pull.customers(KEYS)]

    assert (missing.profiles, missing.rows) == (4, {"vip": 4, "churn": 1})
    assert sorted(listed) == ["anonymous", "blank", "null", "spaces"]
    assert customers == ["u1"]


def test_who_has_no_customer_id_is_only_asked_for_where_the_count_shows_somebody(
    warehouse: Warehouse,
) -> None:
    """A profile with two ids has each row twice, which hides nobody without one."""
    warehouse.member("p1", "u1")
    warehouse.id("p1", "u2")
    warehouse.member("p2", "u3")
    warehouse.merge("p3", "p2")
    warehouse.trait("p3", "vip", "true")
    warehouse.trait("p4", "churn", "true")

    def counts_of(keys: list[str]) -> tuple[Counted, WithoutCustomerId, int]:
        statements = list[str]()
        with warehouse.source().pull(Everything()) as pull:
            counted = pull.count(keys)
            event.listen(
                pull._connection, "before_cursor_execute", lambda *told: statements.append(told[2])
            )
            return counted, pull.without_customer_id(keys), len(statements)

    assert counts_of(["vip"]) == (Counted(3, 4), WithoutCustomerId(0, {}), 0)
    assert counts_of(["churn"])[1:] == (WithoutCustomerId(1, {"churn": 1}), 1)
    assert counts_of(KEYS)[1:] == (WithoutCustomerId(1, {"churn": 1}), 1)
    with warehouse.source().pull(Everything()) as pull:
        pull.count(["vip"])
        assert pull.without_customer_id(KEYS).profiles == 1
    with warehouse.source().pull(ChangedSince(T0)) as pull:
        pull.count(["churn"])
        assert pull.without_customer_id(["churn"]).profiles == 1


def test_any_external_id_can_be_the_customer(warehouse: Warehouse) -> None:
    warehouse.member("p1", "u1")
    warehouse.id("p1", "crm-7", type="crm_id")
    warehouse.member("p2", "u2")
    (customer,) = warehouse.pulled(customer_id="crm_id")
    assert customer.customer_id == "crm-7"
    with warehouse.source(customer_id="crm_id").pull(Everything()) as pull:
        assert pull.without_customer_id(KEYS).profiles == 1


def test_one_user_id_on_two_profiles_has_the_newest_of_both(warehouse: Warehouse) -> None:
    warehouse.member("p1", "u1", "true", T0)
    warehouse.member("p2", "u1", "false", HOUR_LATER)
    warehouse.trait("p2", "total", "1", HOUR_LATER)
    assert warehouse.wanted() == {"u1": {"vip": False, "total": 1}}


# merges


def test_a_row_that_merges_a_profile_into_itself_says_nothing(warehouse: Warehouse) -> None:
    warehouse.merge("p1", "p1")
    warehouse.member("p1", "u1")
    assert warehouse.wanted() == {"u1": {"vip": True}}


def test_the_profiles_of_segments_documentation_are_read(warehouse: Warehouse) -> None:
    """A visitor of two browsers, whose profiles an identify call merged; times as in its tables."""
    first, identified, merged = (
        f"2022-{time}" for time in ("05-02 14:01:00", "05-02 14:01:47", "06-22 10:48:00")
    )
    email, browsers = "jane.kim@segment.com", ("5285bc35-05ef-4d21", "b50e18a5-1b8d-451c")
    warehouse.merge("profile_1", "profile_1", first)
    warehouse.merge("profile_2", "profile_1", merged)
    warehouse.id("profile_1", browsers[0], first, type="anonymous_id")
    warehouse.id("profile_2", browsers[1], merged, type="anonymous_id")
    warehouse.id("profile_1", email, identified, type="email")
    warehouse.trait("profile_1", "email", email, identified)
    warehouse.trait("profile_2", "vip", "true", merged)
    assert warehouse.changes(customer_id="email") == [(email, {"vip": True}, None, email)]
    assert warehouse.wanted(customer_id="anonymous_id") == {key: {"vip": True} for key in browsers}


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


def test_a_chain_may_have_three_merges(warehouse: Warehouse) -> None:
    """Segment flattens them to one; a longer chain resolves nothing, and is counted."""
    for n in range(4):
        warehouse.merge(f"p{n}", f"p{n + 1}")
    for n in range(2):
        warehouse.trait(f"p{n}", ["churn", "vip"][n], "true")
    warehouse.id("p4", "u1")
    assert warehouse.wanted() == {"u1": {"vip": True}}
    with warehouse.source().pull(Everything()) as pull:
        assert list(pull.profiles_without_customer_id(KEYS)) == ["p0"]


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
    assert [change[2] for change in warehouse.changes()] == [newest]


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
    assert (record.kind, record.exited, record.entered) == ("incremental", 0, 2)
    assert held == dict.fromkeys(("u1", "u2"), '{"churn":true,"vip":true}')
