"""Audiences and computed traits: their size over time, who entered and exited, who was in."""

from __future__ import annotations

from sqlalchemy import Connection

from state import holds, snapshot
from state.history import listings, past, retention, sizes
from state.history.listings import Entry
from state.snapshot import TraitRow
from syncer.web.chart import chart
from syncer.web.context import Desk
from syncer.web.messages import ROWS, Answer, Missing, Page, Visit, Wrong

#: Moments of a chart.
STEPS = 30
#: Milliseconds back that a chart and a list begin, unless told otherwise.
BACK = 30 * 24 * 3600 * 1000
AUDIENCE = "audience"
MOVES = {
    "": None,
    "entered": listings.ENTERED,
    "exited": listings.EXITED,
    "changed": listings.NEITHER,
}


def listing(desk: Desk, visit: Visit) -> Answer:
    after = visit.text("after") or None
    with desk.state.read() as connection:
        found = snapshot.traits(connection, after=after, limit=ROWS + 1)
        held = holds.open_keys(connection)
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
        counted = sizes.up_to_date(connection)
        is_audience = trait.kind == AUDIENCE
        moments = _moments(connection, trait.key, since, until, desk.clock())
        shown = []
        if is_audience and counted and moments:
            shown = sizes.by_hour(connection, trait.key, moments, trait.members)
        changes = _changes(connection, trait.key, since, until, MOVES[step], after, counted)
        held = holds.open_keys(connection).get(trait.key)
    return Page(
        "audience.html",
        {
            "trait": trait,
            "is_audience": is_audience,
            "counted": counted,
            "held": held,
            "chart": chart(shown),
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
        first = listings.first_recorded(connection, trait.key)
        before = first is None or (at is not None and at < first)
        listed = past.members_at(connection, trait.key, at, after=after, limit=ROWS + 1)
        found = [] if before else list(listed)
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


def _moments(
    connection: Connection, key: str, since: int | None, until: int | None, now: int
) -> list[int]:
    """The moments of a chart: `since`, or 30 days back, or where the history begins; then ends of
    hours, evenly; then now, unless `until` is before it. None is before the history begins."""
    begins, first = past.known_since(connection), listings.first_recorded(connection, key)
    if begins is None or first is None:
        return []
    last = now if until is None else min(until, now)
    start = max(last - BACK, first) if since is None else since
    start = max(start, begins.at)
    if start > last:
        return []
    begin, end = start // sizes.HOUR + 1, last // sizes.HOUR
    steps = max(1, min(STEPS, end - begin))
    hours = {begin + (end - begin) * step // steps for step in range(steps + 1)}
    moments = [start, *(hour * sizes.HOUR for hour in sorted(hours) if begin <= hour <= end)]
    return [*moments, now] if last == now > moments[-1] else moments


def _changes(
    connection: Connection,
    key: str,
    since: int | None,
    until: int | None,
    step: int | None,
    after: int | None,
    counted: bool,
) -> list[Entry]:
    """A page of changes, the newest first. Where those with a step are few among many, the sums by
    the hour tell where to look for them."""
    if step is not None and counted:
        last = listings.entry(connection, after) if after is not None else None
        upto = until if last is None else last.recorded_at + 1
        span = sizes.span_of(connection, key, step, ROWS + 2, since, upto)
        if span is None:
            return []
        # The sums of what was compacted since are of more than there is.
        begins = retention.begins(connection)
        kept = begins is None or (span.since is not None and span.since > begins)
        since, until = (span.since if kept else since), span.until
    steps, rows = None if step is None else [step], ROWS + 1
    return list(
        listings.of_key(
            connection, key, since, until,
            steps=steps, newest_first=True, after_id=after, limit=rows,
        )
    )  # fmt: skip


READS = {"/audiences": listing, "/audience": one, "/audience/members": members}
