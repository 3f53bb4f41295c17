"""What commands say in words of what they know in figures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.delivery.estimate import Estimate, span
from syncer.display import shrinking

UNITS = {"d": 86_400, "h": 3600, "min": 60, "s": 1}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "1 s"),
        (59.4, "59 s"),
        (60, "1 min 0 s"),
        (3904, "1 h 5 min"),
        (86_399, "23 h 59 min"),
        (400_000, "4 d 15 h"),
    ],
)
def test_a_span_in_words(seconds: float, words: str) -> None:
    assert span(seconds) == words


@given(st.floats(1, 1e9))
def test_the_words_say_the_span(seconds: float) -> None:
    parts = span(seconds).split()
    units = parts[1::2]
    said = sum(int(count) * UNITS[unit] for count, unit in zip(parts[::2], units, strict=True))
    assert 0 <= round(seconds) - said < UNITS[units[-1]]


def test_what_a_delivery_takes() -> None:
    estimate = Estimate(19_520, 0, 10)
    assert (
        str(estimate) == "19,520 new × 1 + 4 for pages = 19,524 requests, at rate 10 = 32 min 32 s"
    )
    assert estimate.document == {
        "customers": 19_520,
        "requests": 19_524,
        "rate": 10,
        "seconds": 1952.4,
    }
    both = Estimate(1, 200, 0)
    assert str(both) == "1 new × 2 + 200 known × 3 = 602 requests, the rate is not limited"
    # Among a million, 2,000 that differ hardly ever share a look; among themselves they do.
    assert (Estimate(1, 2000, 0, 10**6).requests, Estimate(1, 2000, 0).requests) == (4958, 2132)
    assert both.document["seconds"] is None
    assert str(Estimate(0, 0, 10)) == "nothing"


@pytest.mark.parametrize(
    ("members", "leaving", "words"),
    [
        (5999, 2621, "5,999 → 3,378 members (−44 %)"),
        (1, 1, "1 → 0 members (−100 %)"),
        (10, 0, ""),
        (0, 3, ""),
    ],
)
def test_how_an_audience_shrinks(members: int, leaving: int, words: str) -> None:
    assert shrinking(members, leaving) == words
