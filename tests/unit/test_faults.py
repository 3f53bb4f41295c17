"""The fault specs of the stand-ins: what is read, what is refused, and that a seed repeats."""

from __future__ import annotations

from collections import Counter

import pytest

from syncer.sandbox.faults import Faults


def test_a_spec_names_rates_and_seconds() -> None:
    faults = Faults.parse(" 429=0.05, 500=0.02,slow=0.1 ,retry_after=3,slow_seconds=0.5", seed=7)
    assert faults == Faults({"429": 0.05, "500": 0.02, "slow": 0.1}, 3, 0.5, 7)


def test_what_is_not_said_has_a_default() -> None:
    assert Faults.parse("429=1") == Faults({"429": 1.0}, retry_after=1, slow_seconds=0.2, seed=0)


@pytest.mark.parametrize("spec", ["", "  ", "429=0"])
def test_without_rates_nothing_goes_wrong(spec: str) -> None:
    faults = Faults.parse(spec)
    drawn = [faults.draw() for _ in range(500)]
    assert {(fault.failure, fault.slow) for fault in drawn} == {(None, False)}


def test_a_spec_reads_back_as_written() -> None:
    faults = Faults.parse("503=0.123456789,drop=0.01,retry_after=2000000,slow_seconds=0.25")
    assert Faults.parse(str(faults)) == faults


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ("429=0.1,404=0.1", "'404=0.1'"),
        ("lost=1", "'lost=1'"),
        ("429", "'429'"),
        ("429=", "'429='"),
        ("429=often", "'429=often'"),
        ("429=nan", "'429=nan'"),
        ("429=1.5", "'429=1.5'"),
        ("slow=-0.1", "'slow=-0.1'"),
        ("429=0.1,,500=0.1", "''"),
        ("retry_after=-1", "'retry_after=-1'"),
        ("slow_seconds=inf", "'slow_seconds=inf'"),
    ],
)
def test_a_bad_spec_is_one_line_with_the_bad_part_and_the_good_ones(spec: str, part: str) -> None:
    with pytest.raises(ValueError, match=r"\Afaults: .*\Z") as refused:
        Faults.parse(spec)
    line = str(refused.value)
    assert line.startswith(f"faults: {part} ")
    assert "good are 429, 500, 503, drop_before, drop_after, drop, slow" in line
    assert "retry_after and slow_seconds" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ("429=0.1,429=0.2", "'429=0.2' sets 429 a second time"),
        ("429=0.6,drop=0.5,slow=1", "makes 1.1 of all requests fail"),
        ("retry_after=0.5", "'retry_after=0.5' needs whole seconds"),
    ],
)
def test_a_spec_that_contradicts_itself_is_refused(spec: str, line: str) -> None:
    with pytest.raises(ValueError, match="faults: ") as refused:
        Faults.parse(spec)
    assert line in str(refused.value)


def test_rates_may_add_up_to_one_and_slow_is_apart() -> None:
    faults = Faults.parse("429=0.7,500=0.2,drop=0.1,slow=1")
    drawn = [faults.draw() for _ in range(1000)]
    assert all(fault.failure and fault.slow for fault in drawn)


def test_a_seed_repeats_and_another_one_differs() -> None:
    spec = "429=0.2,500=0.2,drop=0.2,slow=0.5"
    first, again, other = (Faults.parse(spec, seed=seed) for seed in (4, 4, 5))
    drawn = [[faults.draw() for _ in range(200)] for faults in (first, again, other)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_the_rate_of_slow_does_not_move_the_failures() -> None:
    plain, slowed = Faults.parse("429=0.3"), Faults.parse("429=0.3,slow=0.9")
    failures = [[faults.draw().failure for _ in range(200)] for faults in (plain, slowed)]
    assert failures[0] == failures[1]


def test_draws_keep_to_the_rates() -> None:
    faults = Faults.parse("429=0.1,503=0.05,drop=0.2,slow=0.3", seed=1)
    drawn = [faults.draw() for _ in range(20_000)]
    shares = {name: n / 20_000 for name, n in Counter(fault.failure for fault in drawn).items()}
    assert shares == pytest.approx(
        {"429": 0.1, "503": 0.05, "drop_before": 0.1, "drop_after": 0.1, None: 0.65}, abs=0.01
    )
    assert sum(fault.slow for fault in drawn) / 20_000 == pytest.approx(0.3, abs=0.02)
