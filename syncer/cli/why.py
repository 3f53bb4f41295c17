"""`why`: one answer to why a customer has a trait, or has it not, with its evidence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from state import holds
from state.history.listings import EXITED, Entry
from syncer.cli import output
from syncer.cli.audit import known_key
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
from syncer.clock import iso
from syncer.engage.computations import AUDIENCE
from syncer.errors import NotFound
from syncer.evidence import Evidence, Held, gather
from syncer.privacy.forget import check_not_forgotten

#: The fields of a change in the document, as `audit` prints them.
CHANGE = ("trait", "key", "before", "after", "run", "source", "via")
TIMES = ("observed_at", "recorded_at", "delivered_at")


@click.command()
@click.argument("customer_id", metavar="CUSTOMER", callback=readable)
@click.argument("key", metavar="TRAIT", callback=readable)
@config_option
@json_option
def why(customer_id: str, key: str, config: Path | None, as_json: bool) -> None:
    """Say why a customer has a trait, or has it not, and show the evidence.

    TRAIT is the key in Segment or the name at Amberflo. The evidence goes from the rows in the
    warehouse, or the call, through the run and the guard to what Amberflo acknowledged and what it
    holds now.
    """
    app = application(config)
    with app.state(writes=False) as database:
        with database.read() as connection:
            check_not_forgotten(connection, customer_id)
            key = known_key(connection, key)
        evidence = gather(app, database, customer_id, key)
        if not (evidence.customer or evidence.source.rows or evidence.amberflo.known):
            raise NotFound(f"the customer {customer_id!r} is unknown")
        with database.read() as connection:
            open_now = {
                held.hold.id: holds.count(connection, held.hold.id) for held in evidence.holds
            }
    if as_json:
        output.print_json(_document(evidence, open_now))
        return
    for label, text in _lines(evidence):
        output.print_line(f"{label:<10} {text}" if label else text)


def _document(evidence: Evidence, open_now: dict[int, int]) -> dict[str, Any]:
    source, amberflo, customer = evidence.source, evidence.amberflo, evidence.customer
    change = entry_json(evidence.change) if evidence.change else None
    return {
        "customer_id": evidence.customer_id,
        "trait": evidence.name,
        "key": evidence.key,
        "kind": evidence.trait.kind if evidence.trait else None,
        "value": evidence.value,
        "answer": _answer(evidence),
        "segment": {
            "problem": source.problem,
            "value": source.value,
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
    yield "", _answer(evidence)
    yield from _source_lines(evidence)
    if evidence.change is not None:
        yield "change", _change(evidence, evidence.change)
    for held in evidence.holds:
        yield "hold", _hold(held)
    yield "delivery", _delivery(evidence)
    yield "Amberflo", _amberflo(evidence)


def _answer(evidence: Evidence) -> str:
    """Say what is so, and why, in one sentence."""
    return f"{_fact(evidence)}: {_reason(evidence)}."


def _fact(evidence: Evidence) -> str:
    who, name, value = evidence.customer_id, evidence.name, evidence.value
    if evidence.trait is not None and evidence.trait.kind == AUDIENCE:
        if value is True:
            return f"{who} is in {name}"
        left = evidence.change is not None and evidence.change.delta == EXITED
        return f"{who} is {'no longer' if left else 'not'} in {name}"
    return f"{who} has no {name}" if value is None else f"{who} has {name} = {shown(value)}"


def _reason(evidence: Evidence) -> str:
    """Say where the value comes from, and what keeps another one back."""
    now = [held for held in evidence.holds if held.in_force]
    if now:
        return f"Engage says {shown(loaded(now[-1].change.after))}, and that is {_kept(now[-1])}"
    if evidence.customer is None:
        return "no run has sent this customer"
    if evidence.change is None:
        return "no pull and no call ever said so"
    reason = _origin(evidence, evidence.change)
    if evidence.approved is not None:
        reason += f"; {decision_line(evidence.approved)}"
    if evidence.source.rows and evidence.source.value != evidence.value:
        reason += (
            f"; the warehouse says {shown(evidence.source.value)} by now, which no run has taken"
        )
    return reason


def _origin(evidence: Evidence, change: Entry) -> str:
    """Say who said the change that is in force, and when."""
    run = f"run {change.run}" + (f" ({evidence.run.kind})" if evidence.run else "")
    told, said_at = change.told_by, iso(change.observed_at)
    by = f" by the key {change.via}" if change.via else ""
    match told:
        case "pull" if said_at is None:
            return f"{run} compared everything and had no row of it"
        case "pull":
            return f"Segment says so since {said_at}, and {run} pulled it"
        case "call":
            return f"a call{by} said so, of {said_at}"
        case "identify":
            return f"an identify call{by} said so, of {said_at}"
        case "deleted":
            return f"{run} had no identifier of the customer: Segment deleted it"
        case "amberflo":
            return f"{run} found another value at Amberflo and corrected it"
        case "renamed":
            return f"another key took the name over in {run}"
        case _:
            return f"the trait was given back ({told})"


def _source_lines(evidence: Evidence) -> Iterator[tuple[str, str]]:
    source = evidence.source
    if source.problem is not None:
        yield "warehouse", f"not asked: {source.problem}"
    elif not source.rows:
        yield "warehouse", "no row of it now"
    for row in source.rows:
        merged = f", merged into {row.merged_into}" if row.merged_into else ""
        loaded_at = f", loaded {iso(row.loaded_at)}" if row.loaded_at is not None else ""
        older = "" if row.counts else "; a newer row counts"
        yield (
            "warehouse",
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
    values = f"{shown(loaded(held.change.before))} → {shown(loaded(held.change.after))}"
    hold = held.hold
    return f"{values} since run {hold.since_run} ({hold.reason}): {decision_line(hold)}"


def _kept(held: Held) -> str:
    hold = held.hold
    if hold.decision is None:
        return f"held since run {hold.since_run} ({hold.reason}) until somebody decides"
    return decision_line(hold)


def _delivery(evidence: Evidence) -> str:
    customer, change = evidence.customer, evidence.change
    if evidence.failure is not None:
        failure = evidence.failure
        return f"Amberflo refuses the customer, failure {failure.id}: {failure.reason}"
    if customer is None or change is None:
        return "nothing was sent"
    if change.delivered_at is not None:
        return f"Amberflo acknowledged it {iso(change.delivered_at)}"
    if customer.due_at is None:
        return "Amberflo has not acknowledged it, and nothing is due"
    tried = f" after {customer.attempts:,} attempts" if customer.attempts else ""
    return f"it waits to be sent{tried}"


def _amberflo(evidence: Evidence) -> str:
    amberflo = evidence.amberflo
    if amberflo.problem is not None:
        return f"not asked: {amberflo.problem}"
    if not amberflo.known:
        return "does not know the customer"
    if amberflo.right:
        return f"has {shown(amberflo.value)} now, as it should"
    waits = evidence.customer is not None and evidence.customer.due_at is not None
    return f"has {shown(amberflo.value)} now, and should have {shown(evidence.value)}" + (
        "" if waits else ": see `syncer verify`"
    )
