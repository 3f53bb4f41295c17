"""Problems of parts: since when they last, and which are the same one."""

from __future__ import annotations

from state import problems
from state.db.database import Database
from state.problems import SAME_WITHIN, ProblemRow
from tests.support.state import ask


def report(database: Database, text: str, now: int) -> bool:
    with database.write() as connection:
        return problems.report(connection, "customers", text, now)


def over(database: Database, now: int) -> None:
    with database.write() as connection:
        problems.over(connection, "customers", now)


def test_a_problem_lasts_until_it_is_over(database: Database) -> None:
    assert report(database, "no answer", 1000)
    assert not report(database, "status 500", 4000)
    assert ask(database, problems.active) == [
        ProblemRow("customers", "status 500", since=1000, last_at=4000, times=1, ended_at=None)
    ]
    over(database, 5000)
    assert ask(database, problems.active) == []


def test_what_comes_back_soon_is_the_same_problem(database: Database) -> None:
    report(database, "no answer", 1000)
    over(database, 2000)
    assert not report(database, "no answer", 2000 + SAME_WITHIN)
    (row,) = ask(database, problems.active)
    assert (row.since, row.times) == (1000, 2)


def test_what_comes_back_late_is_a_new_one(database: Database) -> None:
    report(database, "no answer", 1000)
    over(database, 2000)
    assert report(database, "no answer", 2001 + SAME_WITHIN)
    (row,) = ask(database, problems.active)
    assert (row.since, row.times) == (2001 + SAME_WITHIN, 1)


def test_parts_do_not_touch_each_other(database: Database) -> None:
    with database.write() as connection:
        for part in ("inbox", "customers"):
            problems.report(connection, part, f"of {part}", 1000)
        problems.over(connection, "customers", 2000)
        problems.over(connection, "never seen", 2000)
        assert [row.part for row in problems.active(connection)] == ["inbox"]
