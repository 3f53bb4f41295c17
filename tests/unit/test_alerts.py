"""Which alerts follow from the facts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.failures import CALLS
from syncer.config import AlertsConfig
from syncer.daemon.alerts import Facts, Lasting, conditions

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
    assert text == (
        "Amberflo does not take 1,234 customers or meter records: `syncer failures` lists them"
    )


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
    assert alerts["calls"] == (
        "7 calls are invalid and were not sent to Amberflo: `syncer failures` lists them"
    )
    assert conditions(replace(GOOD, calls=CALLS), BOUNDS)["calls"].startswith(
        "10,000 or more calls"
    )


@pytest.mark.parametrize(
    ("text", "times", "seconds", "alerts"),
    [
        ("no answer", 1, 59.0, False),
        ("no answer", 1, 60.0, True),
        ("no answer", 2, 59.0, False),
        ("no answer", 2, 60.0, True),
        ("no answer", 3, 0.0, True),  # it comes and goes, and is not there just now
        ("Amberflo refuses the API key (status 401): set it", 1, 0.0, True),
    ],
)
def test_a_problem_is_one_when_it_lasts_or_comes_and_goes_and_a_refused_key_at_once(
    text: str, times: int, seconds: float, alerts: bool
) -> None:
    problem = Lasting("meters", text, times, seconds)
    often = " (it comes and goes, 3 times)" if times == 3 else ""
    expected = {"problem:meters": f"meters: {text}{often}"} if alerts else {}
    assert conditions(replace(GOOD, problems=[problem]), BOUNDS) == expected


def test_a_part_that_ended_is_one_alert_at_once() -> None:
    lasting = [Lasting("calls", "it broke", 9, 90.0), Lasting("meters", "no answer", 1, 90.0)]
    facts = replace(GOOD, parts={"calls": "it broke"}, problems=lasting)
    assert conditions(facts, BOUNDS) == {
        "part:calls": "calls: it broke",
        "problem:meters": "meters: no answer",
    }


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
