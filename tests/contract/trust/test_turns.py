"""What calls may not do to others: who waits for whom."""

from __future__ import annotations

import json
from typing import Any

from state import outbox, queue, snapshot
from state.db.database import Database
from state.queue import Accepted, EventRow
from syncer.passthrough.scopes import DEFAULT_SCOPES, SCOPES
from tests.contract.trust.helpers import Desk, membership
from tests.support.state import NOW, ask, records


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
    assert {id_ for id_ in first if not id_.startswith("browser")} == {
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
    unprocessed = ask(calls, lambda connection: queue.unprocessed(connection, 100))
    assert [call.key for call in unprocessed].count("server") == 5
    assert len(unprocessed) == 55
    assert {call.scopes for call in unprocessed} == {"track"}


def test_keys_share_the_delivery_of_meters(calls: Database) -> None:
    rows = [EventRow(f"b{number:03}", b"{}", NOW, NOW, "browser") for number in range(300)]
    rows += [EventRow(f"s{number}", b"{}", NOW, NOW + 1, "server") for number in range(5)]
    with calls.write() as connection:
        queue.store_processed(connection, [], rows)
        first = queue.claim(connection, 1, NOW + 1, 100)
    assert len(first) == 100
    assert {event.message_id for event in first if event.key == "server"} == {
        f"s{n}" for n in range(5)
    }


def test_each_of_many_keys_has_its_turn(calls: Database) -> None:
    rows = [
        EventRow(f"m{n}-{key}", b"{}", NOW, NOW, f"k{key}") for key in range(9) for n in range(9)
    ]
    with calls.write() as connection:
        queue.store_processed(connection, [], rows)
        seen = {queue.claim(connection, 1, NOW, 1)[0].key for _ in range(60)}
    assert len(seen) > 5
