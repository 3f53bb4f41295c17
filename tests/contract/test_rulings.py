"""What was decided on a change counts for that change, and for what Engage still says."""

from __future__ import annotations

import pytest

from state import holds, runs, snapshot
from state.db.database import Database
from state.history.record import ChangeRow, add_changes
from state.holds import Kept
from state.removable import removable
from state.snapshot import TraitRow
from syncer.engage.catalog import Catalog, KnownTrait
from syncer.engage.computations import COMPUTED_TRAIT
from syncer.sync.changes import CustomerChange, Ruling, TraitChange
from syncer.sync.rulings import Rulings
from syncer.sync.tally import Tally
from tests.support.state import NOW, ask, due, put, row

CATALOG = Catalog([KnownTrait("spent", "spent", COMPUTED_TRAIT)], {}, [])


def held(database: Database) -> tuple[int, int]:
    """A hold of u1's drop of `spent`, and the run that found it."""
    with database.write() as connection:
        run = runs.start(connection, "reconcile", NOW, "{}")
        hold = holds.hold(
            connection, "spent", "spent", "too many", run=run, now=NOW, members=9, leaving=1
        )
        holds.keep(connection, hold, "spent", [Kept("u1", "5", None, 7)], run, NOW)
    return hold, run


def ruling(
    database: Database, after: int | None, at: int, approved: tuple[int, ...] = (), until: int = 0
) -> Ruling | None:
    trait_change = TraitChange("spent", "spent", 5, after, at)
    traits = {} if after is None else {"spent": after}
    change = CustomerChange("u1", True, dict(traits), None, None, [trait_change])
    with database.read() as connection:
        rulings = Rulings(connection, Tally(CATALOG), approved, until)
        (ruled,) = rulings.read([change])
    return ruled.changes[0].ruling


@pytest.mark.parametrize(
    ("after", "runs_later", "expected"), [(None, 0, "approved"), (7, 0, None), (None, -1, None)]
)
def test_an_approval_is_of_what_was_seen(
    database: Database, after: int | None, runs_later: int, expected: Ruling | None
) -> None:
    hold, run = held(database)
    assert ruling(database, after, 7, (hold,), run + runs_later) == expected


@pytest.mark.parametrize(
    ("after", "at", "expected"),
    [(None, 7, "rejected"), (None, 6, "rejected"), (None, 8, None), (7, 7, None)],
)
def test_a_rejection_lasts_until_engage_says_something_else(
    database: Database, after: int | None, at: int, expected: Ruling | None
) -> None:
    hold, _ = held(database)
    with database.write() as connection:
        holds.decide(connection, [hold], holds.REJECTED, NOW)
    assert ruling(database, after, at) == expected
    with database.write() as connection:
        holds.lift(connection, [hold], NOW)
    assert ruling(database, after, at) is None


def test_what_is_not_said_again_is_not_in_force(database: Database) -> None:
    _, run = held(database)
    with database.write() as connection:
        holds.end_unsaid(connection, "spent", ["u2"], run + 1, NOW)
        assert holds.traits_in_force(connection) == {"spent"}
        holds.end_unsaid(connection, "spent", ["u1"], run, NOW)
        assert holds.traits_in_force(connection) == {"spent"}
        holds.end_unsaid(connection, "spent", ["u1"], run + 1, NOW)
        assert holds.traits_in_force(connection) == set()
        (ended,) = holds.close_empty(connection, run + 1, NOW)
        assert holds.open_holds(connection) == {}
    assert ended.trait == "spent"


def test_what_is_taken_away_already_goes_in_spite_of_a_hold(database: Database) -> None:
    """It is recorded before the hold, so nobody decides on it any more; and were it kept back, its
    delivery would be told and not be."""
    held(database)
    put(database, row("u1", spent=5), row("u2"), row("u3"), row("u4"))
    with database.write(alone=True) as connection:
        snapshot.put_traits(connection, [TraitRow("spent", "spent", COMPUTED_TRAIT, 0)])
        snapshot.mark_compared(connection, ["u1", "u2", "u3"], 1)
        gone = [
            ChangeRow(customer_id, "spent", "spent", "5", None, NOW)
            for customer_id in ("u1", "u2", "u3")
        ]
        add_changes(connection, gone, 1, NOW, delivered_at={"u3": NOW})
    owned = ask(database, lambda connection: removable(connection, due(database)))
    assert owned == {
        "u1": frozenset(),  # this one is held
        "u2": {"spent"},
        "u3": frozenset(),
        "u4": frozenset(),
    }
