"""`why`: one answer to why a customer has a trait, or has it not, with its evidence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from sqlalchemy import Connection

from state import holds
from state.history import listings
from state.history.listings import Entry
from syncer.cli import complete, output
from syncer.cli.documents import (
    decision_line,
    entry_json,
    failure_json,
    held_json,
    hold_json,
    run_json,
    shown,
)
from syncer.cli.documents import value as loaded
from syncer.cli.options import application, config_option, json_option, readable
from syncer.cli.reasons import answer, kept_back
from syncer.clock import iso, now_ms
from syncer.errors import NotFound
from syncer.evidence import FIELDS, Evidence, Held, Standing, gather
from syncer.privacy.forget import check_not_forgotten
from syncer.sync.changes import ADOPTED

#: Of such a trait nothing here says what Amberflo should have: of a released one no more, once its
#: earlier value is back.
NOT_OURS = (Standing.PROTECTED, Standing.FOREIGN, Standing.RENAMED, Standing.RELEASED)
#: The fields of a change in the document, as `audit` prints them.
CHANGE = ("trait", "key", "before", "after", "run", "source", "via")
TIMES = ("observed_at", "recorded_at", "delivered_at")


@click.command()
@click.argument(
    "customer_id", metavar="CUSTOMER", callback=readable, shell_complete=complete.customers
)
@click.argument("key", metavar="TRAIT", callback=readable, shell_complete=complete.traits)
@config_option
@json_option
def why(customer_id: str, key: str, config: Path | None, as_json: bool) -> None:
    """Say why a customer has a trait, or has it not, and show the evidence.

    TRAIT is the key in Segment or the name at Amberflo. The evidence goes from the rows in the
    source, or the call, through the run and the guard to what Amberflo acknowledged and what it
    holds now.
    """
    app = application(config)
    with app.state(writes=False) as database:
        with database.read() as connection:
            check_not_forgotten(connection, customer_id)
            key = _key(connection, key)
        evidence = gather(app, database, customer_id, key)
        if not (evidence.customer or evidence.source.identified or evidence.amberflo.known):
            raise NotFound(f"the customer {customer_id!r} is unknown")
        if not evidence.any:
            raise NotFound(
                f"no audience or computed trait with the key {key!r} was ever synced, and neither "
                f"the source nor Amberflo has one of {customer_id!r}; `syncer check` lists what "
                "a run takes"
            )
        with database.read() as connection:
            open_now = {
                held.hold.id: holds.count(connection, held.hold.id) for held in evidence.holds
            }
    if as_json:
        output.print_json(_document(evidence, open_now))
        return
    for label, text in _lines(evidence):
        output.print_line(f"{label:<10} {text}" if label else text)


def _key(connection: Connection, key_or_name: str) -> str:
    """Return the key that a user names by it or by its name at Amberflo, known or not."""
    for key, name in FIELDS.items():
        if key_or_name == name:
            return key
    return listings.key_of(connection, key_or_name) or key_or_name


def _document(evidence: Evidence, open_now: dict[int, int]) -> dict[str, Any]:
    source, amberflo, customer = evidence.source, evidence.amberflo, evidence.customer
    change = entry_json(evidence.change) if evidence.change else None
    return {
        "customer_id": evidence.customer_id,
        "trait": evidence.name,
        "key": evidence.key,
        "kind": evidence.trait.kind if evidence.trait else None,
        "value": evidence.value,
        "answer": answer(evidence),
        "segment": {
            "problem": source.problem,
            "value": source.value,
            "skipped": source.skipped,
            "identified": source.identified,
            "rows": [
                {
                    "segment_id": row.profile,
                    "merged_into": row.merged_into,
                    "value": row.value,
                    "observed_at": iso(row.observed_at),
                    "loaded_at": iso(row.loaded_at),
                    "counts": row.counts,
                }
                for row in source.rows
            ],
        },
        "change": change and {name: change[name] for name in (*CHANGE, *TIMES)},
        "run": run_json(evidence.run) if evidence.run else None,
        "holds": [
            {
                **hold_json(held.hold, open_now[held.hold.id]),
                **{name: held_json(held.hold, held.change)[name] for name in ("before", "after")},
                "in_force": held.in_force,
            }
            for held in evidence.holds
        ],
        "due": bool(customer and customer.due_at is not None),
        "attempts": customer.attempts if customer else 0,
        "failure": failure_json(evidence.failure) if evidence.failure else None,
        "amberflo": {
            "problem": amberflo.problem,
            "known": amberflo.known,
            "value": amberflo.value,
            "right": amberflo.right,
        },
    }


# For people


def _lines(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Yield the answer, then the evidence with its labels, in the order in which it came about."""
    yield "", answer(evidence)
    yield from _source_lines(evidence)
    if evidence.change is not None:
        yield "change", _change(evidence, evidence.change)
    for held in evidence.holds:
        yield "hold", _hold(held)
    yield "delivery", _delivery(evidence)
    yield "Amberflo", _amberflo(evidence)


def _source_lines(evidence: Evidence) -> Iterator[tuple[str, str]]:
    source = evidence.source
    if source.problem is not None:
        yield "source", f"not asked: {source.problem}"
    elif not source.rows:
        deleted = "" if source.identified else ", and no identifier of the customer"
        yield "source", f"no row of it now{deleted}"
    for row in source.rows:
        merged = f", merged into {row.merged_into}" if row.merged_into else ""
        loaded_at = f", loaded {iso(row.loaded_at)}" if row.loaded_at is not None else ""
        older = "" if row.counts else "; a newer row counts"
        yield (
            "source",
            f"{shown(row.value)} since {iso(row.observed_at)}, segment id {row.profile}{merged}"
            f"{loaded_at}{older}",
        )


def _change(evidence: Evidence, change: Entry) -> str:
    values = f"{shown(loaded(change.before))} → {shown(loaded(change.after))}"
    run = f", by run {change.run}" if change.run is not None else ""
    via = f" by the key {change.via}" if change.via else ""
    state = f" ({evidence.run.kind}, {evidence.run.state})" if evidence.run else ""
    return f"{values}, recorded {iso(change.recorded_at)}{run}{state} ({change.told_by}{via})"


def _hold(held: Held) -> str:
    hold = held.hold
    since = f"since run {hold.since_run} ({hold.reason})"
    over = "; it keeps this back no more" if hold.decision is None and not held.in_force else ""
    return f"{kept_back(held)} {since}: {decision_line(hold)}{over}"


def _delivery(evidence: Evidence) -> str:
    """Say whether Amberflo has acknowledged the value, and what is the matter if not."""
    customer, change, failure = evidence.customer, evidence.change, evidence.failure
    if customer is None or not (customer.acked_rev or change or customer.due_at is not None):
        return "nothing was sent"
    if change is not None:
        acknowledged_at = change.delivered_at
    elif evidence.value is None:
        return "there is nothing to send of it"
    else:
        acknowledged_at = customer.acked_at if customer.acked_rev == customer.rev else None
    if acknowledged_at is not None and failure is None:
        if change is not None and change.source == ADOPTED:
            return f"adopted {iso(acknowledged_at)}, found equal: nothing was sent"
        return f"Amberflo acknowledged it {iso(acknowledged_at)}"
    due = None if customer.due_at is None else max(customer.due_at, now_ms())
    if failure is not None:
        took = (
            f"Amberflo acknowledged it {iso(acknowledged_at)}; by now it "
            if acknowledged_at is not None
            else "Amberflo "
        )
        again = (
            f"`syncer failures retry {failure.id}` sends it again"
            if due is None
            else f"it is tried again, next at {iso(due)}"
        )
        verb = "refuses" if due is None else "does not take"
        return f"{took}{verb} the customer, failure {failure.id}: {failure.reason}; {again}"
    if due is None:
        return (
            "Amberflo has not acknowledged it, and nothing is due: `syncer resync --customer "
            f"{evidence.customer_id}` sends it"
        )
    tried = f" after {customer.attempts:,} attempts" if customer.attempts else ""
    return f"it waits to be sent{tried}"


def _amberflo(evidence: Evidence) -> str:
    amberflo, customer = evidence.amberflo, evidence.customer
    if amberflo.problem is not None:
        return f"not asked: {amberflo.problem}"
    waits = customer is not None and customer.due_at is not None
    see = "" if waits else ": see `syncer verify`"
    if not amberflo.known:
        return "does not know the customer" + ("" if amberflo.right else f", and should{see}")
    has = f"has {shown(amberflo.value)} now"
    if amberflo.right:
        judged = customer is not None and evidence.standing not in NOT_OURS
        return f"{has}, as it should" if judged else has
    return f"{has}, and should have {shown(evidence.value)}{see}"
