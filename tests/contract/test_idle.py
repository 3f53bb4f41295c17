"""What the database is asked while nothing happens: each worker looks after the others for ever."""

from __future__ import annotations

from contextlib import ExitStack

from state.db import workers
from state.db.database import Database
from tests.support.state import statements


def test_a_look_at_many_living_workers_costs_no_more_than_one_at_few(
    database: Database, calls: Database
) -> None:
    """Else what idle daemons ask grows with the square of their number."""
    asked: list[list[str]] = []
    with ExitStack() as stack:
        for more in (1, 3):
            for _ in range(more):
                stack.enter_context(workers.register(database, "worker", calls))
                stack.enter_context(workers.register(database, workers.DAEMON))
            with statements(database) as executed:
                workers.prune_dead(database, calls)
                assert workers.count_alive(database) == (1 if more == 1 else 4)
                assert len(workers.daemons(database)) == (1 if more == 1 else 4)
            asked.append(executed)
    assert asked[0] == asked[1]
    assert len(asked[0]) <= 6
