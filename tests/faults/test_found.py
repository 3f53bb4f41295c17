"""What the scenarios found wrong in the product, each alone."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import uvloop
from sqlalchemy import insert

from state import outbox, snapshot
from state.db import workers
from state.db.database import Database
from state.db.locks import lock
from state.db.tables import WORKER
from state.snapshot import CustomerRow
from syncer.amberflo.client import AmberfloClient
from syncer.delivery.customers import CustomerDelivery, Delivery
from syncer.engage.catalog import Catalog, KnownTrait
from syncer.engage.computations import AUDIENCE
from syncer.event_times import Stamp, read_stamps
from syncer.sandbox.amberflo import AmberfloSandbox, running
from syncer.sync.changes import CustomerChange, TraitChange
from syncer.sync.diff import ENGAGE_WINS
from syncer.sync.overlay import laid_over
from syncer.sync.tally import Tally

from .runner import play
from .scenario import CALM, Act, Process, Round

HORIZON = 1000


def state(traits: dict[str, Any], stamps: dict[str, int], **more: Any) -> CustomerRow:
    """What calls said came after the horizon, whenever it happened."""
    came = {name: [at, max(at, HORIZON + 1)] for name, at in stamps.items()}
    texts = [orjson.dumps(value).decode() for value in (traits, came)]
    customer = CustomerRow("u", texts[0], "Old", "old@example.com", None, texts[1])
    return customer._replace(**more)


def change(*changes: TraitChange, **more: Any) -> CustomerChange:
    return CustomerChange("u", True, {}, None, None, list(changes))._replace(**more)


# -- a call is sorted between the comparison and the commit of a run


@pytest.mark.parametrize("now", [True, False])
def test_a_newer_call_stays_also_where_it_said_what_was_known(now: bool) -> None:
    exit_ = TraitChange("vip", "vip", True, False, 500)
    known = state({"vip": now}, {"vip": 501})
    assert laid_over(known, change(exit_), HORIZON) == (known, [])


def test_an_older_call_gives_way_and_is_what_was_before() -> None:
    entry = TraitChange("vip", "vip", None, True, 500)
    laid, made = laid_over(state({"vip": False}, {"vip": 499}), change(entry), HORIZON)
    assert orjson.loads(laid.traits) == {"vip": True}
    assert made == [entry._replace(before=False)]


def test_a_row_that_vanished_gives_way_to_a_call_that_the_pull_need_not_know() -> None:
    gone = TraitChange("vip", "vip", True, False, None)
    known = state({"vip": True}, {"vip": HORIZON + 1})
    assert laid_over(known, change(gone), HORIZON) == (known, [])
    older = known._replace(event_times=f'{{"vip":[{HORIZON},{HORIZON}]}}')
    assert laid_over(older, change(gone), HORIZON)[1] == [gone]


def test_what_a_run_changed_is_no_calls_word_any_more() -> None:
    """Else what Engage says next, of a time before the call, would give way to what Engage said."""
    exit_ = TraitChange("vip", "vip", True, False, 500)
    known = state({"vip": True, "beta": True}, {"vip": 501, "beta": 502})
    laid, made = laid_over(known, change(exit_), ENGAGE_WINS)
    assert made == [exit_]
    assert read_stamps(laid.event_times).keys() == {"beta"}
    assert laid_over(state({"vip": True}, {"vip": 501}), change(exit_), ENGAGE_WINS)[
        0
    ].event_times is (None)


def test_a_newer_name_and_email_stay() -> None:
    pulled = change(name="New", name_at=500, email="new@example.com", email_at=500)
    laid, _ = laid_over(state({}, {"name": 501, "email": 500}), pulled, HORIZON)
    assert (laid.name, laid.email) == ("Old", "new@example.com")
    laid, _ = laid_over(state({}, {"email": 501}), pulled, HORIZON)
    assert (laid.name, laid.email) == ("New", "old@example.com")


def test_a_name_and_email_that_a_resync_took_from_calls_are_as_old_as_their_rows() -> None:
    """Else what Engage says next, of a time before the call, would never be taken."""
    pulled = change(name="New", name_at=500, email="new@example.com", email_at=0)
    laid, _ = laid_over(state({}, {"name": 900, "email": 901}), pulled, ENGAGE_WINS)
    assert (laid.name, laid.email) == ("New", "new@example.com")
    assert read_stamps(laid.event_times) == {"name": Stamp(500, 0), "email": Stamp(0, 0)}
    assert laid_over(state({}, {}), pulled, ENGAGE_WINS)[0].event_times == "{}", "none is made"


def test_what_a_change_came_to_is_counted_anew() -> None:
    tally = Tally(Catalog([KnownTrait("vip", "vip", AUDIENCE)], {}, []))
    sums = tally.sums["vip"]
    sums.pulled, sums.entered, sums.exited = 3, 1, 2
    exited = TraitChange("vip", "vip", True, False, 500)
    tally.recount(exited, None)
    tally.recount(exited, exited._replace(before=None))
    assert (sums.entered, sums.exited, sums.changed, sums.unchanged) == (1, 0, 1, 1)


@pytest.mark.parametrize("point", ["pull.row", "commit.before"])
def test_a_call_may_cross_a_run(point: str) -> None:
    crossed = Process("full", acts=(Act(point, 1, "call"),))
    rounds = (CALM.rounds[0], *[Round((crossed,), hours=2.5, fraction=0.3)] * 2)
    outcome = play(replace(CALM, rounds=rounds))
    assert not outcome.violations
    assert "a newer call of Engage is processed" in outcome.log


# -- a worker that died had customers in work


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(Database.open(f"sqlite:///{tmp_path / 'syncer.db'}")) as database:
        yield database


def test_a_run_does_not_wait_for_a_worker_that_died(database: Database) -> None:
    """Without a configured rate nobody looked after the dead: it waited for `patience` in vain."""
    ids = [f"u{number}" for number in range(5)]
    rows = [CustomerRow(id_, '{"vip":true}', None, None, None, None) for id_ in ids]
    with workers.register(database, "worker") as dead, database.write() as connection:
        snapshot.insert_customers(connection, rows, 1, run=1)
    with database.write() as connection:
        record = {"id": dead.number, "kind": "worker", "host": "", "pid": 1, "started_at": 1}
        connection.execute(insert(WORKER).values(**record))
        outbox.claim(connection, dead.number, 1, 3)
    amberflo = AmberfloSandbox("key")
    with running(amberflo) as url:

        async def deliver() -> Delivery:
            async with AmberfloClient("key", customers_url=f"{url}/customers") as client:
                with workers.register(database, "run") as worker:
                    delivery = CustomerDelivery(database, worker, client, for_run=1, patience=20)
                    return await delivery.run()

        assert uvloop.run(deliver()) == Delivery(delivered=5)
    assert sorted(amberflo.customers) == ids


# -- lock files of workers


def locks(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in tmp_path.glob("*.worker*.lock"))


@pytest.mark.parametrize("dies", ["before it is off the record", "when it is"])
def test_a_worker_that_dies_while_it_leaves_leaves_no_lock_file(
    database: Database, tmp_path: Path, dies: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave = workers._leave

    def killed(*arguments: Any) -> None:
        if dies == "when it is":
            leave(*arguments)
        raise KeyboardInterrupt  # nothing that follows is done, as with a kill

    monkeypatch.setattr(workers, "_leave", killed)
    with pytest.raises(KeyboardInterrupt), workers.register(database, "worker"):
        assert len(locks(tmp_path)) == 1
    monkeypatch.undo()
    gc.collect()  # the lock goes with who held it
    with closing(Database.open(database.engine.url, "queue")) as calls:
        workers.prune_dead(database, calls)
    assert locks(tmp_path) == []


def test_burying_a_worker_that_left_just_now_leaves_no_lock_file(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        stack.enter_context(workers.register(database, "worker"))

        def after_it_left(*arguments: Any) -> Any:
            stack.close()
            return lock(*arguments)

        monkeypatch.setattr(workers, "lock", after_it_left)
        workers.prune_dead(database)
    assert locks(tmp_path) == []
