"""Pages of runs: the list, one run with its sums and changes, decisions on what the guard held."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from sqlalchemy import Connection

from state import hold_evidence, holds, runs
from state.history import listings
from state.history.listings import Entry
from state.holds import Hold, Kept
from state.runs import RunRow, RunTraitRow
from syncer.display import shrinking
from syncer.sync.decision import Attribution
from syncer.sync.preview import moved
from syncer.web.context import Context
from syncer.web.messages import (
    LARGEST,
    ROWS,
    BadRequest,
    Conflict,
    NotFound,
    Page,
    Redirect,
    Request,
    Response,
    checked,
)

STEPS = {
    "": None,
    "entered": [listings.ENTERED],
    "exited": [listings.EXITED],
    "changed": [listings.NEITHER],
}


#: Customers of a hold that the page shows.
SHOWN = 20
#: Characters of the name and the reason that a decision takes.
NAME, REASON = 200, 1000


class Evidence(NamedTuple):
    """A hold, of how many customers something is held now, and some of the `kept` changes."""

    hold: Hold
    customers: int
    shown: list[Kept]
    kept: int

    @property
    def sizes(self) -> str:
        return shrinking(self.hold.members, self.hold.leaving)


def listing(context: Context, request: Request) -> Response:
    with context.state.read() as connection:
        page = runs.newest(connection, ROWS + 1, before=request.number("before"))
    rows = runs.as_they_are(context.state, page[:ROWS])
    return Page("runs.html", {"runs": rows, "next": rows[-1].id if len(page) > ROWS else None})


def detail(context: Context, request: Request) -> Response:
    step, key, after = request.one_of("step", *STEPS), request.text("key"), request.number("after")
    with context.state.read() as connection:
        record = _run(connection, request)
        traits = runs.traits(connection, request.run)
        changes = _changes(connection, request.run, traits, key, step, after)
        undecided = bool(holds.undecided(connection, request.run))
        evidence = [
            Evidence(
                hold,
                holds.count(connection, hold.id),
                list(hold_evidence.each_kept(connection, hold, SHOWN)),
                hold_evidence.count_kept(connection, hold),
            )
            for hold in holds.of_run(connection, request.run)
        ]
        let_through = hold_evidence.let_through(connection, request.run)
    (record,) = runs.as_they_are(context.state, [record])
    everything = request.one_of("all", "", "1") == "1"
    return Page(
        "run.html",
        {
            "run": record,
            "traits": traits,
            "sums": [row for row in traits if everything or moved(row)],
            "let_through": let_through,
            "changes": changes[:ROWS],
            "next": changes[ROWS - 1].id if len(changes) > ROWS else None,
            "filter": {"key": key, "step": step},
            "paged": after is not None,
            "approving": context.tasks.under_way(_task_name(request.run)),
            "holds": evidence,
            "undecided": undecided,
            "open": any(entry.hold.decision is None for entry in evidence),
        },
    )


def approve(context: Context, request: Request) -> Response:
    _check_undecided(context, request)
    decided = _attribution(request)
    title = f"approval of run {request.run}"
    arguments = (str(request.run), decided.by or "", decided.because or "")
    context.tasks.begin(_task_name(request.run), title, "approve", *arguments)
    return Redirect(f"/runs/{request.run}")


def reject(context: Context, request: Request) -> Response:
    _check_undecided(context, request)
    context.tasks.reject(request.run, _attribution(request))
    context.tasks.done(f"run {request.run}", "rejected: nothing that it held will be sent")
    return Redirect(f"/runs/{request.run}")


def _attribution(request: Request) -> Attribution:
    """Return who decides and why; raise `BadRequest` if the form does not say both."""
    by, because = (" ".join(request.form.get(name, "").split()) for name in ("by", "because"))
    if not (by and because):
        raise BadRequest("a decision needs your name and a reason; both are kept with it")
    if len(by) > NAME or len(because) > REASON:
        raise BadRequest(f"a name has {NAME} characters at most, a reason {REASON:,}")
    return Attribution(checked("by", by), checked("because", because))


def _changes(
    connection: Connection,
    run: int,
    traits: Sequence[RunTraitRow],
    key: str,
    step: str,
    after: int | None,
) -> list[Entry]:
    """Return a page of the changes of a run.

    Entries (or exits) of all traits are read trait by trait, only for traits that have some by the
    run's sums: a search for a few among millions would take too long.
    """
    find = partial(listings.of_run, connection, run, deltas=STEPS[step])
    if key or not step:
        return list(find(key=key or None, after_id=after, limit=ROWS + 1))
    last = listings.entry(connection, after) if after is not None else None
    keys = sorted(row.key for row in traits if getattr(row, step) or row.changed)
    changes: list[Entry] = []
    for trait_key in keys:
        if (last is None or trait_key >= last.key) and len(changes) <= ROWS:
            place = after if last is not None and trait_key == last.key else None
            changes += find(key=trait_key, after_id=place, limit=ROWS + 1 - len(changes))
    return changes


def _check_undecided(context: Context, request: Request) -> None:
    """Raise `Conflict` unless the run holds something that awaits a decision."""
    with context.state.read() as connection:
        record = _run(connection, request)
        undecided = holds.undecided(connection, request.run)
    if not undecided:
        raise Conflict(
            f"run {request.run} is {record.state}: it holds nothing that awaits a decision"
        )
    if context.tasks.under_way(_task_name(request.run)):
        raise Conflict(f"the approval of run {request.run} is under way")


def _run(connection: Connection, request: Request) -> RunRow:
    record = runs.get(connection, request.run) if request.run <= LARGEST else None
    if record is None:
        raise NotFound(f"there is no run {request.run}")
    return record


def _task_name(run: int) -> str:
    return f"approve {run}"


READS = {"/runs": listing, "/runs/{which}": detail}
WRITES = {"/runs/{which}/approve": approve, "/runs/{which}/reject": reject}
