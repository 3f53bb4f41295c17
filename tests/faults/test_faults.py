"""Some seeds with every change; and the checks themselves, which must find what is planted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import orjson
import pytest

from syncer.amberflo.client import AmberfloClient
from syncer.delivery.customers import CustomerDelivery
from syncer.delivery.outcomes import Sent
from syncer.sync.guard import Guard

from . import checks
from .amberflo import Write
from .checks import Evidence, violations
from .runner import play
from .scenario import CALM, Process, Round, Scenario, SourceFault, draw

#: Chosen so that few of them have as many kinds of faults as possible (`Scenario.words`).
SEEDS = (10, 81, 89, 372)


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_lost_doubled_or_false(seed: int) -> None:
    outcome = play(draw(seed, short=True))
    assert not outcome.violations, f"{outcome.scenario.words()}\n{outcome.log}"


@pytest.mark.parametrize("seed", [297])
def test_nothing_is_lost_doubled_or_false_on_postgresql(seed: int, postgres_url: str) -> None:
    outcome = play(draw(seed, postgres=True, short=True), postgres_url)
    assert not outcome.violations, f"{outcome.scenario.words()}\n{outcome.log}"


def test_a_seed_gives_one_scenario() -> None:
    assert draw(5) == draw(5) != draw(6)
    assert draw(5).words() == draw(5).words()
    assert "round 3: " in draw(5).words()


def test_everything_befalls() -> None:
    """In the seeds of a usual run, each kind of fault comes often."""
    words = "\n".join(draw(seed, postgres=seed % 4 == 0).words() for seed in range(100))
    for phrase in (
        *("killed at", "told to end at", "its clock moves", "h off", "a newer call of Engage"),
        *("disk full", "holds the state", "cuts all off", "breaks off", "ends after", "is missing"),
        *("is empty", "rows of an audience are gone", "with a wrong key", "429=", "500=", "503="),
        *("drop_after=", "drop_before=", "slow_seconds=0.45", "calls before", "PUT of an unknown"),
        *("commit.middle", "commit.after", "put.after", "outcome.inside", "drain", "ingest.after"),
        *("decides: approve", "decides: reject", "then full", "then sync, "),
    ):
        assert words.count(phrase) >= 3, phrase


# -- the checks find what is planted


@pytest.fixture(scope="module")
def calm() -> Evidence:
    outcome = play(CALM)
    assert not outcome.violations
    return outcome.evidence


def row(evidence: Evidence, table: str, **values: Any) -> dict[str, Any]:
    """The first row with these values."""
    return next(
        record
        for record in evidence.tables[table]
        if all(record[key] == values[key] for key in values)
    )


def member(evidence: Evidence) -> tuple[int, str, str]:
    """A write, its customer and an audience that the customer was in at all times until then."""
    for number, write in enumerate(evidence.writes):
        for audience in evidence.audiences:
            place = write.customer_id, audience
            if (
                write.traits.get(audience) is True
                and evidence.other_since.get(place, 1 << 30) > number
            ):
                return number, *place
    raise AssertionError("there is none")


def altered(evidence: Evidence, number: int, **traits: Any) -> None:
    """A write gave other traits than it did; None takes one away."""
    writes = list(evidence.writes)
    merged = {**writes[number].traits, **traits}
    kept = {name: value for name, value in merged.items() if value is not None}
    writes[number] = writes[number]._replace(traits=kept)
    evidence.writes = writes


def wrong_at_amberflo(evidence: Evidence) -> None:
    record = evidence.holds[evidence.writes[0].customer_id]
    audience = next(name for name in evidence.audiences if name in record["traits"])
    record["traits"][audience] = not record["traits"][audience]


def one_for_true(evidence: Evidence) -> None:
    record = next(held for held in evidence.holds.values() if True in held["traits"].values())
    audience = next(name for name, value in record["traits"].items() if value is True)
    record["traits"][audience] = 1


def older_after_newer(evidence: Evidence) -> None:
    states: dict[str, list[Write]] = {}
    for write in evidence.writes:
        states.setdefault(write.customer_id, []).append(write)
    twice = next(
        writes
        for writes in states.values()
        if len({orjson.dumps(sent.traits, option=orjson.OPT_SORT_KEYS) for sent in writes}) > 1
    )
    evidence.writes = [*evidence.writes, twice[0]]


def unknown_state(evidence: Evidence) -> None:
    altered(evidence, 0, total_revenue_180_days=-1)


def false_exit(evidence: Evidence) -> None:
    number, _, audience = member(evidence)
    altered(evidence, number, **{audience: False})


def left_out(evidence: Evidence) -> None:
    """Of whom nobody ever said otherwise: written once more, without the trait."""
    write, audience = next(
        (write, audience)
        for write in evidence.writes
        for audience in evidence.audiences
        if write.traits.get(audience) is True
        and (write.customer_id, audience) not in evidence.other_since
    )
    evidence.writes = [*evidence.writes, write]
    altered(evidence, len(evidence.writes) - 1, **{audience: None})


def never_a_member(evidence: Evidence) -> None:
    for number, write in enumerate(evidence.writes):
        for audience in evidence.audiences:
            if (write.customer_id, audience) not in evidence.member_since:
                return altered(evidence, number, **{audience: True})
    raise AssertionError("there is none")


def gap(evidence: Evidence) -> None:
    second = next(entry for entry in evidence.tables["change"] if entry["before"] is not None)
    first = row(evidence, "change", customer_id=second["customer_id"], key=second["key"])
    evidence.tables["change"].remove(first)


def set_in(table: str, column: str, change: Callable[[Any], Any]) -> Callable[[Evidence], None]:
    """Plants another value into the last row of a table."""

    def plant(evidence: Evidence) -> None:
        entry = evidence.tables[table][-1]
        entry[column] = change(entry[column])

    plant.__name__ = f"{table}_{column}"
    return plant


def add_to(table: str, **values: Any) -> Callable[[Evidence], None]:
    def plant(evidence: Evidence) -> None:
        evidence.tables[table].append(values)

    plant.__name__ = f"one_more_{table}"
    return plant


def more(value: int) -> int:
    return value + 1


PLANTED: tuple[tuple[str, Callable[[Evidence], Any]], ...] = (
    ("equal", wrong_at_amberflo),
    ("equal", one_for_true),
    ("equal", lambda evidence: evidence.holds.popitem()),
    ("equal", lambda evidence: evidence.expected.popitem()),
    ("delivered", set_in("change", "delivered_at", lambda _: None)),
    ("delivered", set_in("customer", "due_at", lambda _: 1)),
    ("delivered", set_in("customer", "acked_rev", lambda _: 0)),
    ("delivered", set_in("event", "due_at", lambda _: 1)),
    ("delivered", add_to("failure", ref="customer:u", reason="refused")),
    ("delivered", add_to("inbox", id=1)),
    ("serial", lambda evidence: evidence.overlaps.append("u000001")),
    ("serial", older_after_newer),
    ("serial", unknown_state),
    ("true", false_exit),
    ("true", left_out),
    ("true", never_a_member),
    ("consistent", gap),
    ("consistent", set_in("change", "after", lambda _: '"other"')),
    ("consistent", set_in("change", "delta", more)),
    ("consistent", set_in("customer", "traits", lambda _: '{"vip":7}')),
    ("consistent", set_in("trait", "members", more)),
    ("consistent", set_in("run", "entered", more)),
    ("consistent", set_in("run", "delivered", more)),
    ("consistent", set_in("run_trait", "exited", more)),
    ("consistent", lambda evidence: evidence.records.append(evidence.records[0])),
    ("consistent", lambda evidence: evidence.records.pop()),
    ("consistent", lambda evidence: evidence.records[0].update(meterValue=-1)),
    ("consistent", lambda evidence: evidence.meters.popitem()),
    ("clean", lambda evidence: evidence.left_files.append("syncer.db.worker7.lock")),
    ("clean", lambda evidence: evidence.left_processes.append("worker")),
    ("clean", add_to("worker", id=7, kind="worker")),
    ("clean", set_in("customer", "claimed_by", lambda _: 7)),
    ("clean", set_in("event", "claimed_by", lambda _: 7)),
    ("clean", set_in("run", "state", lambda _: "running")),
    ("on_the_way", lambda evidence: evidence.notes.append("a process hangs")),
)


@pytest.mark.parametrize(
    ("check", "plant"),
    PLANTED,
    ids=[f"{planted[0]}-{number}" for number, planted in enumerate(PLANTED)],
)
def test_what_is_planted_is_found(
    calm: Evidence, check: str, plant: Callable[[Evidence], Any]
) -> None:
    evidence = replace(deepcopy(calm))
    plant(evidence)
    assert any(line.startswith(f"{check}: ") for line in violations(evidence))


def test_the_checks_are_all_in_use() -> None:
    assert {check.__name__ for check in checks.CHECKS} == {check for check, _ in PLANTED}


# -- and bugs of the product, planted before it is forked


def found_by(scenario: Scenario) -> set[str]:
    return {line.partition(":")[0] for line in play(scenario).violations}


def test_a_write_that_is_acknowledged_and_never_sent_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deliver = CustomerDelivery._deliver

    async def lazy(self: CustomerDelivery, claimed: Any) -> Any:
        row = claimed.row
        return Sent(row) if row.customer_id.endswith("5") else await deliver(self, claimed)

    monkeypatch.setattr(CustomerDelivery, "_deliver", lazy)
    assert {"on_the_way", "equal"} <= found_by(replace(CALM, rounds=CALM.rounds[:1]))


def test_a_false_exit_that_is_taken_back_later_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the end all is equal; meanwhile everybody was out."""
    monkeypatch.setattr(Guard, "held", lambda *_, **__: {})
    empty = Round((Process("full"),), source=SourceFault("empty"))
    wrong = found_by(replace(CALM, rounds=(CALM.rounds[0], empty)))
    assert {"true", "on_the_way"} <= wrong
    assert "equal" not in wrong


def test_a_write_before_the_one_before_it_is_answered_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put = AmberfloClient.put_customer

    async def twice(self: AmberfloClient, record: Any, **how: Any) -> None:
        await asyncio.gather(put(self, record, **how), put(self, record, **how))

    monkeypatch.setattr(AmberfloClient, "put_customer", twice)
    slow = replace(CALM.rounds[0], amberflo="slow=1,slow_seconds=0.05")
    assert "serial" in found_by(replace(CALM, rounds=(slow,)))
