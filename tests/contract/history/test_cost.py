"""What questions of a large history cost, on both databases."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from state import outbox, snapshot
from state.db.database import Database
from state.db.schema import CHANGE
from state.history import listings, past
from state.history.listings import EXITED, MOVED
from state.history.record import ChangeRow, add_changes, last_observed
from tests.support.state import NOW, row
from tests.support.state import put as put_customers

AT = NOW + 20_000
#: Each question with the indexes that its statements may go by.
QUESTIONS: dict[str, tuple[set[str], Callable[[Connection], Any]]] = {
    "of_customer": ({"change_customer"}, lambda c: listings.of_customer(c, "u001")),
    "of_customer, one trait": (
        {"change_customer"},
        lambda c: listings.of_customer(c, "u001", key="k3", since=NOW, until=AT, limit=2),
    ),
    "of_customer, page": (
        {"change_customer"},
        lambda c: listings.of_customer(c, "u001", newest_first=True, after_id=7000, limit=2),
    ),
    "of_key": ({"change_time"}, lambda c: listings.of_key(c, "k3", NOW, AT, deltas=MOVED)),
    "of_key, page": (
        {"change_time"},
        lambda c: listings.of_key(c, "k3", NOW, AT + 9**9, after_id=3004, limit=300),
    ),
    "of_run": ({"change_run"}, lambda c: listings.of_run(c, 7)),
    "of_run, page": ({"change_run"}, lambda c: listings.of_run(c, 7, after_id=1304, limit=30)),
    "of_run, one key": (
        {"change_run"},
        lambda c: listings.of_run(c, 7, key="k3", deltas=(EXITED,)),
    ),
    "run_moves": ({"change_run"}, lambda c: listings.run_moves(c, 7)),
    "key_moves": ({"change_time"}, lambda c: listings.key_moves(c, "k3", NOW, AT)),
    "undelivered": ({"change_undelivered"}, listings.undelivered),
    "undelivered, page": (
        {"change_undelivered", "change_customer"},
        lambda c: listings.undelivered(c, after_id=7804, limit=3),
    ),
    "undelivered_count": ({"change_undelivered"}, listings.undelivered_count),
    "in_force": ({"change_customer"}, lambda c: past.in_force(c, "u001", "k3", AT)),
    "traits_at": ({"change_customer"}, lambda c: past.traits_at(c, "u001", AT)),
    "member_at": ({"change_member"}, lambda c: past.member_at(c, "u001", "k3", AT)),
    "members_at": ({"change_member"}, lambda c: past.members_at(c, "k3", AT)),
    "members_at, page": (
        {"change_member"},
        lambda c: past.members_at(c, "k3", AT, after="u050", limit=3),
    ),
    "count_at": ({"change_member"}, lambda c: past.count_at(c, "k3", AT)),
    "sizes": (
        {"change_time", "change_member"},
        lambda c: past.sizes(c, "k3", NOW, AT, 5),
    ),
    "key_of": ({"change_time"}, lambda c: listings.key_of(c, "no such")),
    "acknowledge": (
        {"change_undelivered"},
        lambda c: outbox.acknowledge(c, outbox.claim(c, 1, AT * 2, 1), AT),
    ),
    "last_pulled": (
        {"change_customer", "change_time"},  # PostgreSQL lays both over one another
        lambda c: last_observed(c, "u001", "k3"),
    ),
}


@pytest.fixture
def filled(database: Database) -> Database:
    fill(database)
    if database.engine.dialect.name == "postgresql":
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as own:
            own.execute(text("VACUUM ANALYZE"))
    return database


def fill(database: Database) -> None:
    """8,000 changes: 200 customers, 20 keys, 40 runs; the last is not acknowledged."""
    ids = [f"u{number:03}" for number in range(200)]
    put_customers(database, *map(row, ids))
    for run in range(40):
        with database.write() as connection:
            snapshot.update_customers(connection, [row(id_) for id_ in ids], NOW)
            changes = []
            for number, customer_id in enumerate(ids):
                key = f"k{(number + run) % 20}"
                before, after = (None, "true") if run < 20 else ("true", "false")
                changes.append(ChangeRow(customer_id, key, key, before, after, 7))
            add_changes(connection, changes, run, NOW + run * 1000)
            if run < 39:
                due = outbox.claim(connection, 1, NOW, 1000)
                outbox.acknowledge(connection, due, NOW + run * 1000 + 5)


def plans(database: Database, question: Callable[[Connection], Any]) -> list[str]:
    """How the database goes about the statements of a question that touch the history."""
    sqlite = database.engine.dialect.name == "sqlite"
    asked: list[tuple[str, Any]] = []

    def see(_connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        asked.append((statement, values))

    with database.write() as connection:
        if not sqlite:
            # So small a table may cost less to read whole, depending on its pages; a large one not.
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        event.listen(connection, "before_cursor_execute", see)
        answer = question(connection)
        if isinstance(answer, Iterator):
            list(answer)
        event.remove(connection, "before_cursor_execute", see)
        plans = []
        for statement, values in asked:
            if "FROM change" in statement or "UPDATE change" in statement:
                values = values[0] if isinstance(values, list) else values
                explain = "EXPLAIN QUERY PLAN " if sqlite else "EXPLAIN "
                rows = connection.exec_driver_sql(explain + statement, values)
                plans.append("\n".join(str(line[-1]) for line in rows))
        connection.rollback()
    return plans


def test_questions_of_a_large_history(filled: Database) -> None:
    """To fill it takes longer than to ask it."""
    every_question_goes_by_an_index_of_its_own(filled)
    long_answers_are_streamed(filled)


def every_question_goes_by_an_index_of_its_own(filled: Database) -> None:
    for asked, (indexes, question) in QUESTIONS.items():
        explained = plans(filled, question)
        used = set()
        for plan in explained:
            # What is undelivered is all of its index; of any other that is too much.
            whole = plan.replace("SCAN change USING INDEX change_undelivered", "")
            assert "SCAN change" not in whole, (asked, plan)
            assert "Seq Scan on change" not in plan, (asked, plan)
            assert "TEMP B-TREE" not in plan, (asked, plan)
            ours = {index for index in history_indexes(filled) if index in plan}
            assert ours or "PRIMARY KEY" in plan or "change_pkey" in plan, (asked, plan)
            used |= ours
        assert used, (asked, explained)
        assert used <= indexes, (asked, explained)


def history_indexes(database: Database) -> set[str]:
    return {str(index.name) for index in CHANGE.indexes}


#: Pages, and how many tens of steps of SQLite's machine each may take: some 15 steps a row.
PAGES: dict[Callable[[Connection, int], Any], int] = {
    lambda c, id: listings.of_key(c, "big", 5, 10**13, after_id=id, limit=50): 150,
    lambda c, id: listings.of_key(
        c, "big", 5, 10**13, after_id=id, newest_first=True, limit=50
    ): 150,
    lambda c, id: listings.of_run(c, 99, after_id=id, limit=50): 150,
    lambda c, id: listings.of_run(c, 99, key="big", after_id=id, limit=50): 150,
    lambda c, id: listings.undelivered(c, after_id=id, limit=50): 200,
    lambda c, id: listings.of_customer(c, "u150", after_id=id, limit=5): 50,
    # Each of these has forty changes.
    lambda c, id: past.members_at(c, "big", after=f"u{id % 200:03}", limit=50): 3500,
    lambda c, id: snapshot.with_prefix(c, "u", after=f"u{id % 200:03}", limit=10): 50,
}


def test_a_late_page_costs_no_more_than_an_early_one(tmp_path: Path) -> None:
    with closing(Database.open(f"sqlite:///{tmp_path / 'syncer.db'}")) as database:
        fill(database)
        big(database)
        with database.read() as connection:
            ids = [entry.id for entry in listings.of_key(connection, "big")]
            driver: Any = connection.connection.driver_connection
            for page, bound in PAGES.items():
                for place in (60, 4000, -60):
                    steps: list[None] = []
                    driver.set_progress_handler(lambda: steps.append(None), 10)  # noqa: B023
                    rows = list(page(connection, ids[place]))
                    driver.set_progress_handler(None, 0)
                    assert len(rows) <= 50
                    assert 0 < len(steps) < bound, (page.__code__.co_firstlineno, place, len(steps))


def big(database: Database) -> None:
    """8,000 changes more: of one run and one key, recorded at eight times, not delivered."""
    with database.write() as connection:
        statement = (
            "INSERT INTO change (run, customer_id, rev, key, trait, after, recorded_at, delta) "
            "SELECT 99, customer_id, 99, 'big', 'big', 'true', 5 + run / 5, 1 FROM change"
        )
        connection.execute(text(statement))


def long_answers_are_streamed(filled: Database) -> None:
    with filled.write() as connection:
        statement = (
            "INSERT INTO change (run, customer_id, rev, key, trait, after, recorded_at, delta) "
            "SELECT 99, customer_id || '-' || id, 1, 'big', 'big', 'true', 5, 1 FROM change"
        )
        connection.execute(text(statement))
    for question in (
        lambda c: listings.of_key(c, "big"),
        lambda c: listings.of_run(c, 99),
        lambda c: past.members_at(c, "big"),
    ):
        with filled.read() as connection:
            tracemalloc.start()
            try:
                assert sum(1 for _ in question(connection)) == 8000
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        # All are 6 MB; a thousand are fetched at a time.
        assert peak < 2_000_000
