"""Pages of audiences and computed traits: sizes over time, entries and exits, members at a time."""

from __future__ import annotations

from sqlalchemy import Connection

from state import holds, snapshot
from state.history import listings, past, retention, sizes
from state.history.listings import Entry
from state.snapshot import TraitRow
from syncer.web.chart import chart
from syncer.web.context import Context
from syncer.web.messages import ROWS, BadRequest, NotFound, Page, Request, Response

#: Intervals of a chart.
CHART_STEPS = 30
#: The time that a chart covers unless the request names a start, in milliseconds.
CHART_PERIOD = 30 * 24 * 3600 * 1000
AUDIENCE = "audience"
MOVES = {
    "": None,
    "entered": listings.ENTERED,
    "exited": listings.EXITED,
    "changed": listings.NEITHER,
}


def listing(context: Context, request: Request) -> Response:
    after = request.text("after") or None
    with context.state.read() as connection:
        traits = snapshot.traits(connection, after=after, limit=ROWS + 1)
        held = holds.open_keys(connection)
    data = {
        "traits": traits[:ROWS],
        "held": held,
        "next": traits[ROWS - 1].key if len(traits) > ROWS else None,
    }
    return Page("audiences.html", data)


def detail(context: Context, request: Request) -> Response:
    key, step, after = request.text("key"), request.one_of("step", *MOVES), request.number("after")
    since, until = request.moment("since"), request.moment("until")
    if since is not None and until is not None and since >= until:
        raise BadRequest("since must be before until")
    with context.state.read() as connection:
        trait = _trait(connection, key)
        counted = sizes.up_to_date(connection)
        is_audience = trait.kind == AUDIENCE
        moments = _moments(connection, trait.key, since, until, context.clock())
        points = []
        if is_audience and counted and moments:
            points = sizes.by_hour(connection, trait.key, moments, trait.members)
        changes = _changes(connection, trait.key, since, until, MOVES[step], after, counted)
        held = holds.open_keys(connection).get(trait.key)
    return Page(
        "audience.html",
        {
            "trait": trait,
            "is_audience": is_audience,
            "counted": counted,
            "held": held,
            "chart": chart(points),
            "changes": changes[:ROWS],
            "next": changes[ROWS - 1].id if len(changes) > ROWS else None,
            "paged": after is not None,
            "filter": {"since": since, "until": until, "step": step},
        },
    )


def members(context: Context, request: Request) -> Response:
    key, after, at = request.text("key"), request.text("after") or None, request.moment("at")
    with context.state.read() as connection:
        trait = _trait(connection, key)
        first = listings.first_recorded(connection, trait.key)
        before = first is None or (at is not None and at < first)
        rows = past.members_at(connection, trait.key, at, after=after, limit=ROWS + 1)
        customer_ids = [] if before else list(rows)
    data = {
        "trait": trait,
        "at": at,
        "members": customer_ids[:ROWS],
        "next": customer_ids[ROWS - 1] if len(customer_ids) > ROWS else None,
        "paged": after is not None,
    }
    return Page("members.html", data)


def _trait(connection: Connection, key: str) -> TraitRow:
    trait = snapshot.trait(connection, key)
    if trait is None:
        raise NotFound(f"no audience or trait with the key {key[:200]!r} was ever synced")
    return trait


def _moments(
    connection: Connection, key: str, since: int | None, until: int | None, now: int
) -> list[int]:
    """Return the moments of a chart, oldest first.

    They are `since` (else 30 days ago, or where the history begins), then ends of hours in even
    steps, then now unless `until` is before it. No moment is before the history begins.
    """
    begins, first = past.known_since(connection), listings.first_recorded(connection, key)
    if begins is None or first is None:
        return []
    last = now if until is None else min(until, now)
    start = max(last - CHART_PERIOD, first) if since is None else since
    start = max(start, begins.at)
    if start > last:
        return []
    begin, end = start // sizes.HOUR + 1, last // sizes.HOUR
    steps = max(1, min(CHART_STEPS, end - begin))
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
    """Return a page of changes, the newest first.

    Entries (or exits) may be few among many changes: the sums by the hour bound the search.
    """
    if step is not None and counted:
        last = listings.entry(connection, after) if after is not None else None
        upto = until if last is None else last.recorded_at + 1
        span = sizes.span_of(connection, key, step, ROWS + 2, since, upto)
        if span is None:
            return []
        # The sums of a period that was compacted since count changes that no longer exist.
        begins = retention.begins(connection)
        kept = begins is None or (span.since is not None and span.since > begins)
        since, until = (span.since if kept else since), span.until
    deltas, rows = None if step is None else [step], ROWS + 1
    return list(
        listings.of_key(
            connection, key, since, until,
            deltas=deltas, newest_first=True, after_id=after, limit=rows,
        )
    )  # fmt: skip


READS = {"/audiences": listing, "/audience": detail, "/audience/members": members}
