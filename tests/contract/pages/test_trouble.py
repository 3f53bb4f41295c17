"""A delivery beside Amberflo's pages loses nothing, whatever they answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from state import lanes, outbox, snapshot
from state.db import workers
from state.db.database import Database
from state.snapshot import CustomerRow
from syncer.amberflo.codec import Record
from syncer.amberflo.listing import present
from syncer.delivery import estimate, page_walk
from syncer.delivery.claims import Claims
from syncer.sandbox.amberflo import Refusal
from syncer.sandbox.faults import Faults
from tests.support.examples import examples
from tests.support.paged import (
    IDS,
    MANY,
    RIGHT,
    WRONG,
    Amberflo,
    amberflo,
    deliver,
    due,
    ours,
)


def _fails(records: list[Record]) -> list[Record]:
    raise Refusal(500, {"message": "no pages today"})


def _odd_ids(records: list[Record]) -> list[Record]:
    """Ids that are none, one that no database keeps, one in other letters."""
    odd = [["x"], None, 5, "u\0", "U0001"]
    return [{**records[0], "customerId": id_} for id_ in odd] + records[3:] if records else []


def _twice(records: list[Record]) -> list[Record]:
    return [{**record, "traits": traits} for record in records for traits in ({}, RIGHT)]


def _post_fails(status: int, *, unless_new: bool) -> Callable[[Amberflo, str], None]:
    def answer(stand_in: Amberflo, customer_id: str) -> None:
        if not unless_new or customer_id in stand_in.customers:
            raise Refusal(status, {"message": "not so"})

    return answer


@pytest.mark.parametrize(
    ("existing", "most", "options"),
    [
        pytest.param(WRONG, 3.4, {"shows": _fails}, id="every page fails"),
        pytest.param(WRONG, 1.5, {"shows": _odd_ids}, id="ids that are none"),
        pytest.param(WRONG, 3.4, {"shows": _twice}, id="each customer twice"),
        pytest.param(WRONG, 3.4, {"shows": lambda records: records[:7]}, id="short pages"),
        pytest.param(None, 2.4, {"on_post": _post_fails(405, unless_new=False)}, id="no POST"),
        pytest.param(None, 2.4, {"on_post": _post_fails(500, unless_new=True)}, id="POST fails"),
        pytest.param(
            None, 1.2, {"on_post": _post_fails(409, unless_new=True)}, id="POST conflicts"
        ),
    ],
)
def test_whatever_pages_and_post_answer_all_are_sent(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    existing: dict[str, Any] | None,
    most: float,
    options: dict[str, Any],
) -> None:
    monkeypatch.setattr(page_walk, "LATE", 0.1)
    due(database)
    with amberflo(**options) as (stand_in, url):
        stand_in.has({} if existing is None else dict.fromkeys(IDS, existing))
        done = deliver(database, url, patience=20)
        assert (done.result.delivered, done.result.problem) == (MANY, None)
        assert ours(stand_in) == dict.fromkeys(IDS, True)
        assert done.requests <= most, done.answers
    assert present([{"customerId": "u\0"}]) == {}  # PostgreSQL would refuse the question


def test_a_call_does_not_wait_for_a_page(database: Database) -> None:
    """Its customer is sent between the groups of a page, and not after its hundreds."""
    due(database)
    with amberflo() as (stand_in, url):
        stand_in.has(dict.fromkeys(IDS, WRONG))
        stored, order = stand_in._store, list[str]()

        def store(record: Record, before: Record) -> web.Response:
            order.append(record["customerId"])
            if len(order) == 20:
                waits = {"called": lanes.membership("k")}
                with database.write() as connection:
                    now = time.time_ns() // 1_000_000
                    rows = [CustomerRow("called", '{"vip":true}')]
                    snapshot.insert_customers(connection, rows, now, waits_in=waits)
            return stored(record, before)

        vars(stand_in)["_store"] = store
        assert deliver(database, url, rate=200).result.delivered == MANY + 1
        assert order.index("called") < 100


def test_who_failed_is_tried_again_while_pages_are_read(database: Database) -> None:
    """No page claims it any more, and it must not wait for the last one, which may take a day."""
    began = time.time_ns() // 1_000_000 - 1
    due(database)
    with workers.register(database, "worker") as worker:
        claims = Claims(database, worker.number)
        assert claims.next(MANY, began) == []
        assert len(claims.named(IDS[:3])) == 3
        with database.write() as connection:
            outbox.postpone(connection, [(IDS[1], 1, began + 1)])
        assert [it.row.customer_id for it in claims.next(MANY, began)] == [IDS[1]]
        assert len(claims.next(MANY)) == MANY - 3


@pytest.mark.parametrize("lists", ["pages", "list", "nothing"])
def test_trouble_in_the_middle_leaves_all_right(database: Database, lists: str) -> None:
    """With two deliveries side by side, the second of which goes on when the first is cut off."""
    due(database)
    with amberflo(paging_traits=lists == "pages", list_traits=lists != "nothing") as (it, url):
        it.has(dict.fromkeys(IDS[:150], WRONG) | dict.fromkeys(IDS[:50], RIGHT))
        it.faults = Faults.parse("429=0.03,500=0.03,drop=0.03,retry_after=0", seed=3)

        def puts() -> int:
            return sum(it.stats()["puts"].values())

        deliver(database, url, stop=lambda: puts() > 30)
        assert 30 < puts() < 110
        done = deliver(database, url, workers_=2)
        assert done.result.problem is None
        assert ours(it) == dict.fromkeys(IDS, True)
        assert all(it.customers[id_]["traits"]["theirs"] == 1 for id_ in IDS[:150])
        assert it.stats()["overlapping_writes"] == 0


def test_why_no_page_comes_is_why_nothing_gets_through(database: Database) -> None:
    """Also before any customer is read by itself."""
    due(database)
    with amberflo() as (it, url):
        it.faults = Faults.parse("500=1")
        done = deliver(database, url, patience=1.0)
    assert done.result.delivered == 0
    assert "answered 500" in str(done.result.problem)


@examples(8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    existing=st.dictionaries(st.integers(0, 60), st.sampled_from([RIGHT, WRONG, {}])),
    wanted=st.sets(st.integers(0, 60), min_size=3),
    edited=st.sets(st.integers(0, 60)),
    deleted=st.sets(st.integers(0, 60)),
)
def test_whatever_is_there_ends_right(
    tmp_path_factory: pytest.TempPathFactory,
    existing: dict[int, dict[str, Any]],
    wanted: set[int],
    edited: set[int],
    deleted: set[int],
) -> None:
    """Few are many here. Others edit and delete after the first look, which moves the pages."""
    folder = tmp_path_factory.mktemp("whatever")
    many, estimate.MANY = estimate.MANY, 1
    try:
        with (
            closing(Database.open(f"sqlite:///{folder / 'state.db'}")) as database,
            amberflo() as (stand_in, url),
        ):
            due(database, *(f"u{number:04}" for number in wanted))
            stand_in.has({f"u{number:04}": traits for number, traits in existing.items()})
            once = iter([True])

            def others(limit: int) -> None:
                if limit >= 10 and next(once, False):
                    for number in edited & existing.keys():
                        stand_in.edit(f"u{number:04}")
                    for number in deleted & existing.keys():
                        stand_in.customers[f"u{number:04}"]["deleteTime"] = 1

            stand_in.after_page = others
            done = deliver(database, url)
            assert done.result.delivered == len(wanted)
            for number in wanted:
                assert stand_in.customers[f"u{number:04}"]["traits"]["vip"] is True
            for number in edited & existing.keys() if next(once, None) is None else ():
                assert stand_in.customers[f"u{number:04}"]["traits"]["stripeId"] == "cus_1"
            for number in existing:
                assert stand_in.customers[f"u{number:04}"]["traits"]["theirs"] == 1
    finally:
        estimate.MANY = many
