"""What the page asks of the state, on both databases: sizes by the hour, and lists by pages."""

from __future__ import annotations

import random
from typing import Any

import pytest
from sqlalchemy import delete, func, insert, select

from state import customer_search, failures, runs, snapshot
from state.customer_search import Search, containing
from state.db.database import Database
from state.db.tables import CHANGE
from state.failures import FailureRow
from state.history import listings, past, sizes
from state.history.listings import ENTERED, EXITED, NEITHER
from state.history.past import Size
from tests.support.state import NOW, ask, put, row

HOUR = sizes.HOUR
START = NOW // HOUR * HOUR
CUSTOMERS = [f"c{number}" for number in range(6)]
KEYS = ("a", "b")
AFTER = {ENTERED: "true", EXITED: "false", NEITHER: "false"}
#: Customers that a search looks at in one statement.
SEARCHED = 1000


def record(database: Database, seed: int, count: int, *, back: float) -> None:
    """A history of entries and exits over two days; the clock is set back as often as told."""
    drawn = random.Random(seed)
    inside: dict[tuple[str, str], bool] = {}
    at = START
    rows: list[dict[str, Any]] = []
    for _ in range(count):
        at += drawn.choice([0, 1, HOUR // 7, HOUR])
        if drawn.random() < back:
            at -= drawn.randrange(5 * HOUR)
        customer_id, key = drawn.choice(CUSTOMERS), drawn.choice(KEYS)
        was = inside.get((customer_id, key))
        now = not was if was is not None else drawn.random() < 0.7
        inside[customer_id, key] = now
        step = int(now) - int(bool(was))
        rows.append(
            {
                "run": None, "customer_id": customer_id, "rev": 1, "key": key, "trait": key,
                "before": None if was is None else AFTER[ENTERED if was else EXITED],
                "after": AFTER[step], "observed_at": at, "recorded_at": at, "delta": step,
            }
        )  # fmt: skip
    with database.write() as connection:
        connection.execute(insert(CHANGE), rows)


def fold(database: Database, limit: int) -> int:
    """How many steps it took."""
    steps, more = 0, True
    while more:
        with database.write(alone=True) as connection:
            more = sizes.fold(connection, limit)
        steps += 1
    return steps


def begin(database: Database, at: int) -> None:
    """The first run, which found nobody: the history can tell from then on."""
    with database.write() as connection:
        run = runs.start(connection, "initial", at, "{}")
        runs.set_values(connection, run, {"committed_at": at})


@pytest.mark.parametrize("back", [0, 0.1], ids=["clock", "clock set back"])
@pytest.mark.parametrize("first", [0, 1, HOUR // 3], ids=["hour", "past the hour", "within it"])
def test_sizes_by_the_hour_are_those_of_the_history(
    database: Database, back: float, first: int
) -> None:
    """Also where a chart begins within an hour, and ends now."""
    begin(database, START - 6 * HOUR)
    record(database, 1 + first % 5, 40, back=back)
    assert not ask(database, sizes.up_to_date)
    assert fold(database, limit=7) == 40 // 7 + 1
    assert ask(database, sizes.up_to_date)
    newest = ask(database, lambda c: c.execute(select(func.max(CHANGE.c.recorded_at))).scalar())
    hours = [START + hour * HOUR for hour in range(-5, 40, 2)]
    for start in (START - 6 * HOUR + first, START + first, START + 5 * HOUR + first):
        after = [at for at in hours if start < at < newest]
        for key in (*KEYS, "none"):
            moments = [start, *after, newest]
            with database.read() as connection:
                now = past.count_at(connection, key)
                charted = sizes.by_hour(connection, key, moments, now)
                wanted = [Size(at, past.count_at(connection, key, at)) for at in moments]
            assert charted == wanted
            assert any(size.members for size in wanted) == (key != "none")


@pytest.mark.parametrize("folded", [True, False], ids=["folded", "not yet"])
def test_an_erased_customer_is_taken_out(database: Database, folded: bool) -> None:
    begin(database, START)
    record(database, 5, 60, back=0)
    if folded:
        fold(database, 17)
    with database.write(alone=True) as connection:
        sizes.take_out(connection, CUSTOMERS[0])
        connection.execute(delete(CHANGE).where(CHANGE.c.customer_id == CUSTOMERS[0]))
    fold(database, 17)
    for key in KEYS:
        with database.read() as connection:
            now = past.count_at(connection, key)
            moments = [START + hour * HOUR for hour in range(0, 40, 3)]
            wanted = past.sizes(connection, key, moments[0], moments[-1], len(moments))
            assert sizes.by_hour(connection, key, moments, now) == wanted


def test_nothing_to_fold_is_no_harm(database: Database) -> None:
    assert ask(database, sizes.up_to_date)
    assert fold(database, 10) == 1
    assert ask(database, lambda c: sizes.by_hour(c, "a", [START], 0)) == [Size(START, 0)]


@pytest.mark.parametrize("step", [ENTERED, EXITED, NEITHER])
def test_the_span_of_a_step_has_its_newest_changes(database: Database, step: int) -> None:
    """The same page as without it, wherever it begins and ends."""
    record(database, 9, 120, back=0.05)
    fold(database, 1000)

    def page(connection: Any, since: int | None, until: int | None) -> list[int]:
        entries = listings.of_key(
            connection, "a", since, until, deltas=[step], newest_first=True, limit=5
        )
        return [entry.id for entry in entries]

    drawn = random.Random(step)
    narrowed = 0
    for _ in range(60):
        since = drawn.choice([None, START + drawn.randrange(-5 * HOUR, 60 * HOUR)])
        until = drawn.choice([None, START + drawn.randrange(-5 * HOUR, 60 * HOUR)])
        with database.read() as connection:
            wanted = page(connection, since, until)
            span = sizes.span_of(connection, "a", step, 5, since, until)
            assert (page(connection, *span) if span else []) == wanted
        narrowed += span is None or span != (since, until)
    assert narrowed > 30
    assert ask(database, lambda c: sizes.span_of(c, "none", step, 5, None, None)) is None


def failure(number: int, customer_id: str | None) -> FailureRow:
    return FailureRow(
        f"customer:{customer_id}:{number}", "customer", "no", NOW + number, customer_id=customer_id
    )


def test_failures_come_by_pages(database: Database) -> None:
    with database.write() as connection:
        failures.put(connection, [failure(n, f"c{n % 3}") for n in range(9)])

    def page(**chosen: Any) -> list[int]:
        return [row.id for row in ask(database, lambda c: failures.page(c, **chosen))]

    every = page(limit=100)
    assert every == sorted(every, reverse=True)
    assert ask(database, failures.newest) == every[0]
    assert page(limit=4) + page(limit=4, before=every[3]) + page(limit=4, before=every[7]) == every
    mine = page(limit=10, customer_id="c1")
    assert len(mine) == 3
    assert page(limit=10, customer_id="c1", before=mine[0]) == mine[1:]
    with database.write() as connection:
        assert failures.remove(connection, every[4:]) == 5
    assert page(limit=100) == every[:4]
    assert FailureRow("call:7", "meter", "no", NOW).only_discarded
    assert not FailureRow("customer:7", "customer", "no", NOW).only_discarded


def test_runs_and_traits_come_by_pages(database: Database) -> None:
    with database.write() as connection:
        numbers = [runs.start(connection, "initial", NOW, "{}") for _ in range(5)]
        snapshot.put_traits(
            connection, [snapshot.TraitRow(key, key, "audience", 1) for key in "dbca"]
        )
    newest = ask(database, lambda c: runs.newest(c, 2, before=numbers[3]))
    assert [row.id for row in newest] == [numbers[2], numbers[1]]
    page = ask(database, lambda c: snapshot.traits(c, after="a", limit=2))
    assert [trait.key for trait in page] == ["b", "c"]
    assert ask(database, lambda c: snapshot.trait(c, "d")).members == 1
    assert ask(database, lambda c: snapshot.trait(c, "x")) is None


def test_a_customer_as_it_is_now(database: Database) -> None:
    put(database, row("c1", "Ada", None, vip=True))
    customer = ask(database, lambda c: snapshot.get(c, "c1"))
    assert (customer.traits, customer.name, customer.acked_rev, customer.due_at) == (
        '{"vip": true}', "Ada", 0, NOW,
    )  # fmt: skip
    assert ask(database, lambda c: snapshot.get(c, "c2")) is None
    ids = [f"d{number}" for number in range(5)]
    put(database, *map(row, ids))
    for prefix, after, wanted in (
        ("d", None, ids), ("d", "d1", ids[2:]), ("", "c1", ids), ("d", "a", ids), ("d", "x", []),
    ):  # fmt: skip
        page = ask(
            database,
            lambda c, prefix=prefix, after=after: snapshot.with_prefix(c, prefix, after=after),
        )
        assert [customer.customer_id for customer in page] == wanted


def test_customers_are_found_by_a_part_of_what_is_known_of_them(database: Database) -> None:
    put(
        database,
        row("u-100", "Ada Lovelace", "ada@example.com"),
        row("u-200", "Élodie", None),
        row("u-300"),
        row("x_1%"),
        row("u-400", "Straße"),
    )
    for part, wanted in (
        ("LOVE", ["u-100"]),
        ("example.com", ["u-100"]),
        ("élo", ["u-200"]),
        ("-300", ["u-300"]),
        ("u-", ["u-100", "u-200", "u-300", "u-400"]),
        ("STRASSE", ["u-400"]),
        ("a\0", []),
        ("lace\nada", []),
        ("_1%", ["x_1%"]),
        ("nobody", []),
    ):
        search = ask(database, lambda c, part=part: containing(c, part, limit=9, seconds=60))
        assert [match.customer_id for match in search.matches] == wanted
        assert (search.looked_at, search.reached) == (5, None)


def test_a_search_ends_in_time_and_goes_on_there(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(customer_search, "CHUNK", SEARCHED)
    ids = [f"c{number:05}" for number in range(2 * SEARCHED + 10)]
    put(database, *map(row, ids))

    def search(after: str = "", limit: int = 9) -> Search:
        hits: Search = ask(
            database, lambda c: containing(c, "9", after=after, limit=limit, seconds=0)
        )
        return hits

    first = search(limit=10**6)
    assert (first.looked_at, first.reached) == (SEARCHED, ids[SEARCHED - 1])
    assert [match.customer_id for match in first.matches] == [
        id_ for id_ in ids[:SEARCHED] if "9" in id_
    ]
    last = search(after=ids[2 * SEARCHED - 1])
    assert (last.looked_at, last.reached) == (10, None)
    few = search(limit=2)
    assert (len(few.matches), few.reached) == (2, "c00019")


def test_a_change_by_its_id(database: Database) -> None:
    record(database, 3, 10, back=0)
    first = ask(database, lambda c: listings.first_recorded(c, "a"))
    entries = ask(database, lambda c: list(listings.of_key(c, "a")))
    assert first == entries[0].recorded_at
    assert ask(database, lambda c: listings.entry(c, entries[1].id)) == entries[1]
    assert ask(database, lambda c: listings.entry(c, 10**9)) is None
    assert ask(database, lambda c: listings.first_recorded(c, "none")) is None
