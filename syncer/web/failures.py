"""The page of failures: what Amberflo does not take, to send again, and invalid calls."""

from __future__ import annotations

from state import discard as state_discard
from state import failures
from syncer.web.context import Context
from syncer.web.messages import ROWS, BadRequest, NotFound, Page, Redirect, Request, Response, whole
from syncer.web.task_process import ALL


def listing(context: Context, request: Request) -> Response:
    before = request.number("before")
    with context.state.read() as connection:
        page = failures.page(connection, before=before, limit=ROWS + 1)
        count = failures.count(connection)
        invalid = failures.count_calls(connection)
        newest = failures.newest(connection)
        retryable = failures.count_retryable(connection)
    rows = page[:ROWS]
    return Page(
        "failures.html",
        {
            "failures": rows,
            "count": count,
            "invalid": invalid,
            "retryable": retryable,
            "newest": newest,
            "next": rows[-1].id if len(page) > ROWS else None,
            "paged": before is not None,
        },
    )


def retry(context: Context, request: Request) -> Response:
    ids, newest = _chosen(context, request)
    title = "sending all failures again" if ids is None else f"sending failure {ids[0]} again"
    which = ALL if ids is None else str(ids[0])
    context.tasks.begin(title, title, "retry", which, str(newest))
    return Redirect("/failures")


def discard(context: Context, request: Request) -> Response:
    ids, newest = _chosen(context, request)
    removed = state_discard.discard(context.state, context.calls, ids, newest)
    context.tasks.done("failures", f"{removed:,} discarded")
    return Redirect("/failures")


def _chosen(context: Context, request: Request) -> tuple[list[int] | None, int]:
    """Return the chosen failure (None for all), and the newest one that the user can have seen."""
    which, newest = request.posted("which"), whole("newest", request.posted("newest"))
    assert newest is not None
    if which == ALL:
        return None, newest
    number = whole("which", which)
    assert number is not None
    with context.state.read() as connection:
        chosen = failures.find(connection, [number])
    if not chosen:
        raise NotFound(f"failure {number} does not exist any more")
    if request.path.endswith("/retry") and chosen[0].only_discarded:
        raise BadRequest(f"failure {number} is an invalid call: it can only be discarded")
    return [number], newest


READS = {"/failures": listing}
WRITES = {"/failures/retry": retry, "/failures/discard": discard}
