"""Failures: what Amberflo refused for good, to be sent again or let go."""

from __future__ import annotations

from state import failures
from syncer.web.context import Desk
from syncer.web.messages import ROWS, Answer, GoTo, Missing, Page, Visit, Wrong, whole
from syncer.web.task_process import ALL


def listing(desk: Desk, visit: Visit) -> Answer:
    before = visit.number("before")
    with desk.state.read() as connection:
        found = failures.page(connection, before=before, limit=ROWS + 1)
        count = failures.count(connection)
        newest = failures.newest(connection)
    rows = [{**row, "retried": not failures.only_discarded(row)} for row in found[:ROWS]]
    return Page(
        "failures.html",
        {
            "failures": rows,
            "count": count,
            "newest": newest,
            "next": rows[-1]["id"] if len(found) > ROWS else None,
            "paged": before is not None,
        },
    )


def retry(desk: Desk, visit: Visit) -> Answer:
    ids, newest = _chosen(desk, visit)
    title = "sending all failures again" if ids is None else f"sending failure {ids[0]} again"
    which = ALL if ids is None else str(ids[0])
    desk.work.begin(title, title, "retry", which, str(newest))
    return GoTo("/failures")


def discard(desk: Desk, visit: Visit) -> Answer:
    ids, newest = _chosen(desk, visit)
    if ids is None:
        removed = failures.discard_until(desk.state, newest)
    else:
        with desk.state.write() as connection:
            removed = failures.remove(connection, ids)
    desk.work.done("failures", f"{removed:,} discarded")
    return GoTo("/failures")


def _chosen(desk: Desk, visit: Visit) -> tuple[list[int] | None, int]:
    """One failure, or None for all; and the newest one that whoever chose can have seen."""
    which, newest = visit.posted("which"), whole("newest", visit.posted("newest"))
    assert newest is not None
    if which == ALL:
        return None, newest
    number = whole("which", which)
    assert number is not None
    with desk.state.read() as connection:
        found = failures.find(connection, [number])
    if not found:
        raise Missing(f"there is no failure {number} any more")
    if visit.path.endswith("/retry") and failures.only_discarded(found[0]):
        raise Wrong(f"failure {number} is a call that cannot be taken: it can only be discarded")
    return [number], newest


READS = {"/failures": listing}
WRITES = {"/failures/retry": retry, "/failures/discard": discard}
