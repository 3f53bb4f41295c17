"""Which table of fingerprints is the baseline, and whom the next comparison by it reads anyway."""

from __future__ import annotations

from sqlalchemy import Connection

from state import fingerprint_tables, holds, revisits, snapshot, suppression
from state.db.database import Database
from state.fingerprint_tables import FingerprintTableRow
from state.holds import Kept
from tests.support.state import NOW, ask, put, row

RUN = 7


def noted(database: Database) -> list[str]:
    return list(ask(database, lambda connection: list(revisits.listed(connection))))


def begin(database: Database, name: str = "one") -> None:
    """A run is about to make its fingerprints."""
    with database.write() as connection:
        fingerprint_tables.add(connection, name, RUN)


def test_the_newest_table_of_a_commit_is_the_baseline(database: Database) -> None:
    assert not ask(database, fingerprint_tables.any_on_record)
    begin(database, "one")
    begin(database, "dead")
    assert ask(database, fingerprint_tables.any_on_record)
    assert ask(database, fingerprint_tables.baseline) is None
    with database.write(alone=True) as connection:
        fingerprint_tables.set_baseline(connection, "one", 3, 5, "basis")
        fingerprint_tables.add(connection, "two", RUN + 1)
        table = fingerprint_tables.baseline(connection)
        assert table == FingerprintTableRow("one", RUN, 3, 5, "basis")
        assert fingerprint_tables.superseded(connection, "two") == ["dead"]
        fingerprint_tables.set_baseline(connection, "two", 4, 6, "other")
        fingerprint_tables.remove(connection, ["dead"])
        assert fingerprint_tables.superseded(connection, "three") == ["one"]
        fingerprint_tables.clear(connection)
        assert not fingerprint_tables.any_on_record(connection)


def test_whoever_is_written_by_no_run_is_noted(database: Database) -> None:
    put(database, row("before"))
    assert noted(database) == [], "without fingerprints nobody is"
    begin(database)
    put(database, row("made"))
    put(database, row("of a run"), run=RUN)
    with database.write(alone=True) as connection:
        snapshot.update_customers(connection, [row("before", vip=True)], NOW)
        snapshot.touch_customers(connection, [row("of a run")])
        snapshot.update_customers(connection, [row("made", vip=True)], NOW, RUN)
        suppression.lift(connection, "let in again")
    assert noted(database) == ["made", "before", "let in again"]


def test_the_end_of_a_hold_is_noted(database: Database) -> None:
    begin(database)

    def hold(connection: Connection, *customers: str) -> int:
        sizes = {"members": 3, "leaving": 3}
        number = holds.hold(connection, "vip", "vip", "many", run=RUN, now=NOW, **sizes)
        rows = [Kept(each, "true", "false", NOW) for each in customers]
        holds.keep(connection, number, "vip", rows, RUN, NOW)
        return number

    with database.write(alone=True) as connection:
        number = hold(connection, "a", "b", "c")
        assert list(holds.customers_in_force(connection)) == ["a", "b", "c"]
        changes = holds.in_force(connection, ["a"]).values()
        holds.end(connection, list(changes), NOW)
        assert list(holds.customers_in_force(connection)) == ["b", "c"]
        holds.decide(connection, [number], holds.REJECTED, NOW)
        assert list(holds.customers_in_force(connection)) == ["b", "c"]
        assert list(revisits.listed(connection)) == ["a"]
        holds.lift(connection, [number], NOW)
        assert list(holds.customers_in_force(connection)) == []
    assert noted(database) == ["a", "b", "c"]


def test_a_run_has_seen_to_what_was_noted_before_it(database: Database) -> None:
    """A call that comes while it compares is newer, also of who was noted last before."""
    begin(database)
    with database.write(alone=True) as connection:
        revisits.note(connection, ["a", "b", "c", "a"])
        until = revisits.newest(connection)
    for late in ("c", "d"):
        with database.write(alone=True) as connection:
            revisits.note(connection, [late])
    with database.write(alone=True) as connection:
        after = revisits.newest(connection)
        revisits.note(connection, ["e"])  # by the run itself
        revisits.settle(connection, until, after)
    assert noted(database) == ["c", "d"]
    with database.write(alone=True) as connection:
        revisits.erase(connection, ["c"])
        assert list(revisits.listed(connection)) == ["d"]
        revisits.clear(connection)
        assert revisits.newest(connection) == 0
