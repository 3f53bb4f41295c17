"""The program with a real config, a warehouse that compares, and an Amberflo that others write to.

Whom Amberflo has otherwise than the state believes is read, whatever the warehouse says."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.contract.push_down.worlds import SCRATCH, tables_in_scratch
from tests.support.installation import Installation, installed
from tests.support.space import T0, TWO_LATER, Warehouse

PUSH_DOWN = f'compare = "pushdown"\nscratch = "{SCRATCH}"'


@pytest.fixture
def warehouse(empty_postgres: str) -> Iterator[Warehouse]:
    warehouse = Warehouse(empty_postgres)
    warehouse.create()
    warehouse.run(f"CREATE SCHEMA {SCRATCH}")
    for number in range(12):
        warehouse.member(f"p{number}", f"u{number}", "false" if number == 11 else "true", T0)
    warehouse.flush()
    yield warehouse
    warehouse.engine.dispose()


@pytest.fixture
def installation(warehouse: Warehouse, tmp_path: Path) -> Iterator[Installation]:
    with installed(tmp_path) as installation:
        installation.configure(source=warehouse.url, profiles_sync=PUSH_DOWN)
        yield installation


def read(installation: Installation) -> str:
    """What a run of all says of whom it read."""
    return installation.run("sync", "--full").stderr


def history(installation: Installation, customer_id: str) -> list[tuple[Any, Any, Any]]:
    changes = installation.json("audit", "customer", customer_id)["changes"]
    return [(change["before"], change["after"], change["source"]) for change in changes]


def test_what_amberflo_has_otherwise_is_read(
    installation: Installation, warehouse: Warehouse
) -> None:
    customers = installation.amberflo.customers
    results = {result["check"]: result for result in installation.json("check")}
    scratch = results["scratch"]
    assert scratch["ok"]
    assert "created, filled, read and dropped in the schema 'scratch'" in scratch["message"]
    assert not tables_in_scratch(warehouse)

    assert "all customers are read: no fingerprints are kept yet" in read(installation)
    assert "0 of 12 customers are read" in read(installation)

    # Others wrote over what is ours.
    customers["u1"]["traits"]["vip"] = "false"
    assert "1 of 12 customers are read" in read(installation)
    assert customers["u1"]["traits"]["vip"] is True
    assert history(installation, "u1")[-1] == (False, True, "amberflo")

    # Somebody who was never a member, and never sent, is one there.
    record = customers["u1"]
    customers["u11"] = {**record, "customerId": "u11", "customerName": "u11"}
    assert "1 of 12 customers are read" in read(installation)
    assert customers["u11"]["traits"]["vip"] is False
    assert history(installation, "u11") == [(True, False, "amberflo")]


def test_who_was_never_acknowledged_is_read(
    installation: Installation, warehouse: Warehouse
) -> None:
    """Amberflo took what was sent and nobody learned of it; since then others wrote there."""
    warehouse.trait("p1", "churn", "true", T0)
    warehouse.member("p12", "u12", "true", TWO_LATER)
    warehouse.flush()
    read(installation)
    with closing(sqlite3.connect(installation.folder / "syncer.db")) as state, state:
        never = "acked_rev = 0, acked_at = NULL, due_at = 1"
        state.execute(f"UPDATE customer SET {never} WHERE customer_id = 'u12'")
    record = installation.amberflo.customers["u12"]
    record["traits"]["churn"] = "true"
    assert "1 of 13 customers are read" in read(installation)
    assert (True, False, "amberflo") in history(installation, "u12")


def test_what_cannot_push_down_is_refused(installation: Installation) -> None:
    for source, settings, why in (
        ("sqlite:///engage.db", PUSH_DOWN, "a file of SQLite is read here anyway"),
        ("postgresql://localhost/db", 'compare = "pushdown"', "needs a schema of its own"),
        (
            "postgresql://localhost/db",
            'schema = "s"\nscratch = "s"\ncompare = "pushdown"',
            "needs a schema of its own",
        ),
    ):
        installation.configure(source=source, profiles_sync=settings)
        refused = installation.run("sync", exit_code=2).stderr
        assert refused.count("\n") == 1, refused
        assert why in refused
