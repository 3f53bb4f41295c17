"""What every source of Engage's data does, whatever it reads from."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Collection
from itertools import combinations
from typing import Any

import pytest

from syncer.clock import read
from syncer.engage.source import (
    ChangedSince,
    Counted,
    Everything,
    OnlyCustomers,
    PulledCustomer,
    Scope,
    SourceRow,
)
from syncer.errors import SourceError
from tests.support import garbage

from .places import FIRST, LAST, LATER, Place, needs

KEYS = ("vip", "churn", "total")


def pulled(
    place: Place, scope: Scope | None = None, keys: Collection[str] = KEYS
) -> dict[str, PulledCustomer]:
    """What a source yields, by customer; its own count says the same."""
    with place.source().pull(scope or Everything()) as pull:
        customers = list(pull.customers(keys))
        rows = sum(len(json.loads(each.keys)) + len(json.loads(each.profile)) for each in customers)
        assert pull.count(keys) == Counted(len(customers), rows)
    return {customer.customer_id: customer for customer in customers}


def traits(customer: PulledCustomer) -> dict[str, Any]:
    """The traits of a customer as texts, by key; keys, values and times belong together."""
    keys, values, times = map(json.loads, (customer.keys, customer.values, customer.times))
    assert len(keys) == len(values) == len(times)
    return dict(zip(keys, values, strict=True))


def members(place: Place, number: int) -> list[str]:
    """So many customers with the audience `vip`, in the order of their ids' bytes."""
    ids = [f"u{each:04d}" for each in range(number)]
    for customer_id in ids:
        place.identify(f"p-{customer_id}", customer_id)
    for customer_id in ids:
        place.say(f"p-{customer_id}", "vip", "true")
    return ids


def test_an_empty_source_has_nothing(place: Place) -> None:
    assert pulled(place) == {}
    with place.source().pull(Everything()) as pull:
        assert (pull.watermark(), pull.observed()) == (None, [])
        assert pull.without_customer_id(KEYS).profiles == 0
        assert pull.identified(["nobody"]) == set()


def test_customers_come_in_the_order_of_their_bytes(place: Place) -> None:
    ids = ["a", "B", "Z", "u10", "u2", "é", "～", "🦊", "_", "-1", "ab", "a b"]
    for number, customer_id in enumerate(ids):
        place.identify(f"p{number}", customer_id)
        place.say(f"p{number}", "vip", "true")
    assert list(pulled(place)) == sorted(ids, key=str.encode)


def test_all_that_is_said_of_a_customer_comes_together(place: Place) -> None:
    place.identify("p1", "u1")
    for key, value in (("vip", "true"), ("churn", "false"), ("total", "12.5"), ("other", "x")):
        place.say("p1", key, value)
    place.say("p1", "name", "Zoë 🦊")
    place.say("p1", "email", "zoe@example.com")
    (customer,) = pulled(place).values()
    assert traits(customer) == {"vip": "true", "churn": "false", "total": "12.5"}
    assert {row[0]: row[1] for row in json.loads(customer.profile)} == {
        "name": "Zoë 🦊",
        "email": "zoe@example.com",
    }


def test_it_counts_what_it_yields_for_any_keys(place: Place) -> None:
    members(place, 3)
    place.say("p-u0001", "total", "3")
    place.say("p-u0002", "name", "Ada")
    for number in range(len(KEYS) + 1):
        for keys in combinations(KEYS, number):
            pulled(place, keys=keys)


def test_every_key_is_observed_and_those_that_changed_at_least(place: Place) -> None:
    members(place, 3)
    place.say("p-u0000", "tier", "gold", "2026-03-09T10:00:00Z")
    with place.source().pull(Everything()) as pull:
        observed = {key.key: key for key in pull.observed()}
    assert observed.keys() == {"vip", "tier"}
    assert (observed["vip"].rows, observed["vip"].words) == (3, 3)
    with place.source().pull(ChangedSince("2026-03-09T09:00:00.000+00:00")) as pull:
        tier = {key.key: key for key in pull.observed()}["tier"]
    assert (tier.rows, tier.others) == (1, 1)


@needs("nulls")
def test_a_null_is_a_row_without_a_value(place: Place) -> None:
    place.identify("p1", "u1")
    place.say("p1", "vip", None)
    place.say("p1", "churn", "true")
    assert traits(pulled(place)["u1"]) == {"vip": None, "churn": "true"}
    with place.source().pull(Everything()) as pull:
        (vip,) = (key for key in pull.observed() if key.key == "vip")
    assert (vip.rows, vip.words + vip.digits + vip.others) == (1, 0)


TEXTS = ["it's", '"quoted"', "a\\b", "line\nline", "[1, 2]", "null", " x ", "🦊", "%s", "x" * 5000]


def test_any_text_comes_as_it_is(place: Place) -> None:
    values = {f"u{number}": value for number, value in enumerate(TEXTS)}
    for customer_id, value in values.items():
        place.identify(f"p-{customer_id}", customer_id)
        place.say(f"p-{customer_id}", "total", value)
    read = {customer_id: traits(row)["total"] for customer_id, row in pulled(place).items()}
    assert read == values


IDS = ["it's", 'a"b', "a/b", "100%", "a\\b", "Ünïcode", "🦊", "x" * 900, "null", "0"]


def test_any_id_is_a_customer(place: Place) -> None:
    for number, customer_id in enumerate(IDS):
        place.identify(f"p{number}", customer_id)
        place.say(f"p{number}", "vip", "true")
    assert list(pulled(place)) == sorted(IDS, key=str.encode)
    with place.source().pull(Everything()) as pull:
        list(pull.customers(KEYS))
        assert pull.identified([*IDS, "nobody"]) == set(IDS)
    for customer_id in IDS:
        with place.source().pull(OnlyCustomers((customer_id,))) as pull:
            assert [row.customer_id for row in pull.customers(KEYS)] == [customer_id]


@needs("merges")
def test_the_rows_of_a_key_are_the_evidence(place: Place) -> None:
    place.identify("new", "u1", FIRST)
    place.identify("other", "u2", FIRST)
    place.say("new", "vip", "false", FIRST)
    place.say("old", "vip", "true", LATER)
    place.say("other", "vip", "true", LAST)
    place.say("new", "churn", "true", LAST)
    place.merge("old", "new")
    with place.source().pull(OnlyCustomers(("u1",))) as pull:
        first, second = pull.rows_of("vip")
        assert pull.rows_of("total") == []
    assert first == SourceRow("new", None, "false", read(FIRST), read(FIRST))
    assert second == SourceRow("old", "new", "true", read(LATER), read(LATER), counts=True)
    with place.source().pull(OnlyCustomers(("nobody",))) as pull:
        assert pull.rows_of("vip") == []


@needs("anonymous")
@pytest.mark.parametrize("blank", [None, "", "   "])
def test_a_profile_without_an_id_is_counted_and_is_no_customer(
    place: Place, blank: str | None
) -> None:
    place.identify("p1", blank)
    place.say("p1", "vip", "true")
    with place.source().pull(Everything()) as pull:
        assert list(pull.customers(KEYS)) == []
        without = pull.without_customer_id(KEYS)
        assert (without.profiles, without.rows) == (1, {"vip": 1})
        assert list(pull.profiles_without_customer_id(KEYS)) == ["p1"]


@needs("merges")
def test_what_is_said_of_a_merged_profile_is_said_of_what_it_went_into(place: Place) -> None:
    place.identify("old", "u1")
    place.say("old", "vip", "true")
    place.identify("new", "u2")
    place.say("new", "total", "5")
    place.merge("old", "between", LATER)
    place.merge("between", "new", LAST)
    both = {"vip": "true", "total": "5"}
    customers = {customer_id: traits(row) for customer_id, row in pulled(place).items()}
    assert customers == {"u1": both, "u2": both}


def test_who_has_no_rows_has_no_value_and_is_not_deleted(place: Place) -> None:
    ids = members(place, 3)
    place.lose("p-u0001")
    valued = {each for each, row in pulled(place).items() if set(traits(row).values()) != {None}}
    assert valued == {"u0000", "u0002"}
    with place.source().pull(Everything()) as pull:
        list(pull.customers(KEYS))
        assert pull.identified(ids) == set(ids)


@needs("deletions")
def test_who_was_deleted_is_not_identified(place: Place) -> None:
    ids = members(place, 3)
    place.delete("p-u0001")
    with place.source().pull(Everything()) as pull:
        assert [row.customer_id for row in pull.customers(KEYS)] == ["u0000", "u0002"]
        assert pull.identified(ids) == {"u0000", "u0002"}


@needs("load_times")
def test_who_changed_comes_in_full(place: Place) -> None:
    members(place, 3)
    place.say("p-u0001", "total", "7", "2026-03-09T10:00:00Z")
    changed = pulled(place, ChangedSince("2026-03-09T09:00:00.000+00:00"))
    assert {each: traits(row) for each, row in changed.items()} == {
        "u0001": {"vip": "true", "total": "7"}
    }


@needs("load_times")
def test_a_pull_goes_on_from_the_watermark_of_the_one_before(place: Place) -> None:
    members(place, 3)
    with place.source().pull(Everything()) as pull:
        watermark = pull.watermark()
        assert watermark is not None
    place.say("p-u0002", "vip", "false", LAST)
    assert "u0002" in pulled(place, ChangedSince(watermark))


def test_what_others_change_during_a_pull_is_not_seen(place: Place) -> None:
    ids = members(place, 3)
    place.source()
    with place.source().pull(Everything()) as pull:
        pull.watermark()
        place.delete("p-u0001")
        place.say("p-u0002", "vip", "false", LAST)
        place.identify("p-new", "new", LAST)
        place.source()  # all of it is written
        assert pull.count(KEYS) == Counted(3, 3)
        assert [(row.customer_id, row.values) for row in pull.customers(KEYS)] == [
            (customer_id, '["true"]') for customer_id in ids
        ]


# psycopg warns of a cursor on a connection that the server ended: nobody can close that one.
@pytest.mark.filterwarnings("ignore:.*ServerCursor.*was deleted while still open:ResourceWarning")
def test_a_pull_that_breaks_off_says_so_and_the_next_is_whole(place: Place) -> None:
    ids = members(place, place.many)
    place.source()

    def read_and_cut(after: int) -> None:
        with place.source().pull(Everything()) as pull:
            pull.watermark()
            if not after:
                place.cut(pull)
            for number, _ in enumerate(pull.customers(KEYS), start=1):
                if number == after:
                    place.cut(pull)
            pull.count(KEYS)

    for after in (0, 1, 40):
        with pytest.raises(SourceError) as caught:
            read_and_cut(after)
        assert "\n" not in str(caught.value)
        del caught
        garbage.settle()  # here, where its warning is expected
        assert list(pulled(place)) == ids


def test_a_stream_may_be_left_anywhere(place: Place) -> None:
    ids = members(place, 20)
    with place.source().pull(Everything()) as pull:
        stream = pull.customers(KEYS)
        next(stream)
        stream.close()
        assert pull.count(KEYS) == Counted(20, 20)
    assert list(pulled(place)) == ids


def test_memory_does_not_grow_with_the_population(place: Place) -> None:
    members(place, place.many)
    place.source()

    def peak(customers: int) -> int:
        with place.source().pull(Everything()) as pull:
            tracemalloc.start()
            for number, _ in enumerate(pull.customers(KEYS), start=1):
                if number == customers:
                    break
            used = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return used

    peak(100)
    assert peak(place.many) < peak(100) + 500_000


def test_check_says_what_there_is(place: Place) -> None:
    members(place, 2)
    line = place.source().survey().message
    assert line
    assert "\n" not in line
