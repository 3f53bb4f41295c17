"""Runs: all of them, one with its sums and what it changed, and the decision on what is held."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import orjson
from sqlalchemy import Connection

from state import holds, runs
from state.history import listings
from state.history.listings import Entry
from syncer.web.context import Desk
from syncer.web.messages import LARGEST, ROWS, Answer, GoTo, Missing, NotNow, Page, Visit

STEPS = {
    "": None,
    "entered": [listings.ENTERED],
    "exited": [listings.EXITED],
    "changed": [listings.NEITHER],
}


def listing(desk: Desk, visit: Visit) -> Answer:
    with desk.state.read() as connection:
        found = runs.newest(connection, ROWS + 1, before=visit.number("before"))
    rows = found[:ROWS]
    return Page("runs.html", {"runs": rows, "next": rows[-1]["id"] if len(found) > ROWS else None})


def one(desk: Desk, visit: Visit) -> Answer:
    step, key, after = visit.one_of("step", *STEPS), visit.text("key"), visit.number("after")
    with desk.state.read() as connection:
        record = _run(connection, visit)
        traits = [
            {**row, "reasons": orjson.loads(row["reasons"])}
            for row in runs.traits(connection, visit.run)
        ]
        changes = _changes(connection, visit.run, traits, key, step, after)
        found = [
            (one, holds.count(connection, one.id)) for one in holds.of_run(connection, visit.run)
        ]
        undecided = bool(holds.undecided(connection, visit.run))
    return Page(
        "run.html",
        {
            "run": record,
            "doing": orjson.loads(record["doing"]) if record["doing"] else None,
            "traits": traits,
            "changes": changes[:ROWS],
            "next": changes[ROWS - 1].id if len(changes) > ROWS else None,
            "filter": {"key": key, "step": step},
            "paged": after is not None,
            "approving": desk.work.under_way(_name(visit.run)),
            "holds": found,
            "undecided": undecided,
            "open": any(one.decision is None for one, _ in found),
        },
    )


def approve(desk: Desk, visit: Visit) -> Answer:
    _held(desk, visit)
    title = f"approval of run {visit.run}"
    desk.work.begin(_name(visit.run), title, "approve", str(visit.run))
    return GoTo(f"/runs/{visit.run}")


def reject(desk: Desk, visit: Visit) -> Answer:
    _held(desk, visit)
    desk.work.reject(visit.run)
    desk.work.done(f"run {visit.run}", "rejected: nothing of what it held will be sent")
    return GoTo(f"/runs/{visit.run}")


def _changes(
    connection: Connection,
    run: int,
    traits: Sequence[runs.Record],
    key: str,
    step: str,
    after: int | None,
) -> list[Entry]:
    """A page of what a run changed. Of all traits, but with one step: trait by trait, and only of
    those that have it by the run's sums; else a few among millions were looked for."""
    find = partial(listings.of_run, connection, run, steps=STEPS[step])
    if key or not step:
        return list(find(key=key or None, after_id=after, limit=ROWS + 1))
    last = listings.entry(connection, after) if after is not None else None
    having = sorted(row["key"] for row in traits if row[step] or row["changed"])
    found: list[Entry] = []
    for one in having:
        if (last is None or one >= last.key) and len(found) <= ROWS:
            place = after if last is not None and one == last.key else None
            found += find(key=one, after_id=place, limit=ROWS + 1 - len(found))
    return found


def _held(desk: Desk, visit: Visit) -> None:
    """Only what is held can be decided on."""
    with desk.state.read() as connection:
        record = _run(connection, visit)
        undecided = holds.undecided(connection, visit.run)
    if not undecided:
        raise NotNow(
            f"run {visit.run} is {record['state']}: it holds nothing that waits for a decision"
        )
    if desk.work.under_way(_name(visit.run)):
        raise NotNow(f"the approval of run {visit.run} is under way")


def _run(connection: Connection, visit: Visit) -> runs.Record:
    found = runs.get(connection, visit.run) if visit.run <= LARGEST else None
    if found is None:
        raise Missing(f"there is no run {visit.run}")
    return found


def _name(run: int) -> str:
    return f"approve {run}"


READS = {"/runs": listing, "/runs/{which}": one}
WRITES = {"/runs/{which}/approve": approve, "/runs/{which}/reject": reject}
