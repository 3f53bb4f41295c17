"""What must hold after a scenario, whatever befell it. Pure: each check reads the evidence and
gives a line for each violation.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from state import identify_traits
from state.change_sources import AMBERFLO
from syncer.amberflo.record import at_amberflo
from syncer.engage.selection import PROFILE_KEYS
from syncer.passthrough.customer_calls import IDENTIFY

from .amberflo import Write

Row = dict[str, Any]
Records = dict[str, Row]

#: Lines that are told of one kind; a scenario that went wrong gives hundreds.
MOST = 5


@dataclass
class Evidence:
    """What was found when all was over. `tables` are the rows of the state and the queue by table,
    as they stand; `expected` is what Amberflo must hold, `meters` the records it must have by
    messageId; `member_since` and `other_since` are as in model.py; `notes` are violations that were
    seen on the way."""

    audiences: tuple[str, ...]
    expected: Records
    meters: dict[str, Row]
    member_since: dict[tuple[str, str], int]
    other_since: dict[tuple[str, str], int]
    holds: Records
    writes: Sequence[Write]
    overlaps: list[str]
    records: list[Row]
    tables: dict[str, list[Row]]
    left_files: list[str]
    left_processes: list[str]
    notes: list[str]


def equal(evidence: Evidence) -> Iterator[str]:
    """Amberflo holds what Engage and the calls say."""
    for customer_id in sorted(evidence.expected.keys() | evidence.holds.keys()):
        expected, holds = evidence.expected.get(customer_id), evidence.holds.get(customer_id)
        if expected is None:
            yield f"Amberflo has {customer_id!r}, who is nobody: {holds}"
        elif holds is None:
            yield f"Amberflo misses {customer_id!r}: {expected}"
        elif _text(expected) != _text(holds):
            yield f"{customer_id!r} is {holds} at Amberflo and must be {expected}"


def delivered(evidence: Evidence) -> Iterator[str]:
    """Every change is delivered, nothing waits, nothing failed for good, and what we take Amberflo
    to have it has."""
    for row in evidence.tables["change"]:
        if row["delivered_at"] is None:
            yield f"not delivered: {_said(row)}"
    for row in evidence.tables["customer"]:
        if row["due_at"] is not None:
            yield f"{row['customer_id']!r} is still due"
        elif row["acked_rev"] != row["rev"]:
            yield f"{row['customer_id']!r} is at {row['rev']}, acknowledged is {row['acked_rev']}"
    for row in evidence.tables["failure"]:
        yield f"a failure is left: {row['ref']}: {row['reason']}"
    for row in evidence.tables["event"]:
        if row["due_at"] is not None:
            yield f"the record {row['message_id']} is still due"
    for _ in evidence.tables["inbox"]:
        yield "a request is not processed"


def serial(evidence: Evidence) -> Iterator[str]:
    """The writes of a customer came one after the other, and none brought an older state back: each
    is a state of the history that is not older than the one before it."""
    for customer_id in evidence.overlaps:
        yield f"two writes of {customer_id!r} at the same time"
    ours = {row["trait"] for row in evidence.tables["trait"]}
    states, at = _states(evidence.tables["change"], ours), dict[str, int]()
    for number, write in enumerate(evidence.writes):
        have = {name: value for name, value in write.traits.items() if name in ours}
        known = states.get(write.customer_id, [{}])
        place = at.get(write.customer_id, 0)
        for later in range(place, len(known)):
            if _text(known[later]) == _text(have):
                at[write.customer_id] = later
                break
        else:
            before = any(_text(state) == _text(have) for state in known[:place])
            what = "an older state" if before else "what no state was"
            yield f"write {number} gave {write.customer_id!r} {what}: {have}"


def true(evidence: Evidence) -> Iterator[str]:
    """Nobody left an audience at Amberflo while all that Engage had said until then was that they
    are in it, and nobody was in one without its ever having been said. Who has never had a trait
    there has not left by lacking it: its entry may be held."""
    had: set[tuple[str, str]] = set()
    for number, write in enumerate(evidence.writes):
        for audience in evidence.audiences:
            place = write.customer_id, audience
            if audience in write.traits:
                had.add(place)
            elif place not in had:
                continue
            member = write.traits.get(audience) is True
            since = evidence.member_since if member else evidence.other_since
            if since.get(place, number + 1) > number:
                value = write.traits.get(audience)
                yield f"write {number}: {audience} of {write.customer_id!r} was never {value}"


def consistent(evidence: Evidence) -> Iterator[str]:
    """The history is without a gap and gives the present; the sums of the runs close; the meters
    have come, each once."""
    yield from _chained(evidence)
    yield from _summed(evidence)
    yield from _metered(evidence)


def clean(evidence: Evidence) -> Iterator[str]:
    """Nothing is left over."""
    for name in evidence.left_files:
        yield f"the file {name} is left"
    for name in evidence.left_processes:
        yield f"the process {name} is left"
    for row in evidence.tables["worker"]:
        yield f"the worker {row['id']} ({row['kind']}) is left on record"
    for table in ("customer", "event"):
        for row in evidence.tables[table]:
            if row["claimed_by"] is not None:
                yield f"{table} {row.get('customer_id', row.get('message_id'))!r} is left claimed"
    for row in evidence.tables["run"]:
        if row["state"] == "running":
            yield f"run {row['id']} is left running"


def on_the_way(evidence: Evidence) -> Iterator[str]:
    """What was wrong while the scenario played."""
    yield from evidence.notes


CHECKS: tuple[Callable[[Evidence], Iterator[str]], ...] = (
    *(on_the_way, equal, delivered, serial, true, consistent, clean),
)


def violations(evidence: Evidence) -> list[str]:
    """All of them, each with its check's name."""
    lines = []
    for check in CHECKS:
        wrong = list(check(evidence))
        lines += [f"{check.__name__}: {violation}" for violation in wrong[:MOST]]
        if len(wrong) > MOST:
            lines.append(f"{check.__name__}: and {len(wrong) - MOST} more")
    return lines


# -- the history


def _states(changes: list[Row], ours: set[str]) -> dict[str, list[Row]]:
    """By customer, the traits of Engage as they were sent after each of its revisions, the first
    one empty; what clients say, and names, give revisions without a change of these."""
    by_customer: dict[str, list[Row]] = defaultdict(lambda: [{}])
    revisions: dict[str, int] = {}
    for row in changes:
        states = by_customer[row["customer_id"]]
        if revisions.get(row["customer_id"]) != row["rev"]:
            states.append(dict(states[-1]))
            revisions[row["customer_id"]] = row["rev"]
        if row["trait"] not in ours:
            continue
        if row["after"] is None:
            states[-1].pop(row["trait"], None)
        else:
            states[-1][row["trait"]] = at_amberflo(orjson.loads(row["after"]))
    return by_customer


def _chained(evidence: Evidence) -> Iterator[str]:
    last: dict[tuple[str, str], str | None] = {}
    replayed: dict[str, Row] = {row["customer_id"]: {} for row in evidence.tables["customer"]}
    identified: dict[str, Row] = {row["customer_id"]: {} for row in evidence.tables["customer"]}
    for row in evidence.tables["change"]:
        place = row["customer_id"], row["key"]
        # The name and email that a customer begins with are no change, and what Amberflo had is
        # not what was recorded here.
        elsewhere = row["key"] in PROFILE_KEYS or row["source"] == AMBERFLO
        if last.get(place) != row["before"] and not elsewhere:
            yield f"the history has a gap: {_said(row)} came after {last.get(place)}"
        if row["before"] == row["after"]:
            yield f"the history has a change that is none: {_said(row)}"
        was = last.get(place) if row["source"] == AMBERFLO else row["before"]
        step = (row["after"] == "true") - (was == "true")
        if row["delta"] != (0 if row["source"] == IDENTIFY else step):
            yield f"the history counts wrong: {_said(row)} is a delta of {row['delta']}"
        last[place] = row["after"]
        if row["key"] in PROFILE_KEYS:
            continue
        theirs = identified if row["source"] == IDENTIFY else replayed
        traits = theirs.setdefault(row["customer_id"], {})
        traits.pop(row["trait"], None)
        if row["after"] is not None:
            traits[row["trait"]] = orjson.loads(row["after"])
    members: Counter[str] = Counter()
    for row in evidence.tables["customer"]:
        traits = orjson.loads(row["traits"])
        members.update(name for name, value in traits.items() if value is not False)
        if _text(traits) != _text(replayed[row["customer_id"]]):
            yield (
                f"{row['customer_id']!r} is {traits}, by its history {replayed[row['customer_id']]}"
            )
        called = identify_traits.values(row["identify_traits"])
        if _text(called) != _text(identified[row["customer_id"]]):
            yield (
                f"identify calls gave {row['customer_id']!r} {called}, by its history "
                f"{identified[row['customer_id']]}"
            )
    for row in evidence.tables["trait"]:
        if row["members"] != members[row["trait"]]:
            yield f"{row['trait']} counts {row['members']} members of {members[row['trait']]}"


def _summed(evidence: Evidence) -> Iterator[str]:
    steps = Counter((row["run"], row["key"], _counts_as(row)) for row in evidence.tables["change"])
    kinds = ("unchanged", "entered", "exited", "changed", "skipped")
    held: Counter[int] = Counter()
    for row in evidence.tables["run_trait"]:
        held[row["run"]] += row["held"]
        if row["pulled"] != sum(row[kind] for kind in kinds):
            yield f"run {row['run']}: the sums of {row['key']} do not close: {row}"
        wrote = tuple(steps[row["run"], row["key"], step] for step in (1, -1, 0))
        if not row["held"] and wrote != tuple(row[kind] for kind in kinds[1:4]):
            yield f"run {row['run']} wrote {wrote} of {row['key']}, its record says {row}"
    for row in evidence.tables["run"]:
        if row["pulled"] != sum(row[kind] for kind in kinds):
            yield f"run {row['id']}: its sums do not close: {row}"
        came = row["delivered"] + row["failed"] + row["held"]
        ended_well = row["state"] not in ("running", "failed", "interrupted")
        if came > row["due"] or (ended_well and came != row["due"]):
            yield f"run {row['id']} ({row['state']}): {came} came of {row['due']} due"


def _counts_as(row: Row) -> int:
    """1, -1 or 0 where a run counts a change as an entry, an exit, or as neither: who leaves at
    Amberflo only, where the state never had it, has left."""
    leaves = row["before"] == "true" and row["after"] != "true"
    return -1 if row["delta"] != 1 and leaves else int(row["delta"])


def _metered(evidence: Evidence) -> Iterator[str]:
    times = Counter(record["uniqueId"] for record in evidence.records)
    records = {record["uniqueId"]: record for record in evidence.records}
    for message_id, expected in evidence.meters.items():
        if message_id not in records:
            yield f"the record {message_id} is lost"
        elif records[message_id] != expected:
            yield f"the record {message_id} is {records[message_id]}, not {expected}"
    for message_id, number in times.items():
        if number > 1:
            yield f"the record {message_id} is there {number} times"
        if message_id not in evidence.meters:
            yield f"nobody sent the record {message_id}"


def _said(row: Row) -> str:
    return (
        f"{row['key']} of {row['customer_id']!r} from {row['before']} to {row['after']} "
        f"(change {row['id']}, run {row['run']})"
    )


def _text(value: object) -> bytes:
    """Equal as JSON: in Python True == 1."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
