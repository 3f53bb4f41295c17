"""A run is killed at each point between the warehouse and the state: the next one is right, and no
table of a dead run stays."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from sqlalchemy import text

from tests.contract.push_down.worlds import Pair, World, tables_in_scratch
from tests.faults import points
from tests.faults.fork import fork

#: In the order in which a run comes by them.
POINTS = (
    *("pull.before", "fingerprints.before", "fingerprints.made", "fingerprints.finish"),
    *("fingerprints.left", "pull.after", "commit.before", "commit.middle", "commit.last"),
    *("baseline.before", "baseline.after", "commit.after"),
)


def test_a_run_is_killed_at_each_point(empty_postgres: str, url: str, tmp_path: Path) -> None:
    queue = url if url.startswith("sqlite") else f"sqlite:///{tmp_path / 'queue.db'}"
    with Pair.opened(empty_postgres, url, queue) as pair:
        for number, point in enumerate(POINTS):
            pair.say("u1", "vip", ("false", "true")[number % 2])
            pair.say("u2", "total", str(number + 10))
            pair.call("u3", "gold", bool(number % 2))
            killed(pair, point, url, queue, tmp_path / f"{number}.log")
            pair.say("u1", "vip", ("true", "false")[number % 2])  # as it was, for the next run
            pair.passes(0.1)
            errors = [world.tries(lambda runs: runs.sync(full=True)) for world in pair.both]
            assert errors == ["", ""], point
            full, pushed = map(values, pair.both)
            assert pushed == full, point
            with pair.pushed.database.read() as connection:
                named = text("SELECT name FROM fingerprint_table")
                on_record = set(connection.execute(named).scalars())
            assert tables_in_scratch(pair.warehouse) == on_record, point
            assert len(on_record) <= 2, "what this run read by, and what it left"


def killed(pair: Pair, point: str, url: str, queue: str, log: Path) -> None:
    pair.warehouse.flush()
    pair.pushed.close()  # SQLite's locks are no child's

    def go(_lifeline: int, _tell: int) -> int:
        points.patch(lambda reached, _hit: os._exit(9) if reached == point else None)
        world = World(pair.pushed.source, url, queue)
        world.now = pair.now
        world.runs.sync(full=True)
        return 0

    child = fork(point, log, go)
    child.calls_told()
    assert child.wait(60)
    child.let_end()
    assert child.status == 9, (point, log.read_text())
    pair.pushed.open()


def values(world: World) -> dict[str, Any]:
    """What a world believes, whichever of its runs found it; the history as its steps, as a run
    that was killed may have found what the other world never saw."""
    with world.database.read() as connection:

        def rows(statement: str) -> Counter[tuple[Any, ...]]:
            return Counter(map(tuple, connection.execute(text(statement)).all()))

        return {
            "customers": rows("SELECT customer_id, traits, name, email FROM customer"),
            "traits": rows("SELECT key, trait, kind, members FROM trait"),
            "held": rows(
                "SELECT customer_id, trait, after FROM held_change WHERE ended_at IS NULL"
            ),
            "due": rows("SELECT customer_id FROM customer WHERE due_at IS NOT NULL"),
        }
