"""The sentence of `why`: what is so, and why, from the evidence. Pure."""

from __future__ import annotations

from typing import Any

from state import holds
from state.history.listings import EXITED, Entry
from syncer.cli.documents import decision_line, shown
from syncer.cli.documents import value as loaded
from syncer.clock import iso
from syncer.engage.computations import AUDIENCE
from syncer.engage.values import same
from syncer.event_times import Stamp
from syncer.evidence import Evidence, Held, Standing
from syncer.json_text import to_json


def answer(evidence: Evidence) -> str:
    """Say what is so, and why, in one sentence."""
    return f"{_fact(evidence)}: {_reason(evidence)}."


def kept_back(held: Held) -> str:
    """Say what a hold keeps back: a change, or the deletion of the customer."""
    if held.hold.trait == holds.DELETED:
        return "the deletion of the customer"
    return f"{shown(loaded(held.change.before))} → {shown(loaded(held.change.after))}"


def _fact(evidence: Evidence) -> str:
    who, name, value = evidence.customer_id, evidence.name, evidence.value
    match evidence.standing:
        case Standing.PROTECTED | Standing.FOREIGN | Standing.RELEASED:
            return f"{name} of {who} is not ours"
        case Standing.RENAMED:
            return f"{who} has no trait of the key {evidence.key} any more"
    if evidence.trait is not None and evidence.trait.kind == AUDIENCE:
        if value is True:
            return f"{who} is in {name}"
        exited = evidence.change is not None and evidence.change.delta == EXITED
        return f"{who} is {'no longer' if exited else 'not'} in {name}"
    return f"{who} has no {name}" if value is None else f"{who} has {name} = {shown(value)}"


def _reason(evidence: Evidence) -> str:
    """Say where the value comes from, and what keeps another one back."""
    match evidence.standing:
        case Standing.PROTECTED:
            return "amberflo.protected names it, so nothing here writes or removes it"
        case Standing.RELEASED if evidence.trait is not None:
            return f"it was released at {iso(evidence.trait.released_at)}"
        case Standing.RENAMED if evidence.change is not None:
            return f"another key took the name {evidence.name} over in {_run(evidence)}"
        case Standing.FOREIGN:
            return _nobody_took(evidence)
    now = [held for held in evidence.holds if held.in_force]
    if now:
        return _held(evidence, now[-1])
    reason = _origin(evidence)
    if evidence.approved is not None:
        reason += f"; {decision_line(evidence.approved)}"
    news = _news(evidence, evidence.value)
    return reason if news is None else f"{reason}; {news}"


def _nobody_took(evidence: Evidence) -> str:
    """Say why a key is no trait of ours, as far as it is known."""
    call = evidence.waiting
    if call is not None:
        return (
            f"a call by the key {call.via} said {shown(loaded(call.value))}, of {iso(call.at)}, "
            "and waits up to 24 hours until a run knows the trait"
        )
    if evidence.source.rows:
        return (
            "the source has it, and no run has taken the key; `syncer check` lists what a run takes"
        )
    return "no run and no call said anything of it"


def _held(evidence: Evidence, held: Held) -> str:
    """Say what a hold in force keeps back, and whether Engage says something else by now."""
    hold = held.hold
    kept = f"held since run {hold.since_run} ({hold.reason}) until somebody decides"
    decided = kept if hold.decision is None else decision_line(hold)
    if hold.trait == holds.DELETED:
        return f"Segment has deleted the customer, and that is {decided}"
    after = loaded(held.change.after)
    news = _news(evidence, after)
    return f"Engage says {shown(after)}, and that is {decided}" + (f"; {news}" if news else "")


def _origin(evidence: Evidence) -> str:
    """Say who said the value, and when."""
    change = evidence.change
    if evidence.customer is None:
        return "no run has sent this customer"
    if change is None:
        person = evidence.standing is Standing.PROFILE
        return _pulled_person(evidence) if person else "no pull and no call ever said so"
    by = f" by the key {change.via}" if change.via else ""
    match change.told_by:
        case "call":
            return f"a call{by} said so, of {iso(change.observed_at)}"
        case "identify":
            return f"an identify call{by} said so, of {iso(change.observed_at)}"
        case "deleted":
            return f"{_run(evidence)} had no identifier of the customer: Segment deleted it"
        case "renamed":
            return f"the key took the name over from another one in {_run(evidence)}"
        case "amberflo":
            return _met_at_amberflo(evidence, change)
        case _:
            return _pulled(evidence, change)


def _run(evidence: Evidence) -> str:
    """Name the run that made the change."""
    assert evidence.change is not None
    kind = f" ({evidence.run.kind})" if evidence.run else ""
    return f"run {evidence.change.run}{kind}"


def _pulled(evidence: Evidence, change: Entry) -> str:
    if _without_row(evidence, change):
        return f"{_run(evidence)} compared everything and had no row of it"
    if change.observed_at == change.recorded_at:
        return f"{_run(evidence)} pulled it, with a time that cannot be believed"
    return f"Segment says so since {iso(change.observed_at)}, and {_run(evidence)} pulled it"


def _met_at_amberflo(evidence: Evidence, change: Entry) -> str:
    """Say what a run met at Amberflo that was not recorded here, and what it made of it."""
    before, after = loaded(change.before), loaded(change.after)
    if same(before, after):
        met = f"{_run(evidence)} found it at Amberflo already"
    else:
        met = f"{_run(evidence)} found {shown(before)} at Amberflo and corrected it"
    if _without_row(evidence, change):
        return f"{met}, as Engage had no row of it"
    return f"Segment says so since {iso(change.observed_at)}; {met}"


def _without_row(evidence: Evidence, change: Entry) -> bool:
    """Return whether a run made a change because Engage had no row of it.

    Such a change has the time of its run (`sync/commit.py`), as has a row with a time in the
    future: of that one the row is still there.
    """
    if change.observed_at != change.recorded_at or loaded(change.after) not in (None, False):
        return False
    newest = evidence.source.newest
    return newest is None or (newest.observed_at or change.recorded_at + 1) <= change.recorded_at


def _pulled_person(evidence: Evidence) -> str:
    """Say where a name or an email comes from that no call said last."""
    if evidence.value is None:
        return "no pull and no call says one"
    newest = evidence.source.newest
    if newest is not None and same(newest.value, evidence.value):
        return f"Segment says so since {iso(newest.observed_at)}, and a run pulled it"
    return "a run pulled it"


def _news(evidence: Evidence, known: Any) -> str | None:
    """Say what Engage has now, if that is not what is `known`; None if it is."""
    source = evidence.source
    if source.problem is not None or evidence.standing is Standing.IDENTIFIED:
        return None
    newest = source.newest
    if newest is None:
        if known in (None, False) or evidence.standing is Standing.PROFILE:
            return None
        gone = "no row of it" if source.identified else "no identifier of the customer"
        if evidence.stamp is not None:
            return f"the source has {gone}, but {_call_counts(evidence.stamp)}"
        return f"the source has {gone} by now, which only a run that compares everything takes"
    if source.skipped is not None:
        return (
            f"the source has {to_json(newest.value)} by now, which cannot be read "
            f"({source.skipped}) and changes nothing"
        )
    if same(evidence.pulled_next, known) or (
        evidence.customer is None and evidence.pulled_next in (None, False)
    ):
        return None
    says = f"the source says {shown(source.value)}"
    if evidence.stamp is not None and (newest.observed_at or 0) <= evidence.stamp.at:
        if evidence.standing is Standing.PROFILE:
            return f"{says}, since {iso(newest.observed_at)}: the newer of the two counts"
        return f"{says}, since {iso(newest.observed_at)}, but {_call_counts(evidence.stamp)}"
    return f"{says} by now, which no run has taken"


def _call_counts(stamp: Stamp) -> str:
    """Say that a call stands, and how long (`event_times.LOADED_AFTER`)."""
    return f"a call of {iso(stamp.at)} counts until a pull could know of it, about 3 hours"
