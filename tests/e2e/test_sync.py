"""The sync from end to end: the real program, a real source, real HTTP to the strict stand-in."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from syncer.sandbox.engage import EngageSandbox
from tests.support.installation import Installation, expected_records


def digest(folder: Path) -> dict[str, str]:
    """Every file of a folder with its hash."""
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.glob("*.db*")
    }


def sums_close(document: Any) -> None:
    for row in document["traits"]:
        parts = ("unchanged", "entered", "exited", "changed", "skipped")
        assert row["pulled"] == sum(row[part] for part in parts), row


def test_the_whole_story(installation: Installation, engage: EngageSandbox) -> None:
    """Issue's "Must show": 1,000 users × 10 audiences, with all that makes them hard."""
    engage.fill(1000, 10)
    foreign = {"stripeId": "cus_1", "awsm.customerIdentifier": "a/b|c"}
    wanted = expected_records(engage)
    already = sorted(wanted)[:50]
    for customer_id in already:
        installation.amberflo.customers[customer_id] = {
            "customerId": customer_id,
            "customerName": "before us",
            "description": "kept",
            "traits": dict(foreign),
        }

    # A look changes nothing anywhere, not even a file.
    before = digest(installation.folder)
    for command in (["diff"], ["sync", "--dry-run"]):
        document = installation.json(*command)
        sums_close(document)
        assert document["kind"] == "initial"
        assert document["complete"] is True
        assert document["customers"] == {"new": len(wanted), "changed": 0, "unchanged": 0}
    assert digest(installation.folder) == before
    assert installation.amberflo.stats()["requests"] == {}

    # The first run sends every customer once.
    run = installation.json("sync")
    sums_close(run)
    assert (run["kind"], run["state"]) == ("initial", "done")
    assert run["due"] == run["delivered"] == len(wanted)
    assert installation.puts() == dict.fromkeys(wanted, 1)
    engage.observe()
    check_equal(installation, engage, already, foreign)

    # Nothing changed: nothing is sent. One glance tells that the state is no older copy.
    installation.amberflo.reset_stats()
    assert installation.json("sync")["due"] == 0
    assert installation.amberflo.stats()["requests"] == {"GET /customers/paging": 1}
    # A full compare reads what Amberflo holds, by pages.
    assert installation.json("sync", "--full")["kind"] == "reconcile"
    assert installation.amberflo.stats()["requests"].keys() == {"GET /customers/paging"}
    installation.amberflo.reset_stats()

    # A change step: exactly the changed customers, one PUT each.
    for _ in range(3):
        evolution = engage.evolve(hours=2.5, fraction=0.02)
        before = digest(installation.folder)
        looked = installation.json("diff")
        assert looked["customers"]["new"] + looked["customers"]["changed"] == len(evolution.changed)
        assert digest(installation.folder) == before
        assert installation.amberflo.stats()["requests"] == {}
        run = installation.json("sync")
        sums_close(run)
        assert run["kind"] == "incremental"
        assert installation.puts() == dict.fromkeys(evolution.changed, 1)
        by_key = {row["key"]: row for row in run["traits"]}
        for key in engage.audiences:
            row = by_key.get(key, {"entered": 0, "exited": 0})
            assert row["entered"] == evolution.entered[key], key
            assert row["exited"] == evolution.exited[key], key
        engage.observe()
        check_equal(installation, engage, already, foreign)
        installation.amberflo.reset_stats()

    # What vanished is found by the full compare.
    evolution = engage.evolve(hours=2.5, fraction=0.001, vanish=5)
    run = installation.json("sync", "--full")
    sums_close(run)
    assert installation.puts() == dict.fromkeys(evolution.changed, 1)
    engage.observe()
    check_equal(installation, engage, already, foreign)

    # A resync sends every member once more.
    installation.amberflo.reset_stats()
    run = installation.json("resync", "--yes")
    assert run["kind"] == "resync"
    assert installation.puts() == dict.fromkeys(expected_records(engage), 1)
    check_equal(installation, engage, already, foreign)
    assert installation.amberflo.stats()["overlapping_writes"] == 0


def check_equal(
    installation: Installation, engage: EngageSandbox, already: list[str], foreign: dict[str, str]
) -> None:
    wanted = expected_records(engage)
    for customer_id in already:
        wanted[customer_id]["traits"] |= foreign
        if wanted[customer_id]["customerName"] == customer_id:
            wanted[customer_id]["customerName"] = "before us"
        assert installation.amberflo.customers[customer_id]["description"] == "kept"
    assert installation.holds() == wanted


def test_on_postgresql(installation: Installation, postgres_url: str) -> None:
    """The same with the warehouse and the state on PostgreSQL, in a schema."""
    installation.configure(source=postgres_url, state=postgres_url)
    config = installation.config.read_text(encoding="utf-8")
    installation.config.write_text(
        config.replace("[engage.profiles_sync]", '[engage.profiles_sync]\nschema = "my_space"'),
        encoding="utf-8",
    )
    engage = EngageSandbox(postgres_url, schema="my_space", seed=3)
    try:
        engage.fill(200, 5)
        run = installation.json("sync")
        assert run["state"] == "done"
        assert installation.holds() == expected_records(engage)
        engage.observe()
        installation.amberflo.reset_stats()
        evolution = engage.evolve(hours=2.5, fraction=0.03)
        run = installation.json("sync")
        assert run["kind"] == "incremental"
        assert installation.puts() == dict.fromkeys(evolution.changed, 1)
        assert installation.holds() == expected_records(engage)
        engage.observe()
        customer_id = min(evolution.changed)
        document = installation.json("audit", "customer", customer_id)
        assert all(change["delivered_at"] for change in document["changes"])
    finally:
        engage.close()


def test_the_guard_holds_and_lets_through(
    installation: Installation, engage: EngageSandbox
) -> None:
    """A source that lost rows is held (exit 3), the other audiences go on; approve and reject."""
    engage.fill(200, 5)
    installation.json("sync")
    engage.observe()
    lost, other = engage.audiences[0], engage.audiences[1]
    installation.configure(more="[guard]\nmin_exits = 20\n")
    database = sqlite3.connect(installation.folder / "engage.db")
    database.execute("DELETE FROM user_traits WHERE name = ?", (lost,))
    member = database.execute(
        "SELECT i.value FROM user_traits t JOIN user_identifiers i USING (canonical_segment_id)"
        " WHERE t.name = ? AND t.value = 'true' AND i.type = 'user_id' LIMIT 1",
        (other,),
    ).fetchone()[0]
    database.execute(
        "UPDATE user_traits SET value = 'false' WHERE name = ? AND canonical_segment_id IN"
        " (SELECT canonical_segment_id FROM user_identifiers WHERE type = 'user_id' AND value = ?)",
        (other, member),
    )
    database.commit()

    installation.amberflo.reset_stats()
    had = {
        customer_id: record["traits"].get(lost)
        for customer_id, record in installation.holds().items()
    }
    run = installation.json("sync", "--full", exit_code=3)
    sums_close(run)
    assert run["state"] == "held"
    assert run["due"] == run["delivered"] + run["failed"] + run["held"]
    (row,) = [row for row in run["traits"] if row["held"]]
    assert row["key"] == lost
    assert row["held"] >= row["exited"] > 0
    now = {
        customer_id: record["traits"].get(lost)
        for customer_id, record in installation.holds().items()
    }
    assert now == had, "nothing of a held change is sent before"
    assert installation.amberflo.customers[member]["traits"][other] is False
    assert [row["key"] for row in installation.json("status")["held"]] == [lost]

    # A rejection lasts: a full run finds the same again, and sends nothing of it.
    installation.run("runs", "reject", "--yes", str(run["run"]))
    assert installation.json("runs")[0]["state"] == "rejected"
    assert installation.json("status")["held"] == []
    again = installation.json("sync", "--full")
    assert (again["state"], again["due"], again["held"]) == ("done", run["held"], run["held"])
    assert {
        customer_id: record["traits"].get(lost)
        for customer_id, record in installation.holds().items()
    } == had
    installation.run("runs", "approve", "--yes", "999", exit_code=1)
    done = installation.json("runs", "approve", "--yes", str(run["run"]))
    assert done["state"] == "done"
    states = {entry["run"]: entry["state"] for entry in installation.json("runs")}
    assert states[run["run"]] == "approved"
    now = {
        customer_id: record["traits"].get(lost)
        for customer_id, record in installation.holds().items()
    }
    assert set(now.values()) <= {False, None}
    installation.amberflo.reset_stats()
    assert installation.json("sync", "--full")["due"] == 0


@pytest.mark.parametrize("table", ["user_traits", "user_identifiers"])
def test_an_empty_source_is_never_an_exit(
    installation: Installation, engage: EngageSandbox, table: str
) -> None:
    """docs/design.md §3.13: however small it is, a pull without rows of it changes nothing."""
    engage.fill(60, 3)
    installation.run("sync")
    had = installation.holds()
    with create_engine(installation.source_url).begin() as connection:
        connection.execute(text(f"DELETE FROM {table}"))
        connection.engine.dispose()
    installation.run("sync", "--full", exit_code=3)
    installation.run("sync", exit_code=0)
    assert installation.holds() == had


def test_lost_state_compares_everything_and_writes_nothing_that_is_there(
    installation: Installation, engage: EngageSandbox
) -> None:
    engage.fill(100, 3)
    installation.run("sync")
    had = installation.holds()
    for file in installation.folder.glob("syncer.db*"):
        file.unlink()
    installation.amberflo.reset_stats()
    run = installation.json("sync")
    assert (run["kind"], run["delivered"]) == ("initial", len(had))
    assert installation.puts() == {}  # Amberflo holds it so already
    assert installation.holds() == had


def test_resync_of_a_part(installation: Installation, engage: EngageSandbox) -> None:
    engage.fill(200, 3)
    installation.run("sync")
    key = engage.audiences[2]
    inside = {customer.customer_id for customer in engage.expected() if key in customer.traits}
    installation.amberflo.reset_stats()
    installation.run("resync", "--audience", key, "--yes")
    assert installation.puts() == dict.fromkeys(inside, 1)

    customer_id = max(inside)
    installation.amberflo.reset_stats()
    installation.amberflo.customers[customer_id]["traits"] = {
        "stripeId": "cus_9"
    }  # someone's mistake
    installation.run("resync", "--customer", customer_id, "--yes")
    assert installation.puts() == {customer_id: 1}
    wanted = expected_records(engage)[customer_id]
    wanted["traits"] |= {"stripeId": "cus_9"}
    assert installation.holds()[customer_id] == wanted
    assert (
        "nobody" in installation.run("resync", "--customer", "nobody", "--yes", exit_code=1).stderr
    )
    installation.run("resync", "--audience", "nothing", "--yes", exit_code=1)


def test_two_keys_with_one_name(installation: Installation, engage: EngageSandbox) -> None:
    """docs/design.md §3.2: a clear error naming both; neither is sent, the rest go on."""
    engage.fill(50, 2)
    with create_engine(installation.source_url).begin() as connection:
        connection.execute(
            text("UPDATE user_traits SET name = 'Big Spender' WHERE name = :key"),
            {"key": engage.audiences[0]},
        )
        connection.execute(
            text("UPDATE user_traits SET name = 'big-spender' WHERE name = 'plan'"),
        )
        connection.execute(
            text("UPDATE user_traits SET value = 'true' WHERE name = 'big-spender'"),
        )
        connection.engine.dispose()
    result = installation.run("sync", exit_code=1)
    assert "'Big Spender'" in result.stderr
    assert "'big-spender'" in result.stderr
    held = installation.holds()
    assert held
    assert not any("big_spender" in record["traits"] for record in held.values())
    assert any(engage.audiences[1] in record["traits"] for record in held.values())


def test_changed_globs_compare_everything(
    installation: Installation, engage: EngageSandbox
) -> None:
    """A key that becomes ours has rows that no watermark will show again."""
    engage.fill(100, 3)
    config = installation.config.read_text(encoding="utf-8")
    only = f'[engage]\naudiences = ["{engage.audiences[0]}"]'
    installation.config.write_text(config.replace("[engage]", only), encoding="utf-8")
    installation.run("sync")
    installation.config.write_text(config, encoding="utf-8")
    run = installation.json("sync")
    assert run["kind"] == "reconcile"
    assert installation.holds() == expected_records(engage)
