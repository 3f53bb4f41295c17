"""How long to wait: full jitter under a doubling bound, and Retry-After (docs/design.md §3.17)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from syncer.retry import (
    BASE,
    CAP,
    CHANCE,
    LONGEST,
    MOST_TRIES,
    TRIES,
    full_jitter,
    put_off,
    retry_after,
    tries_to_blame,
)

NOW = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)
CHANCES = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize(
    ("attempts", "bound"),
    [(1, 0.25), (2, 0.5), (3, 1.0), (4, 2.0), (5, 4.0), (6, 8.0), (7, 16.0), (8, 20.0), (9, 20.0)],
)
def test_the_bound_doubles_up_to_its_cap(attempts: int, bound: float) -> None:
    assert full_jitter(attempts, 0.0) == 0.0
    assert full_jitter(attempts, 0.5) == bound / 2
    assert full_jitter(attempts, 0.999999) == pytest.approx(bound, rel=1e-5)


@given(st.integers(1, 10**9), CHANCES)
@example(10**9, 0.999)
def test_a_wait_is_within_its_bounds_after_any_number_of_attempts(
    attempts: int, chance: float
) -> None:
    assert 0 <= full_jitter(attempts, chance) <= min(CAP, BASE * 2 ** min(attempts - 1, 64))


@given(st.integers(1, 100), CHANCES, CHANCES)
def test_a_wait_grows_with_the_attempts_and_with_the_chance(
    attempts: int, chance: float, other: float
) -> None:
    assert full_jitter(attempts, chance) <= full_jitter(attempts + 1, chance)
    assert (full_jitter(attempts, chance) <= full_jitter(attempts, other)) or chance > other


@given(st.integers(0, 10**6), st.integers(0, 10**6))
@example(36, 64)
@example(10**6, 1)
def test_chance_alone_puts_hardly_anything_off(failed: int, through: int) -> None:
    tries = tries_to_blame(failed, through)
    assert TRIES <= tries <= MOST_TRIES
    if failed and through and tries < MOST_TRIES:
        assert (failed / (failed + through)) ** tries <= CHANCE * 1.0001


def test_where_nothing_else_fails_few_tries_are_enough() -> None:
    assert tries_to_blame(0, 0) == tries_to_blame(0, 100) == tries_to_blame(10, 0) == TRIES
    assert tries_to_blame(5, 95) == TRIES
    assert tries_to_blame(36, 64) == 10  # two requests of which one in five fails


@pytest.mark.parametrize(
    ("attempts", "seconds"), [(2, 1), (6, 16), (7, 32), (11, 512), (12, 540), (10**9, 540)]
)
def test_what_fails_while_others_succeed_waits_longer_each_time(
    attempts: int, seconds: float
) -> None:
    assert put_off(attempts) == seconds < LONGEST
    assert put_off(attempts, 100.0) == max(seconds, 100)  # a Retry-After


@pytest.mark.parametrize(("header", "seconds"), [("0", 0), ("7", 7), (" 120 ", 120), ("007", 7)])
def test_retry_after_in_seconds(header: str, seconds: float) -> None:
    assert retry_after(header, NOW) == seconds


@pytest.mark.parametrize(
    "header",
    [
        "Wed, 01 May 2024 12:00:30 GMT",
        "Wednesday, 01-May-24 12:00:30 GMT",
        "Wed May  1 12:00:30 2024",
        "Wed, 01 May 2024 14:00:30 +0200",
        " Wed, 01 May 2024 12:00:30 -0000 ",
    ],
)
def test_retry_after_as_a_date(header: str) -> None:
    """RFC 9110 names three forms; one without a zone is UTC."""
    assert retry_after(header, NOW) == 30


def test_a_date_that_is_over_is_now() -> None:
    assert retry_after("Wed, 01 May 2024 11:00:00 GMT", NOW) == 0


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        " ",
        "soon",
        "1.5",
        "-1",
        "+1",
        "1e3",
        "²",
        "12:00",
        "Wed, 99 May 2024 12:00:00 GMT",
    ],
)
def test_what_cannot_be_read_is_none(header: str | None) -> None:
    assert retry_after(header, NOW) is None


def test_a_zone_beyond_measure_is_none() -> None:
    assert retry_after("Wed, 01 May 2024 12:00:30 +99999999999999", NOW) is None


@pytest.mark.parametrize("header", ["9" * 18, "9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_no_header_makes_us_wait_for_years(header: str) -> None:
    """A wait becomes a time in a column of 64 bits."""
    seconds = retry_after(header, NOW)
    assert seconds is None or 0 < seconds <= 600


@given(st.integers(0, 600))
def test_a_date_is_read_to_the_second(seconds: int) -> None:
    header = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    assert retry_after(header, NOW) == seconds


@given(st.text(alphabet="0123456789 ,:+-GMTWedMay.", max_size=40))
def test_any_header_gives_seconds_or_none(header: str) -> None:
    seconds = retry_after(header, NOW)
    assert seconds is None or seconds >= 0
