"""Customers at Amberflo that the state does not know, and what `verify` says of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from tests.support.installation import Installation
from tests.support.warehouse import Warehouse

SPENT = "total_revenue_180_days"


@pytest.fixture
def warehouse(installation: Installation) -> Iterator[Warehouse]:
    with closing(Warehouse(installation.folder / "engage.db")) as warehouse:
        warehouse.person("member", vip="true", **{SPENT: "12.5"})
        installation.run("sync")
        yield warehouse


def hold(installation: Installation, customer_id: str, **traits: Any) -> None:
    """Amberflo has it, and not from us."""
    record = {"customerId": customer_id, "id": customer_id, "customerName": customer_id}
    installation.amberflo.customers[customer_id] = {**record, "traits": traits}


def drifts(document: dict[str, Any]) -> list[tuple[str, str, Any, Any]]:
    return [
        (row["customer_id"], row["trait"], row["expected"], row["actual"])
        for row in document["drifted"]
    ]


CASES: list[tuple[dict[str, str] | None, dict[str, Any], list[tuple[str, Any]]]] = [
    # what Engage says, what Amberflo holds, what of that should be another value
    ({"vip": "false"}, {"vip": True}, [("vip", False)]),
    ({"other": "x"}, {"vip": True}, []),  # no row of a key of ours: Engage knows nothing of it
    ({SPENT: "5"}, {"vip": "true"}, [("vip", False)]),
    ({SPENT: "5"}, {"vip": "set by the CRM"}, [("vip", None)]),
    ({"vip": "false"}, {SPENT: "7"}, [(SPENT, None)]),
    ({SPENT: "5"}, {SPENT: "5.0"}, []),
    ({SPENT: "5"}, {SPENT: 6, "vip": False}, [(SPENT, 5)]),
    ({"vip": "true"}, {"vip": True, "plan": "pro"}, []),
    ({"vip": "perhaps"}, {"vip": True}, []),  # cannot be read
    (None, {"vip": True, SPENT: 7}, []),  # Engage does not know it
    ({"vip": "false"}, {"vip": False}, []),
    ({"vip": "false"}, {"plan": "pro"}, []),
]


@pytest.mark.parametrize("listings", ["with traits", "without"])
def test_who_holds_what_is_ours_is_judged_by_engage(
    installation: Installation, warehouse: Warehouse, listings: str
) -> None:
    for number, (says, holds_now, _) in enumerate(CASES):
        if says is not None:
            warehouse.person(f"s{number:02}", **says)
        hold(installation, f"s{number:02}", **holds_now)
    if listings == "without":
        installation.amberflo.paging_traits = installation.amberflo.list_traits = False
        for number in range(20):  # enough to tell that traits are left out
            warehouse.person(f"member {number}", 1, vip="true")
        for number in range(len(CASES)):  # a run would bring in who is to be there
            warehouse.person(f"s{number:02}")
        installation.run("sync")
        for number, (says, _, _) in enumerate(CASES):
            if says is not None:
                warehouse.person(f"s{number:02}", **says)
    before = installation.holds()
    wanted = [
        (f"s{number:02}", trait, expected, CASES[number][1][trait])
        for number, (_, _, wrong) in enumerate(CASES)
        for trait, expected in wrong
    ]
    document = installation.json("verify", exit_code=1)
    assert drifts(document) == wanted
    wrong = {row[0] for row in wanted}
    assert document["extra"] == [
        f"s{number:02}" for number in range(len(CASES)) if f"s{number:02}" not in wrong
    ]
    assert document["checked"] == document["equal"] + len(wrong)
    assert installation.holds() == before
    # One by its id is judged the same.
    for number, (_, _, differs) in enumerate(CASES):
        alone = f"s{number:02}"
        document = installation.json("verify", "--customer", alone, exit_code=int(bool(differs)))
        assert drifts(document) == [row for row in wanted if row[0] == alone]
        assert document["extra"] == [] if differs else [alone]


def test_engage_is_asked_only_where_somebody_is_to_be_asked_about(
    installation: Installation, warehouse: Warehouse
) -> None:
    (installation.folder / "engage.db").rename(installation.folder / "away.db")
    hold(installation, "stranger", plan="pro", vip=False)
    said = installation.run("verify")
    assert "Engage" not in said.stderr
    hold(installation, "stranger", plan="pro", vip=True)
    hold(installation, "another", **{SPENT: 5})
    said = installation.run("verify", "--json", exit_code=1)
    lines = [line for line in said.stderr.splitlines() if line.startswith("Engage cannot be asked")]
    assert len(lines) == 1
    assert "does not exist" in lines[0]
    assert drifts(installation.json("verify", exit_code=1)) == [
        ("another", SPENT, None, 5),
        ("stranger", "vip", None, True),
    ]


def test_who_was_forgotten_or_is_protected_is_left_alone(
    installation: Installation, warehouse: Warehouse
) -> None:
    installation.run("forget", "member", "--yes")
    assert installation.amberflo.customers["member"]["traits"]["vip"] is True
    warehouse.person("member", 1, vip="false")
    warehouse.person("stranger", vip="false")
    hold(installation, "stranger", vip=True)
    installation.configure(protected=["v*"])
    assert installation.json("verify")["extra"] == ["member", "stranger"]
    installation.configure()
    document = installation.json("verify", exit_code=1)
    assert (drifts(document), document["extra"]) == (
        [("stranger", "vip", False, True)],
        ["member"],
    )


def test_a_key_that_the_config_leaves_out_is_not_ours_to_judge(
    installation: Installation, warehouse: Warehouse
) -> None:
    warehouse.person("stranger", vip="false")
    hold(installation, "stranger", vip=True)
    text = installation.config.read_text(encoding="utf-8")
    text = text.replace("[engage]\n", '[engage]\naudiences = ["no_such"]\n')
    installation.config.write_text(text, encoding="utf-8")
    assert installation.json("verify")["extra"] == ["stranger"]


def test_many_are_asked_about_in_parts(installation: Installation, warehouse: Warehouse) -> None:
    for number in range(1100):
        if number % 2:
            warehouse.person(f"s{number:04}", vip="false")
        hold(installation, f"s{number:04}", vip=True)
    document = installation.json("verify", exit_code=1)
    assert len(drifts(document)) == 550
    assert len(document["extra"]) == 550


# Repair


def test_an_old_state_puts_nothing_old_back(
    installation: Installation, warehouse: Warehouse
) -> None:
    """A copy is restored: what it says is older than what Amberflo has. Engage is compared anew
    before anything is written, so nobody gets back what he had."""
    warehouse.person("left", vip="true")
    warehouse.person("stays", vip="true")
    installation.run("sync")
    with copied(installation):
        warehouse.person("left", 1, vip="false")
        installation.run("sync")
        assert installation.amberflo.customers["left"]["traits"]["vip"] is False
    installation.amberflo.customers["stays"]["traits"]["vip"] = False
    installation.amberflo.reset_stats()
    document = installation.json("verify", exit_code=1)
    assert [row[0] for row in drifts(document)] == ["left", "stays"]
    document = installation.json("verify", "--repair")
    assert document["repaired"] == 2
    traits = {customer_id: record["traits"] for customer_id, record in installation.holds().items()}
    assert (traits["left"]["vip"], traits["stays"]["vip"]) == (False, True)
    assert installation.json("runs")[0]["kind"] == "reconcile"
    assert drifts(installation.json("verify")) == []


@contextmanager
def copied(installation: Installation) -> Iterator[None]:
    """What the state is before the block, it is again after it."""
    path = installation.folder / "syncer.db"
    with closing(sqlite3.connect(path)) as state, closing(sqlite3.connect(":memory:")) as copy:
        state.backup(copy)
        yield
        copy.backup(state)


def test_who_has_something_held_is_not_repaired(
    installation: Installation, warehouse: Warehouse
) -> None:
    """Somebody took a member out at Amberflo, and most of the audience would leave in Engage: what
    is held of it is nobody's to send before it is decided."""
    people = ["held", "held too", "member"]
    for person in people:
        warehouse.person(person, vip="true", **{SPENT: "12.5"})
    installation.configure(more="[guard]\nmin_exits = 1\nsmall_min_exits = 1\n")
    installation.run("sync")
    for person in people[:2]:
        warehouse.person(person, 1, vip="false", **{SPENT: "12.5"})
    installation.run("sync", exit_code=3)
    for person in people:
        installation.amberflo.customers[person]["customerName"] = ""
    installation.amberflo.reset_stats()
    said = installation.run("verify", "--repair", exit_code=1)
    lines = said.stderr.splitlines()
    # Whichever was read first.
    assert {line for line in lines if line.startswith("not repaired")} == {
        "not repaired held: held",
        "not repaired held too: held",
    }
    assert "repaired member: customerName" in lines
    assert installation.puts() == {"member": 1}
    assert installation.amberflo.customers["held"]["traits"]["vip"] is True


def test_where_engage_cannot_be_compared_nothing_is_repaired(
    installation: Installation, warehouse: Warehouse
) -> None:
    installation.amberflo.customers["member"]["traits"]["vip"] = False
    installation.amberflo.reset_stats()
    with closing(sqlite3.connect(installation.folder / "engage.db")) as file, file:
        file.execute("ALTER TABLE user_traits RENAME TO away")
    said = installation.run("verify", "--repair", exit_code=1)
    assert "error: the table user_traits" in said.stderr
    assert "0 of 1 repaired" in said.stderr
    assert installation.puts() == {}
