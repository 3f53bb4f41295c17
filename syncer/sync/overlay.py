"""The overlay: a change that a run compared, laid over its customer as it is by now. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from state.snapshot import CustomerRow
from syncer.engage.values import Value, counts, same
from syncer.event_times import Stamp, read_stamps, write_stamps
from syncer.json_text import canonical
from syncer.sync.changes import AMBERFLO, CustomerChange, TraitChange


def laid_over(
    state: CustomerRow | None, customer: CustomerChange, horizon: int
) -> tuple[CustomerRow, list[TraitChange]]:
    """Lay a change over a customer's state; return the new state and the changes that it made.

    A change makes none if a call since the comparison said the same, or said something that the
    pull cannot know of.
    """
    if state is None:
        traits = canonical(customer.traits)
        new = CustomerRow(customer.customer_id, traits, customer.name, customer.email, None, None)
        return new, customer.changes
    now = orjson.loads(state.traits)
    stamps = read_stamps(state.event_times)
    kept = dict(stamps)
    made = []
    for change in customer.changes:
        was: Value | None = now.get(change.trait)
        if not says_something(change, was, stamps, horizon):
            continue
        if change.source == AMBERFLO:
            made.append(change._replace(recorded=was))
        else:
            made.append(change._replace(before=was))
            kept.pop(change.trait, None)  # the value does not come from a call any more
        if change.after is None:
            now.pop(change.trait, None)
        else:
            now[change.trait] = change.after
    pulled = (
        ("name", customer.name, customer.name_at),
        ("email", customer.email, customer.email_at),
    )
    taken = {"name": state.name, "email": state.email}
    for key, value, at in pulled:
        if _is_newest(value, at, stamps.get(key), horizon):
            taken[key] = value
            if key in kept:
                kept[key] = Stamp(at, 0)  # Engage says so, at the time of its row
    laid = state._replace(traits=canonical(now), name=taken["name"], email=taken["email"])
    return (laid if kept == stamps else laid._replace(event_times=write_stamps(kept))), made


def laid_over_exits(
    customer: CustomerChange, event_times: str, horizon: int
) -> tuple[CustomerRow, list[TraitChange]] | None:
    """Lay the change of a new customer over exits that calls said of it; as `laid_over`.

    `event_times` are those exits (state/early_exits.py). An entry that is older than one, and whose
    pull cannot know of it, makes no change. None where nothing is left to send.
    """
    stamps = read_stamps(event_times)
    made = [
        change
        for change in customer.changes
        if not counts(change.after) or says_something(change, None, stamps, horizon)
    ]
    pulled = {change.trait for change in made}
    ended = {change.trait for change in customer.changes} - pulled
    traits = {trait: value for trait, value in customer.traits.items() if trait not in ended}
    if not any(map(counts, traits.values())) and all(it.source != AMBERFLO for it in made):
        return None
    kept = write_stamps({trait: at for trait, at in stamps.items() if trait not in pulled})
    profile = customer.name, customer.email
    return CustomerRow(customer.customer_id, canonical(traits), *profile, None, kept), made


def says_something(
    change: TraitChange, recorded: Value | None, stamps: Mapping[str, Stamp], horizon: int
) -> bool:
    """Return whether a change is one still: no call said the same, or what the pull cannot know."""
    stamp = stamps.get(change.trait)
    newer = stamp is not None and stamp.received > horizon and stamp.at >= (change.observed_at or 0)
    # What Amberflo does not have as it is recorded is sent again, whoever said it.
    if change.source == AMBERFLO:
        return not newer or same(recorded, change.after)
    return not newer and not same(recorded, change.after)


def _is_newest(pulled: str | None, at: int, stamp: Stamp | None, horizon: int) -> bool:
    """Return whether a pulled name or email counts: no call since then said a newer one."""
    if pulled is None:
        return False
    return stamp is None or stamp.received <= horizon or stamp.at <= at
