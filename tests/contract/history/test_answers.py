"""The history's answers against a replay in plain Python of what was written, on both databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from state import outbox, runs, snapshot
from state.db.database import Database
from state.errors import NotKept
from state.history import listings, past
from state.history.listings import ENTERED, EXITED, MOVED, Entry, Moves
from state.history.record import ChangeRow, add_changes
from state.snapshot import TraitRow
from tests.contract.history.replay import (
    CUSTOMERS,
    KEYS,
    Commit,
    Story,
    Told,
    commits,
    dump,
    fewer,
    inside,
    moments,
    name,
    refused,
    same,
    tells,
    write,
)
from tests.support.state import NOW, ask, row
from tests.support.state import put as put_customers


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
    sizes = past.sizes(connection, key, since, until, steps)
    assert len(sizes) == steps
    for size in sizes:
        assert size.members == len(inside(told, key, size.at)), size
    assert sizes[-1].at == until
    assert steps == 1 or sizes[0].at == since
    gaps = {later.at - size.at for size, later in pairwise(sizes)}
    assert not gaps or max(gaps) - min(gaps) <= 1


def while_the_clock_goes_on_what_was_recorded_is_what_was(story: Story) -> None:
    """Then the values, the members and the story as it went agree at every moment."""
    connection, told = story.connection, story.told
    at = story.draw(st.sampled_from(moments(told)))
    if not tells(told, at):
        refused(lambda: past.traits_at(connection, CUSTOMERS[0], at))
        return
    for customer_id in CUSTOMERS if story.forth else ():
        before = [entry for entry in told if entry.at <= at and entry.customer_id == customer_id]
        values = {entry.key: entry.after for entry in before}
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
        mine = [entry for entry in told if (entry.customer_id, entry.key) == (customer_id, key)]
        expected = [entry for entry in mine if at is None or entry.at <= at][-1:]
        change = past.in_force(connection, customer_id, key, at)
        same([change] if change else [], expected)


def test_when_the_history_begins(database: Database) -> None:
    """With the first run that was committed, be it that a call came before; a clock that was wrong
    at first does not hide what came later."""

    def begins() -> tuple[int, str] | None:
        beginning: tuple[int, str] | None = ask(database, past.known_since)
        return beginning

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
    entries = list(listing(limit=limit))
    last = entries
    while len(last) == limit:
        last = list(listing(limit=limit, after_id=entries[-1].id))
        entries += last
    return entries


def check(listing: Callable[..., Iterator[Entry]], expected: list[Told], limit: int) -> None:
    same(list(listing()), expected)
    same(page_by_page(listing, limit), expected)


limits = st.integers(1, 4)


def the_story_of_a_customer(story: Story) -> None:
    since, until = story.draw(spans(story.told))
    key = story.draw(st.sampled_from([None, *KEYS]))
    customer_id = story.draw(st.sampled_from([*CUSTOMERS, "nobody"]))
    mine = [
        entry
        for entry in within(story.told, since, until)
        if entry.customer_id == customer_id and key in (None, entry.key)
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
    mine = [entry for entry in within(story.told, since, until) if entry.key == key]
    chosen = [entry for entry in mine if steps is None or entry.delta in steps]
    chosen.sort(key=lambda entry: (entry.at, entry.id))
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
        entry
        for entry in told
        if (since is None or entry.at >= since) and (until is None or entry.at < until)
    ]


def moves(told: list[Told]) -> tuple[int, int, int]:
    steps = [entry.delta for entry in told]
    return steps.count(1), steps.count(-1), steps.count(0)


def a_run_tells_its_whole_diff(story: Story) -> None:
    connection, limit, run = story.connection, story.draw(limits), story.draw(st.integers(1, 4))
    mine = [entry for entry in story.told if entry.run == run]
    mine.sort(key=lambda entry: (entry.key.encode(), entry.id))
    key = story.draw(st.sampled_from(KEYS))
    listing = partial(listings.of_run, connection, run)
    check(listing, mine, limit)
    check(partial(listing, key=key), [entry for entry in mine if entry.key == key], limit)
    exits = [entry for entry in mine if entry.key == key and entry.delta < 0]
    check(partial(listing, key=key, deltas=(EXITED,)), exits, limit)
    assert listings.run_moves(connection, run) == [
        Moves(key, name(key), *moves([entry for entry in mine if entry.key == key]))
        for key in sorted({entry.key for entry in mine}, key=str.encode)
    ]


def what_amberflo_has_not_acknowledged_is_told(story: Story) -> None:
    waiting = [entry for entry in story.told if entry.acknowledged_at is None]
    waiting.sort(key=lambda entry: (entry.customer_id.encode(), entry.id))
    assert listings.undelivered_count(story.connection) == len(waiting)

    def entries(**page: Any) -> Iterator[Entry]:
        return (item.entry for item in listings.undelivered(story.connection, **page))

    check(entries, waiting, story.draw(limits))
    assert not any(item.refused for item in listings.undelivered(story.connection))


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
        changes = [
            ChangeRow(customer_id, "vip", "vip", None, "true", 7) for customer_id in ("bad", "good")
        ]
        add_changes(connection, changes, 1, NOW)
        due = {customer.customer_id: customer for customer in outbox.claim(connection, 1, NOW, 10)}
        outbox.dead_letter(connection, [due["bad"]])
        outbox.acknowledge(connection, [due["good"]], NOW + 1)
        snapshot.touch_customers(connection, [row("good", vip=True)])
        there_and_back = [("true", "false"), ("false", "true")]
        changes = [ChangeRow("good", "vip", "vip", *values, 8) for values in there_and_back]
        add_changes(connection, changes, None, NOW + 2)
    (item,) = ask(database, lambda c: list(listings.undelivered(c)))
    assert (item.entry.customer_id, item.refused) == ("bad", True)
    with database.write() as connection:
        outbox.send_again(connection, NOW + 3, customer_ids=["bad", "good"])
        (waiting,) = listings.undelivered(connection)
        assert (waiting.entry.customer_id, waiting.refused) == ("bad", False)
        outbox.acknowledge(connection, outbox.claim(connection, 1, NOW + 3, 10), NOW + 4)
        assert list(listings.undelivered(connection)) == []
        times = [entry.delivered_at for entry in listings.of_customer(connection, "good")]
        assert times == [NOW + 1, NOW + 4, NOW + 4]


def test_a_page_keeps_to_the_listing_it_goes_on_with(database: Database) -> None:
    """An id that is not of the span gives nothing, not what stands beside it."""
    put_customers(database, row("u1"))
    with database.write() as connection:
        for at in (NOW, NOW, NOW + 5, NOW + 5):
            change = ChangeRow("u1", "vip", "vip", None, "true", 7)
            add_changes(connection, [change], None, at)
        first, second, third, fourth = (entry.id for entry in listings.of_key(connection, "vip"))

        def ids(**options: Any) -> list[int]:
            return [entry.id for entry in listings.of_key(connection, "vip", **options)]

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
    put_customers(database, *(row(id_, "Name", "a@b.c") for id_ in ids))
    expected = sorted((id_ for id_ in ids if id_.startswith(prefix)), key=str.encode)
    with database.read() as connection:
        customers = snapshot.with_prefix(connection, prefix)
        assert [customer.customer_id for customer in customers] == expected
        assert {(customer.name, customer.email) for customer in customers} <= {("Name", "a@b.c")}
        pages: list[str] = []
        while page := snapshot.with_prefix(
            connection, prefix, after=pages[-1] if pages else None, limit=3
        ):
            pages += [customer.customer_id for customer in page]
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
