"""What a run may take for true: a whole pull, rows that it has seen, its own lock; and for how long
a call stands that the warehouse cannot know of yet."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from sqlalchemy import create_engine, text

from state import queue
from state.db.locks import lock_holder
from state.queue import Accepted
from syncer.app import App
from syncer.config import load
from syncer.engage.source import Scope, Source
from syncer.errors import SourceError, StateError
from syncer.progress import LineProgress
from syncer.sandbox.engage import EngageSandbox
from tests.support.events import ago, engage_call
from tests.support.installation import Installation
from tests.support.progress import Interrupted
from tests.support.warehouse import Warehouse

# -- a whole pull, or nothing


class EndsEarly:
    """A source whose stream ends, without an error, before its last `missing` customers."""

    def __init__(self, source: Source, missing: int) -> None:
        self._source, self._missing = source, missing

    @contextmanager
    def pull(self, scope: Scope) -> Iterator[Any]:
        with self._source.pull(scope) as pull:
            yield _EndsEarly(pull, self._missing)


class _EndsEarly:
    def __init__(self, pull: Any, missing: int) -> None:
        self._pull, self._missing = pull, missing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pull, name)

    def customers(self, keys: Any) -> Generator[Any]:
        yield from list(self._pull.customers(keys))[: -self._missing]


class EarlyApp(App):
    missing = 1

    def source(self, *context: Any) -> Source:
        source: Any = EndsEarly(super().source(*context), self.missing)
        return source  # type: ignore[no-any-return]


@pytest.mark.parametrize("missing", [1, 25])
@pytest.mark.parametrize("full", [True, False], ids=["full", "incremental"])
def test_a_pull_that_ends_early_changes_nothing(
    installation: Installation, engage: EngageSandbox, missing: int, full: bool
) -> None:
    """Though who is missing in it would not even be a mass exit."""
    engage.fill(40, 3)
    installation.run("sync")
    engage.evolve(fraction=0.9)
    holds, seal = installation.holds(), installation.json("audit", "seal")
    app = EarlyApp(load(installation.config, {}), LineProgress())
    app.missing = missing
    with app.runs() as runs, pytest.raises(SourceError, match="the pull ended early: "):
        runs.sync(full=full)
    assert installation.holds() == holds
    assert installation.json("audit", "seal") == seal
    newest = installation.json("runs")[0]
    assert (newest["state"], newest["due"]) == ("failed", 0)
    # The next one makes it good.
    assert installation.json("sync")["state"] == "done"
    assert installation.holds() != holds


# -- only rows that were seen are settled


def test_a_resync_of_one_customer_leaves_the_rows_of_others_to_the_next_run(
    installation: Installation,
) -> None:
    with closing(Warehouse(installation.folder / "engage.db")) as profiles:
        profiles.put("ada", ago(10), vip="true")
        profiles.put("bob", ago(10), vip="true")
        installation.run("sync")
        profiles.put("bob", ago(5), vip="false")
        profiles.put("ada", ago(0), vip="false")
        installation.run("resync", "--customer", "ada", "--yes")
        assert installation.holds()["ada"]["traits"] == {"vip": False}
        assert installation.holds()["bob"]["traits"] == {"vip": True}
        assert installation.json("sync")["kind"] == "incremental"
        assert installation.holds()["bob"]["traits"] == {"vip": False}


# -- nobody else runs


def test_a_run_that_lost_its_lock_changes_nothing(
    installation: Installation, engage: EngageSandbox, postgres_url: str
) -> None:
    """Its comparison may be wrong by then: another run may have begun."""
    engage.fill(30, 2)
    installation.configure(state=postgres_url)
    config = load(installation.config, {})

    def lose() -> None:
        with App(config, LineProgress()).state(writes=False) as database:
            holder = lock_holder(database, "run")
        engine = create_engine(postgres_url)
        with engine.begin() as connection:
            end = text("SELECT pg_terminate_backend(:pid, 5000)")
            assert connection.execute(end, {"pid": holder}).scalar()
        engine.dispose()

    with (
        App(config, Interrupted(lose)).runs() as runs,
        pytest.raises(StateError, match="that held the run lock broke"),
    ):
        runs.sync()
    assert installation.holds() == {}
    assert installation.json("audit", "seal")["seals"] == 0
    assert installation.json("runs")[0]["state"] == "failed"
    installation.run("sync")
    assert installation.holds()


# -- calls that the warehouse may not know of yet


@pytest.mark.parametrize(("hours", "stays"), [(0.5, True), (2.9, True), (3.1, False)])
def test_a_call_stands_until_the_warehouse_can_know_of_it(
    installation: Installation, hours: float, stays: bool
) -> None:
    """Profiles Sync may load for three hours: what a call said in that time is no exit because
    there is no row of it yet."""
    with closing(Warehouse(installation.folder / "engage.db")) as profiles:
        profiles.put("ada", ago(10), name="Ada")
        profiles.put("bob", ago(10), vip="true")
        installation.run("sync")
        received = datetime.now(UTC) - timedelta(hours=hours)
        call = engage_call("ada", "vip", True, received.isoformat())
        take(installation, call, received)
        profiles.put("bob", ago(0), vip="true", name="Bob")
        installation.run("sync", "--full")
        assert installation.holds()["bob"]["customerName"] == "Bob"
        assert installation.holds()["ada"]["traits"] == {"vip": stays}


def take(installation: Installation, call: dict[str, Any], received: datetime) -> None:
    """What the receiver does with a call, at another time."""
    app = App(load(installation.config, {}), LineProgress())
    body = orjson.dumps({**call, "writeKey": "key"})
    accepted = Accepted(call["type"], body, 1, round(received.timestamp() * 1000))
    with app.queue(writes=True) as inbox, app.state(writes=True) as state:
        with inbox.write() as connection:
            queue.accept(connection, [accepted])
        app.processor(inbox, state).process()
