"""The estimate of how long a stage takes still."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.cli.console import CELL, print_table
from syncer.clock import iso
from syncer.progress import Estimate


def test_a_table_shows_no_more_of_a_text_than_fits(capsys: pytest.CaptureFixture[str]) -> None:
    """An address with an id of 700 emoji in it has 8 KB."""
    print_table(("reason", "short"), [("%F0%9F" * 2000, "x" * CELL)])
    shown = capsys.readouterr().out
    assert shown.count("%F0%9F") > 0
    assert len(shown) < 5 * CELL
    assert "…" in shown
    assert shown.count("x") == CELL


def test_any_moment_can_be_shown() -> None:
    assert iso(None) is None
    assert iso(0) == "1970-01-01T00:00:00.000Z"
    assert iso(1_790_000_000_123) == "2026-09-21T14:13:20.123Z"
    assert iso(-62_135_596_800_000) == "0001-01-01T00:00:00.000Z"
    assert iso(-62_135_596_800_001) == "0000-12-31T23:59:59.999Z"
    assert iso(253_402_300_799_999) == "9999-12-31T23:59:59.999Z"
    assert iso(317_326_291_200_000) == "+012025-09-02T00:00:00.000Z"
    assert iso(-(2**63)) == "-292275055-05-16T16:47:04.192Z"  # as Java and JavaScript have it


@given(st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)))
def test_a_moment_is_shown_to_the_millisecond(moment: datetime) -> None:
    moment = moment.replace(microsecond=moment.microsecond // 1000 * 1000, tzinfo=UTC)
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    shown = iso((since.days * 86400 + since.seconds) * 1000 + since.microseconds // 1000)
    assert shown == moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def test_at_the_start_nothing_is_known() -> None:
    estimate = Estimate(100, 0, 50.0)
    assert estimate.at(0, 50.0) == {
        "done": 0,
        "total": 100,
        "per_second": 0.0,
        "seconds_left": None,
    }
    assert estimate.at(0, 60.0)["seconds_left"] is None


@given(
    st.floats(0.5, 5000),
    st.integers(0, 10**6),
    st.floats(0, 1e6),
    st.lists(st.floats(0.05, 90), min_size=1, max_size=40),
)
def test_an_even_pace_is_told_as_it_is(
    per_second: float, before: int, start: float, gaps: list[float]
) -> None:
    """What was done before it began says nothing of the pace."""
    total = before + 10**7
    estimate, now = Estimate(total, before, start), start
    for gap in gaps:
        now += gap
        done = before + int((now - start) * per_second)
        progress = estimate.at(done, now)
        assert (progress["done"], progress["total"]) == (done, total)
        # The customer that is just under way is one of a few at first.
        slack = 1.2 / min(now - start, 0.5) + 0.1
        assert progress["per_second"] == pytest.approx(per_second, abs=slack)
        if progress["per_second"] > 1:
            remaining = (total - done) / progress["per_second"]
            assert progress["seconds_left"] == pytest.approx(remaining, rel=0.06)


def told(estimate: Estimate, seconds: range, done: int, step: int) -> tuple[int, dict[str, Any]]:
    progress: dict[str, Any] = {}
    for now in seconds:
        done += step
        progress = estimate.at(done, float(now))
    return done, progress


def test_a_new_pace_is_told_after_the_window() -> None:
    estimate = Estimate(100_000, 0, 0.0)
    done, progress = told(estimate, range(1, 301), 0, 100)
    assert progress["per_second"] == 100
    done, progress = told(estimate, range(301, 311), done, 10)
    assert 10 < progress["per_second"] < 100
    done, progress = told(estimate, range(311, 335), done, 10)
    assert progress["per_second"] == 10
    assert progress["seconds_left"] == (100_000 - done) / 10


def test_a_standstill_has_no_end() -> None:
    estimate = Estimate(1000, 0, 0.0)
    told(estimate, range(1, 61), 0, 10)
    _, progress = told(estimate, range(61, 161), 600, 0)
    assert (progress["per_second"], progress["seconds_left"]) == (0, None)


def test_when_all_is_done_nothing_is_left() -> None:
    estimate = Estimate(600, 0, 0.0)
    _, progress = told(estimate, range(1, 61), 0, 10)
    assert (progress["done"], progress["seconds_left"]) == (600, 0)


def test_it_keeps_only_what_it_needs() -> None:
    estimate = Estimate(10**9, 0, 0.0)
    for n in range(100_000):
        estimate.at(n, n / 50)
    assert len(estimate._marks) < 100
