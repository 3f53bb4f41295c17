"""The JSON documents and lines that several commands print (docs/reference/json.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from state.failures import FailureRow
from state.history.listings import ENTERED, EXITED, Entry, Undelivered
from state.holds import Hold, Kept
from state.problems import ProblemRow
from state.runs import RunRow, RunTraitRow
from syncer.cli import output
from syncer.clock import iso
from syncer.json_text import to_json

if TYPE_CHECKING:  # `status` shows none of these: it starts without a run's modules
    from syncer.status import Daemon
    from syncer.sync.changes import CustomerChange
    from syncer.sync.compared import Compared
    from syncer.sync.findings import Drift
    from syncer.sync.first_contact import Example, FirstContact


def run_json(record: RunRow) -> dict[str, Any]:
    names = (
        *("pulled", "entered", "exited", "changed", "unchanged", "skipped"),
        *("due", "delivered", "failed", "held", "without_customer_id", "deleted", "first_contact"),
        *("already_right", "error"),
    )
    return {
        "run": record.id,
        "kind": record.kind,
        "state": record.state,
        "started_at": iso(record.started_at),
        "ended_at": iso(record.ended_at),
        **{name: getattr(record, name) for name in names},
        "progress": record.progress,
    }


def daemon_json(daemon: Daemon) -> dict[str, Any]:
    return {
        "pid": daemon.pid,
        "host": daemon.host,
        "started_at": iso(daemon.started_at),
        "schedules": daemon.schedules,
        "next_run": iso(daemon.next_run),
        "next_is_full": daemon.next_is_full,
    }


def problem_json(problem: ProblemRow) -> dict[str, Any]:
    return {
        "part": problem.part,
        "text": problem.text,
        "since": iso(problem.since),
        "last_at": iso(problem.last_at),
        "times": problem.times,
    }


def hold_json(hold: Hold, customers: int) -> dict[str, Any]:
    """Return a hold with the number of customers of which it holds something now."""
    return {
        "hold": hold.id,
        "trait": hold.trait,
        "key": hold.key,
        "reason": hold.reason,
        "since_run": hold.since_run,
        "since": iso(hold.since),
        "last_run": hold.last_run,
        "members": hold.members,
        "leaving": hold.leaving,
        "customers": customers,
        "decision": hold.decision,
        "decided_at": iso(hold.decided_at),
        "decided_by": hold.decided_by,
        "because": hold.because,
        "decided_run": hold.decided_run,
    }


def held_json(hold: Hold, change: Kept) -> dict[str, Any]:
    """Return a change that a hold keeps back."""
    return {
        "customer_id": change.customer_id,
        "trait": hold.trait,
        "key": hold.key,
        "before": value(change.before),
        "after": value(change.after),
        "observed_at": iso(change.observed_at),
        "hold": hold.id,
    }


def trait_json(row: RunTraitRow) -> dict[str, Any]:
    names = ("key", *output.TRAIT_COLUMNS, "waiting")
    return {**{name: getattr(row, name) for name in names}, "reasons": row.reasons}


def failure_json(row: FailureRow) -> dict[str, Any]:
    """Return a failure as JSON; `request` is what was sent, `body` the answer."""
    names = ("id", "ref", "kind", "customer_id", "event", "message_id", "reason", "status")
    return {
        **{name: getattr(row, name) for name in (*names, "request", "body", "attempts")},
        "failed_at": iso(row.failed_at),
        "via": row.via,
        "retryable": not row.only_discarded,
    }


def change_json(compared: Compared, change: CustomerChange) -> dict[str, Any]:
    decision = compared.decision
    all_held = decision.holds_deletion(change)
    return {
        "customer_id": change.customer_id,
        "new": not change.known,
        "name": change.name,
        "email": change.email,
        "deleted": change.deleted,
        "changes": [
            {
                "trait": difference.trait,
                "key": difference.key,
                "before": difference.before,
                "after": difference.after,
                "observed_at": iso(difference.observed_at),
                "held": all_held or decision.holds(difference),
                "waiting": decision.waits(difference),
                "source": difference.source,
            }
            for difference in change.changes
        ],
    }


def first_contact_json(first: FirstContact) -> dict[str, Any]:
    """Return what Amberflo has under our names before a full run.

    `unknown` counts customers at Amberflo that the state does not know, whether Engage does or not.
    """
    return {
        "traits": [
            {
                "trait": sums.trait,
                "customers": sums.found,
                "differ": sums.differ,
                "examples": list(map(example_json, sums.examples)),
            }
            for sums in first.by_name()
        ],
        "unknown": first.unknown,
    }


def example_json(example: Example | Drift) -> dict[str, Any]:
    """Return a customer whose value at Amberflo is not what Engage says."""
    return {
        "customer_id": example.customer_id,
        "actual": example.found,
        "expected": example.expected,
    }


def drift_json(drift: Drift) -> dict[str, Any]:
    """Return a trait that differs at Amberflo."""
    return {
        "customer_id": drift.customer_id,
        "trait": drift.trait,
        "expected": drift.expected,
        "actual": drift.found,
    }


def entry_json(entry: Entry) -> dict[str, Any]:
    """Return a change of the history; each command prints some of the fields."""
    return {
        "customer_id": entry.customer_id,
        "change": {ENTERED: "entered", EXITED: "exited"}.get(entry.delta),
        "trait": entry.trait,
        "key": entry.key,
        "before": value(entry.before),
        "after": value(entry.after),
        "run": entry.run,
        "source": entry.told_by,
        "via": entry.via,
        "observed_at": iso(entry.observed_at),
        "recorded_at": iso(entry.recorded_at),
        "delivered_at": iso(entry.delivered_at),
    }


def undelivered_json(undelivered: Undelivered) -> dict[str, Any]:
    return {**entry_json(undelivered.entry), "refused": undelivered.refused}


def value(text: str | None) -> Any:
    return None if text is None else orjson.loads(text)


def run_line(record: RunRow) -> str:
    held = f", {record.held:,} held" if record.held else ""
    failed = f", {record.failed:,} refused" if record.failed else ""
    right = f" ({record.already_right:,} already right)" if record.already_right else ""
    return (
        f"run {record.id} ({record.kind}) {record.state}: "
        f"{record.delivered:,} of {record.due:,} customers delivered{right}{failed}{held}"
    )


def decision_line(hold: Hold) -> str:
    """Say whether a hold is decided: how, by whom, why, and which run carried it out."""
    if hold.decision is None:
        return "open"
    by = f" by {hold.decided_by}" if hold.decided_by else ""
    because = f" ({hold.because})" if hold.because else ""
    run = f", done by run {hold.decided_run}" if hold.decided_run is not None else ""
    return f"{hold.decision}{by}{because} at {iso(hold.decided_at)}{run}"


def shown(value: Any) -> str:
    """Return a trait's value for a line of text."""
    return "absent" if value is None else to_json(value)
