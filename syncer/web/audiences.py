"""Audiences and computed traits: their size over time, who entered and exited, who was in."""

from __future__ import annotations

from sqlalchemy import Connection

from state import history, runs, snapshot
from state.snapshot import TraitRow
from syncer.web.chart import chart
from syncer.web.desk import Desk
from syncer.web.page import ROWS, Answer, Missing, Page, Visit, Wrong

#: Moments of a chart.
STEPS = 30
#: Milliseconds back that a chart and a list begin, unless told otherwise.
BACK = 30 * 24 * 3600 * 1000
AUDIENCE = "audience"
MOVES = {
    "": None,
    "entered": history.ENTERED,
    "exited": history.EXITED,
    "changed": history.NEITHER,
}


def listing(desk: Desk, visit: Visit) -> Answer:
    after = visit.text("after") or None
    with desk.state.read() as connection:
        found = snapshot.traits(connection, after=after, limit=ROWS + 1)
        held = runs.held_keys(connection)
    data = {
        "traits": found[:ROWS],
        "held": held,
        "next": found[ROWS - 1].key if len(found) > ROWS else None,
    }
    return Page("audiences.html", data)


def one(desk: Desk, visit: Visit) -> Answer:
    key, step, after = visit.text("key"), visit.one_of("step", *MOVES), visit.number("after")
    since, until = visit.moment("since"), visit.moment("until")
    if since is not None and until is not None and since >= until:
        raise Wrong("since must be before until")
    with desk.state.read() as connection:
        trait = _trait(connection, key)
        end = desk.clock() if until is None else until
        start = _start(connection, trait.key, end) if since is None else since
        sizes = (
            history.sizes(connection, trait.key, start, end, STEPS + 1)
            if trait.kind == AUDIENCE and start < end
            else []
        )
        changes = list(
            history.of_key(
                connection, trait.key, since, until,
                step=MOVES[step], newest_first=True, after_id=after, limit=ROWS + 1,
            )
        )  # fmt: skip
        held = runs.held_keys(connection).get(trait.key)
    return Page(
        "audience.html",
        {
            "trait": trait,
            "is_audience": trait.kind == AUDIENCE,
            "held": held,
            "chart": chart(sizes),
            "changes": changes[:ROWS],
            "next": changes[ROWS - 1].id if len(changes) > ROWS else None,
            "paged": after is not None,
            "filter": {"since": since, "until": until, "step": step},
        },
    )


def members(desk: Desk, visit: Visit) -> Answer:
    key, after, at = visit.text("key"), visit.text("after") or None, visit.moment("at")
    with desk.state.read() as connection:
        trait = _trait(connection, key)
        found = list(history.members_at(connection, trait.key, at, after=after, limit=ROWS + 1))
    data = {
        "trait": trait,
        "at": at,
        "members": found[:ROWS],
        "next": found[ROWS - 1] if len(found) > ROWS else None,
        "paged": after is not None,
    }
    return Page("members.html", data)


def _trait(connection: Connection, key: str) -> TraitRow:
    found = snapshot.trait(connection, key)
    if found is None:
        raise Missing(f"no audience or trait with the key {key[:200]!r} was ever synced")
    return found


def _start(connection: Connection, key: str, end: int) -> int:
    """Where a chart begins: 30 days back, or where the history does."""
    first = next(history.of_key(connection, key, limit=1), None)
    return end - BACK if first is None else max(end - BACK, first.recorded_at - 1)


READS = {"/audiences": listing, "/audience": one, "/audience/members": members}
