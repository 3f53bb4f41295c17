"""The Public API says when the exits of an audience count: the real program, a real source, real
HTTP to both stand-ins."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace

import orjson

from syncer.sandbox.engage import EngageSandbox
from syncer.sandbox.public_api import PublicApiSandbox, listed_by
from tests.e2e.catalog.helpers import (
    busiest,
    by_key,
    check_sums,
    leaving,
    section,
    set_status,
    share_pulled,
    without_exits,
)
from tests.support.installation import Installation, expected_records


def test_exits_wait_for_segment_and_come_with_the_next_run(
    synced: Installation, engage: EngageSandbox, space: PublicApiSandbox
) -> None:
    """The next run is another process, and an incremental one, which by itself would not pull their
    rows again."""
    before = synced.holds()
    evolution = engage.evolve(fraction=0.2)
    key = busiest(engage, evolution)
    set_status(space, "Backfilling", key)

    looked = synced.run("diff", "--customers")
    assert f"would wait: {key}: {evolution.exited[key]} that left stay as they are" in looked.stderr
    assert looked.stdout.count(" (waiting)") == evolution.exited[key]

    run = synced.json("sync")
    check_sums(run)
    assert (run["kind"], run["state"], run["hold_reasons"]) == ("incremental", "done", {})
    assert list(run["waiting"]) == [key]
    assert "its status is Backfilling" in run["waiting"][key]
    row = by_key(run)[key]
    assert (row["entered"], row["exited"]) == (evolution.entered[key], evolution.exited[key])
    assert row["held"] == row["waiting"] == run["held"] == evolution.exited[key]
    wanted = without_exits(engage, before, key)
    assert synced.holds() == wanted
    assert synced.json("status")["held"] == []
    number = str(run["run"])
    assert synced.json("runs", "show", number)["traits"] == run["traits"]
    assert f"{key}: {row['waiting']} wait for Segment" in synced.run("runs", "show", number).stdout
    # Who only left it is not written at all.
    waits = leaving(wanted, expected_records(engage))
    assert len(waits) == evolution.exited[key]
    alone = {customer_id for customer_id in waits if before[customer_id] == wanted[customer_id]}
    assert alone
    assert set(synced.puts()) == evolution.changed - alone
    engage.observe()

    # Again, still not live: nothing is due, nothing is lost, all is compared.
    synced.amberflo.reset_stats()
    run = synced.json("sync")
    check_sums(run)
    assert (run["kind"], run["due"], run["held"]) == ("incremental", len(waits), len(waits))
    assert share_pulled(synced, run) > 0.9
    assert synced.puts() == {}
    assert synced.holds() == wanted

    # Live: they leave, each with one PUT.
    set_status(space, "Live", key)
    child = synced.start("sync", "--json")
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    run = orjson.loads(out)
    check_sums(run)
    assert (run["kind"], run["waiting"], run["held"]) == ("incremental", {}, 0)
    assert synced.puts() == dict.fromkeys(waits, 1)
    assert synced.holds() == expected_records(engage)
    history = synced.json("audit", "audience", key)
    assert {row["customer_id"] for row in history["exited"]} == waits

    # Now an incremental run pulls a part again.
    run = synced.json("sync")
    assert (run["kind"], run["due"]) == ("incremental", 0)
    assert share_pulled(synced, run) < 0.5


def test_rows_that_vanished_wait_too(
    synced: Installation, engage: EngageSandbox, space: PublicApiSandbox
) -> None:
    """Only a full compare sees them; the next plain run is one while they wait. Of a computed
    trait it is the lost value that waits."""
    before = synced.holds()
    engage.evolve(fraction=0.001, vanish=40)
    set_status(space, "Locked")
    space.listed = [replace(computation, status="Locked") for computation in space.listed]
    run = synced.json("sync", "--full")
    check_sums(run)
    assert (run["kind"], run["state"]) == ("reconcile", "done")
    assert len(run["waiting"]) > 2
    assert any(key.startswith("total_revenue_") for key in run["waiting"])
    wanted = expected_records(engage)
    for customer_id, record in before.items():
        for trait, value in record["traits"].items():
            now = wanted[customer_id]["traits"].get(trait)
            if now is None or (value is True and now is False):
                wanted[customer_id]["traits"][trait] = value
    assert synced.holds() == wanted
    engage.observe()
    set_status(space, "Live")
    space.listed = [replace(computation, status="Live") for computation in space.listed]
    run = synced.json("sync")
    check_sums(run)
    assert (run["kind"], run["waiting"]) == ("incremental", {})
    assert synced.holds() == expected_records(engage)


def test_a_run_that_breaks_off_forgets_nothing_that_waits(
    synced: Installation, engage: EngageSandbox, space: PublicApiSandbox
) -> None:
    evolution = engage.evolve(fraction=0.2)
    key = busiest(engage, evolution)
    set_status(space, "Disabled", key, enabled=False)
    waits = by_key(synced.json("sync"))[key]["waiting"]
    engage.observe()
    set_status(space, "Live", key, enabled=True)
    with closing(sqlite3.connect(synced.folder / "engage.db")) as source:
        source.execute("ALTER TABLE user_traits RENAME TO away")
        synced.run("sync", exit_code=1)
        source.execute("ALTER TABLE away RENAME TO user_traits")
    run = synced.json("sync")
    assert by_key(run)[key]["exited"] == waits > 0
    assert synced.holds() == expected_records(engage)


def test_a_mass_exit_waits_before_the_guard_looks_at_it(
    synced: Installation, engage: EngageSandbox, space: PublicApiSandbox, url: str
) -> None:
    """While it is computed anew nobody has to decide; when it is live, somebody has."""
    synced.configure(more=section(url) + "[guard]\nmin_exits = 20\n")
    before = synced.holds()
    key = engage.audiences[0]
    with closing(sqlite3.connect(synced.folder / "engage.db")) as source:
        source.execute("UPDATE user_traits SET value = 'false' WHERE name = ?", (key,))
        source.commit()
    set_status(space, "Computing", key)
    run = synced.json("sync", "--full")
    check_sums(run)
    assert (run["state"], list(run["waiting"])) == ("done", [key])
    assert by_key(run)[key]["waiting"] > 50
    assert synced.holds() == before
    synced.run("runs", "approve", "--yes", str(run["run"]), exit_code=1)

    set_status(space, "Live", key)
    run = synced.json("sync", exit_code=3)
    check_sums(run)
    assert (run["state"], list(run["hold_reasons"]), run["waiting"]) == ("held", [key], {})
    assert synced.holds() == before
    assert [row["key"] for row in synced.json("status")["held"]] == [key]
    run = synced.json("runs", "approve", "--yes", str(run["run"]))
    assert run["state"] == "done"
    assert not any(record["traits"].get(key) for record in synced.holds().values())


def test_an_approval_is_not_for_what_waits(
    synced: Installation, engage: EngageSandbox, space: PublicApiSandbox, url: str
) -> None:
    """A run may hold one audience and let another one wait: the word is for the first alone."""
    synced.configure(more=section(url) + "[guard]\nmin_exits = 20\n")
    held, waits = engage.audiences[:2]
    with closing(sqlite3.connect(synced.folder / "engage.db")) as source:
        source.execute("UPDATE user_traits SET value='false' WHERE name IN (?,?)", (held, waits))
        source.commit()
    set_status(space, "Locked", waits)
    run = synced.json("sync", "--full", exit_code=3)
    assert (list(run["hold_reasons"]), list(run["waiting"])) == ([held], [waits])
    assert [row["key"] for row in synced.json("status")["held"]] == [held]
    set_status(space, "Live", waits)
    run = synced.json("runs", "approve", "--yes", str(run["run"]), exit_code=3)
    assert list(run["hold_reasons"]) == [waits]
    customers = synced.holds().values()
    assert not any(record["traits"].get(held) for record in customers)
    assert any(record["traits"].get(waits) for record in customers)


def test_the_guard_and_the_gate_on_postgresql(
    installation: Installation, space: PublicApiSandbox, url: str, postgres_url: str
) -> None:
    """The story in short, with the warehouse and the state on PostgreSQL."""
    installation.configure(source=postgres_url, state=postgres_url, more=section(url))
    engage = EngageSandbox(postgres_url, seed=3)
    try:
        engage.fill(300, 4)
        space.listed = listed_by(engage)
        installation.run("sync")
        engage.observe()
        before = installation.holds()
        evolution = engage.evolve(fraction=0.2)
        key = busiest(engage, evolution)
        set_status(space, "Preparing", key)
        run = installation.json("sync")
        check_sums(run)
        assert list(run["waiting"]) == [key]
        assert installation.holds() == without_exits(engage, before, key)
        engage.observe()
        set_status(space, "Live", key)
        check_sums(installation.json("sync"))
        assert installation.holds() == expected_records(engage)
    finally:
        engage.close()
