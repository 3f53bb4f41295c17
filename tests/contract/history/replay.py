"""A story of commits, and what was told of it, in plain Python."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from state import outbox, snapshot
from state.db.database import Database
from state.errors import NotKept
from state.history.record import ChangeRow, add_changes
from state.snapshot import TraitRow
from tests.support.examples import examples
from tests.support.state import NOW, row

CUSTOMERS = ["a", "B", "～", "🦊"]
KEYS = ["vip", "Churn Risk", "spent"]
VALUES = {"vip": [None, True, False], "Churn Risk": [None, True, False], "spent": [None, 1.5, True]}

fewer = examples(
    12,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Commit(NamedTuple):
    """One transaction: the clock goes on by `tick` (or back), some values are set, and then
    Amberflo acknowledges some customers."""

    tick: int
    run: int | None
    values: list[tuple[str, str, int]]
    acknowledged: list[str]


def commits(*, back: bool) -> st.SearchStrategy[list[Commit]]:
    customer = st.sampled_from(CUSTOMERS)
    ticks = st.integers(-40 if back else 0, 30)
    value = st.tuples(customer, st.sampled_from(KEYS), st.integers(0, 2))
    run = st.sampled_from([None, 1, 2, 3])
    one = st.builds(
        Commit, ticks, run, st.lists(value, max_size=9), st.lists(customer, max_size=3, unique=True)
    )
    return st.lists(one, min_size=1, max_size=9)


class Told(NamedTuple):
    """A change as it was written, and whether Amberflo has acknowledged it; in order of the id."""

    customer_id: str
    key: str
    before: Any
    after: Any
    run: int | None
    at: int
    id: int = 0
    acknowledged_at: int | None = None

    @property
    def delta(self) -> int:
        return (self.after is True) - (self.before is True)


def write(database: Database, story: list[Commit]) -> list[Told]:
    """The story into an empty database, by the ways that the product has."""
    with database.write() as connection:
        for table in ("change", "customer", "trait"):
            connection.execute(text(f"DELETE FROM {table}"))
        told: list[Told] = []
        at = NOW
        for commit in story:
            at += commit.tick
            changes = made(commit, told, at)
            put(connection, changes, {one.customer_id for one in told})
            told = acknowledged(connection, told + changes, commit.acknowledged, at)
        numbers = connection.execute(text("SELECT id FROM change ORDER BY id")).scalars().all()
    return [one._replace(id=number) for one, number in zip(told, numbers, strict=True)]


def made(commit: Commit, told: list[Told], at: int) -> list[Told]:
    """What a commit changes of what was told so far."""
    present = {(one.customer_id, one.key): one.after for one in told}
    found = []
    for customer_id, key, place in commit.values:
        before, after = present.get((customer_id, key)), VALUES[key][place]
        if dump(before) != dump(after):
            found.append(Told(customer_id, key, before, after, commit.run, at))
            present[customer_id, key] = after
    return found


def put(connection: Connection, changes: list[Told], known: set[str]) -> None:
    if not changes:
        return
    at, run = changes[0].at, changes[0].run
    put_traits(connection, changes)
    ids = {one.customer_id for one in changes}
    snapshot.insert_customers(connection, [row(one) for one in sorted(ids - known)], at)
    snapshot.update_customers(connection, [row(one) for one in sorted(ids & known)], at)
    rows = [
        ChangeRow(*one[:2], name(one.key), dump(one.before), dump(one.after), 7) for one in changes
    ]
    add_changes(connection, rows, run, at)


def acknowledged(
    connection: Connection, told: list[Told], customer_ids: list[str], at: int
) -> list[Told]:
    """Amberflo takes what is due of some customers; gives what is told then."""
    due = {one.customer_id: one for one in outbox.claim(connection, 1, at + 10**6, 100)}
    sent = [due.pop(one) for one in customer_ids if one in due]
    if sent:
        outbox.acknowledge(connection, sent, at + 1)
    if due:
        outbox.release(connection, list(due))
    ids = {one.customer_id for one in sent}
    return [
        one._replace(acknowledged_at=at + 1)
        if one.customer_id in ids and one.acknowledged_at is None
        else one
        for one in told
    ]


def put_traits(connection: Connection, changes: list[Told]) -> None:
    members: dict[str, int] = {}
    for one in changes:
        members[one.key] = members.get(one.key, 0) + one.delta
    rows = [TraitRow(key, name(key), "audience", count) for key, count in members.items()]
    snapshot.put_traits(connection, rows)


def name(key: str) -> str:
    return key.lower().replace(" ", "_")


def dump(value: Any) -> str | None:
    return None if value is None else json.dumps(value)


def same(found: Any, told: Any) -> None:
    """Entries tell what was written, one by one in this order."""
    assert [
        Told(
            *(one.customer_id, one.key, load(one.before), load(one.after)),
            *(one.run, one.recorded_at, one.id, one.delivered_at),
        )
        for one in found
    ] == list(told)
    for one, other in zip(found, told, strict=True):
        assert (one.delta, one.trait, one.observed_at) == (other.delta, name(other.key), 7)


def load(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def moments(told: list[Told]) -> list[int]:
    """Around every time of the story."""
    return sorted({one.at + delta for one in told for delta in (-1, 0, 1)} | {NOW})


def tells(told: list[Told], at: int | None) -> bool:
    """Whether the history can tell of a moment: not of one before its first change."""
    return at is None or bool(told and at >= told[0].at)


def refused(question: Callable[[], Any]) -> None:
    with pytest.raises(NotKept, match=r"^(the history begins 20\d\d-.*Z with|nothing is recorded)"):
        question()


def inside(told: list[Told], key: str, at: int | None) -> list[str]:
    """Who was in by the entries and exits recorded by then, one after the other."""
    found = {}
    for one in told:
        if one.key == key and (at is None or one.at <= at) and one.delta:
            found[one.customer_id] = one.delta > 0
    return sorted((one for one, is_in in found.items() if is_in), key=str.encode)


class Story(NamedTuple):
    """What was told to the database, and what chooses what to ask of it."""

    connection: Connection
    told: list[Told]
    #: whether the clock went on at all times
    forth: bool
    data: st.DataObject

    def draw(self, strategy: st.SearchStrategy[Any]) -> Any:
        return self.data.draw(strategy)
