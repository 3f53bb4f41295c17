"""Another Amberflo account: what was acknowledged at one is not at the other."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import orjson
import pytest

from state.db import workers
from syncer.app import App
from syncer.config import load
from syncer.delivery.customers import Delivery
from syncer.progress import LineProgress
from syncer.sandbox.amberflo import AmberfloSandbox, running
from syncer.sandbox.engage import EngageSandbox
from tests.support.installation import API_KEY, Installation


@pytest.fixture
def synced(installation: Installation, engage: EngageSandbox) -> int:
    """Everybody is at the first account; gives how many."""
    engage.fill(60, 4)
    installation.run("sync")
    return len(installation.amberflo.customers)


@pytest.fixture
def other() -> Iterator[AmberfloSandbox]:
    """A second account, at another URL, that nothing is at."""
    sandbox = AmberfloSandbox("another-key")
    with running(sandbox) as url:
        vars(sandbox)["url"] = url
        yield sandbox


def move_to(installation: Installation, other: AmberfloSandbox, key: str = "another-key") -> None:
    installation.amberflo_url = vars(other)["url"]
    installation.configure(api_key=key)


def noted(installation: Installation) -> dict[str, Any]:
    with closing(sqlite3.connect(installation.folder / "syncer.db")) as state:
        (text,) = state.execute("SELECT value FROM metadata WHERE name = 'account'").fetchone()
    document: dict[str, Any] = orjson.loads(text)
    return document


def test_the_state_knows_its_account_and_not_its_key(
    installation: Installation, synced: int
) -> None:
    url = f"{installation.amberflo_url}/customers"
    before = noted(installation)
    assert (before["url"], before["left"], len(before["key"])) == (url, [], 16)
    assert API_KEY not in str(before)
    installation.amberflo.reset_stats()
    installation.run("sync")
    assert installation.amberflo.stats()["requests"].get("GET /customers", 0) == 0
    assert noted(installation) == before


def test_a_key_that_was_rotated_is_noted(
    installation: Installation, engage: EngageSandbox, synced: int
) -> None:
    before = noted(installation)
    installation.amberflo._key = b"a new key"
    installation.configure(api_key="a new key")
    for customer_id in sorted(installation.amberflo.customers)[:5]:
        del installation.amberflo.customers[customer_id]
    installation.amberflo.reset_stats()
    installation.run("sync")
    assert installation.amberflo.stats()["requests"]["GET /customers"] == 20
    assert noted(installation)["key"] != before["key"]
    installation.amberflo.reset_stats()
    installation.run("sync")
    assert "GET /customers" not in installation.amberflo.stats()["requests"]


@pytest.mark.parametrize("number", [0, 10])
def test_another_account_is_refused_before_anything_changes(
    installation: Installation,
    engage: EngageSandbox,
    other: AmberfloSandbox,
    synced: int,
    number: int,
) -> None:
    """Also where a few of the customers, at most half of those looked for, are there."""
    first = installation.amberflo
    with closing(sqlite3.connect(installation.folder / "syncer.db")) as state:
        newest = "SELECT customer_id FROM customer ORDER BY acked_at DESC, customer_id LIMIT 20"
        ids = [row[0] for row in state.execute(newest)]
    other.customers |= {id_: first.customers[id_] for id_ in ids[:number]}
    was, first_url = noted(installation), installation.amberflo_url
    engage.evolve(fraction=0.5)
    first.reset_stats()
    move_to(installation, other)
    for command in (["sync"], ["sync", "--full"], ["resync", "--yes"]):
        said = installation.run(*command, exit_code=1)
        assert said.stderr.splitlines()[-1] == (
            f"error: amberflo.customers_url is {installation.amberflo_url}/customers and was "
            f"{first_url}/customers, amberflo.api_key is another one than before, and {number} of "
            "20 customers that Amberflo acknowledged last are there: this seems to be another "
            "account. Set it back, or let `syncer sync --new-account` send everybody to the new one"
        )
    said = installation.run("check", exit_code=1)
    assert "FAIL  amberflo: amberflo.customers_url is" in said.stdout
    assert (len(other.customers), other.stats()["puts"], first.stats()["puts"]) == (number, {}, {})
    assert noted(installation) == was
    assert installation.json("runs")[0]["state"] == "failed"
    with closing(sqlite3.connect(installation.folder / "syncer.db")) as state:
        assert state.execute("SELECT count(DISTINCT run) FROM change").fetchone() == (1,)
    # Set back, all goes on.
    installation.amberflo_url = first_url
    installation.configure()
    assert installation.json("sync")["due"] > 0


def test_a_new_account_gets_everybody(
    installation: Installation, engage: EngageSandbox, other: AmberfloSandbox, synced: int
) -> None:
    first, first_url = installation.amberflo, installation.amberflo_url
    refused = min(first.customers)
    move_to(installation, other)
    document = installation.json("sync", "--new-account")
    assert (document["kind"], document["state"], document["due"]) == ("reconcile", "done", synced)
    assert other.customers.keys() == first.customers.keys()
    assert refused in other.customers
    assert installation.json("verify")["equal"] == synced
    assert other.stats()["puts"] == dict.fromkeys(first.customers, 1)
    installation.run("sync")
    # Who still has the old settings does not take it back there, though everybody is there.
    first.reset_stats()
    installation.amberflo_url = first_url
    installation.configure()
    said = installation.run("sync", exit_code=1)
    assert "`syncer sync --new-account` left this account" in said.stderr
    assert first.stats()["requests"] == {}
    assert installation.json("sync", "--new-account")["delivered"] == synced


def test_with_a_dry_run_there_is_no_new_account(installation: Installation, synced: int) -> None:
    said = installation.run("sync", "--new-account", "--dry-run", exit_code=2)
    assert "--new-account cannot be combined with --dry-run" in said.stderr


def test_an_account_that_nothing_was_acknowledged_at_may_be_changed(
    installation: Installation, engage: EngageSandbox, other: AmberfloSandbox
) -> None:
    engage.fill(20, 2)
    installation.configure(api_key="a typing error")
    said = installation.run("sync", exit_code=1)
    assert "refuses the API key" in said.stderr
    move_to(installation, other)
    installation.run("sync")
    assert len(other.customers) > 5


def test_a_state_of_before_that_knows_no_account_notes_it(
    installation: Installation, synced: int
) -> None:
    with closing(sqlite3.connect(installation.folder / "syncer.db")) as state, state:
        state.execute("DELETE FROM metadata WHERE name = 'account'")
    installation.amberflo.reset_stats()
    installation.run("sync")
    assert "GET /customers" not in installation.amberflo.stats()["requests"]
    assert noted(installation)["url"].endswith("/customers")


def test_nobody_is_erased_for_the_word_of_another_account(
    installation: Installation, other: AmberfloSandbox, synced: int
) -> None:
    customer_id = min(installation.amberflo.customers)
    move_to(installation, other)
    said = installation.run("forget", customer_id, "--yes", exit_code=1)
    assert "this seems to be another account" in said.stderr
    assert installation.json("audit", "customer", customer_id)["changes"]


def test_a_daemon_says_so_and_waits(
    installation: Installation, engage: EngageSandbox, other: AmberfloSandbox, synced: int
) -> None:
    """Nothing that is due goes to another account; after `--new-account` it goes on."""
    with closing(sqlite3.connect(installation.folder / "syncer.db")) as state, state:
        state.execute("UPDATE customer SET due_at = 1 WHERE rowid = 1")
    move_to(installation, other)
    listen = '[passthrough]\nlisten = "127.0.0.1:0"\n[schedule]\nevery = "1h"\njitter = "1m"\n'
    with installation.config.open("a", encoding="utf-8") as config:
        config.write(listen)
    daemon = installation.start("daemon")
    try:
        wait_for(daemon, "this seems to be another account")
        assert other.customers == {}
        installation.run("sync", "--new-account")
        assert len(other.customers) == synced
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.communicate(timeout=20)
    assert daemon.returncode == 0


def wait_for(process: Any, text: str, seconds: float = 20.0) -> None:
    os.set_blocking(process.stderr.fileno(), False)
    until, said = time.monotonic() + seconds, ""
    while text not in said:
        assert time.monotonic() < until, said
        with suppress(BlockingIOError):
            said += os.read(process.stderr.fileno(), 65536).decode()
        time.sleep(0.05)


def test_a_delivery_under_way_ends_where_the_account_changes(
    installation: Installation, synced: int
) -> None:
    app = App(load(installation.config, {}), LineProgress())
    with app.state(writes=True) as database:
        account = app.account(database).check()
        with database.write(alone=True) as connection:
            app.account(database).move_state_here(connection, 1)
        installation.amberflo.reset_stats()

        async def deliver(account: str) -> Delivery:
            with workers.register(database, "run") as worker:
                async with app.client() as client:
                    return await app.customer_delivery(database, worker, client, account).run()

        assert asyncio.run(deliver(account)).problem == "the Amberflo account was changed meanwhile"
        assert installation.puts() == {}
        assert asyncio.run(deliver(app.account(database).check())).delivered == synced
