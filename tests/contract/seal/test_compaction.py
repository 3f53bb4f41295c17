"""Compaction keeps the answers and the seals."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from sqlalchemy import Connection, select

from state.db.database import Database
from state.db.tables import CHANGE
from state.errors import NotKept
from state.history import compaction, listings, past, retention
from state.history.record import last_observed
from tests.contract.seal.helpers import (
    NOW,
    Maker,
    all_seals,
    broken,
    empty,
    everything,
    first_id,
    proof,
    rows,
    run_sql,
    told,
)
from tests.support.examples import examples

DAY = 86_400_000


def members(changes: list[dict[str, Any]], key: str, at: int) -> list[str]:
    """Who was in by the newest entry or exit, replayed from the whole history."""
    inside: dict[str, bool] = {}
    for change in changes:
        if change["key"] == key and change["recorded_at"] <= at:
            before, after = change["before"] == "true", change["after"] == "true"
            if before != after:
                inside[change["customer_id"]] = after
    return sorted(customer for customer, is_in in inside.items() if is_in)


def in_force(changes: list[dict[str, Any]], customer_id: str, at: int) -> dict[str, Any]:
    """The newest change of each key of a customer."""
    return {
        change["key"]: change
        for change in changes
        if change["customer_id"] == customer_id and change["recorded_at"] <= at
    }


def check_answers(connection: Connection, changes: list[dict[str, Any]], at: int) -> None:
    """All that the history says of a moment, against the replay."""
    customers = sorted({change["customer_id"] for change in changes})
    for key in ("vip", "Churn"):
        expected = members(changes, key, at)
        assert list(past.members_at(connection, key, at)) == expected
        assert (
            list(past.members_at(connection, key, at, after="u1", limit=1))
            == [customer_id for customer_id in expected if customer_id > "u1"][:1]
        )
        assert past.count_at(connection, key, at) == len(expected)
        for customer in customers:
            assert past.member_at(connection, customer, key, at) == (customer in expected)
    for customer in customers:
        replayed = in_force(changes, customer, at)
        assert past.traits_at(connection, customer, at) == {
            change["trait"]: change["after"]
            for change in replayed.values()
            if change["after"] is not None
        }
        for key in ("vip", "Churn"):
            entry = past.in_force(connection, customer, key, at)
            assert (entry and entry.id) == (replayed[key]["id"] if key in replayed else None)


def some(rng: random.Random, moments: set[int], since: int) -> list[int]:
    """One of the moments from one on, and always the last: an answer takes many statements."""
    later = sorted(at for at in moments if at >= since)
    return [*rng.sample(later, min(1, len(later))), *later[-1:]]


def check_refusals(connection: Connection, begins: int) -> None:
    """Before the history begins it says so in one line, whatever is asked."""
    for ask in (
        lambda at: past.members_at(connection, "vip", at),
        lambda at: past.count_at(connection, "vip", at),
        lambda at: past.member_at(connection, "u1", "vip", at),
        lambda at: past.traits_at(connection, "u1", at),
        lambda at: past.in_force(connection, "u1", "vip", at),
        lambda at: past.sizes(connection, "vip", at, begins + 5, 3),
    ):
        with pytest.raises(NotKept, match=r"^the history begins 20\d\d-.*Z with "):
            ask(begins - 1)


@examples(4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_a_compaction_changes_no_answer_since_it(database: Database, seed: int) -> None:
    """Against an independent replay; recorded times are out of order here and there, as two
    processes write them."""
    empty(database)
    rng, maker = random.Random(seed), Maker(database)
    for _ in range(rng.randrange(3, 9)):
        for _ in range(rng.randrange(1, 4)):
            changes = [
                (
                    f"u{rng.randrange(4)}",
                    rng.choice(["vip", "Churn"]),
                    rng.choice([True, False, None]),
                )
                for _ in range(rng.randrange(4))
            ]
            how = maker.sync if rng.random() < 0.6 else maker.call
            how(*changes, at=maker.now + rng.randrange(-3000, 3000))
        if rng.random() < 0.7:
            maker.deliver()
    before = told(database)
    last = {}
    with database.read() as connection:
        for change in before:
            which = change["customer_id"], change["key"]
            last[which] = last_observed(connection, *which)
        first = past.known_since(connection)
        if first is not None:
            for at in some(rng, {change["recorded_at"] for change in before}, first.at):
                check_answers(connection, before, at)
    limits = sorted(NOW + rng.randrange(0, maker.now - NOW + 4000) for _ in range(2))
    for limit in limits:
        done = maker.compact(limit)
        assert proof(database).broken is None
        after = told(database)
        with database.read() as connection:
            begins = retention.begins(connection)
            assert begins == done.begins
            if begins is None:
                assert after == before
                continue
            known = past.known_since(connection)
            assert known is not None
            assert known.at >= begins
            moments = {known.at, *(change["recorded_at"] for change in before)}
            for at in {known.at, *some(rng, moments, known.at)}:
                check_answers(connection, before, at)
            check_refusals(connection, known.at)
            for key in ("vip", "Churn"):
                sizes = past.sizes(connection, key, known.at, max(moments), 5)
                assert [size.members for size in sizes] == [
                    len(members(before, key, size.at)) for size in sizes
                ]
                assert listings.key_of(connection, key) == (
                    key if any(row["key"] == key for row in before) else None
                )
            for (customer_id, key), observed in last.items():
                assert last_observed(connection, customer_id, key) == observed
        # Nothing but what is superseded, acknowledged and old is gone, and nothing is different.
        remaining = {row["id"]: row for row in after}
        for change in before:
            if change["id"] in remaining:
                assert remaining[change["id"]] == change
                continue
            assert change["recorded_at"] <= begins < limit
            assert change["delivered_at"] <= begins
            assert any(
                later["id"] > change["id"]
                and (later["customer_id"], later["key"]) == (change["customer_id"], change["key"])
                for later in after
            )
    maker.sync(("u1", "vip", True))
    assert proof(database).broken is None


def test_what_was_not_acknowledged_is_kept(maker: Maker) -> None:
    maker.sync(("u1", "vip", True))
    maker.deliver()
    maker.sync(("u1", "vip", False))
    maker.sync(("u1", "vip", True))
    done = maker.compact()
    assert (done.removed, done.kept) == (1, 2)
    maker.deliver()
    maker.sync(("u2", "vip", True))
    maker.sync()
    done = maker.compact()
    assert (done.removed, done.kept) == (1, 2)
    assert proof(maker.database).compacted == 5


def test_the_last_entry_is_kept_where_what_follows_does_not_go_on_from_it(maker: Maker) -> None:
    """Where `before` is what Amberflo had, a change is no exit though the one before it entered."""
    maker.sync(("u1", "vip", True), ("u2", "vip", True))
    run_sql(
        maker.database,
        "INSERT INTO change (customer_id, rev, key, trait, after, recorded_at, source)"
        " VALUES ('u1', 2, 'vip', 'vip', 'null', :at, 'amberflo')",
        at=maker.now + 1,
    )
    maker.sync(("u2", "vip", False))
    maker.deliver()
    maker.sync(("u3", "vip", False))
    with maker.database.read() as connection:
        inside = list(past.members_at(connection, "vip", maker.now))
    assert maker.compact().removed == 1
    with maker.database.read() as connection:
        assert list(past.members_at(connection, "vip", maker.now)) == inside == ["u1"]


def test_only_whole_seals_before_the_moment_are_taken(maker: Maker) -> None:
    for number in range(4):
        maker.sync(("u1", "vip", number % 2 == 0), at=NOW + number * DAY)
        run_sql(
            maker.database,
            "UPDATE change SET delivered_at = recorded_at + 5 WHERE delivered_at IS NULL",
        )
    done = maker.compact(NOW + 2 * DAY + 1)
    assert (done.removed, done.begins) == (2, NOW + 2 * DAY)
    assert [entry["run"] for entry in told(maker.database)] == [3, 4]
    again = maker.compact(NOW + 2 * DAY + 1)
    assert (again.removed, again.kept, again.begins) == (0, 1, NOW + 2 * DAY)
    report = proof(maker.database)
    assert (report.compacted, report.begins, report.changes) == (3, NOW + 2 * DAY, 2)


def test_a_changed_row_that_a_compaction_kept_is_found(sealed: Maker) -> None:
    sealed.sync()
    sealed.compact()
    assert proof(sealed.database).broken is None
    run_sql(sealed.database, "UPDATE change SET after = 'x' WHERE run = 3 AND key = 'vip'")
    what, at, _, _ = broken(sealed.database)
    assert (at, what) == (
        9,
        f"the changes up to {all_seals(sealed)[6]['last_id']} that the compaction kept are not as "
        "they were: 6 of 6 are there, or some were changed",
    )


def test_sqlite_looks_through_the_changes_of_one_customer_for_each(database: Database) -> None:
    """Not of one key: with a million changes that took hours."""
    if database.engine.dialect.name != "sqlite":
        return  # PostgreSQL decides by its statistics
    statement = select(CHANGE.c.id).where(retention.removable(10, 10))
    literal = {"literal_binds": True}
    plan = str(statement.compile(database.engine, compile_kwargs=literal))
    steps = [row["detail"] for row in rows(database, f"EXPLAIN QUERY PLAN {plan}")]
    assert any("later USING INDEX" in step and "(customer_id=?" in step for step in steps), steps


def test_where_the_history_begins_is_looked_up(database: Database) -> None:
    """It is asked for each answer about a moment: not by going through all seals."""
    if database.engine.dialect.name != "sqlite":
        return
    asked = "SELECT number FROM seal WHERE kind IN ('compaction', 'compacted')"
    steps = rows(database, f"EXPLAIN QUERY PLAN {asked} ORDER BY number DESC LIMIT 1")
    assert any("seal USING" in step["detail"] and "seal_kind" in step["detail"] for step in steps)


def test_a_history_that_does_not_hold_is_not_compacted(sealed: Maker) -> None:
    this = first_id(sealed) + 3
    run_sql(sealed.database, "UPDATE change SET after = '1' WHERE id = :id", id=this)
    before = told(sealed.database)
    done = sealed.compact()
    assert done.broken is not None
    assert done.broken.change == this
    assert (done.removed, told(sealed.database)) == (0, before)
    assert proof(sealed.database).begins is None


def test_a_compaction_that_is_stopped_while_it_looks_touches_nothing(sealed: Maker) -> None:
    before = everything(sealed.database)
    for looks in (0, 1, 5, 8):
        asked = iter([False] * looks)
        done = compaction.compact(
            sealed.database, sealed.now + 1, lambda: sealed.now, partial(next, asked, True)
        )
        assert done == (0, 0, None, None)
    assert everything(sealed.database) == before


def test_a_compaction_that_is_cut_off_goes_on(sealed: Maker) -> None:
    sealed.sync()
    replayed = told(sealed.database)
    done = compaction.compact(
        sealed.database,
        sealed.now + 1,
        lambda: sealed.now,
        lambda: len(told(sealed.database)) < len(replayed),
    )
    assert 0 < done.removed < 12
    report = proof(sealed.database)
    assert (report.broken, report.unfinished, report.begins) == (None, True, done.begins)
    with sealed.database.read() as connection:
        assert done.begins is not None
        assert list(past.members_at(connection, "vip", sealed.now)) == members(
            replayed, "vip", sealed.now
        )
    # What Amberflo acknowledges or runs add meanwhile does not matter.
    sealed.sync(("u1", "vip", False))
    sealed.deliver()
    assert proof(sealed.database).broken is None
    rest = sealed.compact(before=0)
    assert done.removed + rest.removed == 12
    report = proof(sealed.database)
    assert (report.broken, report.unfinished, report.changes) == (None, False, 7)
