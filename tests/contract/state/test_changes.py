"""The history that a run writes, on SQLite and on PostgreSQL."""

from __future__ import annotations

import random
from typing import Any

import pytest

from state import outbox, snapshot
from state.change_sources import IDENTIFY, RELEASED
from state.db.database import Database
from state.errors import NotKept
from state.history import listings, past
from state.history.record import ChangeRow, add_changes
from state.snapshot import TraitRow
from tests.contract.state.helpers import change
from tests.support.state import NOW, ask, put, row


def test_history_says_what_is_present(database: Database) -> None:
    put(database, row("u1", vip=True))
    assert ask(database, lambda c: snapshot.get(c, "u1").traits) == '{"vip": true}'
    assert ask(database, lambda c: snapshot.get(c, "U1")) is None
    assert ask(database, lambda c: list(listings.of_customer(c, "u1"))) == []


def test_a_trait_is_found_by_its_key_or_its_name(database: Database) -> None:
    with database.write() as connection:
        rows = [TraitRow("Big Spender", "big_spender", "audience", 0)]
        rows += [TraitRow("old", "new", "audience", 0), TraitRow("new", "old", "audience", 0)]
        snapshot.put_traits(connection, rows)
    for asked, expected in (
        ("Big Spender", "Big Spender"),
        ("big_spender", "Big Spender"),
        ("new", "new"),
        ("old", "old"),
        ("nothing", None),
    ):
        with database.read() as connection:
            assert listings.key_of(connection, asked) == expected


class Story:
    """Runs that let customers enter and leave at random, and who was in by what was written."""

    KEYS = ("vip", "churn", "spent")

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        ids = [f"u{n:02d}" for n in range(25)] + ["🦊", "～", "Z", "é"]
        self.runs: list[tuple[int, list[ChangeRow]]] = []
        now: dict[tuple[str, str], Any] = {}
        moment = NOW
        for _ in range(12):
            moment += rng.choice([0, 1, 3_600_000])  # two runs may be of one millisecond
            changes = []
            for customer in rng.sample(ids, 9):
                for key in rng.sample(self.KEYS, rng.randrange(1, 3)):
                    before = now.get((customer, key))
                    values = [None, 1.5, 2.5] if key == "spent" else [None, True, False]
                    after = rng.choice([value for value in values if value != before])
                    now[customer, key] = after
                    changes.append(change(customer, key, before, after))
            self.runs.append((moment, changes))

    def write(self, database: Database) -> None:
        with database.write() as connection:
            for run, (moment, changes) in enumerate(self.runs):
                ids = {entry.customer_id for entry in changes}
                old = {customer.customer_id for customer in snapshot.find(connection, ids)}
                snapshot.insert_customers(
                    connection, [row(customer_id) for customer_id in ids - old], moment
                )
                snapshot.update_customers(
                    connection, [row(customer_id) for customer_id in old], moment
                )
                add_changes(connection, changes, run, moment)

    def members(self, key: str, at: int) -> list[str]:
        inside: set[str] = set()
        for moment, changes in self.runs:
            for entry in changes:
                if moment <= at and entry.key == key:
                    (inside.add if entry.after == "true" else inside.discard)(entry.customer_id)
        return sorted(inside, key=str.encode)


@pytest.mark.parametrize("seed", range(3))
def test_who_was_in_at_any_moment_is_what_a_replay_says(database: Database, seed: int) -> None:
    story = Story(seed)
    story.write(database)
    moments = sorted({moment + delta for moment, _ in story.runs for delta in (-1, 0, 1)})
    seen = set()
    begins = story.runs[0][0]
    for key in Story.KEYS:
        for at in moments:
            with database.read() as connection:
                if at < begins:
                    with pytest.raises(NotKept):
                        list(past.members_at(connection, key, at))
                    continue
                members = list(past.members_at(connection, key, at))
            assert members == story.members(key, at), (key, at)
            seen.add(len(members))
    assert len(seen) > 5


def test_the_changes_of_an_audience_in_a_span_of_time(database: Database) -> None:
    story = Story(7)
    story.write(database)
    written = [
        (moment, entry.customer_id, entry.before, entry.after)
        for moment, changes in story.runs
        for entry in changes
        if entry.key == "vip"
    ]
    first, last = story.runs[0][0], story.runs[-1][0]
    middle = story.runs[6][0]
    for since, until in (
        (None, None),
        (middle, None),
        (None, middle),
        (middle, middle + 1),
        (middle, last),
        (last + 1, None),
        (None, first),
    ):
        with database.read() as connection:
            entries = [
                (entry.recorded_at, entry.customer_id, entry.before, entry.after)
                for entry in listings.of_key(connection, "vip", since, until)
            ]
        assert entries == [
            entry
            for entry in written
            if (since is None or entry[0] >= since) and (until is None or entry[0] < until)
        ]
    assert ask(database, lambda c: list(listings.of_key(c, "no such", None, None))) == []


def test_the_history_of_a_customer_is_told_in_order(database: Database) -> None:
    story = Story(8)
    story.write(database)
    for customer in ("u01", "🦊", "nobody"):
        expected = [
            (moment, entry.key, entry.before, entry.after)
            for moment, changes in story.runs
            for entry in changes
            if entry.customer_id == customer
        ]
        with database.read() as connection:
            entries = list(listings.of_customer(connection, customer))
        told = [(entry.recorded_at, entry.key, entry.before, entry.after) for entry in entries]
        assert told == expected
        assert bool(told) == (customer != "nobody")


def test_what_amberflo_may_have_unseen_is_what_changes_took_and_gave(database: Database) -> None:
    put(database, row("u1", vip=False), row("u2", vip=True))
    changes = [
        ChangeRow("u1", "vip", "vip", '"gold"', "true", NOW),
        ChangeRow("u1", "vip", "vip", "true", "false", NOW),
        ChangeRow("u1", "plan", "plan", None, '"pro"', NOW, IDENTIFY),
        ChangeRow("u2", "vip", "vip", None, "true", NOW),
        ChangeRow("u2", "vip", "vip", "true", "5", NOW, RELEASED),
        ChangeRow("u2", "vip", "vip", "5", "true", NOW),
    ]
    with database.write() as connection:
        add_changes(connection, changes, None, NOW)
        values = listings.maybe_sent(connection, ["u1", "u2", "u3"])
        assert {name: set(values[name]["vip"]) for name in values} == {
            "u1": {'"gold"', "true", "false"},
            "u2": {"5", "true"},
        }
        outbox.unacknowledge(connection, NOW)  # at another account
        assert listings.maybe_sent(connection, ["u1", "u2"]) == {}
        add_changes(connection, [ChangeRow("u1", "vip", "vip", "false", "true", NOW)], None, NOW)
        assert listings.maybe_sent(connection, ["u1"]).keys() == {"u1"}
