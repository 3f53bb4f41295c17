"""The history's answers against a replay in plain Python of what was written, on both databases."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from sqlalchemy import Connection, event, text

from state import outbox, runs, snapshot
from state.db.database import Database
from state.db.tables import CHANGE
from state.errors import NotKept
from state.history import listings, past
from state.history.listings import ENTERED, EXITED, MOVED, Entry, Moves
from state.history.record import ChangeRow, add_changes, last_observed
from state.snapshot import TraitRow
from tests.support.examples import examples
from tests.support.state import NOW, ask, row
from tests.support.state import put as put_customers

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


# -- as of a moment


class Story(NamedTuple):
    """What was told to the database, and what chooses what to ask of it."""

    connection: Connection
    told: list[Told]
    #: whether the clock went on at all times
    forth: bool
    data: st.DataObject

    def draw(self, strategy: st.SearchStrategy[Any]) -> Any:
        return self.data.draw(strategy)


def who_was_in_at_any_moment_is_what_a_replay_says(story: Story) -> None:
    connection, told = story.connection, story.told
    key = story.draw(st.sampled_from(KEYS))
    at = story.draw(st.sampled_from([*moments(told), None]))
    members = inside(told, key, at)
    if not tells(told, at):
        refused(lambda: past.members_at(connection, key, at))
        refused(lambda: past.count_at(connection, key, at))
        refused(lambda: past.member_at(connection, CUSTOMERS[0], key, at))
        return
    assert list(past.members_at(connection, key, at)) == members
    assert past.count_at(connection, key, at) == len(members)
    for customer_id in CUSTOMERS:
        is_in = customer_id in members
        assert past.member_at(connection, customer_id, key, at) == is_in
    pages: list[str] = []
    while page := list(
        past.members_at(connection, key, at, after=pages[-1] if pages else None, limit=2)
    ):
        pages += page
    assert pages == members


def sizes_are_the_counts_of_their_moments(story: Story) -> None:
    """Also where the clock went back, so that what was recorded by a moment is not what was made
    by then."""
    connection, told = story.connection, story.told
    key, steps = story.draw(st.sampled_from(KEYS)), story.draw(st.integers(1, 9))
    edge = st.sampled_from(moments(told))
    since, until = sorted((story.draw(edge), story.draw(edge)))
    if not tells(told, since if steps > 1 else until):
        refused(lambda: past.sizes(connection, key, since, until, steps))
        return
    found = past.sizes(connection, key, since, until, steps)
    assert len(found) == steps
    for one in found:
        assert one.members == len(inside(told, key, one.at)), one
    assert found[-1].at == until
    assert steps == 1 or found[0].at == since
    gaps = {later.at - one.at for one, later in pairwise(found)}
    assert not gaps or max(gaps) - min(gaps) <= 1


def while_the_clock_goes_on_what_was_recorded_is_what_was(story: Story) -> None:
    """Then the values, the members and the story as it went agree at every moment."""
    connection, told = story.connection, story.told
    at = story.draw(st.sampled_from(moments(told)))
    if not tells(told, at):
        refused(lambda: past.traits_at(connection, CUSTOMERS[0], at))
        return
    for customer_id in CUSTOMERS if story.forth else ():
        before = [one for one in told if one.at <= at and one.customer_id == customer_id]
        values = {one.key: one.after for one in before}
        expected = {name(key): dump(value) for key, value in values.items() if value is not None}
        assert past.traits_at(connection, customer_id, at) == expected
        for key in KEYS:
            is_in = values.get(key) is True
            assert past.member_at(connection, customer_id, key, at) == is_in


def the_change_in_force_is_the_newest_that_was_recorded(story: Story) -> None:
    connection, told = story.connection, story.told
    key = story.draw(st.sampled_from(KEYS))
    at = story.draw(st.sampled_from([*moments(told), None]))
    if not tells(told, at):
        refused(lambda: past.in_force(connection, CUSTOMERS[0], key, at))
        return
    for customer_id in CUSTOMERS:
        mine = [one for one in told if (one.customer_id, one.key) == (customer_id, key)]
        expected = [one for one in mine if at is None or one.at <= at][-1:]
        found = past.in_force(connection, customer_id, key, at)
        same([found] if found else [], expected)


def test_when_the_history_begins(database: Database) -> None:
    """With the first run that was committed, be it that a call came before; a clock that was wrong
    at first does not hide what came later."""

    def begins() -> tuple[int, str] | None:
        found: tuple[int, str] | None = ask(database, past.known_since)
        return found

    def run(committed_at: int | None) -> None:
        with database.write() as connection:
            number = runs.start(connection, "initial", NOW, "{}")
            runs.set_values(connection, number, {"committed_at": committed_at})

    assert begins() is None
    for at in (0, NOW):
        with (
            database.read() as connection,
            pytest.raises(NotKept, match=r"^nothing is recorded yet$") as said,
        ):
            past.count_at(connection, "vip", at)
        assert said.value.known_since is None
    run(None)  # it was cut off
    assert begins() is None
    run(NOW + 500)
    assert begins() == (NOW + 500, "run 2")
    run(NOW + 90)
    assert begins() == (NOW + 90, "run 3")
    run(NOW + 700)
    assert begins() == (NOW + 90, "run 3")
    put_customers(database, row("u1"))
    for at in (NOW + 40, NOW + 20):
        with database.write() as connection:
            call = ChangeRow("u1", "vip", "vip", None, "true", 7)
            add_changes(connection, [call], None, at)
        assert begins() == (NOW + 40, "the first call")
    with (
        database.read() as connection,
        pytest.raises(NotKept, match=r"^the history begins 2026-09-21T14:13:20\.040Z with the fir"),
    ):
        past.count_at(connection, "vip", NOW + 39)
    with database.read() as connection:
        assert past.count_at(connection, "vip", NOW + 40) == 1


# -- listings


def page_by_page(listing: Callable[..., Iterator[Entry]], limit: int) -> list[Entry]:
    found = list(listing(limit=limit))
    last = found
    while len(last) == limit:
        last = list(listing(limit=limit, after_id=found[-1].id))
        found += last
    return found


def check(listing: Callable[..., Iterator[Entry]], expected: list[Told], limit: int) -> None:
    same(list(listing()), expected)
    same(page_by_page(listing, limit), expected)


limits = st.integers(1, 4)


def the_story_of_a_customer(story: Story) -> None:
    since, until = story.draw(spans(story.told))
    key = story.draw(st.sampled_from([None, *KEYS]))
    customer_id = story.draw(st.sampled_from([*CUSTOMERS, "nobody"]))
    mine = [
        one
        for one in within(story.told, since, until)
        if one.customer_id == customer_id and key in (None, one.key)
    ]
    listing = partial(
        listings.of_customer, story.connection, customer_id, key=key, since=since, until=until
    )
    limit = story.draw(limits)
    check(listing, mine, limit)
    check(partial(listing, newest_first=True), mine[::-1], limit)


def the_story_of_an_audience(story: Story) -> None:
    since, until = story.draw(spans(story.told))
    key = story.draw(st.sampled_from([*KEYS, "no such"]))
    steps = story.draw(st.sampled_from([None, MOVED, (ENTERED,), (EXITED,)]))
    mine = [one for one in within(story.told, since, until) if one.key == key]
    chosen = [one for one in mine if steps is None or one.delta in steps]
    chosen.sort(key=lambda one: (one.at, one.id))
    listing = partial(listings.of_key, story.connection, key, since, until, deltas=steps)
    limit = story.draw(limits)
    check(listing, chosen, limit)
    check(partial(listing, newest_first=True), chosen[::-1], limit)
    assert listings.key_moves(story.connection, key, since, until)[2:] == moves(mine)


def spans(told: list[Told]) -> st.SearchStrategy[tuple[int | None, int | None]]:
    edge = st.one_of(st.none(), st.sampled_from(moments(told)))
    return st.tuples(edge, edge)


def within(told: list[Told], since: int | None, until: int | None) -> list[Told]:
    return [
        one
        for one in told
        if (since is None or one.at >= since) and (until is None or one.at < until)
    ]


def moves(told: list[Told]) -> tuple[int, int, int]:
    steps = [one.delta for one in told]
    return steps.count(1), steps.count(-1), steps.count(0)


def a_run_tells_its_whole_diff(story: Story) -> None:
    connection, limit, run = story.connection, story.draw(limits), story.draw(st.integers(1, 4))
    mine = [one for one in story.told if one.run == run]
    mine.sort(key=lambda one: (one.key.encode(), one.id))
    key = story.draw(st.sampled_from(KEYS))
    listing = partial(listings.of_run, connection, run)
    check(listing, mine, limit)
    check(partial(listing, key=key), [one for one in mine if one.key == key], limit)
    exits = [one for one in mine if one.key == key and one.delta < 0]
    check(partial(listing, key=key, deltas=(EXITED,)), exits, limit)
    assert listings.run_moves(connection, run) == [
        Moves(key, name(key), *moves([one for one in mine if one.key == key]))
        for key in sorted({one.key for one in mine}, key=str.encode)
    ]


def what_amberflo_has_not_acknowledged_is_told(story: Story) -> None:
    waiting = [one for one in story.told if one.acknowledged_at is None]
    waiting.sort(key=lambda one: (one.customer_id.encode(), one.id))
    assert listings.undelivered_count(story.connection) == len(waiting)

    def entries(**page: Any) -> Iterator[Entry]:
        return (one.entry for one in listings.undelivered(story.connection, **page))

    check(entries, waiting, story.draw(limits))
    assert not any(one.refused for one in listings.undelivered(story.connection))


@fewer
@given(
    story=st.booleans().flatmap(lambda back: st.tuples(commits(back=back), st.just(not back))),
    data=st.data(),
)
def test_every_answer_is_what_a_replay_says(
    database: Database, story: tuple[list[Commit], bool], data: st.DataObject
) -> None:
    """One story is asked everything: to write it takes longer than to ask."""
    told = write(database, story[0])
    with database.read() as connection:
        asked = Story(connection, told, story[1], data)
        who_was_in_at_any_moment_is_what_a_replay_says(asked)
        sizes_are_the_counts_of_their_moments(asked)
        while_the_clock_goes_on_what_was_recorded_is_what_was(asked)
        the_change_in_force_is_the_newest_that_was_recorded(asked)
        the_story_of_a_customer(asked)
        the_story_of_an_audience(asked)
        a_run_tells_its_whole_diff(asked)
        what_amberflo_has_not_acknowledged_is_told(asked)


def test_what_was_refused_and_what_undid_itself(database: Database) -> None:
    """A refusal is told as one. Changes that came to nothing before they were sent need no
    delivery; they get their time with the next one."""
    put_customers(database, row("bad", vip=True), row("good", vip=True))
    with database.write() as connection:
        changes = [ChangeRow(one, "vip", "vip", None, "true", 7) for one in ("bad", "good")]
        add_changes(connection, changes, 1, NOW)
        due = {one.customer_id: one for one in outbox.claim(connection, 1, NOW, 10)}
        outbox.dead_letter(connection, [due["bad"]])
        outbox.acknowledge(connection, [due["good"]], NOW + 1)
        snapshot.touch_customers(connection, [row("good", vip=True)])
        there_and_back = [("true", "false"), ("false", "true")]
        changes = [ChangeRow("good", "vip", "vip", *values, 8) for values in there_and_back]
        add_changes(connection, changes, None, NOW + 2)
    (found,) = ask(database, lambda c: list(listings.undelivered(c)))
    assert (found.entry.customer_id, found.refused) == ("bad", True)
    with database.write() as connection:
        outbox.send_again(connection, NOW + 3, customer_ids=["bad", "good"])
        (waiting,) = listings.undelivered(connection)
        assert (waiting.entry.customer_id, waiting.refused) == ("bad", False)
        outbox.acknowledge(connection, outbox.claim(connection, 1, NOW + 3, 10), NOW + 4)
        assert list(listings.undelivered(connection)) == []
        times = [one.delivered_at for one in listings.of_customer(connection, "good")]
        assert times == [NOW + 1, NOW + 4, NOW + 4]


def test_a_page_keeps_to_the_listing_it_goes_on_with(database: Database) -> None:
    """An id that is not of the span gives nothing, not what stands beside it."""
    put_customers(database, row("u1"))
    with database.write() as connection:
        for at in (NOW, NOW, NOW + 5, NOW + 5):
            change = ChangeRow("u1", "vip", "vip", None, "true", 7)
            add_changes(connection, [change], None, at)
        first, second, third, fourth = (one.id for one in listings.of_key(connection, "vip"))

        def ids(**options: Any) -> list[int]:
            return [one.id for one in listings.of_key(connection, "vip", **options)]

        assert ids(since=NOW + 1, after_id=third) == [fourth]
        assert ids(since=NOW + 1, after_id=first) == []
        assert ids(until=NOW + 1, after_id=first) == [second]
        assert ids(until=NOW + 5, newest_first=True, after_id=second) == [first]
        assert ids(newest_first=True, after_id=third, limit=1) == [second]
        assert ids(limit=0) == []


# -- names


@fewer
@given(data=st.data())
def test_customers_are_found_by_the_beginning_of_the_id(
    database: Database, data: st.DataObject
) -> None:
    letters = st.text("aZ%_\\é\ud7ff\ue000\U0010ffff🦊", max_size=4)
    ids = data.draw(st.lists(letters.filter(bool), max_size=20, unique=True))
    prefix = data.draw(letters)
    with database.write() as connection:
        connection.execute(text("DELETE FROM customer"))
    put_customers(database, *(row(one, "Name", "a@b.c") for one in ids))
    expected = sorted((one for one in ids if one.startswith(prefix)), key=str.encode)
    with database.read() as connection:
        found = snapshot.with_prefix(connection, prefix)
        assert [one.customer_id for one in found] == expected
        assert {(one.name, one.email) for one in found} <= {("Name", "a@b.c")}
        pages: list[str] = []
        while page := snapshot.with_prefix(
            connection, prefix, after=pages[-1] if pages else None, limit=3
        ):
            pages += [one.customer_id for one in page]
        assert pages == expected
        assert snapshot.with_prefix(connection, prefix + "\0") == []


def test_a_key_that_gave_its_name_away_is_still_found(database: Database) -> None:
    put_customers(database, row("u1"))
    with database.write() as connection:
        snapshot.put_traits(connection, [TraitRow("VIP", "vip", "audience", 1)])
        add_changes(connection, [ChangeRow("u1", "VIP", "vip", None, "true", 7)], 1, NOW)
        snapshot.put_traits(connection, [TraitRow("Vip", "vip", "audience", 0)])
        assert listings.key_of(connection, "VIP") == "VIP"
        assert listings.key_of(connection, "vip") == listings.key_of(connection, "Vip") == "Vip"
        assert listings.key_of(connection, "no such") is None


# -- cost

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
            snapshot.update_customers(connection, [row(one) for one in ids], NOW)
            changes = []
            for number, one in enumerate(ids):
                key = f"k{(number + run) % 20}"
                before, after = (None, "true") if run < 20 else ("true", "false")
                changes.append(ChangeRow(one, key, key, before, after, 7))
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
        found = question(connection)
        if isinstance(found, Iterator):
            list(found)
        event.remove(connection, "before_cursor_execute", see)
        plans = []
        for statement, values in asked:
            if "FROM change" in statement or "UPDATE change" in statement:
                values = values[0] if isinstance(values, list) else values
                explain = "EXPLAIN QUERY PLAN " if sqlite else "EXPLAIN "
                rows = connection.exec_driver_sql(explain + statement, values)
                plans.append("\n".join(str(one[-1]) for one in rows))
        connection.rollback()
    return plans


def test_questions_of_a_large_history(filled: Database) -> None:
    """To fill it takes longer than to ask it."""
    every_question_goes_by_an_index_of_its_own(filled)
    long_answers_are_streamed(filled)


def every_question_goes_by_an_index_of_its_own(filled: Database) -> None:
    for asked, (indexes, question) in QUESTIONS.items():
        found = plans(filled, question)
        used = set()
        for plan in found:
            # What is undelivered is all of its index; of any other that is too much.
            whole = plan.replace("SCAN change USING INDEX change_undelivered", "")
            assert "SCAN change" not in whole, (asked, plan)
            assert "Seq Scan on change" not in plan, (asked, plan)
            assert "TEMP B-TREE" not in plan, (asked, plan)
            ours = {one for one in history_indexes(filled) if one in plan}
            assert ours or "PRIMARY KEY" in plan or "change_pkey" in plan, (asked, plan)
            used |= ours
        assert used, (asked, found)
        assert used <= indexes, (asked, found)


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
            ids = [one.id for one in listings.of_key(connection, "big")]
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
