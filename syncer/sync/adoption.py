"""Whether a state may adopt what Amberflo holds: only before it has sent anything."""

from __future__ import annotations

from sqlalchemy import Connection

from state import outbox, restored, runs
from syncer.clock import iso
from syncer.errors import StateError


def check_adoptable(connection: Connection) -> None:
    """Raise StateError if this state has sent something, or has adopted before."""
    restored.check(connection)
    number = runs.last_committed(connection)
    run = None if number is None else runs.get(connection, number)
    known = outbox.acknowledged_count(connection)
    now = "`syncer diff --amberflo` shows what differs now"
    if run is not None and run.kind == "adopt":
        raise StateError(
            f"run {run.id} adopted what Amberflo held at {iso(run.committed_at)}: {now}, and "
            "`syncer sync` sends it"
        )
    if run is not None or known:
        raise StateError(
            f"this state has sent already ({known:,} customers are acknowledged), and only a new "
            f"one adopts: {now}, and `syncer sync --full` corrects it"
        )
