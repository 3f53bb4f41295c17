"""What calls make of customers, from the queue into the state: which call is the newest, what a
hold keeps back, which key is ours, and what of it the history has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text

from state import erasure, holds, outbox, queue, snapshot
from state.db import workers
from state.db.database import Database
from state.history import past
from state.history.record import ChangeRow, add_changes
from state.holds import APPROVED, REJECTED, Kept
from state.queue import Accepted
from state.snapshot import TraitRow
from syncer.clock import AHEAD, FUTURE
from syncer.engage.selection import KeySelection
from syncer.passthrough.customer_calls import HELD, NOT_OURS, OLDER
from syncer.passthrough.mapping import LONG_NAME
from syncer.passthrough.processor import Processor
from tests.support.state import NOW, ask, due, due_ids, put, records, row

HOUR = 3_600_000
Json = dict[str, Any]


class Desk:
    """Calls come in at `NOW` or so, and are sorted."""

    def __init__(self, state: Database, calls: Database) -> None:
        self.state, self.calls = state, calls
        self.audiences, self.computed_traits = ["*"], ["total_*"]
        self._made = 0
        known = [TraitRow("vip", "vip", "audience", 0)]
        known.append(TraitRow("total_1", "total_1", "computed_trait", 0))
        with state.write() as connection:  # that a run pulled before
            snapshot.put_traits(connection, known)

    def say(self, *events: Json, received: int = NOW) -> Json:
        """Accept and sort events; gives how many ended how."""
        before = ask(self.calls, queue.counters)
        for event in events:
            self._made += 1
            body = {"userId": "u1", "messageId": f"m{self._made}", **event}
            with self.calls.write() as connection:
                content = json.dumps(body).encode()
                queue.accept(connection, [Accepted(event["type"], content, 1, received)])
        processor = Processor(
            self.calls, self.state, self.audiences, self.computed_traits, lambda: received
        )
        while processor.process():
            pass
        after = ask(self.calls, queue.counters)
        return {
            counter: after[counter] - before.get(counter, 0)
            for counter in after
            if counter[0] != "call"
        }

    def identify(self, at: int | str, received: int = NOW, **traits: Any) -> Json:
        return self.say({"type": "identify", "timestamp": at, "traits": traits}, received=received)

    def engage(
        self, key: str, value: Any, at: int | str, received: int = NOW, what: str = "audience"
    ) -> Json:
        event = {
            "type": "identify",
            "timestamp": at,
            "traits": {key: value},
            "context": {"personas": {"computation_class": what, "computation_key": key}},
        }
        return self.say(event, received=received)

    def pulled(self, key: str, before: Any, after: Any, at: int | None) -> None:
        """A run commits what a row of the warehouse says of u1."""
        (state,) = ask(self.state, lambda c: snapshot.find(c, ["u1"])) or [row("u1")]
        traits = json.loads(state.traits) | {key: after}
        if after is None:
            del traits[key]
        texts = [None if value is None else json.dumps(value) for value in (before, after)]
        with self.state.write(alone=True) as connection:
            snapshot.put_traits(connection, [TraitRow(key, key, "audience", 0)])
            if state == row("u1"):
                snapshot.insert_customers(connection, [state], NOW)
            new = state._replace(traits=json.dumps(traits, sort_keys=True, separators=(",", ":")))
            snapshot.update_customers(connection, [new], NOW)
            change = ChangeRow("u1", key, key, *texts, at)
            add_changes(connection, [change], 1, NOW)

    def hold(self, key: str, before: str | None, after: str | None, at: int | None = None) -> int:
        """The guard holds what a run found of u1."""
        with self.state.write(alone=True) as connection:
            number = holds.hold(
                connection, key, key, "too many", run=1, now=NOW, members=9, leaving=9
            )
            holds.keep(connection, number, key, [Kept("u1", before, after, at)], 1, NOW)
        return number

    def decide(self, number: int, decision: str, at: int) -> None:
        with self.state.write(alone=True) as connection:
            holds.decide(connection, [number], decision, at)

    def held(self) -> bool:
        return bool(ask(self.state, lambda connection: holds.in_force(connection, ["u1"])))

    def customer(self) -> Json:
        record = records(self.state)["u1"]
        names = ("traits", "identify_traits", "event_times")
        return {name: json.loads(record[name] or "{}") for name in names} | {
            name: record[name] for name in ("name", "email", "rev")
        }

    def changes(self, source: str | None = "identify") -> list[tuple[Any, ...]]:
        """The history that calls made."""
        fields = ("key", "trait", "before", "after", "observed_at", "delta")
        entries = [
            record for record in records(self.state, "change").values() if record["run"] is None
        ]
        return [
            tuple(entry[name] for name in fields) for entry in entries if entry["source"] == source
        ]


@pytest.fixture
def desk(database: Database, calls: Database) -> Iterator[Desk]:
    return Desk(database, calls)


# Which is newer


def test_what_one_batch_says_and_takes_back_is_due_like_its_history(desk: Desk) -> None:
    """Only then somebody tells that Amberflo has what the last of it says."""
    desk.identify(NOW - 9, name="Ada")
    desk.engage("vip", True, NOW - 9)
    claimed = due(desk.state, NOW)
    with desk.state.write() as connection:
        outbox.acknowledge(connection, claimed, NOW)
    identify = {"type": "identify", "traits": {}}
    desk.say(
        {**identify, "timestamp": NOW - 2, "traits": {"name": "Grace"}},
        {**identify, "timestamp": NOW - 1, "traits": {"name": "Ada"}},
    )
    claimed = due(desk.state, NOW)
    assert [customer.customer_id for customer in claimed] == ["u1"]
    assert [change[3] for change in desk.changes()] == ['"Ada"', '"Grace"', '"Ada"']
    with desk.state.write() as connection:
        outbox.acknowledge(connection, claimed, NOW + 5)
    assert {record["delivered_at"] for record in records(desk.state, "change").values()} == {
        NOW,
        NOW + 5,
    }


def test_a_stamp_says_when_it_happened_and_when_it_came(desk: Desk) -> None:
    desk.engage("vip", True, NOW - HOUR)
    desk.identify(NOW - 5, name="Ada", email="ada@example.com")
    assert desk.customer()["event_times"] == {
        "vip": [NOW - HOUR, NOW],
        "name": [NOW - 5, NOW],
        "email": [NOW - 5, NOW],
    }


@pytest.mark.parametrize("at", ["2569-11-27T02:30:00.000Z", "2036-01-01T00:00:00Z", NOW + AHEAD])
def test_a_time_in_the_future_wins_until_its_receipt_only(desk: Desk, at: int | str) -> None:
    desk.identify(at, name="Rosa Old", plan="free")
    desk.engage("vip", True, at)
    customer = desk.customer()
    assert customer["event_times"] == {"name": [NOW, NOW], "vip": [NOW, NOW]}
    assert customer["identify_traits"] == {"plan": ["free", NOW]}
    later = NOW + 1
    desk.identify(later, later, name="Rosa New", plan="pro")
    desk.engage("vip", False, later, later)
    customer = desk.customer()
    plan = ["pro", later, ["free"]]  # which may be at Amberflo still
    assert (customer["name"], customer["identify_traits"]) == ("Rosa New", {"plan": plan})
    assert customer["traits"] == {"vip": False}


def test_what_is_not_believed_is_counted(desk: Desk) -> None:
    counts = desk.identify("2569-11-27T02:30:00.000Z", name="Rosa")
    assert counts["noted", FUTURE] == 1


def test_a_call_that_is_older_than_another_is_ignored_and_counted(desk: Desk) -> None:
    desk.engage("vip", True, NOW - HOUR)
    assert desk.engage("vip", False, NOW - HOUR - 1)["dropped", OLDER] == 1
    assert desk.customer()["traits"] == {"vip": True}
    assert desk.engage("vip", False, NOW - HOUR)["customer", "engage"] == 1
    assert desk.customer()["traits"] == {"vip": False}


def test_a_call_is_laid_over_an_older_row_and_gives_way_to_a_newer_one(desk: Desk) -> None:
    desk.pulled("vip", None, True, NOW - 2 * HOUR)
    assert desk.engage("vip", False, NOW - 3 * HOUR)["dropped", OLDER] == 1
    assert desk.customer()["traits"] == {"vip": True}
    desk.engage("vip", False, NOW - HOUR)
    assert desk.customer()["traits"] == {"vip": False}


@pytest.mark.parametrize("at", [None, NOW, NOW + 9 * HOUR])
def test_a_row_that_is_gone_or_of_the_future_is_not_newer(desk: Desk, at: int | None) -> None:
    desk.pulled("vip", True, False, at)
    desk.engage("vip", True, NOW - HOUR)
    assert desk.customer()["traits"] == {"vip": True}


def test_what_an_older_program_believed_of_the_future_gives_way(desk: Desk) -> None:
    """It kept the time alone, and any time."""
    far = NOW * 2
    state = row("u1", "Old", vip=True)._replace(
        identify_traits=json.dumps({"plan": ["free", far]}),
        event_times=json.dumps({"name": far, "vip": far, "email": NOW - HOUR}),
    )
    put(desk.state, state)
    desk.identify(NOW - HOUR - 1, name="New", email="late@example.com", plan="pro")
    desk.engage("vip", False, NOW)
    customer = desk.customer()
    assert (customer["name"], customer["email"], customer["traits"]) == (
        "New",
        None,
        {"vip": False},
    )
    assert customer["identify_traits"] == {"plan": ["pro", NOW - HOUR - 1, ["free"]]}
    assert customer["event_times"]["vip"] == [NOW, NOW]


def test_a_name_of_a_newer_row_stays(desk: Desk) -> None:
    put(desk.state, row("u1", "Pulled"))
    with desk.state.write(alone=True) as connection:
        change = ChangeRow("u1", "name", "customerName", '"Old"', '"Pulled"', NOW - HOUR, delta=0)
        add_changes(connection, [change], 1, NOW)
    desk.identify(NOW - 2 * HOUR, name="Late")
    assert desk.customer()["name"] == "Pulled"
    desk.identify(NOW, name="New")
    assert desk.customer()["name"] == "New"


# The history


def test_what_an_identify_changes_is_in_the_history(desk: Desk) -> None:
    desk.identify(NOW - 9, name="Ada", email="a@example.com", plan="free", beta=True)
    desk.identify(NOW - 8, name="Ada", plan="free", beta=True)  # says nothing new
    desk.identify(NOW - 7, name="Ada L.", plan="pro", beta=None)
    desk.identify(NOW - 9, name="Old", plan="old")
    assert desk.changes() == [
        ("name", "customerName", None, '"Ada"', NOW - 9, 0),
        ("email", "customerEmail", None, '"a@example.com"', NOW - 9, 0),
        ("plan", "plan", None, '"free"', NOW - 9, 0),
        ("beta", "beta", None, "true", NOW - 9, 0),
        ("name", "customerName", '"Ada"', '"Ada L."', NOW - 7, 0),
        ("plan", "plan", '"free"', '"pro"', NOW - 7, 0),
        ("beta", "beta", "true", None, NOW - 7, 0),
    ]
    assert desk.changes(None) == []
    revs = [record["rev"] for record in records(desk.state, "change").values()]
    assert revs == [1, 1, 1, 1, 2, 2, 2]
    assert desk.customer()["rev"] == 2


def test_what_a_client_says_is_no_trait_of_engage(desk: Desk) -> None:
    """Neither now nor as of a moment, and nobody is in it."""
    desk.identify(NOW, name="Ada", beta=True)
    desk.engage("vip", True, NOW)
    with desk.state.write(alone=True) as connection:  # a run has another name
        change = ChangeRow("u1", "name", "customerName", '"Ada"', '"Eva"', NOW, delta=0)
        add_changes(connection, [change], 1, NOW)
    for at in (None, NOW):
        traits = ask(desk.state, lambda c, at=at: past.traits_at(c, "u1", at))
        assert traits == {"vip": "true"}
        assert ask(desk.state, lambda c, at=at: past.count_at(c, "beta", at)) == 0


def test_a_name_of_a_trait_has_its_bounds(desk: Desk) -> None:
    """An index takes no longer one."""
    long, longest = "é" * 201, "é" * 200
    assert desk.identify(NOW, **{long: 1, longest: 1})["dropped", LONG_NAME] == 1
    assert desk.changes() == [(longest, longest, None, "1", NOW, 0)]


def test_what_an_identify_changed_is_forgotten_with_the_customer(desk: Desk) -> None:
    desk.identify(NOW, name="Ada", plan="free")
    with (
        workers.register(desk.state, "worker") as worker,
        desk.state.write(alone=True) as connection,
    ):
        erasure.take(connection, "u1", worker.number, NOW)
        assert erasure.erase(connection, "u1", NOW).changes == 2
    assert records(desk.state, "change") == {}


# Holds


def test_a_call_does_not_say_past_a_hold_what_it_keeps_back(desk: Desk) -> None:
    desk.pulled("vip", None, True, NOW - 9 * HOUR)
    desk.hold("vip", "true", "false", NOW - HOUR)
    assert desk.engage("vip", False, NOW - 1)["dropped", HELD] == 1
    assert desk.customer()["traits"] == {"vip": True}
    assert "vip" not in desk.customer()["event_times"]
    assert desk.held()
    # An older one that says the opposite tells nothing new.
    assert desk.engage("vip", True, NOW - HOUR - 1)["dropped", OLDER] == 1
    assert desk.held()


def test_a_call_that_says_the_opposite_ends_what_is_held(desk: Desk) -> None:
    desk.pulled("vip", None, True, NOW - 9 * HOUR)
    desk.hold("vip", "true", "false", NOW - HOUR)
    desk.engage("vip", True, NOW - 1)
    assert not desk.held()
    assert desk.customer()["traits"] == {"vip": True}
    assert desk.customer()["event_times"] == {"vip": [NOW - 1, NOW]}
    desk.engage("vip", False, NOW)
    assert desk.customer()["traits"] == {"vip": False}


def test_a_hold_concerns_its_trait_and_customer_only(desk: Desk) -> None:
    desk.pulled("vip", None, True, NOW - 9 * HOUR)
    desk.pulled("beta", None, True, NOW - 9 * HOUR)
    desk.hold("vip", "true", "false")
    desk.engage("beta", False, NOW)
    assert desk.customer()["traits"] == {"vip": True, "beta": False}
    desk.say(
        {
            "type": "track",
            "event": "Audience Exited",
            "userId": "u2",
            "properties": {"vip": True},
            "context": {"personas": {"computation_class": "audience", "computation_key": "vip"}},
        }
    )
    assert json.loads(records(desk.state)["u2"]["traits"]) == {"vip": True}


def test_a_new_customer_that_is_held_does_not_come_by_a_call(desk: Desk) -> None:
    desk.hold("vip", None, "true")
    assert desk.engage("vip", True, NOW)["dropped", HELD] == 1
    assert records(desk.state) == {}
    desk.engage("vip", False, NOW)
    assert not desk.held()
    assert records(desk.state) == {}
    desk.engage("vip", True, NOW)
    assert due_ids(desk.state) == ["u1"]


def test_a_call_since_a_rejection_is_something_new(desk: Desk) -> None:
    desk.pulled("vip", None, True, NOW - 9 * HOUR)
    number = desk.hold("vip", "true", "false", NOW - HOUR)
    desk.decide(number, REJECTED, NOW)
    assert desk.engage("vip", False, NOW - 1)["dropped", HELD] == 1  # it was here before
    assert desk.engage("vip", False, NOW, NOW + 1)["dropped", HELD] == 1  # it comes late, or again
    assert desk.held()
    assert desk.engage("vip", False, NOW + 1, NOW + 1)["customer", "engage"] == 1
    assert not desk.held()
    assert desk.customer()["traits"] == {"vip": False}


def test_an_approved_hold_keeps_nothing_back(desk: Desk) -> None:
    desk.pulled("vip", None, True, NOW - 9 * HOUR)
    desk.decide(desk.hold("vip", "true", "false"), APPROVED, NOW)
    desk.engage("vip", False, NOW)
    assert desk.customer()["traits"] == {"vip": False}


# Which key is ours


def test_a_key_that_the_config_leaves_out_is_not_ours_though_known(desk: Desk) -> None:
    desk.pulled("beta", None, True, NOW - 9 * HOUR)
    for globs in (["vip"], ["*", "!beta"], ["!b*", "*"], []):
        desk.audiences = globs
        assert desk.engage("beta", False, NOW)["dropped", NOT_OURS] == 1
    desk.audiences = ["b*"]
    desk.engage("beta", False, NOW)
    assert desk.customer()["traits"] == {"beta": False}


def test_a_trait_that_was_given_back_is_not_ours(desk: Desk) -> None:
    desk.pulled("vip", None, True, NOW - 9 * HOUR)
    with desk.state.write() as connection:
        connection.execute(text("UPDATE trait SET released_at = 1"))
    for key in ("vip", "VIP"):  # of one name
        assert desk.engage(key, False, NOW)["dropped", NOT_OURS] == 1
    assert desk.customer()["traits"] == {"vip": True}
    desk.identify(NOW, vip="a client's now")
    assert desk.customer()["identify_traits"] == {"vip": ["a client's now", NOW]}


def test_a_key_is_ours_by_its_kind(desk: Desk) -> None:
    ours = [("vip", True, "audience"), ("total_1", 5, "trait")]
    others = [("score", 5, "trait"), ("total_2", True, "audience"), ("name", True, "audience")]
    for key, value, what in others:
        assert desk.engage(key, value, NOW, what=what)["dropped", NOT_OURS] == 1
    for key, value, what in ours:
        assert desk.engage(key, value, NOW, what=what)["customer", "engage"] == 1
    assert desk.customer()["traits"] == {"vip": True, "total_1": 5}


@pytest.mark.parametrize(
    ("key", "audiences", "computed_traits", "kind"),
    [
        ("vip", ["*"], [], "audience"),
        ("vip", ["*"], ["v*"], "computed_trait"),
        ("vip", ["*", "!v*"], [], None),
        ("vip", ["!v*", "*"], [], None),
        ("vip", ["!v*"], [], None),
        ("vip", ["*"], ["*", "!vip"], "audience"),
        ("name", ["*"], ["name"], None),
        ("email", ["email"], [], None),
        ("hidden_entry_vip", ["*"], ["*"], None),
        ("vip", [], [], None),
    ],
)
def test_the_kind_of_a_key_by_the_config(
    key: str, audiences: list[str], computed_traits: list[str], kind: str | None
) -> None:
    assert KeySelection(audiences, computed_traits).kind(key) == kind
