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
    commit = st.builds(
        Commit, ticks, run, st.lists(value, max_size=9), st.lists(customer, max_size=3, unique=True)
    )
    return st.lists(commit, min_size=1, max_size=9)


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
            put(connection, changes, {entry.customer_id for entry in told})
            told = acknowledged(connection, told + changes, commit.acknowledged, at)
        numbers = connection.execute(text("SELECT id FROM change ORDER BY id")).scalars().all()
    return [entry._replace(id=number) for entry, number in zip(told, numbers, strict=True)]


def made(commit: Commit, told: list[Told], at: int) -> list[Told]:
    """What a commit changes of what was told so far."""
    present = {(entry.customer_id, entry.key): entry.after for entry in told}
    entries = []
    for customer_id, key, place in commit.values:
        before, after = present.get((customer_id, key)), VALUES[key][place]
        if dump(before) != dump(after):
            entries.append(Told(customer_id, key, before, after, commit.run, at))
            present[customer_id, key] = after
    return entries


def put(connection: Connection, changes: list[Told], known: set[str]) -> None:
    if not changes:
        return
    at, run = changes[0].at, changes[0].run
    put_traits(connection, changes)
    ids = {change.customer_id for change in changes}
    snapshot.insert_customers(
        connection, [row(customer_id) for customer_id in sorted(ids - known)], at
    )
    snapshot.update_customers(
        connection, [row(customer_id) for customer_id in sorted(ids & known)], at
    )
    rows = [
        ChangeRow(*change[:2], name(change.key), dump(change.before), dump(change.after), 7)
        for change in changes
    ]
    add_changes(connection, rows, run, at)


def acknowledged(
    connection: Connection, told: list[Told], customer_ids: list[str], at: int
) -> list[Told]:
    """Amberflo takes what is due of some customers; gives what is told then."""
    due = {claimed.customer_id: claimed for claimed in outbox.claim(connection, 1, at + 10**6, 100)}
    sent = [due.pop(customer_id) for customer_id in customer_ids if customer_id in due]
    if sent:
        outbox.acknowledge(connection, sent, at + 1)
    if due:
        outbox.release(connection, list(due))
    ids = {customer.customer_id for customer in sent}
    return [
        entry._replace(acknowledged_at=at + 1)
        if entry.customer_id in ids and entry.acknowledged_at is None
        else entry
        for entry in told
    ]


def put_traits(connection: Connection, changes: list[Told]) -> None:
    members: dict[str, int] = {}
    for change in changes:
        members[change.key] = members.get(change.key, 0) + change.delta
    rows = [TraitRow(key, name(key), "audience", count) for key, count in members.items()]
    snapshot.put_traits(connection, rows)


def name(key: str) -> str:
    return key.lower().replace(" ", "_")


def dump(value: Any) -> str | None:
    return None if value is None else json.dumps(value)


def same(entries: Any, told: Any) -> None:
    """Entries tell what was written, one by one in this order."""
    assert [
        Told(
            *(entry.customer_id, entry.key, load(entry.before), load(entry.after)),
            *(entry.run, entry.recorded_at, entry.id, entry.delivered_at),
        )
        for entry in entries
    ] == list(told)
    for entry, other in zip(entries, told, strict=True):
        assert (entry.delta, entry.trait, entry.observed_at) == (other.delta, name(other.key), 7)


def load(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def moments(told: list[Told]) -> list[int]:
    """Around every time of the story."""
    return sorted({entry.at + delta for entry in told for delta in (-1, 0, 1)} | {NOW})


def tells(told: list[Told], at: int | None) -> bool:
    """Whether the history can tell of a moment: not of one before its first change."""
    return at is None or bool(told and at >= told[0].at)


def refused(question: Callable[[], Any]) -> None:
    with pytest.raises(NotKept, match=r"^(the history begins 20\d\d-.*Z with|nothing is recorded)"):
        question()


def inside(told: list[Told], key: str, at: int | None) -> list[str]:
    """Who was in by the entries and exits recorded by then, one after the other."""
    members = {}
    for entry in told:
        if entry.key == key and (at is None or entry.at <= at) and entry.delta:
            members[entry.customer_id] = entry.delta > 0
    return sorted((customer_id for customer_id, is_in in members.items() if is_in), key=str.encode)


class Story(NamedTuple):
    """What was told to the database, and what chooses what to ask of it."""

    connection: Connection
    told: list[Told]
    #: whether the clock went on at all times
    forth: bool
    data: st.DataObject

    def draw(self, strategy: st.SearchStrategy[Any]) -> Any:
        return self.data.draw(strategy)
