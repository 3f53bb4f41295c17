"""Webhooks of Segment, and what Engage says in realtime."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import httpx
import orjson

from syncer.engage.calls import BAD_MEMBERSHIP, UNKNOWN_CLASS
from syncer.passthrough.mapping import MEMBERSHIP_WITHOUT_USER
from syncer.sandbox.engage import EngageSandbox
from syncer.sandbox.faults import Faults
from tests.e2e.receiver.helpers import PAYLOADS, Json, basic
from tests.support.daemon import KEY, Daemon, daemon, know, refused, taken
from tests.support.events import ago, engage_call, sign, track, unique
from tests.support.installation import Installation, expected_records
from tests.support.processes import wait_until
from tests.support.warehouse import Warehouse

# Webhooks


def test_a_signed_webhook(receiver: Daemon) -> None:
    """The signature is of the bytes as they came, whatever JSON writer made them."""
    first, second, third = unique(), unique(), unique()
    bodies = [
        b'{"type":"track","userId":"u1","event":"E","messageId":"%s"}' % first.encode(),
        b' {"messageId" : "%s", "properties":{"value":1.0,"a":"\\u00e9\\/"},\n'
        b'"event":"E", "type":"track" ,"userId":"u1"}\r\n' % second.encode(),
        b'{"messageId":"%s","type":"track","userId":"u1","event":"E","properties":{"a":"caf\xc3\xa9"'
        b',"a":"last"},"integrations":{"All":false}}' % third.encode(),
    ]
    for body in bodies:
        signature = sign(body)
        receiver.send("webhook", body, key=None, x_signature=signature)
        receiver.send("webhook", body, key=None, x_signature=signature.upper())
        for wrong in (sign(body, "other"), sign(body + b" "), signature[:-1], "", "\u00e9"):
            answer = receiver.post("webhook", body, x_signature=wrong.encode("latin-1"))
            refused(answer, 401, "invalid_signature")
        refused(receiver.post("webhook", body), 401, "invalid_signature")
        tampered = body.replace(b"u1", b"u2")
        refused(receiver.post("webhook", tampered, x_signature=signature), 401, "invalid_signature")
    records = receiver.records(first, second, third)
    assert [record["dimensions"] for record in records] == [{}, {"a": "__"}, {"a": "last"}]


def test_a_signed_batch_of_a_webhook(receiver: Daemon) -> None:
    """Where the signature covers the first element only, a write key must be there too."""
    events = [track(properties={"deep": [[{"a": ']"}'}]]}) for _ in range(3)]
    first = orjson.dumps(events[0]).replace(b":", b" : ")
    rest = b" ,\n".join(map(orjson.dumps, events[1:]))
    body = b" [ " + first + b" ,\n" + rest + b" ] "
    refused(receiver.post("webhook", body, x_signature=sign(rest)), 401, "invalid_signature")
    for headers in ({}, basic("wrong"), {"authorization": f"Bearer {KEY}"}):
        answer = receiver.post("webhook", body, key=None, x_signature=sign(first), **headers)
        refused(answer, 401, "invalid_write_key")
    refused(
        receiver.post("webhook?key=wrong", body, key=None, x_signature=sign(first)),
        401,
        "invalid_write_key",
    )
    receiver.send("webhook", body, x_signature=sign(first))
    receiver.send(f"webhook?key={KEY}", body, key=None, x_signature=sign(first))
    receiver.records(*(event["messageId"] for event in events))
    refused(receiver.post("webhook", b"[]", x_signature=sign(b"")), 401, "invalid_signature")


def test_a_batch_of_a_webhook_that_is_signed_whole(receiver: Daemon) -> None:
    """That says more than a key does, so none is needed."""
    events = [track() for _ in range(3)]
    body = orjson.dumps(events)
    receiver.send("webhook", body, key=None, x_signature=sign(body))
    receiver.records(*(event["messageId"] for event in events))
    longer = orjson.dumps([*events, track()])
    answer = receiver.post("webhook", longer, x_signature=sign(body))
    refused(answer, 401, "invalid_signature")


def test_a_webhook_of_as_many_events_as_segment_sends(receiver: Daemon) -> None:
    """4,000 events and 8 MB, if the caller has a key; without, as from anybody else."""
    user = unique("user")
    pad = {"text": "x" * 1800}
    events = [
        {"type": "track", "userId": user, "event": "E", "messageId": unique(), "properties": pad}
        for _ in range(4001)
    ]
    first, most = orjson.dumps(events[0]), orjson.dumps(events[:4000])
    assert 7_500_000 < len(most) < 8 * 1024 * 1024
    refused(receiver.post("webhook", events, x_signature=sign(first)), 413, "too_large")
    padding = b" " * (8 * 1024 * 1024 - len(most))
    answer = receiver.post("webhook", most + padding + b" ", x_signature=sign(first))
    refused(answer, 413, "too_large")
    answer = receiver.post("webhook", most, key=None, x_signature=sign(most))
    refused(answer, 413, "too_large")
    receiver.send(f"webhook?key={KEY}", most + padding, key=None, x_signature=sign(first))
    assert len(receiver.by_customer(user)) == 4000
    receiver.send("webhook", most, zipped=True, x_signature=sign(first))


def test_large_webhooks_keep_nobody_waiting(receiver: Daemon) -> None:
    """They are unzipped, checked and read beside the loop that takes calls.

    One round of three is enough: other work on the machine makes some wait, a loop that unzips
    makes all.
    """
    events = [track(properties={"text": "x" * 1000}) for _ in range(4000)]
    body = gzip.compress(orjson.dumps(events), 1)
    signature = sign(orjson.dumps(events[0]))

    def longest_wait() -> float:
        longest, over = 0.0, threading.Event()

        def send() -> None:
            with httpx.Client(trust_env=False, timeout=30) as client:
                for _ in range(3):
                    client.post(
                        f"{receiver.url}/v1/webhook?key={KEY}",
                        content=body,
                        headers={"x-signature": signature, "content-encoding": "gzip"},
                    )
            over.set()

        sender = threading.Thread(target=send)
        sender.start()
        while not over.is_set():
            began = time.perf_counter()
            refused(receiver.post("track", {}, key=None), 401, "invalid_write_key")
            longest = max(longest, time.perf_counter() - began)
        sender.join()
        receiver.settle()
        return longest

    assert any(longest_wait() < 0.25 for _ in range(3))


def test_segments_own_webhook_events(receiver: Daemon) -> None:
    """The documents' samples, with a user of this test."""
    user = unique("user")
    for event in PAYLOADS["webhook_classic_events"]:
        if event["type"] == "delete":
            continue
        body = orjson.dumps(event | ({"userId": user} if "userId" in event else {}))
        receiver.send("webhook", body, key=None, x_signature=sign(body))
    records = receiver.by_customer(user)
    assert sorted(record["meterApiName"] for record in records) == [
        "Purchased an Item",
        "page",
        "screen",
    ]
    assert {record["meterTimeInMillis"] for record in records} == {1354408208276}
    assert receiver.customer(user) == {
        "customerName": "Achilles",
        "customerEmail": "achilles@segment.com",
        "traits": {"subscriptionPlan": "Premium", "friendCount": 29},
    }


# Engage in realtime


def test_memberships_by_call_and_by_pull(installation: Installation) -> None:
    """The newest Segment time wins, and the history says who told it."""
    with closing(Warehouse(installation.folder / "engage.db")) as profiles:
        profiles.put("ada", ago(6), vip="true", name="Ada")
        profiles.put("bob", ago(6), vip="false", name="Bob")
        url = f"sqlite:///{installation.folder / 'syncer.db'}"
        know(url, "Big Spender Club", "vip")
        know(url, "total_revenue_180_days", kind="computed_trait")
        with daemon(installation) as service:
            _memberships(service, installation, profiles)


def _memberships(service: Daemon, installation: Installation, profiles: Warehouse) -> None:
    def say(event: Json) -> None:
        body = orjson.dumps(event)
        service.send("webhook", body, key=None, x_signature=sign(body))
        service.settle()

    def present(user: str) -> Json:
        traits: Json = service.customer(user)["traits"]
        audited = installation.json("audit", "customer", user)
        assert audited["present"] == traits
        assert all(change["delivered_at"] for change in audited["changes"])
        return traits

    def last_change(user: str) -> tuple[Any, ...]:
        change = installation.json("audit", "customer", user)["changes"][-1]
        fields = ("trait", "key", "before", "after", "run", "observed_at")
        return tuple(change[name] for name in fields)

    assert service.first_run()["delivered"] == 1
    assert installation.holds().keys() == {"ada"}

    # A call is newer than the pull: it counts at once, and an older pull does not undo it.
    exited_at = ago(4)
    say(engage_call("ada", "vip", False, exited_at))
    assert present("ada") == {"vip": False}
    assert last_change("ada") == ("vip", "vip", True, False, None, exited_at)
    for arguments in (["--full"], []):
        assert installation.json("sync", *arguments)["due"] == 0
    assert present("ada") == {"vip": False}
    profiles.put("ada", ago(5), vip="true", name="Ada")
    assert installation.json("sync", "--full")["due"] == 0

    # A newer pull does, and then an older call does not undo that.
    entered = ago(2)
    profiles.put("ada", entered, vip="true")
    run = installation.json("sync")
    assert run["delivered"] == 1
    assert present("ada") == {"vip": True}
    assert last_change("ada") == ("vip", "vip", False, True, run["run"], entered)
    say(engage_call("ada", "vip", False, ago(3)))
    assert present("ada") == {"vip": True}
    say(engage_call("ada", "vip", False, ago(1), kind="track"))
    assert present("ada") == {"vip": False}
    assert last_change("ada")[2:5] == (True, False, None)

    # Who was never a member is not sent for a `false`; by a call of a new user a customer is made.
    say(engage_call("bob", "vip", False, ago(1)))
    say(engage_call("carl", "vip", False, ago(1)))
    assert installation.holds().keys() == {"ada"}
    say(engage_call("carl", "Big Spender Club", True, ago(0.5), what="journey_step"))
    assert present("carl") == {"big_spender_club": True}
    assert last_change("carl")[:5] == ("big_spender_club", "Big Spender Club", None, True, None)
    assert service.customer("carl")["customerName"] == "carl"
    say(engage_call("carl", "total_revenue_180_days", 450.0, ago(0.5), what="trait"))
    assert present("carl") == {"big_spender_club": True, "total_revenue_180_days": 450.0}
    say(engage_call("carl", "total_revenue_180_days", None, ago(0.4), what="trait"))
    assert present("carl") == {"big_spender_club": True}

    # The warehouse does not know of Carl yet: that is no exit. An identify cannot set a membership.
    assert installation.json("sync", "--full")["due"] == 0
    service.send("identify", {"userId": "carl", "traits": {"big_spender_club": False, "x": 1}})
    assert service.customer("carl")["traits"] == {"big_spender_club": True, "x": 1}
    members = installation.json("audit", "audience", "Big Spender Club", "--at", ago(0))
    assert members["members"] == ["carl"]
    entered_rows = installation.json("audit", "audience", "vip")["entered"]
    assert [(row["customer_id"], row["run"] is None) for row in entered_rows] == [
        ("ada", False),
        ("ada", False),
    ]

    # What is no membership is a failure, never a meter.
    dropped = service.calls("dropped", MEMBERSHIP_WITHOUT_USER)
    wrong = [
        (engage_call("dora", "vip", "true", ago(1)), BAD_MEMBERSHIP),
        (engage_call("dora", "vip", 1, ago(1)), BAD_MEMBERSHIP),
        (engage_call("dora", "vip", True, ago(1), what="forecast"), UNKNOWN_CLASS),
    ]
    for event, _ in wrong:
        say(event)
    service.batch(engage_call("", "vip", True, ago(1)) | {"anonymousId": "a"})
    service.settle()
    assert service.calls("dropped", MEMBERSHIP_WITHOUT_USER) == dropped + 1
    assert [failure["reason"] for failure in service.failures("dora")] == [
        reason for _, reason in wrong
    ]
    assert installation.amberflo.records == []
    assert installation.holds().keys() == {"ada", "carl"}
    assert installation.amberflo.stats()["overlapping_writes"] == 0


def test_segments_own_engage_events(receiver: Daemon) -> None:
    """The documents' and other destinations' samples, each a membership or a computed trait."""
    wanted = {
        "engage_identify_audience_exit_real_responsys": None,
        "engage_identify_audience_real_sendgrid": {"seg_audience_name_1": True},
        "engage_track_audience_entered_real_amazon_amc": {"amazon_ads_audience_6_may_24": True},
        "engage_track_audience_entered_real_livelike": {"test_audience": True},
    }
    users = {}
    for name in wanted:
        users[name] = unique("user")
        body = orjson.dumps(PAYLOADS[name] | {"userId": users[name]})
        receiver.send("webhook", body, key=None, x_signature=sign(body))
    receiver.settle()
    held = receiver.installation.holds()
    for name, traits in wanted.items():
        assert held.get(users[name], {}).get("traits") == traits, name
        assert receiver.by_customer(users[name]) == []
        assert receiver.failures(users[name]) == []


def test_a_sync_beside_the_daemon(installation: Installation) -> None:
    """A run goes on while calls of the same customers come in: it ends and its sums close, no
    customer is written by two at a time, and in the end Amberflo has what both said."""
    with closing(EngageSandbox(installation.source_url, seed=5)) as engage:
        engage.fill(250, 5)
        chosen = sorted(expected_records(engage))[:10]
        installation.amberflo.faults = Faults.parse("slow=1,slow_seconds=0.02")
        with daemon(installation) as service:
            assert service.first_run()["due"] > 200
            engage.observe()
            assert len(engage.evolve(hours=2.5, fraction=0.1).changed) > 10
            with calling(service, chosen) as rounds:
                wait_until(lambda: rounds, what="a call")
                runs_beside(installation, "sync")
                engage.observe()
                assert len(engage.evolve(hours=2.5, fraction=0.1).changed) > 10
                runs_beside(installation, "sync", "--full")
            service.settle()
            wanted = expected_records(engage)
            for user in chosen:
                wanted[user]["traits"]["round"] = len(rounds)
            assert installation.holds() == wanted
            assert installation.json("sync")["due"] == 0
            assert installation.amberflo.stats()["overlapping_writes"] == 0


@contextmanager
def calling(service: Daemon, users: list[str]) -> Iterator[list[int]]:
    """Identify calls of these users, round after round, as fast as they are delivered."""
    ended, rounds = threading.Event(), list[int]()

    def call_on() -> None:
        with httpx.Client(trust_env=False) as client:
            while not ended.is_set():
                rounds.append(len(rounds) + 1)
                events = [
                    {"type": "identify", "userId": user, "traits": {"round": rounds[-1]}}
                    for user in users
                ]
                body = {"writeKey": KEY, "batch": events}
                taken(client.post(f"{service.url}/v1/batch", json=body))
                time.sleep(0.1)

    thread = threading.Thread(target=call_on)
    thread.start()
    try:
        yield rounds
    finally:
        ended.set()
        thread.join()


def runs_beside(installation: Installation, *arguments: str) -> None:
    """A run in a process of its own ends well and its sums close."""
    process = installation.start(*arguments, "--json")
    try:
        out, said = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, out + said
    run = orjson.loads(out)
    assert run["state"] == "done"
    assert run["due"] == run["delivered"] + run["failed"] + run["held"]
