"""What a browser's key, which is public, can do to others: nothing. By the real daemon."""

from __future__ import annotations

import copy
import io
import time
from typing import Any

import orjson
import pytest

from syncer.passthrough.customer_calls import (
    DELETE_WAITS,
    ENGAGES,
    MANY_TRAITS,
    NOTHING_OF_OURS,
    OTHER_KIND,
    PROTECTED,
    WAITS,
)
from syncer.passthrough.pending import UNKNOWN
from syncer.passthrough.scopes import DELETE, MEMBERSHIPS, NOT_ALLOWED
from syncer.sandbox.engage import EngageSandbox
from syncer.sandbox.faults import Faults
from tests.support.daemon import KEY, Daemon, daemon, know, refused
from tests.support.events import SECRET, engage_call, sign, track, unique
from tests.support.installation import Installation
from tests.support.processes import wait_until
from tests.support.warehouse import Warehouse

Json = dict[str, Any]

BROWSER = "wk-of-a-browser-55aa"
KEYS = [
    {"key": BROWSER, "may": ["page", "screen", "track", "identify"], "name": "browser"},
    {"key": KEY, "may": ["track", "identify", "memberships"], "name": "server"},
]
LATE = "9999-12-31T23:59:59.000Z"


def synced(installation: Installation, engage: EngageSandbox) -> Json:
    """A first run, then traits of others at Amberflo; gives what that holds."""
    engage.fill(60, 3)
    installation.run("sync")
    for number, record in enumerate(installation.amberflo.customers.values()):
        record["traits"] |= {"stripe_id": f"cus_{number}", "salesforce_id": "x", "plan": "gold"}
    return copy.deepcopy(installation.holds())


def audience_of(holds: Json) -> tuple[str, str, str]:
    """An audience, somebody in it, and somebody with no such trait."""
    for customer_id, record in holds.items():
        for name, value in record["traits"].items():
            others = [one for one in holds if name not in holds[one]["traits"]]
            if value is True and others:
                return name, customer_id, others[0]
    raise AssertionError("there is none")


def attack(found: Daemon, holds: Json) -> None:
    """All that the holder of a browser's key may try against customers that are not its own."""
    name, member, other = audience_of(holds)
    victims = sorted(holds)
    # To erase them all.
    body = orjson.dumps([{"type": "delete", "userId": one} for one in victims])
    refused(found.post(f"webhook?key={BROWSER}", body, key=BROWSER), 401, "invalid_signature")
    bad = sign(body, "guess")
    refused(found.post("webhook", body, key=BROWSER, x_signature=bad), 401, "invalid_signature")
    deletes = [{"type": "delete", "userId": one, "messageId": unique()} for one in victims]
    found.post("batch", {"batch": [*deletes, track(userId="own")]}, key=BROWSER)
    # To make a trait of others ours, to end a membership for ever, to make it anything.
    forged = [engage_call("own", one, True, LATE) for one in ("stripe_id", "salesforce_id", "plan")]
    forged += [engage_call(member, name, False, LATE, kind=kind) for kind in ("track", "identify")]
    forged += [engage_call(member, name, {"x": 1}, LATE, what="trait")]
    forged += [engage_call("own", f"audience {number}", True, LATE) for number in range(300)]
    found.batch(*forged, key=BROWSER)
    for event in forged[:6]:
        answer = found.post(event["type"], event, key=BROWSER)
        assert NOT_ALLOWED[MEMBERSHIPS] in refused(answer, 403, "not_allowed")
    # To set a membership, or what others put there, as a trait of a client.
    for one in (name, "stripe_id", "stripeId", "awsm.customerIdentifier"):
        for value in (True, None):
            found.batch({"type": "identify", "userId": other, "traits": {one: value}}, key=BROWSER)
    nulls = dict.fromkeys(("salesforce_id", "plan"))
    found.batch({"type": "identify", "userId": other, "traits": nulls}, key=BROWSER)


def test_a_public_key_changes_nothing_of_others(
    installation: Installation, engage: EngageSandbox
) -> None:
    before = synced(installation, engage)
    changes = {one: installation.json("audit", "customer", one)["changes"] for one in before}
    members = {name: installation.members(name) for name in ("stripe_id", "plan")}
    with daemon(installation, write_keys=KEYS) as found:
        attack(found, before)
        found.settle()
        assert {one: installation.holds()[one] for one in before} == before
        for one, rows in changes.items():
            assert installation.json("audit", "customer", one)["changes"] == rows
        for reason in (NOT_ALLOWED[MEMBERSHIPS], ENGAGES, PROTECTED, NOTHING_OF_OURS):
            assert found.calls("dropped", reason) >= 1, reason
        assert found.metrics()["syncer_calls_pending"] == 0

        # What a run changes of them later leaves what others put there.
        engage.observe()
        engage.evolve(fraction=0.5)
        assert installation.json("sync", "--full")["due"] > 0
        for one, record in before.items():
            now = installation.holds()[one]["traits"]
            for trait in ("stripe_id", "salesforce_id", "plan"):
                assert now[trait] == record["traits"][trait]
    assert members == {name: installation.members(name) for name in members}
    verified = installation.json("verify")
    assert (verified["missing"], verified["drifted"]) == ([], [])


def test_what_a_public_key_says_of_a_name_can_be_taken_back(
    installation: Installation, engage: EngageSandbox
) -> None:
    before = synced(installation, engage)
    victim = min(one for one in before if before[one]["customerName"] != one)
    with daemon(installation, write_keys=KEYS) as found:
        told = {"type": "identify", "userId": victim, "timestamp": LATE, "traits": {"name": "X"}}
        found.batch(told, key=BROWSER)
        assert found.customer(victim)["customerName"] == "X"
        (change,) = (
            one
            for one in installation.json("audit", "customer", victim)["changes"]
            if one["source"] == "identify"
        )
        assert (change["after"], change["via"]) == ("X", "browser")
        installation.run("resync", "--customer", victim, "--yes")
        assert found.customer(victim)["customerName"] == before[victim]["customerName"]


def test_a_message_id_of_a_browser_hides_nobody_elses(installation: Installation) -> None:
    order = unique("order")
    with daemon(installation, write_keys=KEYS) as found:
        event = track(messageId=order, userId=unique())
        found.send("track", event | {"properties": {"value": 0}}, key=BROWSER)
        found.settle()
        for _ in range(2):
            found.send("track", event | {"properties": {"value": 1_000_000}})
        assert [one["meterValue"] for one in found.by_customer(event["userId"])] == [0, 1_000_000]
        assert found.calls("repeated") == 1
        metrics = found.metrics()
        assert metrics['syncer_key_calls_total{key="browser"}'] == 1
        assert metrics['syncer_key_calls_total{key="server"}'] == 2


def test_refused_records_of_two_keys_are_two(installation: Installation) -> None:
    """They show their keys, and are sent again as what they are."""
    order = unique("order")
    Warehouse(installation.folder / "engage.db").close()
    with daemon(installation, write_keys=KEYS) as found:
        event = track(messageId=order, userId=unique())
        installation.amberflo.odd = {event["userId"]: "400"}
        for key, value in ((BROWSER, 1), (KEY, 2)):
            # Beside one that gets through.
            found.batch(event | {"properties": {"value": value}}, track(), key=key)
            found.settle()
        failed = found.failures(order)
        assert [(one["via"], one["message_id"]) for one in failed] == [
            *(("browser", order), ("server", order))
        ]
        installation.amberflo.odd = {}
        installation.run("failures", "retry", "--all")
        found.settle()
        assert [one["meterValue"] for one in found.by_customer(event["userId"])] == [1, 2]


def test_calls_of_engage_wait_for_a_run_to_know_their_trait(
    installation: Installation, engage: EngageSandbox
) -> None:
    engage.fill(30, 2)
    with daemon(installation, write_keys=KEYS) as found:
        found.first_run()
        user = unique("user")
        found.batch(engage_call(user, "Not Yet Pulled", True, "2026-01-01T00:00:00.000Z"))
        found.settle()
        assert found.calls("waiting", WAITS) == 1
        assert found.metrics()["syncer_calls_pending"] == 1
        assert user not in installation.holds()
        know(f"sqlite:///{installation.folder / 'syncer.db'}", "Not Yet Pulled")
        wait_until(lambda: found.calls("customer", "engage"), what="the call")
        assert found.customer(user)["traits"] == {"not_yet_pulled": True}
        assert found.metrics()["syncer_calls_pending"] == 0
        assert found.calls("dropped", UNKNOWN) == 0
        # An audience stays one.
        (audience, *_) = installation.holds()[min(installation.holds())]["traits"]
        known = {row["key"]: row["kind"] for row in installation.json("diff", "--full")["traits"]}
        key = next(one for one, kind in known.items() if kind == "audience")
        assert audience
        found.batch(engage_call(user, key, 99999, "2026-01-01T00:00:00.000Z", what="trait"))
        found.settle()
        assert found.calls("dropped", OTHER_KIND) + found.calls("dropped", "key is not ours") == 1


def test_a_customer_has_so_many_traits(installation: Installation) -> None:
    know(f"sqlite:///{installation.folder / 'syncer.db'}", "vip")
    with daemon(installation, write_keys=KEYS) as found:
        user = unique("user")
        for part in range(4):
            traits = {f"t{part}_{number}": "x" * 20 for number in range(100)}
            found.batch({"type": "identify", "userId": user, "traits": traits}, key=BROWSER)
        found.batch(engage_call(user, "vip", True, "2026-01-01T00:00:00.000Z"))
        assert len(found.customer(user)["traits"]) == 301
        assert found.customer(user)["traits"]["vip"] is True
        assert found.calls("dropped", MANY_TRAITS) == 100


def test_one_key_cannot_fill_the_queue(installation: Installation) -> None:
    installation.amberflo.faults = Faults.parse("503=1")
    with daemon(installation, write_keys=KEYS, queue_limit=20) as found:
        found.batch(*(track() for _ in range(10)), key=BROWSER)
        refused(found.post("track", track(), key=BROWSER), 429, "queue_full")
        good = track()
        found.send("track", good)
        refused(found.post("batch", {"batch": [track()] * 10}), 429, "queue_full")
        assert found.metrics()['syncer_key_waiting{key="browser"}'] == 10
        installation.amberflo.faults = Faults()
        found.records(good["messageId"])


def test_customers_of_one_key_keep_nobody_elses_waiting(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(f"sqlite:///{installation.folder / 'syncer.db'}", "vip")
    monkeypatch.setenv("SYNCER_AMBERFLO__RATE", "10")
    with daemon(installation, write_keys=KEYS) as found:
        many = [
            {"type": "identify", "userId": unique("made-up"), "traits": {"name": "X"}}
            for _ in range(400)
        ]
        found.batch(*many, key=BROWSER)
        time.sleep(2.0)
        member, customer = unique("member"), unique("customer")
        began = time.monotonic()
        found.batch(
            engage_call(member, "vip", True, "2026-01-01T00:00:00.000Z"),
            {"type": "identify", "userId": customer, "traits": {"name": "Ada"}},
        )
        wait_until(lambda: member in installation.holds(), 5, what="the membership")
        wait_until(lambda: customer in installation.holds(), 5, what="the customer")
        assert time.monotonic() - began < 5
        assert len(installation.holds()) < 100
        installation.amberflo.faults = Faults()
        found.kill()


def test_more_deletes_than_a_day_may_have_wait_for_a_word(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = [unique("user") for _ in range(5)]
    with daemon(installation, write_keys=KEYS, deletes_per_day=2) as found:
        for user in users:
            found.send("identify", {"userId": user, "traits": {"name": "Ada", "plan": "pro"}})
        found.settle()
        body = orjson.dumps(
            [{"type": "delete", "userId": one, "messageId": unique()} for one in users]
        )
        first = orjson.dumps({"type": "delete", "userId": users[0], "messageId": unique()})
        found.send("webhook", body, key=None, x_signature=sign(body))
        found.send("webhook", first, key=None, x_signature=sign(first))
        found.settle()
        assert found.calls("customer", DELETE_WAITS) == 3
        assert found.metrics()["syncer_deletes_waiting"] == 3
        wait_until(
            lambda: [installation.holds()[one]["customerName"] for one in users[:2]] == users[:2],
            what="the two",
        )
        assert [installation.holds()[one]["customerName"] for one in users[2:]] == ["Ada"] * 3

    installation.run("forget", exit_code=2)
    installation.run("forget", users[0], "--pending", exit_code=2)
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert installation.run("forget", "--pending", exit_code=2).stdout.count("user-") == 3
    done = installation.json("forget", "--pending", "--yes")
    assert {one["customer_id"] for one in done["pending"]} == set(users[2:])
    assert done["forgotten"] == 3
    assert [installation.holds()[one]["customerName"] for one in users] == users
    assert {str(one["traits"]) for one in installation.holds().values()} == {"{}"}
    assert installation.json("forget", "--pending") == {"pending": [], "forgotten": 0}


def test_deletes_that_wait_can_be_refused(installation: Installation) -> None:
    user = unique("user")
    with daemon(installation, write_keys=KEYS, deletes_per_day=0) as found:
        found.send("identify", {"userId": user, "traits": {"name": "Ada"}})
        body = orjson.dumps({"type": "delete", "userId": user, "messageId": unique()})
        found.send("webhook", body, key=None, x_signature=sign(body))
        found.settle()
        assert found.calls("dropped", NOT_ALLOWED[DELETE]) == 0
        installation.run("forget", "--pending", "--undo")
        found.send("identify", {"userId": user, "traits": {"name": "Eva"}})
        assert found.customer(user)["customerName"] == "Eva"


DELETES = [{"type": "delete", "userId": "u1"}] * 2500


def test_a_batch_in_which_nothing_is_a_call_is_refused(installation: Installation) -> None:
    with daemon(installation, write_keys=KEYS) as found:
        for batch in ([0] * 2500, [{}], [{"type": "x"}, None, "track"], DELETES):
            answer = found.post("batch", {"batch": batch}, key=BROWSER, zipped=True)
            assert "nothing in the batch is a call" in refused(answer, 400, "malformed")
        found.batch(0, {}, track(), key=BROWSER)
        assert len(found.failures()) == 0
        assert found.metrics()["syncer_failures"] == 2


def test_the_secret_of_webhooks_may_come_from_a_file(installation: Installation) -> None:
    file = installation.folder / "webhook"
    file.write_text(f"{SECRET}\n", encoding="utf-8")
    key = installation.folder / "key"
    key.write_text(f"{KEY}\n", encoding="utf-8")
    settings: Json = {"webhook_secret": None, "webhook_secret_file": str(file)}
    with daemon(installation, write_keys=[{"key_file": str(key)}], **settings) as found:
        event = track()
        body = orjson.dumps(event)
        found.send("webhook", body, key=None, x_signature=sign(body))
        found.send("track", track())
        found.records(event["messageId"])
