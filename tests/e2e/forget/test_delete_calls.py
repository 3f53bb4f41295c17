"""Segment's delete call: nothing is left of a customer, and it does not come back."""

from __future__ import annotations

from contextlib import closing

import orjson

from syncer.sandbox.engage import EngageSandbox
from syncer.sandbox.faults import Faults
from tests.e2e.forget.helpers import personal, traces
from tests.support.daemon import Daemon, daemon, know
from tests.support.events import engage_call, sign, unique
from tests.support.installation import Installation
from tests.support.processes import wait_until
from tests.support.warehouse import Warehouse


def delete(service: Daemon, customer_id: str) -> None:
    """Segment's delete call."""
    body = orjson.dumps({"type": "delete", "userId": customer_id})
    service.send("webhook", body, key=None, x_signature=sign(body))


def test_segments_delete_call_forgets(installation: Installation) -> None:
    user, other = unique("user"), unique("user")
    mine = (user, "Ada Lovelace", "ada@example.com", "555-0100")
    know(f"sqlite:///{installation.folder / 'syncer.db'}", "vip")
    with (
        closing(Warehouse(installation.folder / "engage.db")) as profiles,
        daemon(installation) as service,
    ):
        service.first_run()
        traits = {"name": mine[1], "email": mine[2], "phone": mine[3]}
        for customer_id in (user, other):
            service.send(
                "identify", {"userId": customer_id, "traits": traits | {"plan": customer_id}}
            )
            event = orjson.dumps(engage_call(customer_id, "vip", True, "2026-01-01T00:00:00.000Z"))
            service.send("webhook", event, key=None, x_signature=sign(event))
        service.settle()
        # A call that cannot be taken is a failure that names it.
        service.batch(
            {"type": "track", "userId": user, "event": "X", "properties": {"value": "NaN"}}
        )
        assert len(service.failures(user)) == 1
        assert service.customer(user)["traits"] == {"plan": user, "phone": mine[3], "vip": True}

        delete(service, user)
        wait_until(lambda: traces(installation, user) == {}, what="the erasure")
        assert service.customer(user) == {
            "customerName": user,
            "customerEmail": None,
            "traits": {"vip": True},
        }
        # The other one has the same name and address.
        assert service.customer(other)["traits"]["phone"] == mine[3]
        assert service.failures(user) == []
        assert installation.json("audit", "seal")["holds"]
        assert installation.json("audit", "customer", other)["present"] == {"vip": True}

        # It stays out, by calls and by pulls; what it uses is billed.
        profiles.put(user, "2026-11-01T00:00:00Z", vip="false", name=mine[1])
        service.send("identify", {"userId": user, "traits": traits})
        event = orjson.dumps(engage_call(user, "vip", False, "2029-01-01T00:00:00.000Z"))
        service.send("webhook", event, key=None, x_signature=sign(event))
        service.send("page", {"userId": user, "messageId": unique()})
        assert len(service.by_customer(user)) == 1
        assert service.calls("dropped", "forgotten") == 2
        installation.run("sync")
        assert service.customer(user)["customerEmail"] is None
        delete(service, user)
        service.settle()
        assert service.customer(user)["traits"] == {"vip": True}
        assert "Traceback" not in "\n".join(service.log)

    found_seal = installation.json("audit", "seal")
    assert (found_seal["holds"], found_seal["erased"]) == (True, 5)


def test_a_delete_call_waits_for_a_run_and_for_amberflo(
    installation: Installation, engage: EngageSandbox
) -> None:
    engage.fill(40, 3)
    with daemon(installation) as service:
        service.first_run()
        customer, record = personal(installation, engage)
        installation.amberflo.faults = Faults.parse("503=1")
        delete(service, customer)
        wait_until(lambda: service.calls("customer", "delete"), what="the call")
        tried = installation.customer_requests()
        wait_until(lambda: installation.customer_requests() > tried + 3, what="more attempts")
        done = installation.run("audit", "customer", customer, exit_code=1)
        assert "was forgotten" in done.stderr
        assert installation.json("audit", "seal")["erased"] == 0
        # A run meanwhile leaves it alone.
        run = installation.json("diff", "--full")
        assert sum(row["exited"] + row["changed"] for row in run["traits"]) == 0
        installation.amberflo.faults = Faults()
    # The next daemon takes it up.
    with daemon(installation):
        wait_until(lambda: traces(installation, customer) == {}, what="the erasure")
    assert installation.holds()[customer]["customerEmail"] is None
    assert installation.holds()[customer]["traits"] == record["traits"]
    assert installation.json("audit", "seal")["erased"] == len(record["traits"])


def test_records_that_wait_are_billed_first(installation: Installation) -> None:
    """They hold the id: the traces in the files go when they are delivered."""
    user = unique("user")
    Warehouse(installation.folder / "engage.db").close()
    with daemon(installation) as service:
        service.send("identify", {"userId": user, "traits": {"name": "Ada"}})
        service.settle()
        installation.amberflo.faults = Faults.parse("503=1")
        service.send("track", {"userId": user, "event": "Used", "messageId": unique()})
        wait_until(lambda: service.metrics()["syncer_meters_waiting"], what="the record")
    installation.amberflo.faults = Faults()
    done = installation.run("forget", user, "--yes")
    assert "earlier calls wait to be delivered" in done.stderr
    assert traces(installation, user).keys() == {"syncer-queue.db"}
    with daemon(installation) as service:
        assert len(service.by_customer(user)) == 1
        wait_until(lambda: traces(installation, user) == {}, what="the end of the traces")
