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
            others = [id_ for id_ in holds if name not in holds[id_]["traits"]]
            if value is True and others:
                return name, customer_id, others[0]
    raise AssertionError("there is none")


def attack(service: Daemon, holds: Json) -> None:
    """All that the holder of a browser's key may try against customers that are not its own."""
    name, member, other = audience_of(holds)
    victims = sorted(holds)
    # To erase them all.
    body = orjson.dumps([{"type": "delete", "userId": victim} for victim in victims])
    refused(service.post(f"webhook?key={BROWSER}", body, key=BROWSER), 401, "invalid_signature")
    bad = sign(body, "guess")
    refused(service.post("webhook", body, key=BROWSER, x_signature=bad), 401, "invalid_signature")
    deletes = [{"type": "delete", "userId": victim, "messageId": unique()} for victim in victims]
    service.post("batch", {"batch": [*deletes, track(userId="own")]}, key=BROWSER)
    # To make a trait of others ours, to end a membership for ever, to make it anything.
    forged = [
        engage_call("own", trait, True, LATE) for trait in ("stripe_id", "salesforce_id", "plan")
    ]
    forged += [engage_call(member, name, False, LATE, kind=kind) for kind in ("track", "identify")]
    forged += [engage_call(member, name, {"x": 1}, LATE, what="trait")]
    forged += [engage_call("own", f"audience {number}", True, LATE) for number in range(300)]
    service.batch(*forged, key=BROWSER)
    for event in forged[:6]:
        answer = service.post(event["type"], event, key=BROWSER)
        assert NOT_ALLOWED[MEMBERSHIPS] in refused(answer, 403, "not_allowed")
    # To set a membership, or what others put there, as a trait of a client.
    for key in (name, "stripe_id", "stripeId", "awsm.customerIdentifier"):
        for value in (True, None):
            service.batch(
                {"type": "identify", "userId": other, "traits": {key: value}}, key=BROWSER
            )
    nulls = dict.fromkeys(("salesforce_id", "plan"))
    service.batch({"type": "identify", "userId": other, "traits": nulls}, key=BROWSER)


def test_a_public_key_changes_nothing_of_others(
    installation: Installation, engage: EngageSandbox
) -> None:
    before = synced(installation, engage)
    changes = {id_: installation.json("audit", "customer", id_)["changes"] for id_ in before}
    members = {name: installation.members(name) for name in ("stripe_id", "plan")}
    with daemon(installation, write_keys=KEYS) as service:
        attack(service, before)
        service.settle()
        assert {id_: installation.holds()[id_] for id_ in before} == before
        for customer_id, rows in changes.items():
            assert installation.json("audit", "customer", customer_id)["changes"] == rows
        for reason in (NOT_ALLOWED[MEMBERSHIPS], ENGAGES, PROTECTED, NOTHING_OF_OURS):
            assert service.calls("dropped", reason) >= 1, reason
        assert service.metrics()["syncer_calls_pending"] == 0

        # What a run changes of them later leaves what others put there.
        engage.observe()
        engage.evolve(fraction=0.5)
        assert installation.json("sync", "--full")["due"] > 0
        for customer_id, record in before.items():
            now = installation.holds()[customer_id]["traits"]
            for trait in ("stripe_id", "salesforce_id", "plan"):
                assert now[trait] == record["traits"][trait]
    assert members == {name: installation.members(name) for name in members}
    verified = installation.json("verify")
    assert (verified["missing"], verified["drifted"]) == ([], [])


def test_what_a_public_key_says_of_a_name_can_be_taken_back(
    installation: Installation, engage: EngageSandbox
) -> None:
    before = synced(installation, engage)
    victim = min(
        customer_id for customer_id in before if before[customer_id]["customerName"] != customer_id
    )
    with daemon(installation, write_keys=KEYS) as service:
        told = {"type": "identify", "userId": victim, "timestamp": LATE, "traits": {"name": "X"}}
        service.batch(told, key=BROWSER)
        assert service.customer(victim)["customerName"] == "X"
        (change,) = (
            entry
            for entry in installation.json("audit", "customer", victim)["changes"]
            if entry["source"] == "identify"
        )
        assert (change["after"], change["via"]) == ("X", "browser")
        installation.run("resync", "--customer", victim, "--yes")
        assert service.customer(victim)["customerName"] == before[victim]["customerName"]


def test_a_message_id_of_a_browser_hides_nobody_elses(installation: Installation) -> None:
    order = unique("order")
    with daemon(installation, write_keys=KEYS) as service:
        event = track(messageId=order, userId=unique())
        service.send("track", event | {"properties": {"value": 0}}, key=BROWSER)
        service.settle()
        for _ in range(2):
            service.send("track", event | {"properties": {"value": 1_000_000}})
        assert [record["meterValue"] for record in service.by_customer(event["userId"])] == [
            0,
            1_000_000,
        ]
        assert service.calls("repeated") == 1
        metrics = service.metrics()
        assert metrics['syncer_key_calls_total{key="browser"}'] == 1
        assert metrics['syncer_key_calls_total{key="server"}'] == 2


def test_refused_records_of_two_keys_are_two(installation: Installation) -> None:
    """They show their keys, and are sent again as what they are."""
    order = unique("order")
    Warehouse(installation.folder / "engage.db").close()
    with daemon(installation, write_keys=KEYS) as service:
        event = track(messageId=order, userId=unique())
        installation.amberflo.odd = {event["userId"]: "400"}
        for key, value in ((BROWSER, 1), (KEY, 2)):
            # Beside one that gets through.
            service.batch(event | {"properties": {"value": value}}, track(), key=key)
            service.settle()
        failed = service.failures(order)
        assert [(failure["via"], failure["message_id"]) for failure in failed] == [
            *(("browser", order), ("server", order))
        ]
        installation.amberflo.odd = {}
        installation.run("failures", "retry", "--all")
        service.settle()
        assert [record["meterValue"] for record in service.by_customer(event["userId"])] == [1, 2]


def test_calls_of_engage_wait_for_a_run_to_know_their_trait(
    installation: Installation, engage: EngageSandbox
) -> None:
    engage.fill(30, 2)
    with daemon(installation, write_keys=KEYS) as service:
        service.first_run()
        user = unique("user")
        service.batch(engage_call(user, "Not Yet Pulled", True, "2026-01-01T00:00:00.000Z"))
        service.settle()
        assert service.calls("waiting", WAITS) == 1
        assert service.metrics()["syncer_calls_pending"] == 1
        assert user not in installation.holds()
        know(f"sqlite:///{installation.folder / 'syncer.db'}", "Not Yet Pulled")
        wait_until(lambda: service.calls("customer", "engage"), what="the call")
        assert service.customer(user)["traits"] == {"not_yet_pulled": True}
        assert service.metrics()["syncer_calls_pending"] == 0
        assert service.calls("dropped", UNKNOWN) == 0
        # An audience stays one.
        (audience, *_) = installation.holds()[min(installation.holds())]["traits"]
        known = {row["key"]: row["kind"] for row in installation.json("diff", "--full")["traits"]}
        key = next(name for name, kind in known.items() if kind == "audience")
        assert audience
        service.batch(engage_call(user, key, 99999, "2026-01-01T00:00:00.000Z", what="trait"))
        service.settle()
        assert (
            service.calls("dropped", OTHER_KIND) + service.calls("dropped", "key is not ours") == 1
        )


def test_a_customer_has_so_many_traits(installation: Installation) -> None:
    know(f"sqlite:///{installation.folder / 'syncer.db'}", "vip")
    with daemon(installation, write_keys=KEYS) as service:
        user = unique("user")
        for part in range(4):
            traits = {f"t{part}_{number}": "x" * 20 for number in range(100)}
            service.batch({"type": "identify", "userId": user, "traits": traits}, key=BROWSER)
        service.batch(engage_call(user, "vip", True, "2026-01-01T00:00:00.000Z"))
        assert len(service.customer(user)["traits"]) == 301
        assert service.customer(user)["traits"]["vip"] is True
        assert service.calls("dropped", MANY_TRAITS) == 100


def test_one_key_cannot_fill_the_queue(installation: Installation) -> None:
    installation.amberflo.faults = Faults.parse("503=1")
    with daemon(installation, write_keys=KEYS, queue_limit=20) as service:
        service.batch(*(track() for _ in range(10)), key=BROWSER)
        refused(service.post("track", track(), key=BROWSER), 429, "queue_full")
        good = track()
        service.send("track", good)
        refused(service.post("batch", {"batch": [track()] * 10}), 429, "queue_full")
        assert service.metrics()['syncer_key_waiting{key="browser"}'] == 10
        installation.amberflo.faults = Faults()
        service.records(good["messageId"])


def test_customers_of_one_key_keep_nobody_elses_waiting(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(f"sqlite:///{installation.folder / 'syncer.db'}", "vip")
    monkeypatch.setenv("SYNCER_AMBERFLO__RATE", "10")
    with daemon(installation, write_keys=KEYS) as service:
        many = [
            {"type": "identify", "userId": unique("made-up"), "traits": {"name": "X"}}
            for _ in range(400)
        ]
        service.batch(*many, key=BROWSER)
        time.sleep(2.0)
        member, customer = unique("member"), unique("customer")
        began = time.monotonic()
        service.batch(
            engage_call(member, "vip", True, "2026-01-01T00:00:00.000Z"),
            {"type": "identify", "userId": customer, "traits": {"name": "Ada"}},
        )
        wait_until(lambda: member in installation.holds(), 5, what="the membership")
        wait_until(lambda: customer in installation.holds(), 5, what="the customer")
        assert time.monotonic() - began < 5
        assert len(installation.holds()) < 100
        installation.amberflo.faults = Faults()
        service.kill()


def test_more_deletes_than_a_day_may_have_wait_for_a_word(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = [unique("user") for _ in range(5)]
    with daemon(installation, write_keys=KEYS, deletes_per_day=2) as service:
        for user in users:
            service.send("identify", {"userId": user, "traits": {"name": "Ada", "plan": "pro"}})
        service.settle()
        body = orjson.dumps(
            [
                {"type": "delete", "userId": customer_id, "messageId": unique()}
                for customer_id in users
            ]
        )
        first = orjson.dumps({"type": "delete", "userId": users[0], "messageId": unique()})
        service.send("webhook", body, key=None, x_signature=sign(body))
        service.send("webhook", first, key=None, x_signature=sign(first))
        service.settle()
        assert service.calls("customer", DELETE_WAITS) == 3
        assert service.metrics()["syncer_deletes_waiting"] == 3
        wait_until(
            lambda: (
                [installation.holds()[customer_id]["customerName"] for customer_id in users[:2]]
                == users[:2]
            ),
            what="the two",
        )
        assert [installation.holds()[customer_id]["customerName"] for customer_id in users[2:]] == [
            "Ada"
        ] * 3

    installation.run("forget", exit_code=2)
    installation.run("forget", users[0], "--pending", exit_code=2)
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert installation.run("forget", "--pending", exit_code=2).stdout.count("user-") == 3
    done = installation.json("forget", "--pending", "--yes")
    assert {entry["customer_id"] for entry in done["pending"]} == set(users[2:])
    assert done["forgotten"] == 3
    assert [installation.holds()[customer_id]["customerName"] for customer_id in users] == users
    assert {str(record["traits"]) for record in installation.holds().values()} == {"{}"}
    assert installation.json("forget", "--pending") == {"pending": [], "forgotten": 0}


def test_deletes_that_wait_can_be_refused(installation: Installation) -> None:
    user = unique("user")
    with daemon(installation, write_keys=KEYS, deletes_per_day=0) as service:
        service.send("identify", {"userId": user, "traits": {"name": "Ada"}})
        body = orjson.dumps({"type": "delete", "userId": user, "messageId": unique()})
        service.send("webhook", body, key=None, x_signature=sign(body))
        service.settle()
        assert service.calls("dropped", NOT_ALLOWED[DELETE]) == 0
        installation.run("forget", "--pending", "--undo")
        service.send("identify", {"userId": user, "traits": {"name": "Eva"}})
        assert service.customer(user)["customerName"] == "Eva"


DELETES = [{"type": "delete", "userId": "u1"}] * 2500


def test_a_batch_in_which_nothing_is_a_call_is_refused(installation: Installation) -> None:
    with daemon(installation, write_keys=KEYS) as service:
        for batch in ([0] * 2500, [{}], [{"type": "x"}, None, "track"], DELETES):
            answer = service.post("batch", {"batch": batch}, key=BROWSER, zipped=True)
            assert "nothing in the batch is a call" in refused(answer, 400, "malformed")
        service.batch(0, {}, track(), key=BROWSER)
        assert len(service.failures()) == 0
        assert service.metrics()["syncer_failures"] == 2


def test_the_secret_of_webhooks_may_come_from_a_file(installation: Installation) -> None:
    file = installation.folder / "webhook"
    file.write_text(f"{SECRET}\n", encoding="utf-8")
    key = installation.folder / "key"
    key.write_text(f"{KEY}\n", encoding="utf-8")
    settings: Json = {"webhook_secret": None, "webhook_secret_file": str(file)}
    with daemon(installation, write_keys=[{"key_file": str(key)}], **settings) as service:
        event = track()
        body = orjson.dumps(event)
        service.send("webhook", body, key=None, x_signature=sign(body))
        service.send("track", track())
        service.records(event["messageId"])
