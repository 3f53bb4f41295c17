"""When it is told that nothing gets through to Amberflo, and in which words."""

from __future__ import annotations

import time

import pytest

from syncer.amberflo.client import AmberfloClient
from syncer.amberflo.silence import TELL_AFTER, Silence, Trouble
from syncer.errors import KeyRefused, TryAgain

START = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [START]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def silence(rate: float = 0.0) -> Silence:
    return Silence(AmberfloClient("key", customers_url="http://a/customers", rate=rate), 300.0)


def test_it_is_told_after_five_seconds_in_which_something_fails(clock: list[float]) -> None:
    assert TELL_AFTER == 5.0
    watched, told = silence(), list[Trouble | None]()
    clock[0] = START + 4.9
    watched.failed(TryAgain("GET http://a?customerId=u1 answered 500", cause="answered 500"))
    watched.tell(told.append)
    assert told == []
    clock[0] = START + 5
    watched.tell(told.append)
    (trouble,) = told
    assert trouble is not None
    assert trouble.line == (
        "nothing gets through to Amberflo for 5 s: answered 500; trying on until 5m"
    )
    watched.succeeded()
    watched.tell(told.append)
    assert told[1:] == [None]


def test_a_low_rate_has_the_time_of_three_requests(clock: list[float]) -> None:
    watched = silence(rate=0.1)
    watched.failed(TryAgain("no"))
    clock[0] = START + 29
    assert watched.trouble() is None
    watched.failed(TryAgain("no"))
    clock[0] = START + 30
    assert watched.trouble() is not None
    assert watched.patience == 300.0


def test_a_rest_is_no_trouble(clock: list[float]) -> None:
    watched = silence()
    watched.succeeded()
    clock[0] = START + 3600
    assert watched.trouble() is None
    watched.begin()
    clock[0] += 1
    watched.failed(TryAgain("no"))
    assert watched.trouble() is None


def test_an_answer_that_does_not_come_names_the_setting(clock: list[float]) -> None:
    watched = silence()
    clock[0] = START + 20
    trouble = watched.trouble(in_any_case=True)
    assert trouble is not None
    assert trouble.cause == "no answer comes"
    assert "amberflo.timeout is how long we wait" in trouble.helps


def test_a_refused_key_says_what_to_do_itself(clock: list[float]) -> None:
    watched = silence()
    clock[0] = START + 6
    watched.failed(KeyRefused("Amberflo refuses the API key: set it"))
    trouble = watched.trouble()
    assert trouble is not None
    assert trouble.text == "Amberflo refuses the API key: set it"
