"""What Prometheus' rules say of a daemon that somebody breaks: its real samples, played for hours.

A drill scrapes `/metrics` as Prometheus does, twice where something is broken. `promtool` then
plays the good samples, and after them the broken ones: what counts goes on counting as fast as it
did between the two scrapes. So an alert that needs an hour of trouble needs a second of it here.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.support.daemon import Daemon
from tests.support.reference import ROOT

RULES = ROOT / "docs/ops/prometheus/rules.yml"
#: Minutes of a play in which nothing is broken, and then something is.
GOOD, BROKEN = 60, 70
#: What goes on by itself while something is broken; all else stays as it is.
_COUNTS = re.compile(r"\w+_(?:total|bucket|count|sum)\b|syncer_lag_seconds")
#: The labels that Prometheus gives a target.
_TARGET = 'job="syncer",instance="a"'

#: An alert that fires, and its label `name`, which some have.
Firing = tuple[str, str]


@dataclass(frozen=True)
class Scrape:
    """When somebody scraped (in Unix time), and the samples by their name and labels."""

    at: float
    samples: dict[str, float]

    @classmethod
    def of(cls, daemon: Daemon) -> Scrape:
        """A daemon that does not answer, or answers anything but 200, has one sample."""
        try:
            if daemon.client.get(f"{daemon.ops}/metrics").status_code == 200:
                return cls(time.time(), {"up": 1.0, **daemon.metrics()})
        except httpx.HTTPError:
            pass
        return cls(time.time(), {"up": 0.0})


@dataclass
class Drill:
    """The plays so far, and the alerts that fire in them; `good` is a daemon that has nothing."""

    good: Scrape
    plays: list[dict[str, Any]] = field(default_factory=list)
    alerts: set[str] = field(default_factory=set)

    def broken(
        self, what: str, before: Scrape, after: Scrape, *firing: Firing, minutes: int = BROKEN
    ) -> None:
        """Note that `what` is broken from `before` to `after`, and that after so many minutes of it
        these alerts fire, and no other. Before it, none does."""
        self.alerts |= {alert for alert, _ in firing}
        names = sorted({*self.good.samples, *after.samples})
        series = [
            f"{_values(name, self.good, self.good, 0, GOOD - 1)} "
            f"{_values(name, before, after, GOOD, minutes)}"
            for name in names
        ]
        self.plays.append(
            {
                "name": what,
                "interval": "1m",
                "input_series": [
                    {"series": _of_target(name), "values": values}
                    for name, values in zip(names, series, strict=True)
                ],
                "promql_expr_test": [
                    _firing_at(GOOD - 1, ()),
                    _firing_at(GOOD + minutes, firing),
                ],
            }
        )

    def play(self, folder: Path) -> None:
        """Have promtool play it all; an assertion fails where it sees other alerts."""
        file = folder / "drill.yml"  # JSON is YAML
        asked = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": self.plays}
        file.write_text(json.dumps(asked), encoding="utf-8")
        words = ["promtool", "test", "rules", str(file)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr


def _of_target(name: str) -> str:
    name, _, labels = name.removesuffix("}").partition("{")
    return f"{name}{{{labels}{',' if labels else ''}{_TARGET}}}"


def _values(name: str, before: Scrape, after: Scrape, minute: int, minutes: int) -> str:
    """The samples of a series from this minute of a play on, as promtool reads them."""
    value = after.samples.get(name)
    if value is None:
        return f"_x{minutes + 1}"
    step = 0.0
    if "_timestamp_seconds" in name:
        # A play begins in 1970. What lies ahead is planned anew; what is past stays.
        step = 60.0 if value > after.at else 0.0
        value += 60 * minute - after.at
    elif _COUNTS.match(name) and after.at > before.at:
        passed = value - before.samples.get(name, 0.0)
        step = max(0.0, 60 * passed / (after.at - before.at))
    return f"{value}+{step}x{minutes}"


def _firing_at(minute: int, firing: tuple[Firing, ...]) -> dict[str, Any]:
    samples = [
        {
            "labels": f'{{alertname="{alert}"{f",name={json.dumps(name)}" if name else ""}}}',
            "value": 1,
        }
        for alert, name in firing
    ]
    return {
        "expr": 'count by (alertname, name) (ALERTS{alertstate="firing"})',
        "eval_time": f"{minute}m",
        "exp_samples": samples,
    }
