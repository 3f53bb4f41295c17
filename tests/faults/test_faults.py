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
    for one in (
        *("killed at", "told to end at", "its clock moves", "h off", "a newer call of Engage"),
        *("disk full", "holds the state", "cuts all off", "breaks off", "ends after", "is missing"),
        *("is empty", "rows of an audience are gone", "with a wrong key", "429=", "500=", "503="),
        *("drop_after=", "drop_before=", "slow_seconds=0.45", "calls before", "PUT of an unknown"),
        *("commit.middle", "commit.after", "put.after", "outcome.inside", "drain", "ingest.after"),
        *("decides: approve", "decides: reject", "then full", "then sync, "),
    ):
        assert words.count(one) >= 3, one


# -- the checks find what is planted


@pytest.fixture(scope="module")
def calm() -> Evidence:
    outcome = play(CALM)
    assert not outcome.violations
    return outcome.evidence


def row(found: Evidence, table: str, **values: Any) -> dict[str, Any]:
    """The first row with these values."""
    return next(
        one for one in found.tables[table] if all(one[key] == values[key] for key in values)
    )


def member(found: Evidence) -> tuple[int, str, str]:
    """A write, its customer and an audience that the customer was in at all times until then."""
    for number, write in enumerate(found.writes):
        for audience in found.audiences:
            place = write.customer_id, audience
            if (
                write.traits.get(audience) is True
                and found.other_since.get(place, 1 << 30) > number
            ):
                return number, *place
    raise AssertionError("there is none")


def altered(found: Evidence, number: int, **traits: Any) -> None:
    """A write gave other traits than it did; None takes one away."""
    writes = list(found.writes)
    there = {**writes[number].traits, **traits}
    kept = {name: value for name, value in there.items() if value is not None}
    writes[number] = writes[number]._replace(traits=kept)
    found.writes = writes


def wrong_at_amberflo(found: Evidence) -> None:
    record = found.holds[found.writes[0].customer_id]
    audience = next(name for name in found.audiences if name in record["traits"])
    record["traits"][audience] = not record["traits"][audience]


def one_for_true(found: Evidence) -> None:
    record = next(one for one in found.holds.values() if True in one["traits"].values())
    audience = next(name for name, value in record["traits"].items() if value is True)
    record["traits"][audience] = 1


def older_after_newer(found: Evidence) -> None:
    states: dict[str, list[Write]] = {}
    for write in found.writes:
        states.setdefault(write.customer_id, []).append(write)
    twice = next(
        writes
        for writes in states.values()
        if len({orjson.dumps(one.traits, option=orjson.OPT_SORT_KEYS) for one in writes}) > 1
    )
    found.writes = [*found.writes, twice[0]]


def unknown_state(found: Evidence) -> None:
    altered(found, 0, total_revenue_180_days=-1)


def false_exit(found: Evidence) -> None:
    number, _, audience = member(found)
    altered(found, number, **{audience: False})


def left_out(found: Evidence) -> None:
    """Of whom nobody ever said otherwise: written once more, without the trait."""
    write, audience = next(
        (write, audience)
        for write in found.writes
        for audience in found.audiences
        if write.traits.get(audience) is True
        and (write.customer_id, audience) not in found.other_since
    )
    found.writes = [*found.writes, write]
    altered(found, len(found.writes) - 1, **{audience: None})


def never_a_member(found: Evidence) -> None:
    for number, write in enumerate(found.writes):
        for audience in found.audiences:
            if (write.customer_id, audience) not in found.member_since:
                return altered(found, number, **{audience: True})
    raise AssertionError("there is none")


def gap(found: Evidence) -> None:
    second = next(one for one in found.tables["change"] if one["before"] is not None)
    first = row(found, "change", customer_id=second["customer_id"], key=second["key"])
    found.tables["change"].remove(first)


def set_in(table: str, column: str, change: Callable[[Any], Any]) -> Callable[[Evidence], None]:
    """Plants another value into the last row of a table."""

    def plant(found: Evidence) -> None:
        one = found.tables[table][-1]
        one[column] = change(one[column])

    plant.__name__ = f"{table}_{column}"
    return plant


def add_to(table: str, **values: Any) -> Callable[[Evidence], None]:
    def plant(found: Evidence) -> None:
        found.tables[table].append(values)

    plant.__name__ = f"one_more_{table}"
    return plant


def more(value: int) -> int:
    return value + 1


PLANTED: tuple[tuple[str, Callable[[Evidence], Any]], ...] = (
    ("equal", wrong_at_amberflo),
    ("equal", one_for_true),
    ("equal", lambda found: found.holds.popitem()),
    ("equal", lambda found: found.expected.popitem()),
    ("delivered", set_in("change", "delivered_at", lambda _: None)),
    ("delivered", set_in("customer", "due_at", lambda _: 1)),
    ("delivered", set_in("customer", "acked_rev", lambda _: 0)),
    ("delivered", set_in("event", "due_at", lambda _: 1)),
    ("delivered", add_to("failure", ref="customer:u", reason="refused")),
    ("delivered", add_to("inbox", id=1)),
    ("serial", lambda found: found.overlaps.append("u000001")),
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
    ("consistent", lambda found: found.records.append(found.records[0])),
    ("consistent", lambda found: found.records.pop()),
    ("consistent", lambda found: found.records[0].update(meterValue=-1)),
    ("consistent", lambda found: found.meters.popitem()),
    ("clean", lambda found: found.left_files.append("syncer.db.worker7.lock")),
    ("clean", lambda found: found.left_processes.append("worker")),
    ("clean", add_to("worker", id=7, kind="worker")),
    ("clean", set_in("customer", "claimed_by", lambda _: 7)),
    ("clean", set_in("event", "claimed_by", lambda _: 7)),
    ("clean", set_in("run", "state", lambda _: "running")),
    ("on_the_way", lambda found: found.notes.append("a process hangs")),
)


@pytest.mark.parametrize(
    ("check", "plant"), PLANTED, ids=[f"{one[0]}-{number}" for number, one in enumerate(PLANTED)]
)
def test_what_is_planted_is_found(
    calm: Evidence, check: str, plant: Callable[[Evidence], Any]
) -> None:
    found = replace(deepcopy(calm))
    plant(found)
    assert any(line.startswith(f"{check}: ") for line in violations(found))


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
