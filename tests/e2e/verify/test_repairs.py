"""What `syncer verify --repair` sends, and what stops it."""

from __future__ import annotations

import signal
import sqlite3
import time
from contextlib import closing
from typing import Any

import orjson
import pytest

from state import outbox, snapshot
from state.db.database import Database
from state.db.locks import run_lock
from state.snapshot import CustomerRow
from syncer.sandbox.engage import EngageSandbox
from syncer.sandbox.faults import Faults
from tests.e2e.verify.helpers import Amberflo, all_good, found_by, rename
from tests.support.installation import Installation
from tests.support.warehouse import Warehouse


def test_what_is_due_refused_or_never_sent(
    installation: Installation, amberflo: Amberflo, engage: EngageSandbox
) -> None:
    amberflo.refused = {customer.customer_id for customer in list(engage.expected())[:3]}
    installation.run("sync", exit_code=1)
    sent = len(amberflo.customers)
    all_good(installation, sent)
    # Refused ones that are there all the same were not sent by us.
    existing, *_ = sorted(amberflo.refused)
    amberflo.customers[existing] = {"customerId": existing, "customerName": "before us"}
    all_good(installation, sent, extra=1)

    due, new = sorted(amberflo.customers)[3], "new"
    database = Database.open(f"sqlite:///{installation.folder / 'syncer.db'}")
    with database.write() as connection:
        outbox.send_again(connection, 1, customer_ids=[due])
        state = CustomerRow(new, '{"vip":true}', None, None, None, None)
        snapshot.insert_customers(connection, [state], 1)
    database.close()
    amberflo.customers[due]["customerName"] = "older"
    amberflo.customers[new] = {"customerId": new, "customerName": new}
    document = found_by(installation)
    assert (document["checked"], document["pending"], document["equal"]) == (sent, 1, sent - 1)
    assert document["extra"] == [existing]
    said = installation.run("verify", "--customer", new, exit_code=1)
    assert "is still to be sent" in said.stderr


def test_what_cannot_be_repaired_is_said(
    installation: Installation, amberflo: Amberflo, synced: list[str]
) -> None:
    """Whether Amberflo lists who was deleted there, or does not."""
    for lists_deleted in (False, True):
        amberflo.lists_deleted = lists_deleted
        refused, mended = rename(amberflo, synced, 2)
        deleted = synced[-1]
        amberflo.customers[deleted] |= {"deleteTime": 1, "lifecycleStage": "OFFBOARDED"}
        amberflo.refused = {refused}
        said = installation.run("verify", "--repair", exit_code=1)
        assert f"missing {deleted}" in said.stdout.splitlines(), lists_deleted
        lines = said.stderr.splitlines()
        assert f"repaired {mended}: customerName" in lines
        assert (
            f"not repaired {deleted}: Amberflo does not show it; if it was deleted there, "
            "reinstate it there"
        ) in lines, lists_deleted
        assert f"not repaired {refused}: it still differs in customerName" in lines
        assert "error: Amberflo does not take 1 customers: `syncer failures` lists them" in lines
        assert "1 of 3 repaired" in lines
        amberflo.refused = set()
        del amberflo.customers[deleted]["deleteTime"]
        assert found_by(installation, "--repair")["repaired"] == 1
        assert installation.json("failures") == []


def test_a_repair_that_is_killed_leaves_the_rest_due(
    installation: Installation, amberflo: Amberflo, synced: list[str]
) -> None:
    rename(amberflo, synced, 100)
    amberflo.faults = Faults.parse("slow=1,slow_seconds=0.02")
    installation.configure(concurrency=4)
    process = installation.start("verify", "--repair")
    until = time.monotonic() + 20
    while len(installation.puts()) < 10 and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    amberflo.faults = Faults()
    sent = len(installation.puts())
    assert 10 <= sent < 90
    assert installation.json("status")["backlog"]["customers"] >= 100 - sent
    assert found_by(installation)["drifted"] == []  # what is due is no drift
    installation.run("sync")
    all_good(installation, len(synced))


def test_a_stop_ends_it(installation: Installation, amberflo: Amberflo, synced: list[str]) -> None:
    amberflo.paging_traits = amberflo.list_traits = False
    installation.configure(rate=50)
    process = installation.start("verify")
    until = time.monotonic() + 20
    while amberflo.stats()["requests"].get("GET /customers", 0) < 20 and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=10)
    assert process.returncode == 1
    assert said.splitlines()[-1] == "error: stopped before everything was read"


def test_while_a_run_goes_on_nothing_is_repaired(
    installation: Installation, amberflo: Amberflo, synced: list[str]
) -> None:
    """What was found is told all the same."""
    renamed = rename(amberflo, synced, 2)
    database = Database.open(f"sqlite:///{installation.folder / 'syncer.db'}")
    with run_lock(database):
        said = installation.run("verify", "--repair", "--json", exit_code=1)
    database.close()
    assert "error: another run is going on" in said.stderr
    assert {row["customer_id"] for row in orjson.loads(said.stdout)["drifted"]} == {*renamed}
    assert installation.puts() == {}


def test_who_verifies_takes_part_in_the_one_rate(
    installation: Installation, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation.configure(rate=200)
    warehouse.users(3, vip="true")
    installation.run("sync")
    pages, kinds = installation.amberflo._routes["GET /customers/paging"], []

    def look(call: Any) -> Any:
        with closing(sqlite3.connect(installation.folder / "syncer.db")) as state:
            kinds.extend(kind for (kind,) in state.execute("SELECT kind FROM worker"))
        return pages(call)

    monkeypatch.setitem(installation.amberflo._routes, "GET /customers/paging", look)
    installation.run("verify")
    assert kinds
    assert set(kinds) == {"reader"}
