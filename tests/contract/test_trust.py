"""What calls may not do to others: whose a trait is, what a null takes, how many there may be,
whose a messageId is, and who waits for whom."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text

from state import erasure, outbox, pending_calls, queue, snapshot, suppression
from state.db.database import Database
from state.queue import Accepted, EventRow
from state.snapshot import TraitRow
from syncer.passthrough import customer_calls as module
from syncer.passthrough.customer_calls import (
    DELETE_WAITS,
    ENGAGES,
    LARGE_TRAITS,
    MANY_TRAITS,
    MAX_TRAITS,
    NOT_OURS,
    NOTHING_OF_OURS,
    OLDER,
    OTHER_KIND,
    PROTECTED,
    WAITS,
)
from syncer.passthrough.mapping import RESERVED_NAME
from syncer.passthrough.pending import PATIENCE, TOO_MANY, UNKNOWN
from syncer.passthrough.processor import Processor
from syncer.passthrough.scopes import DEFAULT_SCOPES, DELETE, NOT_ALLOWED, SCOPES, SIGNED
from syncer.sync.trait_owners import take_from_calls
from tests.support.state import NOW, ask, records

HOUR = 3_600_000
Json = dict[str, Any]


class Desk:
    """Calls come in by keys, and are sorted."""

    def __init__(self, state: Database, calls: Database) -> None:
        self.state, self.calls = state, calls
        self.now, self.deletes, self._made = NOW, 100, 0
        self.audiences = ["*"]
        self.know("vip")
        self.know("spent", "computed_trait")

    def know(self, key: str, kind: str = "audience") -> None:
        """A run pulls a trait."""
        with self.state.write(alone=True) as connection:
            take_from_calls(connection, [key], 1, self.now)
            snapshot.put_traits(connection, [TraitRow(key, key, kind, 0)])

    @property
    def processor(self) -> Processor:
        return Processor(
            *(self.calls, self.state, self.audiences, ["spent*"], lambda: self.now),
            protected=("stripeId", "stripe_id", "awsm.*"),
            deletes_per_day=self.deletes,
        )

    def say(self, *events: Json, may: Any = SCOPES, key: str = "server") -> Json:
        """Accept and sort events; gives how many ended how."""
        before = ask(self.calls, queue.counters)
        for event in events:
            self._made += 1
            body = {"userId": "u1", "messageId": f"m{self._made}", **event}
            accepted = Accepted(
                *("webhook", json.dumps(body).encode(), 1, self.now), key, ",".join(sorted(may))
            )
            with self.calls.write() as connection:
                queue.accept(connection, [accepted])
        while self.processor.process():
            pass
        return self._since(before)

    def settle(self) -> Json:
        before = ask(self.calls, queue.counters)
        self.processor.apply_early_calls()
        return self._since(before)

    def _since(self, before: Json) -> Json:
        after = ask(self.calls, queue.counters)
        found = {one: after[one] - before.get(one, 0) for one in after}
        return {one: count for one, count in found.items() if count}

    def identify(self, **traits: Any) -> Json:
        return self.say({"type": "identify", "traits": traits})

    def engage(self, key: str, value: Any, user: str = "u1", **options: Any) -> Json:
        return self.say(membership(key, value, user), **options)

    def customer(self, user: str = "u1") -> Json:
        found = records(self.state)[user]
        return {name: json.loads(found[name] or "{}") for name in ("traits", "identify_traits")}

    def claimed(self, limit: int = 100) -> list[str]:
        with self.state.write() as connection:
            rows = outbox.claim(connection, 1, self.now, limit)
        return [row.customer_id for row in rows]

    def deliver(self) -> None:
        with self.state.write() as connection:
            outbox.acknowledge(connection, outbox.claim(connection, 1, self.now, 100), self.now)


def membership(key: str, value: Any, user: str = "u1", what: str = "audience") -> Json:
    personas = {"computation_class": what, "computation_key": key}
    return {
        **{"type": "identify", "userId": user, "traits": {key: value}},
        "context": {"personas": personas},
    }


@pytest.fixture
def desk(database: Database, calls: Database) -> Iterator[Desk]:
    return Desk(database, calls)


# Who may say what


@pytest.mark.parametrize("what", ["page", "screen", "track", "identify", "memberships", "delete"])
def test_a_call_counts_only_where_its_key_may(desk: Desk, what: str) -> None:
    event = {"type": what, "event": "E", "properties": {}, "traits": {"name": "Ada"}}
    if what == "memberships":
        event = membership("vip", True)
    others = set(SIGNED.may) - {what}
    assert desk.say(event, may=others)["dropped", NOT_ALLOWED[what]] == 1
    assert records(desk.state) == {}
    assert records(desk.calls, "event") == {}
    assert ask(desk.state, suppression.asked) == []
    assert ("dropped", NOT_ALLOWED[what]) not in desk.say(event, may={what})


def test_a_public_key_cannot_erase_anybody(desk: Desk) -> None:
    desk.identify(name="Ada")
    for may in (DEFAULT_SCOPES, SCOPES):
        assert desk.say({"type": "delete"}, may=may)["dropped", NOT_ALLOWED[DELETE]] == 1
    assert "u1" in records(desk.state)


def test_every_call_keeps_the_name_of_its_key(desk: Desk) -> None:
    counts = desk.say(
        {"type": "identify", "traits": {"name": "Ada", "plan": "pro"}},
        membership("vip", True),
        {"type": "track", "event": "E"},
        {"type": "track"},
        key="browser",
    )
    assert counts["key", "browser"] == 4
    changes = records(desk.state, "change").values()
    assert [(one["key"], one["via"]) for one in changes] == [
        *(("name", "browser"), ("plan", "browser"), ("vip", "browser"))
    ]
    (failure,) = records(desk.state, "failure").values()
    assert failure["via"] == "browser"
    (event,) = records(desk.calls, "event").values()
    assert event["key"] == "browser"


def test_a_message_id_is_its_keys_own(desk: Desk) -> None:
    sent = {"type": "track", "event": "Ordered", "messageId": "order-1"}
    assert ("repeated", "") not in desk.say(sent | {"properties": {"value": 0}}, key="browser")
    assert ("repeated", "") not in desk.say(sent | {"properties": {"value": 900}})
    assert desk.say(sent)["repeated", ""] == 1
    found = [json.loads(row["record"]) for row in records(desk.calls, "event").values()]
    assert [one["meterValue"] for one in found] == [0, 900]


def test_a_message_id_of_before_there_were_keys_is_known_still(desk: Desk) -> None:
    with desk.calls.write() as connection:
        queue.store_processed(connection, [], [EventRow("order-1", None, NOW, None)])
    sent = {"type": "track", "event": "Ordered", "messageId": "order-1"}
    assert desk.say(sent)["repeated", ""] == 1


def test_what_is_amberflos_own_is_no_dimension(desk: Desk) -> None:
    properties = {"aflo.cancel_previous_resource_event": True, "Aflo.x": 1, "aflow": 2}
    counts = desk.say({"type": "track", "event": "E", "properties": properties})
    assert counts["dropped", RESERVED_NAME] == 2
    (event,) = records(desk.calls, "event").values()
    assert json.loads(event["record"])["dimensions"] == {"aflow": "2"}


# Whose a trait is


def test_a_call_makes_no_trait_ours(desk: Desk) -> None:
    counts = desk.engage("salesforce_id", True)
    assert counts["waiting", WAITS] == 1
    assert ask(desk.state, snapshot.owned) == {"vip", "spent"}
    assert records(desk.state) == {}
    assert desk.settle() == {}


def test_an_early_call_counts_when_a_pull_knows_its_key(desk: Desk) -> None:
    desk.engage("gold", False)
    desk.engage("gold", True)
    desk.engage("gold", True, "u2")
    desk.know("gold")
    assert desk.settle()["customer", "engage"] == 2
    assert desk.customer()["traits"] == {"gold": True}
    assert desk.customer("u2")["traits"] == {"gold": True}
    (change, _) = records(desk.state, "change").values()
    assert (change["key"], change["after"], change["via"]) == ("gold", "true", "server")
    assert (ask(desk.state, pending_calls.count), desk.settle()) == (0, {})


def test_a_call_of_a_released_trait_waits_for_the_pull_that_takes_it_again(desk: Desk) -> None:
    """It is looked at once, and keeps no other call waiting."""
    desk.know("gold")
    with desk.state.write() as connection:
        connection.execute(text("UPDATE trait SET released_at = 1 WHERE key = 'gold'"))
    desk.audiences = ["gold", "*"]
    assert desk.engage("gold", True)["waiting", WAITS] == 1
    assert desk.settle() == {}
    with desk.state.write() as connection:
        connection.execute(text("UPDATE trait SET released_at = NULL WHERE key = 'gold'"))
    assert desk.settle()["customer", "engage"] == 1
    assert desk.customer()["traits"] == {"gold": True}


def test_an_older_call_does_not_replace_what_waits(desk: Desk) -> None:
    desk.say(membership("gold", True) | {"timestamp": NOW - 5})
    desk.say(membership("gold", False) | {"timestamp": NOW - 9})
    desk.know("gold")
    desk.settle()
    assert desk.customer()["traits"] == {"gold": True}


def test_a_pull_that_could_know_an_early_call_stands(desk: Desk) -> None:
    desk.engage("gold", True)
    watermark = "2030-01-01T00:00:00Z"
    with desk.state.write() as connection:
        connection.execute(
            text(
                "INSERT INTO run (kind, state, started_at, committed_at, watermark) "
                "VALUES ('initial', 'done', 1, 1, :watermark)"
            ),
            {"watermark": watermark},
        )
    desk.now = NOW + 4 * HOUR
    desk.know("gold")
    assert desk.settle()["dropped", OLDER] == 1
    assert records(desk.state) == {}


def test_an_early_call_waits_a_day(desk: Desk) -> None:
    desk.engage("gold", True)
    desk.now = NOW + PATIENCE
    assert desk.settle() == {}
    desk.now += 1
    assert desk.settle() == {("dropped", UNKNOWN): 1}
    assert ask(desk.state, pending_calls.count) == 0


def test_early_calls_have_a_bound(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending_calls, "MOST", 3)
    counts = desk.say(*(membership(f"key_{number}", True) for number in range(5)))
    assert (counts["waiting", WAITS], counts["dropped", TOO_MANY]) == (3, 2)
    assert desk.engage("vip", True)["customer", "engage"] == 1


def test_early_calls_of_who_is_forgotten_go(desk: Desk) -> None:
    desk.engage("gold", True)
    with desk.state.write(alone=True) as connection:
        erasure.erase(connection, "u1", NOW)
    assert ask(desk.state, pending_calls.count) == 0


def test_call_and_trait_are_of_one_kind(desk: Desk) -> None:
    for key, value, what in (("vip", 99999, "trait"), ("spent", True, "audience")):
        assert desk.say(membership(key, value, what=what))["dropped", OTHER_KIND] == 1
    assert records(desk.state) == {}
    assert desk.say(membership("score", 5, what="trait"))["dropped", NOT_OURS] == 1


@pytest.mark.parametrize("name", ["stripeId", "awsm.customerIdentifier"])
def test_nobody_writes_or_removes_what_is_protected(desk: Desk, name: str) -> None:
    for value in ("cus_other", None):
        assert desk.identify(**{name: value, "plan": "pro"})["dropped", PROTECTED] == 1
    assert desk.customer()["identify_traits"].keys() == {"plan"}


def test_an_audience_cannot_have_a_protected_name(desk: Desk) -> None:
    desk.know("stripe_id")
    assert desk.engage("stripe_id", True)["dropped", PROTECTED] == 1


def test_a_name_is_engages_alone_also_when_it_becomes_so(desk: Desk) -> None:
    desk.identify(gold=True, plan="pro")
    desk.deliver()
    desk.now += 1
    desk.know("gold")
    called = {"plan": ["pro", NOW], "gold": [None, NOW + 1, [True]]}
    assert desk.customer() == {"traits": {}, "identify_traits": called}
    assert desk.claimed() == ["u1"]  # Amberflo is told
    change = list(records(desk.state, "change").values())[-1]
    assert (change["key"], change["before"], change["after"]) == ("gold", "true", None)
    assert (change["source"], change["delta"], change["run"]) == ("identify", 0, 1)
    assert desk.identify(gold=True)["dropped", ENGAGES] == 1


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
    assert [one for one, _ in ask(desk.state, suppression.waiting)] == ["u3", "u4"]
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


# Who waits for whom


def fill(desk: Desk, key: str, may: Any, count: int) -> None:
    events = [
        {"type": "identify", "userId": f"{key}-{number:03}", "traits": {"name": "X"}}
        for number in range(count)
    ]
    desk.say(*events, may=may, key=key)


def test_memberships_go_before_identifies(desk: Desk) -> None:
    fill(desk, "browser", DEFAULT_SCOPES, 20)
    desk.now += 1
    desk.engage("vip", True, "new-member")
    desk.engage("vip", True, "browser-007")
    assert set(desk.claimed(2)) == {"new-member", "browser-007"}
    assert desk.claimed(2) == ["browser-000", "browser-001"]


def test_keys_share_the_delivery_of_customers(desk: Desk) -> None:
    fill(desk, "browser", DEFAULT_SCOPES, 40)
    desk.now += 1
    fill(desk, "server", SCOPES, 3)
    fill(desk, "app", DEFAULT_SCOPES, 1)
    first = desk.claimed(9)
    assert len(first) == 9
    assert {one for one in first if not one.startswith("browser")} == {
        *("server-000", "server-001", "server-002", "app-000")
    }


def test_what_a_run_makes_due_has_its_part(desk: Desk) -> None:
    fill(desk, "browser", DEFAULT_SCOPES, 9)
    desk.say(*(membership("vip", True, f"member-{number}") for number in range(9)))
    with desk.state.write() as connection:
        state = snapshot.CustomerRow("of-a-run", "{}", None, None, None, None)
        snapshot.insert_customers(connection, [state], NOW)
    assert "of-a-run" in desk.claimed(4)


def test_a_customer_waits_in_the_first_of_its_lines(desk: Desk) -> None:
    event = {"type": "identify", "userId": "victim", "traits": {"plan": "a"}}

    def line() -> str:
        return str(records(desk.state)["victim"]["line"])

    desk.say(event, may=DEFAULT_SCOPES, key="browser")
    assert line() == "4:browser"
    desk.say(event | {"traits": {"plan": "b"}})
    assert line() == "3:server"
    desk.say(event | {"traits": {"plan": "c"}}, may=DEFAULT_SCOPES, key="browser")
    assert line() == "3:server"
    desk.engage("vip", True, "victim")
    assert line() == "1:server"
    desk.deliver()
    assert line() == "2"


def test_customers_that_wait_count_for_the_key(desk: Desk) -> None:
    fill(desk, "browser", DEFAULT_SCOPES, 4)
    desk.engage("vip", True)
    assert ask(desk.state, outbox.backlog_by_key) == {"browser": 4, "server": 1}


def accepted(key: str, count: int, *, name: str = "") -> list[Accepted]:
    return [
        Accepted(
            *("track", json.dumps({"type": "track", "userId": key, "event": name}).encode()),
            *(1, NOW, key, "track"),
        )
        for _ in range(count)
    ]


def test_keys_share_the_sorting(calls: Database) -> None:
    for _ in range(30):
        with calls.write() as connection:
            queue.accept(connection, accepted("browser", 10))
    with calls.write() as connection:
        queue.accept(connection, accepted("server", 5))
    assert ask(calls, queue.waiting_by_key) == {"browser": 300, "server": 5}
    found = ask(calls, lambda connection: queue.unprocessed(connection, 100))
    assert [one.key for one in found].count("server") == 5
    assert len(found) == 55
    assert {one.scopes for one in found} == {"track"}


def test_keys_share_the_delivery_of_meters(calls: Database) -> None:
    rows = [EventRow(f"b{number:03}", b"{}", NOW, NOW, "browser") for number in range(300)]
    rows += [EventRow(f"s{number}", b"{}", NOW, NOW + 1, "server") for number in range(5)]
    with calls.write() as connection:
        queue.store_processed(connection, [], rows)
        first = queue.claim(connection, 1, NOW + 1, 100)
    assert len(first) == 100
    assert {one.message_id for one in first if one.key == "server"} == {f"s{n}" for n in range(5)}


def test_each_of_many_keys_has_its_turn(calls: Database) -> None:
    rows = [
        EventRow(f"m{n}-{key}", b"{}", NOW, NOW, f"k{key}") for key in range(9) for n in range(9)
    ]
    with calls.write() as connection:
        queue.store_processed(connection, [], rows)
        seen = {queue.claim(connection, 1, NOW, 1)[0].key for _ in range(60)}
    assert len(seen) > 5
