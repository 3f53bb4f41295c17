"""Calls of Engage that come while a run has compared and not yet written."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from state import queue, snapshot
from state.history import listings, past
from state.queue import Accepted
from syncer.app import App
from syncer.config import load
from syncer.progress import LineProgress
from syncer.sandbox.engage import EngageSandbox
from tests.support import calls as told_calls
from tests.support.installation import Installation
from tests.support.progress import Interrupted
from tests.support.warehouse import Warehouse


def test_the_history_says_what_was_there_and_the_newer_one_stays(
    installation: Installation, engage: EngageSandbox
) -> None:
    engage.fill(200, 3)
    installation.run("sync")
    engage.evolve(hours=3, fraction=0.4)
    entering = [
        (customer["customer_id"], change["key"], change["before"])
        for customer in installation.json("diff", "--customers")["changes"]
        for change in customer["changes"]
        if change["after"] is True and not customer["new"]
    ]
    first_times = [entry for entry in entering if entry[2] is None]
    again, first = next(entry for entry in entering if entry[2] is False), first_times[0]
    same, before, older = [entry for entry in first_times if entry[0] not in (again[0], first[0])][
        :3
    ]
    now = datetime.now(UTC)
    received_at = round(now.timestamp() * 1000)
    calls = [
        (same, True, now),  # says what the pull says
        (before, True, now - timedelta(days=60)),  # says it too, and older
        (again, False, now),  # says the same as before, and newer
        (first, False, now),  # says the contrary, and newer
        (older, False, now - timedelta(days=60)),  # says the contrary, and older
    ]
    assert len({entry[0] for entry, _, _ in calls}) == 5
    config = load(installation.config, {})

    def arrive() -> None:
        app = App(config, LineProgress())
        with ExitStack() as opened:
            inbox = opened.enter_context(app.queue(writes=True))
            state = opened.enter_context(app.state(writes=True))
            for place, ((customer_id, key, _), value, at) in enumerate(calls):
                call = {
                    "type": "identify",
                    "userId": customer_id,
                    "messageId": f"call-{place}",
                    "timestamp": at.isoformat(),
                    "traits": {key: value},
                    "context": {
                        "personas": {"computation_class": "audience", "computation_key": key}
                    },
                }
                with inbox.write() as connection:
                    body = orjson.dumps({**call, "writeKey": "key"})
                    queue.accept(connection, [Accepted("identify", body, 1, received_at)])
            app.processor(inbox, state).process()

    with App(config, Interrupted(arrive)).runs() as runs:
        assert runs.sync().problems == []

    def told(entry: tuple[str, str, Any]) -> list[tuple[Any, Any, int | None]]:
        changes = installation.json("audit", "customer", entry[0], "--key", entry[1])["changes"]
        return [(change["before"], change["after"], change["run"]) for change in changes]

    def held(entry: tuple[str, str, Any]) -> Any:
        return installation.holds()[entry[0]]["traits"][trait[entry[1]]]

    trait = {
        audience["audience"]: audience["trait"]
        for audience in installation.json("audit", "at", now.isoformat())["audiences"]
    }
    assert told(same) == [(None, True, None)]
    assert told(before) == [(None, True, None)]
    assert told(again) == [(None, False, 1)]
    assert told(first) == [(None, False, None)]
    assert told(older) == [(None, False, None), (False, True, 2)]
    assert [held(entry) for entry, _, _ in calls] == [True, True, False, False, True]
    # What was counted on the way is what the history comes to.
    with App(config, LineProgress()).state(writes=False) as database, database.read() as connection:
        for row in snapshot.traits(connection):
            if row.kind == "audience":
                assert past.count_at(connection, row.key) == row.members
                (size,) = past.sizes(connection, row.key, 0, 10**13, 1)
                assert size.members == row.members
                moves = listings.key_moves(connection, row.key)
                assert moves.entered - moves.exited == row.members


def test_what_a_call_applied_meanwhile_is_not_held(
    installation: Installation, warehouse: Warehouse
) -> None:
    """Were it listed as held, it would be at Amberflo all the same, and a rejection would be told
    and not be."""
    members = warehouse.users(40, ago=40, vip="true")
    installation.run("sync")
    for customer_id in members[:20]:
        warehouse.say(customer_id, "vip", "false", ago=1)
    out, again = members[0], members[1]

    def arrive() -> None:
        told_calls.take(
            installation.config,
            told_calls.membership(out, "vip", False, ago=1),
            told_calls.membership(again, "vip", True, ago=0.5),
        )

    with App(load(installation.config, {}), Interrupted(arrive)).runs() as runs:
        result = runs.sync()
    shown = installation.json("runs", "show", str(result.run))
    assert (shown["state"], shown["held"]) == ("held", 18)
    assert [hold["customers"] for hold in shown["holds"]] == [18]
    assert installation.members("vip") == set(members) - {out}
    installation.run("runs", "reject", "--yes", str(result.run))
    installation.run("sync", "--full")
    assert installation.members("vip") == set(members) - {out}
