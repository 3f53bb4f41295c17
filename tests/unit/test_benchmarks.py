"""What `python -m benchmarks` makes of what benchmarks print. No benchmark runs here."""

from __future__ import annotations

from importlib import import_module
from xml.etree import ElementTree

import pytest

from benchmarks.__main__ import BENCHMARKS, Benchmark, bars
from benchmarks.chart import Bar, chart, table


def test_the_ratios_that_a_benchmark_prints_become_bars() -> None:
    bounds = {"a/b": ("a < b & c", 2.0), "c/d": ("c", 1.5)}
    benchmark = Benchmark("some", (), bounds, "nothing")
    printed = "first 1.0 s\nratio a/b 2.50\nsealing 1.0 s, ratio c/d 1\nratio other/one 9\n"
    measured = bars(benchmark, printed)
    assert [(bar.ratio, bar.holds) for bar in measured] == [(2.5, False), (1.0, True)]
    drawn = ElementTree.fromstring(chart(measured))
    texts = [element.text for element in drawn.iter() if element.tag.endswith("text")]
    assert texts == ["a < b & c", "2.50 (bound 2)", "c", "1.00 (bound 1.5)"]
    rows = table(measured, quick=True).splitlines()
    assert "small" in rows[1]
    assert rows[-2:] == [
        "| a < b & c | **2.50** | 2 | `benchmarks.some` | nothing |",
        "| c | 1.00 | 1.5 | `benchmarks.some` | nothing |",
    ]
    fast = Bar("quick", 0.6, 0.7, "c", "n", at_least=True)
    assert (fast.holds, fast._replace(ratio=0.7).holds) == (False, True)
    assert "| quick | **0.60** | at least 0.7 |" in table([fast])
    with pytest.raises(ValueError, match="printed no ratio c/d"):
        bars(benchmark, "ratio a/b 2.50\n")
    assert ElementTree.fromstring(chart([Bar("none", 0, 1, "", "")])) is not None


def test_each_benchmark_says_what_it_leaves_out_and_has_a_command() -> None:
    for benchmark in BENCHMARKS:
        assert benchmark.leaves_out
        assert benchmark.bounds
        assert callable(import_module(f"benchmarks.{benchmark.module}").main)
