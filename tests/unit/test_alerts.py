"""Which alerts follow from the facts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.failures import CALLS
from syncer.config import AlertsConfig
from syncer.daemon.alerts import Facts, conditions

GOOD = Facts(held={}, failures=0, errors=[], lag=0.0, silent=0.0)
BOUNDS = AlertsConfig()


def test_where_all_is_well_there_is_none() -> None:
    assert conditions(GOOD, BOUNDS) == {}


def test_a_held_audience_says_what_to_do() -> None:
    assert conditions(replace(GOOD, held={"vip": 7, "churn": 9}), BOUNDS) == {
        "held:churn": "changes of churn are held since run 9: `syncer runs show 9`, then "
        "`syncer runs approve 9` or `syncer runs reject 9`",
        "held:vip": "changes of vip are held since run 7: `syncer runs show 7`, then "
        "`syncer runs approve 7` or `syncer runs reject 7`",
    }


def test_failures_are_one_alert() -> None:
    (text,) = conditions(replace(GOOD, failures=1234), BOUNDS).values()
    assert text == "Amberflo refused 1,234: `syncer failures` lists them"


@pytest.mark.parametrize("number", [0, 1, 2, 5])
def test_a_run_that_fails_once_is_none_yet(number: int) -> None:
    alerts = conditions(replace(GOOD, errors=["the newest", *["older"] * 4][:number]), BOUNDS)
    expected = {"runs": f"{number} runs in a row failed: the newest"} if number > 1 else {}
    assert alerts == expected


@pytest.mark.parametrize(("name", "bound"), [("lag", BOUNDS.lag), ("silent", BOUNDS.silent)])
def test_bounds_are_kept_and_then_passed(name: str, bound: float) -> None:
    assert conditions(replace(GOOD, **{name: bound}), BOUNDS) == {}
    assert conditions(replace(GOOD, **{name: bound + 1}), BOUNDS).keys() == {name}
    wider = BOUNDS.model_copy(update={name: bound * 2})
    assert conditions(replace(GOOD, **{name: bound + 1}), wider) == {}


def test_times_are_told_in_minutes_and_hours() -> None:
    alerts = conditions(replace(GOOD, lag=90 * 60.0, silent=50 * 3600.0), BOUNDS)
    assert alerts["lag"] == "delivery to Amberflo is 90 minutes behind"
    assert alerts["silent"].startswith("the source has had nothing new for 50 hours: check")


def test_calls_that_could_not_be_taken_are_not_laid_to_amberflo() -> None:
    alerts = conditions(replace(GOOD, calls=7), BOUNDS)
    assert alerts["calls"].startswith("7 calls are invalid: `syncer failures`")
    assert "Amberflo" not in alerts["calls"]
    assert conditions(replace(GOOD, calls=CALLS), BOUNDS)["calls"].startswith(
        "10,000 or more calls"
    )


FACTS = st.builds(
    Facts,
    held=st.dictionaries(st.text(max_size=5), st.integers(1, 9), max_size=3),
    failures=st.integers(0, 3),
    errors=st.lists(st.text(max_size=5), max_size=3),
    lag=st.floats(0, 1e6),
    silent=st.floats(0, 1e6),
    calls=st.integers(0, 3),
)


@given(FACTS)
def test_each_fact_has_its_own_alert(facts: Facts) -> None:
    alerts = conditions(facts, BOUNDS)
    expected = {f"held:{key}" for key in facts.held}
    expected |= {"failures"} if facts.failures else set()
    expected |= {"calls"} if facts.calls else set()
    expected |= {"runs"} if len(facts.errors) > 1 else set()
    expected |= {"lag"} if facts.lag > 1800 else set()
    expected |= {"silent"} if facts.silent > 86400 else set()
    assert alerts.keys() == expected
    # None follows from another: those that stay have the same text when one goes.
    for name in alerts:
        if name.startswith("held:"):
            rest = {key: run for key, run in facts.held.items() if f"held:{key}" != name}
            assert conditions(replace(facts, held=rest), BOUNDS) == {
                other: text for other, text in alerts.items() if other != name
            }
