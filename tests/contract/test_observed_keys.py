"""Which keys an incremental run knows of: those of the last full run, and what turned up since."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from state import snapshot
from state.db import metadata
from state.db.database import Database
from syncer.engage.computations import Computation
from syncer.sync.run_result import Result
from syncer.sync.runs import Runs
from syncer.sync.trait_selection import Selection
from tests.support.space import TWO_LATER, Warehouse, runs_on

LATER = [f"2026-03-{day:02}T10:00:00Z" for day in range(10, 20)]


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[Warehouse]:
    """Ten customers, all with the audience `vip` and a `gender`, half of them "f"."""
    warehouse = Warehouse(f"sqlite:///{tmp_path / 'engage.db'}")
    warehouse.create()
    for number in range(10):
        warehouse.member(f"p{number}", f"u{number}")
        warehouse.trait(f"p{number}", "gender", "fm"[number % 2])
    warehouse.id("p9", "nine@example.com", TWO_LATER, type="email")  # no other row is as new
    yield warehouse
    warehouse.engine.dispose()


@pytest.fixture
def database() -> Iterator[Database]:
    with closing(Database.open("sqlite://")) as database:
        yield database


def runs(database: Database, warehouse: Warehouse) -> Runs:
    made = runs_on(database, warehouse.source(overlap=0))
    selection = Selection(("*",), ("total",), "{}")
    return replace(made, comparison=replace(made.comparison, selection=selection))


def sync(database: Database, warehouse: Warehouse, *, full: bool = False) -> Result:
    result = runs(database, warehouse).sync(full=full)
    assert not result.problems
    return result


def test_what_changed_does_not_make_an_audience_of_a_mixed_key(
    database: Database, warehouse: Warehouse
) -> None:
    """ "f" alone reads as a boolean: only the whole population shows that the key is none."""
    assert sync(database, warehouse).delivery.delivered == 10
    warehouse.trait("p0", "gender", "f", LATER[0])
    warehouse.trait("p1", "vip", "false", LATER[0])
    result = sync(database, warehouse)
    assert (result.kind, result.delivery.delivered) == ("incremental", 1)


def test_a_key_that_turns_up_makes_a_run_of_all_and_only_one(
    database: Database, warehouse: Warehouse
) -> None:
    sync(database, warehouse)
    warehouse.trait("p0", "churn", "true", LATER[0])
    warehouse.trait("p1", "tier", "f", LATER[0])
    warehouse.trait("p2", "tier", "gold")
    result = sync(database, warehouse)
    assert (result.kind, result.delivery.delivered) == ("reconcile", 1)
    for number in range(1, 3):
        warehouse.trait("p1", "tier", "f", LATER[number])
        assert sync(database, warehouse).kind == "incremental"


def test_a_key_that_takes_over_a_name_makes_a_run_of_all_and_only_one(
    database: Database, warehouse: Warehouse
) -> None:
    """An audience is made anew under a key of the same name: its members stay, or leave, by it."""
    warehouse.run("UPDATE user_traits SET name = 'Vip' WHERE name = 'vip'")
    sync(database, warehouse)
    warehouse.run("DELETE FROM user_traits WHERE name = 'Vip'")
    for number in range(10):
        warehouse.trait(f"p{number}", "vip", str(number > 0).lower(), LATER[0])
    result = sync(database, warehouse)
    assert (result.kind, result.delivery.delivered) == ("reconcile", 1)
    warehouse.trait("p1", "VIP", "false", LATER[1])  # while the owner of the name stays
    refused = [sync(database, warehouse) for _ in range(2)]
    assert [(item.kind, item.delivery.delivered) for item in refused] == [
        ("reconcile", 0),
        ("incremental", 0),
    ]


def test_what_turned_up_between_full_runs_is_known_to_the_runs_after(
    database: Database, warehouse: Warehouse
) -> None:
    """A mixed key needs no run of all, and a key that Segment lists later needs no new row."""
    listing = [Computation("vip", "VIP", "audience")]
    listed = replace(runs(database, warehouse).comparison, computations=lambda: listing)

    def next_kind() -> str:
        return replace(runs(database, warehouse), comparison=listed).sync().kind

    assert next_kind() == "initial"
    warehouse.trait("p0", "total", "5", LATER[0])
    assert [next_kind()] == ["incremental"]
    warehouse.trait("p1", "vip", "false", LATER[1])
    assert [next_kind()] == ["incremental"]
    listing.append(Computation("total", "Total", "computed_trait"))
    assert [next_kind(), next_kind()] == ["reconcile", "incremental"]
    with database.read() as connection:
        (row,) = snapshot.find(connection, ["u0"])
    assert row.traits == '{"total":5,"vip":true}'


def test_a_mixed_key_that_turned_up_in_parts_is_no_audience(
    database: Database, warehouse: Warehouse
) -> None:
    sync(database, warehouse)
    for number, value in enumerate(["gold", "f", "t"]):
        warehouse.trait(f"p{number}", "tier", value, LATER[number])
        assert sync(database, warehouse).kind == "incremental"


def test_a_key_without_new_rows_is_not_lost_before_a_run_of_all(
    database: Database, warehouse: Warehouse
) -> None:
    sync(database, warehouse)
    warehouse.run("DELETE FROM user_traits WHERE name = 'vip'")
    warehouse.trait("p1", "gender", "m", LATER[0])
    result = sync(database, warehouse)
    assert (result.kind, result.held) == ("incremental", {})
    assert list(sync(database, warehouse, full=True).held) == ["vip"]


def test_a_state_of_an_earlier_version_goes_by_the_traits_that_it_has(
    database: Database, warehouse: Warehouse
) -> None:
    for at in LATER[:2]:
        warehouse.trait("p1", "vip", "true", at)
        sync(database, warehouse)
    with database.write() as connection:
        metadata.drop(connection, metadata.OBSERVED_KEYS)
    warehouse.trait("p1", "vip", "false", LATER[2])
    result = sync(database, warehouse)
    assert (result.kind, result.delivery.delivered) == ("incremental", 1)
    warehouse.trait("p0", "gender", "f", LATER[3])
    assert [sync(database, warehouse).kind for _ in range(2)] == ["reconcile", "incremental"]


def test_one_customer_is_sent_again_by_what_the_last_full_run_knew(
    database: Database, warehouse: Warehouse
) -> None:
    sync(database, warehouse)
    warehouse.trait("p1", "churn", "true")
    warehouse.trait("p1", "vip", "false", LATER[0])
    result = runs(database, warehouse).resync(customer_id="u1")
    assert (result.kind, result.delivery.delivered) == ("resync", 1)
    with database.read() as connection:
        (row,) = snapshot.find(connection, ["u1"])
    assert row.traits == '{"vip":false}'
