"""A delivery of many customers beside Amberflo's pages: what it costs, and whom it writes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest
import uvloop
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from state import outbox, snapshot
from state.db.database import Database
from state.snapshot import CustomerRow
from syncer.amberflo.client import AmberfloClient
from syncer.amberflo.codec import Record
from syncer.amberflo.writer import Listed, write
from syncer.delivery import customers, estimate, page_writes
from syncer.delivery.claims import Claimed
from syncer.delivery.estimate import Estimate, worth_pages
from syncer.delivery.page_writes import PageWrites
from tests.support.paged import (
    IDS,
    KEY,
    MANY,
    RIGHT,
    WRONG,
    amberflo,
    deliver,
    due,
    ours,
)

HALF = dict.fromkeys(IDS[::2], RIGHT)


@pytest.mark.parametrize(
    ("existing", "most", "right"),
    [
        pytest.param({}, 1.05, 0, id="empty"),
        pytest.param(dict.fromkeys(IDS, RIGHT), 0.02, MANY, id="right"),
        pytest.param(HALF, 0.55, MANY // 2, id="half made"),
        pytest.param(dict.fromkeys(IDS, WRONG) | HALF, 0.55, MANY // 2, id="half right"),
    ],
)
def test_what_an_initial_sync_costs(
    database: Database, existing: dict[str, Any], most: float, right: int
) -> None:
    """Also while another writer edits: after the page that shows many it edits some of these."""
    due(database)
    with amberflo() as (stand_in, url):
        stand_in.has(existing)
        edited, once = sorted(existing)[3:20:5], iter([True])

        def edit(limit: int) -> None:
            if limit > 100 and next(once, False):
                for customer_id in edited:
                    stand_in.edit(customer_id)

        stand_in.after_page = edit
        done = deliver(database, url)
        assert (done.result.delivered, done.result.already_right) == (MANY, right)
        # What was edited since the first look is read by itself: two requests more.
        assert done.requests <= most + 3 * len(edited) / MANY, done.answers
        assert ours(stand_in) == dict.fromkeys(IDS, True)
        for customer_id in existing:
            record = stand_in.customers[customer_id]
            assert (record["traits"]["theirs"], record["description"]) == (1, "d")
        assert all(stand_in.customers[id_]["traits"]["stripeId"] for id_ in edited)
    with database.read() as connection:
        assert outbox.backlog(connection) == 0


def test_a_page_with_nobody_due_is_no_reason_to_wait(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten pages are of others alone: a look at the clock for each would take 50 s."""
    monkeypatch.setattr(customers, "WAKE_AFTER", 5.0)
    due(database)
    others = [f"other{number:05}" for number in range(10_000)]
    with amberflo() as (stand_in, url):
        stand_in.has(dict.fromkeys([*others, *IDS], RIGHT))
        began = time.monotonic()
        done = deliver(database, url)
        assert time.monotonic() - began < 40
    assert done.result.already_right == MANY
    assert done.answers["GET 200"] > 10


def test_what_is_asked_for_anew_is_always_written(database: Database) -> None:
    """A resync writes all, though Amberflo holds all of it; the pages make it cheap."""
    due(database)
    with amberflo() as (stand_in, url):
        stand_in.has(dict.fromkeys(IDS, RIGHT))
        deliver(database, url)
        assert stand_in.stats()["puts"] == {}
        with database.write() as connection:
            outbox.send_again(connection, time.time_ns() // 1_000_000)
            # They were acknowledged long ago, so that pages are believed.
            connection.exec_driver_sql("UPDATE customer SET acked_at = 1")
        done = deliver(database, url)
        assert stand_in.stats()["puts"] == dict.fromkeys(IDS, 1)
        assert (done.result.already_right, done.requests <= 1.15) == (0, True)
        assert all(it["traits"]["theirs"] == 1 for it in stand_in.customers.values())


@pytest.mark.parametrize("since", ["just now", "ten minutes"])
def test_what_was_sent_before_is_not_judged_by_a_page(database: Database, since: str) -> None:
    """A list may lag: here it shows for ever what was there before the first delivery.

    So it shows exits as written that are not.
    """
    due(database)
    with amberflo() as (stand_in, url):
        stand_in.has(dict.fromkeys(IDS, WRONG))
        stand_in.on_page = lambda record, limit: {**record, "traits": {"vip": False, "theirs": 1}}
        deliver(database, url)
        assert set(ours(stand_in).values()) == {True}
        with database.write() as connection:
            rows = [CustomerRow(id_, '{"vip":false}') for id_ in IDS]
            snapshot.update_customers(connection, rows, time.time_ns() // 1_000_000)
            if since == "ten minutes":
                connection.exec_driver_sql("UPDATE customer SET acked_at = acked_at - 600000")
            # What a process that was killed had sent of these is not on record.
            connection.exec_driver_sql("UPDATE customer SET acked_rev = 0 WHERE rowid % 4 = 0")
        done = deliver(database, url)
        assert set(ours(stand_in).values()) == {False}
        assert (done.result.delivered, done.result.already_right) == (MANY, 0)


def _without(*fields: str) -> Callable[..., Record]:
    return lambda record, limit=0: {name: it for name, it in record.items() if name not in fields}


@pytest.mark.parametrize(
    "on_page",
    [
        pytest.param(_without("description"), id="fields are left out"),
        pytest.param(_without("traits"), id="traits are left out"),
        pytest.param(
            lambda record, limit: {**record, "traits": {"vip": False}},
            id="traits of others are left out",
        ),
        pytest.param(
            lambda record, limit: (
                _without("description")(record) if record["id"] > "u0050" else record
            ),
            id="half records after whole ones",
        ),
        pytest.param(
            lambda record, limit: {**record, "traits": None} if record["id"] > "u0050" else record,
            id="traits that are none",
        ),
        pytest.param(
            lambda record, limit: (
                {**record, "traits": {"vip": False}}
                if record["id"] > "u0050" and limit == estimate.SMALL
                else record
            ),
            id="a last look that differs from the first",
        ),
    ],
)
def test_a_page_that_shows_half_wipes_nothing(
    database: Database, on_page: Callable[[Record, int], Record]
) -> None:
    due(database)
    with amberflo(on_page=on_page) as (stand_in, url):
        stand_in.has(dict.fromkeys(IDS, WRONG))
        assert deliver(database, url).result.delivered == MANY
        assert all(
            (record["traits"], record["description"]) == ({"vip": True, "theirs": 1}, "d")
            for record in stand_in.customers.values()
        )


def test_pages_that_begin_to_lag_are_found_out(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are believed for a while only: here for no second, so that groups under way alone lose
    what others wrote since."""
    monkeypatch.setattr(page_writes, "TRUST", 0.0)
    due(database)
    with amberflo() as (stand_in, url):
        stand_in.has(dict.fromkeys(IDS, WRONG))
        stored, lagging = stand_in._store, dict[str, Record]()

        def store(record: Record, before: Record) -> web.Response:
            answer = stored(record, before)
            if sum(stand_in.stats()["puts"].values()) == 40:
                lagging.update(orjson.loads(orjson.dumps(stand_in.customers)))
                for customer_id in IDS:
                    stand_in.edit(customer_id)
            return answer

        vars(stand_in)["_store"] = store
        stand_in.on_page = lambda record, limit: lagging.get(record["customerId"], record)
        assert deliver(database, url).result.delivered == MANY
        kept = [
            customer for customer in stand_in.customers.values() if "stripeId" in customer["traits"]
        ]
        assert len(kept) > MANY - 4 * estimate.MOST


def test_a_customer_that_no_list_shows_is_not_made_over(database: Database) -> None:
    """It was deleted: POST refuses it, and where POST does not, it is read first."""
    for post_replaces in (False, True):
        ids = [f"{post_replaces}{id_}" for id_ in IDS]
        due(database, *ids)
        with amberflo(post_replaces=post_replaces, repeats=True) as (stand_in, url):
            hidden = [*ids[:3], *ids[100:103]]
            stand_in.has(dict.fromkeys([*hidden, "z"], WRONG))
            for customer_id in hidden:
                stand_in.customers[customer_id]["deleteTime"] = 1
            done = deliver(database, url)
            assert done.result.delivered == MANY
            assert ours(stand_in) == {**dict.fromkeys(ids, True), "z": False}
            assert all(stand_in.customers[id_]["traits"]["theirs"] == 1 for id_ in hidden)


def test_a_record_of_a_list_is_read_again_after_a_minute() -> None:
    """Until then it saves a request; and the last look before a write must be newer still.

    That nothing is to be written, no list says.
    """

    async def play(url: str) -> list[Any]:
        async with AmberfloClient(KEY, customers_url=f"{url}/customers") as client:

            async def wrote(*ages: float) -> Any:
                shown = stand_in.customers["u"]
                listed = [Listed(shown, time.monotonic() - age) for age in ages]
                client.answers.clear()

                def merge(current: Record | None) -> Record:
                    assert current is not None
                    return {**current, "traits": {**current["traits"], "vip": bool(ages[1:])}}

                written = await write(client, "u", merge, always=False, listed=listed)
                stand_in.customers["u"]["traits"]["vip"] = False
                return written, dict(client.answers)

            return [await wrote(55), await wrote(61, 61), await wrote(1, 4), await wrote(1, 9)]

    with amberflo() as (stand_in, url):
        stand_in.has({"u": WRONG})
        right, old, looked, long_ago = uvloop.run(play(url))
    assert right == (False, {"GET 200": 1})
    assert old == (True, {"GET 200": 2, "PUT 200": 1})
    assert looked == (True, {"PUT 200": 1})
    assert long_ago[1]["GET 200"] >= 1


@given(st.integers(0, 3000), st.integers(0, 3000), st.integers(0, 4_000_000))
def test_pages_are_read_only_where_they_save_requests(new: int, known: int, others: int) -> None:
    at_amberflo = known + others
    chosen = Estimate(new, known, 10, at_amberflo)
    alone = 2 * new + 3 * known
    assert chosen.requests <= alone
    assert chosen.by_pages == worth_pages(new + known, at_amberflo)
    assert chosen.requests >= new + known
    if chosen.by_pages:
        assert others / 1000 <= (new + known) / 2


@given(st.dictionaries(st.integers(0, 400), st.none()), st.sampled_from([0.0, 1.0, 5.0, 100.0]))
def test_every_customer_is_in_one_group_with_neighbours_of_its_page(
    places: dict[int, None], rate: float
) -> None:
    client = AmberfloClient(KEY, customers_url="http://127.0.0.1:1/customers", rate=rate)
    placed = [Claimed(CustomerRow(f"u{it}", "{}"), frozenset(), place=it) for it in places]
    alone = [Claimed(CustomerRow("alone", "{}"), frozenset())]
    writes = PageWrites(client, lambda claimed, record: record or {})
    groups = writes.groups([*placed, *alone])
    assert sorted(it.row.customer_id for group in groups for it in group) == sorted(
        it.row.customer_id for it in placed + alone
    )
    assert alone in groups
    for group in groups:
        pages = {it.place // estimate.SMALL if it.place is not None else -1 for it in group}
        assert len(pages) == 1
        assert len(group) <= (max(2, rate * page_writes.BURST_SECONDS) if rate else estimate.MOST)
