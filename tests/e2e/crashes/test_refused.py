"""What Amberflo refuses for good, and how it is retried or discarded."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from sqlalchemy import create_engine, text

from syncer.sandbox.engage import EngageSandbox
from tests.support.installation import Installation, expected_records


def put_trait(installation: Installation, customer_id: str, value: str) -> None:
    """Give a customer a computed trait; at Segment it is there from now on."""
    engine = create_engine(installation.source_url)
    with engine.begin() as connection:
        (profile,) = connection.execute(
            text("SELECT canonical_segment_id FROM user_identifiers WHERE value = :id"),
            {"id": customer_id},
        ).one()
        where = "WHERE canonical_segment_id = :profile AND name = 'total_revenue_items'"
        connection.execute(text(f"DELETE FROM user_traits {where}"), {"profile": profile})
        connection.execute(
            text(
                "INSERT INTO user_traits VALUES (:profile, 'total_revenue_items', :value, 1, "
                "datetime('now'), datetime('now'), datetime('now'))"
            ),
            {"profile": profile, "value": value},
        )
    engine.dispose()


def alone(installation: Installation, engage: EngageSandbox) -> list[str]:
    """Customers that are the only ones of their profile, which never merged."""
    merged = "FROM profile_merges WHERE segment_id <> canonical_segment_id"
    with closing(sqlite3.connect(installation.folder / "engage.db")) as source:
        rows = source.execute(
            "SELECT max(value) FROM user_identifiers WHERE type = 'user_id' "
            f"AND canonical_segment_id NOT IN (SELECT segment_id {merged}) "
            f"AND canonical_segment_id NOT IN (SELECT canonical_segment_id {merged}) "
            "GROUP BY canonical_segment_id HAVING count(*) = 1"
        ).fetchall()
    return sorted({value for (value,) in rows} & expected_records(engage).keys())


@pytest.fixture
def refusing(installation: Installation, engage: EngageSandbox) -> tuple[str, str]:
    """Two customers of a synced installation that changed, of whom Amberflo will refuse the first:
    its record there has a field that Amberflo itself does not take back."""
    engage.fill(60, 3)
    installation.run("sync")
    bad, good = alone(installation, engage)[:2]
    put_trait(installation, bad, "7")
    put_trait(installation, good, '["a"]')
    installation.amberflo.customers[bad]["strange"] = 1
    installation.amberflo.reset_stats()
    return bad, good


def test_what_is_refused_for_good_is_kept_and_listed(
    installation: Installation, refusing: tuple[str, str]
) -> None:
    bad, good = refusing
    had = installation.holds()[bad]
    done = installation.run("sync", exit_code=1)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == ["error: Amberflo does not take 1 customers: `syncer failures` lists them"]

    run = installation.json("runs")[0]
    assert (run["due"], run["delivered"], run["failed"], run["held"]) == (2, 1, 1, 0)
    assert run["state"] == "done"
    assert installation.holds()[bad] == had
    assert installation.holds()[good]["traits"]["total_revenue_items"] == ["a"]
    (failure,) = installation.json("failures")
    assert (failure["kind"], failure["customer_id"], failure["status"]) == ("customer", bad, 400)
    assert (failure["attempts"], failure["message_id"]) == (1, None)
    assert "unknown field 'strange'" in failure["reason"]
    assert '"total_revenue_items":7' in failure["request"]
    assert "errorMessage" in failure["body"]
    assert failure["failed_at"].endswith("Z")
    assert bad in installation.run("failures", "list").stdout
    assert installation.json("status")["failures"] == 1
    changes = installation.json("audit", "customer", bad)["changes"]
    assert [change["delivered_at"] for change in changes if change["run"] == 2] == [None]

    # It waits: nothing is sent again by itself.
    installation.amberflo.reset_stats()
    assert installation.json("sync")["due"] == 0
    assert installation.amberflo.stats()["requests"].keys() == {"GET /customers/paging"}
    assert len(installation.json("failures")) == 1


def test_a_refused_customer_is_retried_when_asked(
    installation: Installation, refusing: tuple[str, str]
) -> None:
    bad, _ = refusing
    installation.run("sync", exit_code=1)
    (failure,) = installation.json("failures")
    done = installation.run("failures", "retry", str(failure["id"]), exit_code=1)
    assert "0 delivered, 1 refused again" in done.stderr
    assert "delivering: 1 of 1 in " in done.stderr
    (failure,) = installation.json("failures")
    assert failure["customer_id"] == bad

    for arguments, code in ((["999"], 1), ([], 2), (["--all", "1"], 2)):
        installation.run("failures", "retry", *arguments, exit_code=code)
        installation.run("failures", "discard", *arguments, exit_code=code)
    assert installation.json("failures") == [failure]

    # Mended there, the next change goes through, and the failure is gone.
    del installation.amberflo.customers[bad]["strange"]
    put_trait(installation, bad, "12.5")
    assert installation.json("sync")["delivered"] == 1
    assert installation.holds()[bad]["traits"]["total_revenue_items"] == 12.5
    assert installation.json("failures") == []
    changes = installation.json("audit", "customer", bad)["changes"]
    assert all(change["delivered_at"] for change in changes)


def test_a_retry_gets_through_when_amberflo_was_mended(
    installation: Installation, engage: EngageSandbox
) -> None:
    engage.fill(60, 3)
    wanted = expected_records(engage)
    customers = installation.amberflo.customers
    for bad in list(wanted)[:3]:
        customers[bad] = {"customerId": bad, "customerName": bad, "strange": 1, "traits": {}}
    run = installation.json("sync", exit_code=1)
    assert (run["delivered"], run["failed"]) == (len(wanted) - 3, 3)
    failures = installation.json("failures")
    assert [failure["status"] for failure in failures] == [400] * 3
    for bad in list(wanted)[:2]:
        del customers[bad]["strange"]

    chosen = [
        str(failure["id"]) for failure in failures if failure["customer_id"] == next(iter(wanted))
    ]
    assert installation.json("failures", "retry", *chosen) == {"delivered": 1, "failed": 0}
    assert len(installation.json("failures")) == 2
    document = installation.json("failures", "retry", "--all", exit_code=1)
    assert document == {"delivered": 1, "failed": 1}
    (refused,) = installation.json("failures")
    del customers[refused["customer_id"]]["strange"]
    installation.run("failures", "retry", "--all")
    assert installation.json("failures") == []
    assert installation.holds() == wanted
    assert installation.json("sync")["due"] == 0


def test_a_discarded_failure_is_forgotten_until_somebody_sends_it_again(
    installation: Installation, refusing: tuple[str, str]
) -> None:
    bad, _ = refusing
    installation.run("sync", exit_code=1)
    (failure,) = installation.json("failures")
    assert installation.json("failures", "discard", str(failure["id"])) == {"discarded": 1}
    assert installation.json("failures") == []
    installation.amberflo.reset_stats()
    assert installation.json("sync", "--full")["due"] == 0
    assert installation.amberflo.stats()["requests"].keys() == {"GET /customers/paging"}
    installation.run("resync", "--customer", bad, "--yes", exit_code=1)
    (failure,) = installation.json("failures")
    assert failure["customer_id"] == bad


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
def test_what_is_too_large_is_refused_not_tried_for_ever(
    installation: Installation, engage: EngageSandbox
) -> None:
    engage.fill(20, 2)
    wanted = expected_records(engage)
    big = alone(installation, engage)[0]
    put_trait(installation, big, "x" * 1_100_000)
    run = installation.json("sync", exit_code=1)
    assert (run["delivered"], run["failed"]) == (len(wanted) - 1, 1)
    (failure,) = installation.json("failures")
    assert (failure["customer_id"], failure["status"]) == (big, 413)
