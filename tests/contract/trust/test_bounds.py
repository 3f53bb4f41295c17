"""What calls may not do to others: what a null takes, and how many there may be."""

from __future__ import annotations

import pytest

from state import erasure, outbox, suppression
from syncer.passthrough import customer_calls as module
from syncer.passthrough.customer_calls import (
    DELETE_WAITS,
    LARGE_TRAITS,
    MANY_TRAITS,
    MAX_TRAITS,
    NOTHING_OF_OURS,
)
from syncer.passthrough.scopes import SIGNED
from tests.contract.trust.helpers import HOUR, Desk, Json
from tests.support.state import NOW, ask, records

# What a null takes


def test_a_null_of_what_no_call_set_does_nothing(desk: Desk) -> None:
    assert desk.identify(theirs=None)["dropped", NOTHING_OF_OURS] == 1
    assert desk.customer()["identify_traits"] == {}


def test_a_null_takes_what_calls_set_until_that_is_done(desk: Desk) -> None:
    desk.identify(plan="free")
    desk.identify(plan="pro")
    desk.identify(plan=None)
    assert desk.customer()["identify_traits"] == {"plan": [None, NOW, ["free", "pro"]]}
    desk.deliver()
    assert desk.customer()["identify_traits"] == {"plan": [None, NOW]}


def test_what_is_delivered_is_not_taken_twice(desk: Desk) -> None:
    """A call since the delivery began keeps what it says."""
    desk.identify(plan="free")
    with desk.state.write() as connection:
        rows = outbox.claim(connection, 1, NOW, 9)
    desk.identify(plan="pro")
    with desk.state.write() as connection:
        outbox.acknowledge(connection, rows, NOW)
    assert desk.customer()["identify_traits"] == {"plan": ["pro", NOW, ["free"]]}


# How many


def test_a_customer_has_so_many_traits_of_calls(desk: Desk) -> None:
    desk.identify(**{f"t{number}": number for number in range(MAX_TRAITS - 1)})
    counts = desk.identify(a=1, b=2, t0="another value")
    assert counts["dropped", MANY_TRAITS] == 1
    called = desk.customer()["identify_traits"]
    assert len(called) == MAX_TRAITS
    assert called["t0"][0] == "another value"
    desk.identify(t1=None, t2=None)
    assert desk.identify(c=3)["dropped", MANY_TRAITS] == 1  # t1 is at Amberflo still
    desk.deliver()
    assert ("dropped", MANY_TRAITS) not in desk.identify(c=3, d=4)
    assert desk.identify(e=5)["dropped", MANY_TRAITS] == 1
    assert desk.engage("vip", True)["customer", "engage"] == 1


def test_traits_of_calls_have_room_for_so_many_bytes(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_TRAITS_BYTES", 1000)
    assert ("dropped", LARGE_TRAITS) not in desk.identify(a="x" * 600)
    assert desk.identify(b="x" * 600, c=1)["dropped", LARGE_TRAITS] == 1
    assert desk.customer()["identify_traits"].keys() == {"a", "c"}


def delete(user: str) -> Json:
    return {"type": "delete", "userId": user}


def test_more_deletes_than_a_day_may_have_wait_for_a_word(desk: Desk) -> None:
    desk.deletes = 2
    for user in ("u1", "u2", "u3", "u4"):
        desk.say({"type": "identify", "userId": user, "traits": {"name": user.upper()}})
    users = ("u1", "u1", "u2", "u3", "u4", "u4")
    counts = desk.say(*map(delete, users), may=SIGNED.may)
    assert counts["customer", "delete"] == 2
    assert counts["customer", DELETE_WAITS] == 3
    assert ask(desk.state, suppression.asked) == ["u1", "u2"]
    assert [customer_id for customer_id, _ in ask(desk.state, suppression.waiting)] == ["u3", "u4"]
    # Who waits goes on as before.
    desk.say({"type": "identify", "userId": "u3", "traits": {"name": "Cleo"}})
    assert records(desk.state)["u3"]["name"] == "Cleo"
    # The next day has room again.
    desk.now += 25 * HOUR
    assert desk.say(delete("u5"), may=SIGNED.may)["customer", "delete"] == 1
    with desk.state.write() as connection:
        suppression.approve(connection, ["u3"])
    assert ask(desk.state, suppression.asked) == ["u1", "u2", "u3", "u5"]
    assert desk.say(delete("u4"), may=SIGNED.may)["customer", DELETE_WAITS] == 1


def test_without_deletes_a_day_all_wait(desk: Desk) -> None:
    desk.deletes = 0
    assert desk.say(delete("u1"), may=SIGNED.may)["customer", DELETE_WAITS] == 1


def test_who_forgets_one_that_waits_gives_the_word(desk: Desk) -> None:
    desk.deletes = 0
    desk.say(delete("u1"), may=SIGNED.may)
    with desk.state.write(alone=True) as connection:
        taken = erasure.take(connection, "u1", 1, NOW)
        assert ask(desk.state, suppression.waiting_count) == 1  # as of before
    assert not taken.asked
    assert ask(desk.state, suppression.waiting_count) == 0
