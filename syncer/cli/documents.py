"""The JSON shapes of the command line (docs/design.md §5)."""

from __future__ import annotations

from typing import Any

import orjson

from state.history.listings import ENTERED, EXITED, Entry, Undelivered
from state.holds import Hold
from syncer.cli import output
from syncer.clock import iso
from syncer.sync.destination import FirstContact
from syncer.sync.diff import CustomerChange
from syncer.sync.runs import Compared


def run_json(record: Any) -> dict[str, Any]:
    names = (
        *("pulled", "entered", "exited", "changed", "unchanged", "skipped"),
        *("due", "delivered", "failed", "held", "without_customer_id", "deleted", "first_contact"),
        "error",
    )
    return {
        "run": record["id"],
        "kind": record["kind"],
        "state": record["state"],
        "started_at": iso(record["started_at"]),
        "ended_at": iso(record["ended_at"]),
        **{name: record[name] for name in names},
        "doing": value(record["doing"]),
    }


def hold_json(hold: Hold, customers: int) -> dict[str, Any]:
    """A hold, and of how many customers it keeps something back now."""
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


def trait_json(row: Any) -> dict[str, Any]:
    names = ("key", *output.TRAIT_COLUMNS, "waiting")
    return {**{name: row[name] for name in names}, "reasons": orjson.loads(row["reasons"])}


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
                "trait": one.trait,
                "key": one.key,
                "before": one.before,
                "after": one.after,
                "observed_at": iso(one.observed_at),
                "held": all_held or decision.holds(one),
                "waiting": decision.waits(one),
                "source": one.source,
            }
            for one in change.changes
        ],
    }


def first_contact_json(first: FirstContact) -> dict[str, Any]:
    """What a full run finds at Amberflo under our names; `unknown` are customers there that the
    state does not know, be they Engage's or not."""
    return {
        "traits": [
            {
                "trait": one.trait,
                "found": one.found,
                "differ": one.differ,
                "examples": [example._asdict() for example in one.examples],
            }
            for one in first.by_name()
        ],
        "unknown": first.unknown,
    }


def entry_json(entry: Entry) -> dict[str, Any]:
    """A change of the history; commands print of it what the design names."""
    return {
        "customer_id": entry.customer_id,
        "what": {ENTERED: "entered", EXITED: "exited"}.get(entry.step),
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


def run_line(record: Any) -> str:
    held = f", {record['held']:,} held" if record["held"] else ""
    failed = f", {record['failed']:,} refused" if record["failed"] else ""
    return (
        f"run {record['id']} ({record['kind']}) {record['state']}: "
        f"{record['delivered']:,} of {record['due']:,} customers delivered{failed}{held}"
    )


def said(value: Any) -> str:
    """A trait's value in a line of text."""
    return "absent" if value is None else orjson.dumps(value).decode()
