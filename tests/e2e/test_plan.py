"""`syncer plan` says how long things take, with a config and a state or without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result

from syncer.capacity import calibration
from syncer.cli import cli
from syncer.sandbox.engage import EngageSandbox
from tests.support.installation import Installation


def plan(*options: str) -> Result:
    """The command in a folder without a config."""
    return CliRunner().invoke(cli, ["plan", *options])


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without a config, and no variable that names one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SYNCER_CONFIG", raising=False)


@pytest.mark.usefixtures("nowhere")
def test_any_figure_can_be_given_without_a_config() -> None:
    given = ("--customers", "2,000,000", "--audiences", "25", "--change", "1.5%", "--events", "40")
    given += ("--rate", "100", "--latency", "80", "--every", "3h", "--outage", "2d")
    given += ("--daemons", "3")
    told = plan(*given)
    assert told.exit_code == 0, told.output
    for text in ("2,000,000", "1.5 %", "0.08 s", "3 h 0 min", "2 d 0 h"):
        assert text in told.output
    assert told.output.count("given") == len(given) // 2
    assert "callers get 429" in told.output  # 40 a second for two days
    assert "3 daemons share the rate of 100" in told.output
    only = plan("--customers", "1000")
    assert only.output.count("assumed") == 10
    assert "–" in only.output  # no events: nothing to catch up with


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "nobody was synced yet, so say how many customers it will be: --customers 100000"),
        ("--customers 0", "there is nothing to plan for 0 customers"),
        ("--customers many", "'many' is no number of customers; write for example 100000"),
        ("--customers 1.5", "'1.5' is no number of customers; write for example 100000"),
        ("--customers -1", "'-1' is no number of customers"),
        ("--customers 1e13", "'1e13' is more than 1,000,000,000,000"),
        ("--audiences nan", "'nan' is no number of audiences; write for example 10"),
        ("--change x%", "'x%' is no percentage; write for example 2%"),
        ("--events inf", "'inf' is no number of events a second"),
        ("--rate -5", "'-5' is no rate; write for example 100"),
        ("--daemons 1.5", "'1.5' is no number of daemons; write for example 2"),
        ("--latency 1s", "'1s' is no number of milliseconds; write for example 100"),
        ("--every 0s", "'0s' is less than 1 s; write for example 2h30m"),
        ("--outage soon", "'soon': this is not a duration; write for example 90s"),
        ("--config none.toml", "none.toml"),
    ],
)
def test_what_cannot_be_is_told(options: str, message: str) -> None:
    told = plan(*options.split())
    assert told.exit_code == 2 or "--config" in options, told.output
    assert message in (told.output or str(told.exception))


def test_the_rest_comes_from_the_config_and_the_state(
    installation: Installation, engage: EngageSandbox
) -> None:
    assert installation.run("plan", exit_code=2).stderr.count("nobody was synced yet") == 1
    engage.fill(100)
    installation.json("sync")
    installation.configure(rate=25, concurrency=8)
    known = installation.json("plan", "--change", "5")
    figures: dict[str, Any] = known["figures"]
    assert figures["customers"] == {"value": len(list(engage.expected())), "source": "the state"}
    assert figures["values"]["source"] == figures["reading"]["source"] == "run 1"
    assert figures["rate"] == {"value": 25, "source": "config"}
    assert figures["concurrency"] == {"value": 8, "source": "config"}
    assert figures["change"] == {"value": 0.05, "source": "given"}
    assert figures["events"]["source"] == "assumed"
    assert known["requests_per_second"] == {"most": 25, "bound": "rate"}
    first = known["steps"][0]
    assert first["step"] == "initial"
    assert first["sent"] == figures["customers"]["value"]
    assert installation.puts().keys() == installation.holds().keys()  # it sent nothing more


@pytest.mark.usefixtures("nowhere")
def test_a_machine_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """By real runs, a real daemon and a stand-in in a process of its own; of smaller sizes here."""
    monkeypatch.setattr(calibration, "SHAPES", ((20, 2), (60, 2), (60, 6)))
    monkeypatch.setattr(calibration, "EVENTS", 300)
    monkeypatch.setattr(calibration, "LOOK", 1.0)  # all events may go between two looks
    told = plan("--customers", "1000", "--calibrate", "--json")
    assert told.exit_code == 0, told.output
    assert "measuring 300 events" in told.stderr
    known = orjson.loads(told.stdout)
    assert known["figures"]["reading"] == {"value": 1.0, "source": "measured now"}
    machine = known["machine"]
    # Of so small runs noise may leave nothing for the start.
    assert machine["initial"]["start"] >= 0
    assert max(machine["initial"].values()) > 0
    assert 0 < machine["event"] < 1
    assert machine["delivery"].keys() == {"start", "customer", "value"}
