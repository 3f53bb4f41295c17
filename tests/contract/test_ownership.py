"""A trait that is given back: what becomes of its customers, its history and its holds."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from sqlalchemy import text

from state import holds, outbox, ownership, snapshot
from state.change_sources import ADOPTED, AMBERFLO, IDENTIFY, RELEASED, RENAMED
from state.db.database import Database
from state.history import compaction, past, seal
from state.history.record import ChangeRow, add_changes
from state.holds import Kept
from state.ownership import Released
from state.snapshot import CustomerRow, TraitRow
from tests.support.state import NOW, ask, due, put, records, row

#: When the trait is given back.
THEN = NOW + 100


def own(database: Database, key: str = "plan", members: int = 0) -> None:
    with database.write() as connection:
        snapshot.put_traits(connection, [TraitRow(key, key.lower(), "audience", members)])


def tell(
    database: Database, customer_id: str, before: Any, after: Any, source: str | None = None,
    key: str = "plan", trait: str = "plan",
) -> None:  # fmt: skip
    """A row of the history."""
    texts = [None if value is None else orjson.dumps(value).decode() for value in (before, after)]
    change = ChangeRow(customer_id, key, trait, texts[0], texts[1], NOW, source)
    with database.write(alone=True) as connection:
        add_changes(connection, [change], 1, NOW)


def release(database: Database, key: str = "plan", now: int = THEN) -> Released:
    with database.write(alone=True) as connection:
        trait = snapshot.trait(connection, key)
        assert trait is not None
        return ownership.release(connection, trait, now)


def deliver(database: Database, rows: list[CustomerRow] | None = None) -> None:
    with database.write() as connection:
        outbox.acknowledge(connection, due(database, THEN) if rows is None else rows, THEN)


def settle(database: Database) -> None:
    """Amberflo has all of it."""
    rows = due(database, THEN)
    deliver(database, rows)


def given(database: Database) -> dict[str, Any]:
    customers = records(database)
    return {
        customer_id: json.loads(record["given_back"])
        for customer_id, record in customers.items()
        if record["given_back"] is not None
    }


def last_change(database: Database, customer_id: str) -> tuple[Any, ...]:
    changes = [
        change
        for change in records(database, "change").values()
        if change["customer_id"] == customer_id
    ]
    return tuple(changes[-1][name] for name in ("key", "before", "after", "source", "delta"))


@pytest.fixture
def owned(database: Database) -> Database:
    """Some have it, one had it, one has nothing of it; all is delivered."""
    own(database, members=2)
    own(database, "vip", members=1)
    put(database, row("in", plan=True), row("was", plan=False, vip=True), row("other", vip=True))
    put(database, row("theirs", plan=True), row("removed"))
    tell(database, "in", None, True)
    tell(database, "was", None, False)
    tell(database, "theirs", "gold/eu", True, ADOPTED)
    tell(database, "removed", ["a", 1], None, AMBERFLO)
    settle(database)
    return database


def test_customers_lose_it_and_get_back_what_was_there(owned: Database) -> None:
    assert release(owned) == Released(customers=4, restored=2)
    assert given(owned) == {
        "in": {"plan": None},
        "was": {"plan": None},
        "theirs": {"plan": "gold/eu"},
        "removed": {"plan": ["a", 1]},
    }
    customers = records(owned)
    assert {customer_id: record["traits"] for customer_id, record in customers.items()} == {
        "in": "{}",
        "was": '{"vip":true}',
        "other": '{"vip": true}',
        "theirs": "{}",
        "removed": "{}",
    }
    assert {
        customer_id for customer_id, record in customers.items() if record["due_at"] == THEN
    } == given(owned).keys()
    assert (customers["in"]["rev"], customers["other"]["rev"]) == (2, 1)


def test_it_is_ours_no_more_and_the_others_are(owned: Database) -> None:
    release(owned)
    assert [trait.key for trait in ask(owned, snapshot.traits)] == ["vip"]
    (plan, _) = ask(owned, lambda c: snapshot.traits(c, released=True))
    assert (plan.key, plan.released_at, plan.members) == ("plan", THEN, 0)
    assert ask(owned, lambda c: snapshot.trait(c, "plan")) == plan


def test_the_history_says_so(owned: Database) -> None:
    release(owned)
    assert last_change(owned, "in") == ("plan", "true", None, RELEASED, -1)
    assert last_change(owned, "was") == ("plan", "false", None, RELEASED, 0)
    assert last_change(owned, "theirs") == ("plan", "true", '"gold/eu"', RELEASED, -1)
    assert last_change(owned, "removed") == ("plan", None, '["a",1]', RELEASED, 0)
    assert list(ask(owned, lambda c: list(past.members_at(c, "plan", None)))) == []
    before = ask(owned, lambda c: list(past.members_at(c, "plan", NOW)))
    assert before == ["in", "theirs"]


def test_a_true_of_others_is_no_membership_of_ours(owned: Database) -> None:
    put(owned, row("lost", plan=False), row("same", plan=True))
    tell(owned, "lost", True, False, AMBERFLO)
    tell(owned, "same", "true", True, AMBERFLO)
    release(owned)
    assert last_change(owned, "lost") == ("plan", "false", "true", RELEASED, 0)
    assert last_change(owned, "same")[2:] == ('"true"', RELEASED, -1)
    assert given(owned)["lost"] == {"plan": True}
    assert list(ask(owned, lambda c: list(past.members_at(c, "plan", None)))) == []


def test_only_what_was_there_before_us_counts(owned: Database) -> None:
    """Not what others wrote over ours, nor what identify calls said; a key that had the name
    before is the same trait."""
    put(owned, row("over", plan=True), row("said", plan=True), row("renamed", plan=True))
    tell(owned, "over", None, True)
    tell(owned, "over", "theirs", True, AMBERFLO)
    tell(owned, "said", None, "silver", IDENTIFY)
    tell(owned, "said", "gold", True, AMBERFLO)
    tell(owned, "renamed", "gold", True, AMBERFLO, "Plan")
    tell(owned, "renamed", True, None, RENAMED, "Plan")
    tell(owned, "renamed", None, True, RENAMED)
    release(owned)
    assert given(owned)["over"] == {"plan": None}
    assert given(owned)["said"] == {"plan": "gold"}
    assert given(owned)["renamed"] == {"plan": "gold"}


def test_who_had_it_under_an_earlier_key_and_has_it_no_more_gets_it_back(owned: Database) -> None:
    put(owned, row("gone"))
    tell(owned, "gone", "gold", None, AMBERFLO, "Plan")
    with owned.write() as connection:
        connection.execute(
            text(
                "INSERT INTO run_trait (run, key, trait, kind, pulled, entered, exited, changed,"
                " unchanged, skipped, held, reasons) VALUES (1, 'Plan', 'plan', 'audience',"
                " 1, 0, 0, 1, 0, 0, 0, '{}')"
            )
        )
    release(owned)
    assert given(owned)["gone"] == {"plan": "gold"}


def test_names_are_not_patterns(database: Database) -> None:
    """An underscore is any character to LIKE."""
    own(database, "a_b")
    put(database, row("u1", a_b=True), row("u2", axb=True), row("u3", x='"a_b":'))
    assert release(database, "a_b") == Released(1, 0)
    assert given(database).keys() == {"u1"}


@pytest.mark.parametrize(
    ("said", "gives", "after"),
    [("silver", {}, '"silver"'), (None, {"u1": {"plan": "gold"}}, '"gold"')],
)
def test_what_identify_calls_said_of_it_counts_again(
    database: Database, said: str | None, gives: Any, after: str
) -> None:
    own(database)
    called = json.dumps({"plan": [said, 5]})
    put(
        database,
        row("u1", plan=True)._replace(
            identify_traits=called, event_times='{"plan":[1,2],"name":3}'
        ),
    )
    tell(database, "u1", "gold", True, AMBERFLO)
    release(database)
    assert given(database) == gives
    record = records(database)["u1"]
    assert (record["identify_traits"], record["event_times"], record["rev"]) == (
        called,
        '{"name":3}',
        2,
    )
    assert last_change(database, "u1") == ("plan", "true", after, RELEASED, -1)


def test_it_is_given_back_once(owned: Database) -> None:
    """Whatever became due meanwhile: what Amberflo took is not written again over others."""
    release(owned)
    claimed = due(owned, THEN)
    assert {customer.customer_id: customer.given_back for customer in claimed}[
        "theirs"
    ] == '{"plan":"gold/eu"}'
    with owned.write() as connection:
        snapshot.update_customers(connection, [row("theirs", vip=True)], THEN + 1)
    deliver(owned, claimed)
    assert given(owned) == {}
    assert [customer.customer_id for customer in due(owned, THEN + 1)] == ["theirs"]


def test_what_was_given_back_since_the_claim_is_not_lost(owned: Database) -> None:
    put(owned, row("late", plan=True, vip=True))
    claimed = due(owned, THEN)
    release(owned)
    deliver(owned, claimed)
    assert given(owned)["late"] == {"plan": None}
    claimed = due(owned, THEN)
    release(owned, "vip")
    deliver(owned, claimed)
    assert given(owned)["late"] == {"plan": None, "vip": None}
    assert "in" not in given(owned)


def test_a_trait_that_becomes_ours_again_is_not_given_back_any_more(owned: Database) -> None:
    release(owned)
    release(owned, "vip")
    own(owned, members=7)
    (plan,) = ask(owned, snapshot.traits)
    assert (plan.key, plan.released_at, plan.members) == ("plan", None, 7)
    assert given(owned) == {"was": {"vip": None}, "other": {"vip": None}}


def test_a_second_time_it_gives_back_what_was_there_the_second_time(owned: Database) -> None:
    release(owned)
    settle(owned)
    own(owned)
    with owned.write() as connection:
        again = [row("theirs", plan=True), row("in", plan=True), row("removed", plan=True)]
        snapshot.update_customers(connection, again, THEN)
    tell(owned, "theirs", None, True)
    tell(owned, "in", "new", True, AMBERFLO)
    tell(owned, "removed", ["a", 1], True, AMBERFLO)
    release(owned)
    assert given(owned) == {
        "in": {"plan": "new"},
        "theirs": {"plan": None},
        "removed": {"plan": ["a", 1]},
    }


def test_its_holds_end(owned: Database) -> None:
    with owned.write() as connection:
        for trait in ("plan", "vip"):
            number = holds.hold(
                connection, trait, trait, "many", run=1, now=NOW, members=9, leaving=5
            )
            kept = [Kept("in", "true", "false", NOW)]
            holds.keep(connection, number, trait, kept, 1, NOW)
    release(owned)
    assert ask(owned, holds.open_holds).keys() == {"vip"}
    assert ask(owned, holds.traits_in_force) == {"vip"}
    withdrawn = ask(owned, holds.newest)[-1]
    assert (withdrawn.decision, withdrawn.because) == ("withdrawn", "the trait was given back")


def test_what_was_rejected_of_it_is_not_in_force_any_more(owned: Database) -> None:
    with owned.write() as connection:
        number = holds.hold(
            connection, "plan", "plan", "many", run=1, now=NOW, members=9, leaving=5
        )
        holds.keep(connection, number, "plan", [Kept("in", "true", "false", NOW)], 1, NOW)
        holds.decide(connection, [number], holds.REJECTED, NOW)
    release(owned)
    assert ask(owned, holds.traits_in_force) == set()
    assert ask(owned, holds.newest)[0].decision == "rejected", "what was decided stays on record"


def test_many_customers_go_page_by_page(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "ROWS", 3)
    own(database)
    ids = [f"u{number:02}" for number in range(20)]
    put(database, *(row(id_, plan=True) for id_ in ids[:10]), *(row(id_) for id_ in ids[10:]))
    for id_ in ids[5:]:
        tell(database, id_, "x", None, AMBERFLO)
    assert release(database) == Released(20, 15)
    assert {customer_id: value["plan"] for customer_id, value in given(database).items()} == {
        id_: "x" if number >= 5 else None for number, id_ in enumerate(ids)
    }


def test_a_compaction_keeps_what_can_be_given_back(owned: Database) -> None:
    for number in range(3):
        tell(owned, "theirs", number % 2 == 0, number % 2 == 1)
    with owned.write() as connection:
        connection.execute(text("UPDATE change SET delivered_at = :at"), {"at": NOW})
    with owned.write(alone=True) as connection:
        seal.seal(connection, 1, NOW)
    done = compaction.compact(owned, NOW + 1, lambda: NOW + 2)
    assert done.broken is None
    assert done.removed == 2
    release(owned)
    assert given(owned)["theirs"] == {"plan": "gold/eu"}
