"""The simulation of how long Amberflo is wrong: it repeats, and it sees a fault of ours."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.wrongness import __main__ as program
from benchmarks.wrongness import hosted, observer
from benchmarks.wrongness.setting import Outcome, Setting
from benchmarks.wrongness.simulation import simulate
from benchmarks.wrongness.year import Rates
from syncer.amberflo.client import AmberfloClient

#: So much happens in a day that a few of them have a bit of all.
RATES = Rates(
    customers=12,
    changes=1.0,
    births=0.7,
    merges=0.7,
    mass=0.6,
    amberflo_down=0.8,
    amberflo_bad=0.9,
    warehouse_down=0.8,
    sync_stalls=0.9,
    kills=0.3,
    losses=0.6,
    upgrades=0.7,
    late=0.2,
)
#: Long enough for the first of each of them.
DAYS = 1.1


def played(folder: Path, days: float) -> Outcome:
    folder.mkdir()
    return simulate(Setting(1, days, RATES), folder)


def figures(outcome: Outcome) -> list[tuple[str, str, float]]:
    return list(program.rows(outcome))


def test_two_plays_of_a_seed_give_the_same_and_no_fault_is_ours(tmp_path: Path) -> None:
    first, second = (played(tmp_path / name, DAYS) for name in ("first", "second"))
    assert figures(first) == figures(second)
    assert first.happened == second.happened
    happened = Counter(first.happened)
    assert all(
        happened[what] for what in ("runs", "calls", "kills", "Amberflo down", "restores")
    ), happened
    assert first.ours.wrong_minutes[observer.OURS] == 0, first.ours.examples
    assert first.ours.wrong_minutes[observer.SCHEDULE] > 0
    replaced = first.hosted["replaces"].wrong_minutes[hosted.REPLACED]
    assert replaced > first.ours.wrong_minutes.total()
    assert ElementTree.fromstring(program.chart(first)) is not None


def test_a_mass_exit_waits_for_the_operator_and_counts_as_held(tmp_path: Path) -> None:
    rates = Rates(customers=80, mass=0.15, changes=0.05)
    outcome = simulate(Setting(3, 0.6, rates, calls=False), tmp_path)
    assert outcome.happened["holds"] > 0, outcome.happened
    wrong = outcome.ours.wrong_minutes
    assert wrong[observer.HOLDS] > wrong[observer.OURS] == 0, outcome.ours.examples
    assert outcome.ours.mistaken_minutes == 0 < outcome.hosted["merges"].mistaken_minutes


def test_an_exit_that_is_dropped_is_a_fault_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = AmberfloClient.put_customer

    async def dropped(self: AmberfloClient, record: Any, **options: Any) -> None:
        if False not in record["traits"].values():
            await write(self, record, **options)

    monkeypatch.setattr(AmberfloClient, "put_customer", dropped)
    outcome = played(tmp_path / "planted", 0.6)
    assert outcome.ours.wrong_minutes[observer.OURS] > 0
