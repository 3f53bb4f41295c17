"""Random histories: rows come, are lost and come back, profiles merge by halves, users are deleted,
calls come with wrong clocks, deliveries fail, processes are killed, states are restored or lost,
and somebody decides, or not.

Always: what is held or rejected does not reach Amberflo, nobody leaves without a word or a
comparison of all, and after one comparison in peace Amberflo equals Engage.

`HISTORIES=500 pytest tests/property` plays so many, each time others; what fails is made short.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from syncer.sync.diff import compare
from syncer.sync.guard import Guard
from syncer.sync.rulings import Rulings
from tests.property.days import CUSTOMERS, Days
from tests.support.hurry import hurry


def test_histories_of_days(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch.setattr)
    long = int(os.environ.get("HISTORIES", "0"))
    run_state_machine_as_test(
        Days,
        settings=settings(
            max_examples=long or 3,
            stateful_step_count=40 if long else 25,
            derandomize=not long,
            database=None,
            deadline=None,
            phases=(Phase.generate, Phase.shrink) if long else (Phase.generate,),
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


def no_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Guard, "_too_many", lambda *_: None)


def a_rejection_that_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ruling = Rulings._ruling

    def forgetful(self: Rulings, *arguments: Any) -> Any:
        said = ruling(self, *arguments)
        return None if said == "rejected" else said

    monkeypatch.setattr(Rulings, "_ruling", forgetful)


def absence_that_counts_always(monkeypatch: pytest.MonkeyPatch) -> None:
    def whole(*arguments: Any, **named: Any) -> Any:
        return compare(*arguments, **{**named, "whole": True})

    monkeypatch.setattr("syncer.sync.pull_comparison.compare", whole)


@pytest.mark.parametrize(
    ("plant", "told"),
    [
        (no_guard, "left vip"),
        (a_rejection_that_asks_again, "asks again"),
        (absence_that_counts_always, "nothing said so"),
    ],
)
def test_what_is_planted_is_found(
    monkeypatch: pytest.MonkeyPatch, plant: Callable[[pytest.MonkeyPatch], None], told: str
) -> None:
    plant(monkeypatch)
    days = Days()

    def play() -> None:
        days.rows_are_lost(who=["u00", "u01"], key="vip", runs=True)
        days.many_rows_come(who=CUSTOMERS[2:9], key="vip", value="false")
        days.run("sync")
        days.somebody_decides(word="reject", which=0)

    with closing(days._open):
        days.begin()
        with pytest.raises(AssertionError, match=told):
            play()
