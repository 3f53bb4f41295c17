"""docs/ops: the rules and the dashboard ask for metrics that exist, and each alert has a play in
which it fires, a week in which it is quiet, and a runbook."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import orjson
import pytest
import yaml

from tests.support.reference import ROOT, document, metrics

PROMETHEUS, DASHBOARD = ROOT / "docs/ops/prometheus", ROOT / "docs/ops/grafana/syncer.json"
#: What a histogram is asked by, and what the library says of the process.
SUFFIXES = ("_bucket", "_count", "_sum")
PROCESS = {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"}


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    charts: list[dict[str, Any]] = orjson.loads(DASHBOARD.read_bytes())["panels"]
    return charts


def test_every_query_asks_for_what_exists() -> None:
    known = {metric.name for metric in metrics()} | PROCESS | {"up"}
    known |= {metric.name + end for metric in metrics() for end in SUFFIXES}
    known |= {rule["record"] for rule in rules() if "record" in rule}
    queries = {target["expr"] for panel in panels() for target in panel.get("targets", [])}
    assert len(queries) > 30
    for query in {*queries, *(rule["expr"] for rule in rules())}:
        plain = re.sub(r'"[^"]*"', '""', query)
        asked = set(re.findall(r"\b(?:syncer[:_]|process_|up\b)[a-z0-9_:]*", plain))
        assert asked, query
        assert asked <= known, asked - known
    labels = {metric.name: set(metric.labels) for metric in metrics()}
    for query in queries:
        for name, inside in re.findall(r"(syncer_[a-z_]+)\{([^}]*)\}", query):
            named = set(re.findall(r"(\w+)[!=]~?\"", inside))
            assert named <= labels[name] | {"job"}, query


def test_every_alert_has_a_test_and_a_runbook() -> None:
    alerts = {rule["alert"]: rule for rule in rules() if "alert" in rule}
    assert len(alerts) > 10
    runbook = re.findall(r"^### (\w+)$", document("docs/monitoring.md"), re.MULTILINE)
    assert runbook == list(alerts)
    for name, rule in alerts.items():
        assert rule["annotations"]["runbook_url"] == f"docs/monitoring.md#{name.lower()}"
        assert rule["labels"]["severity"] in ("critical", "warning")
    for file, fires in (("firing_test.yml", True), ("quiet_test.yml", False)):
        plays = yaml.safe_load((PROMETHEUS / file).read_text())["tests"]
        played = [test for play in plays for test in play["alert_rule_test"]]
        assert {test["alertname"] for test in played} == set(alerts)
        assert all(bool(test["exp_alerts"]) == fires for test in played)


def test_promtool_plays_the_rules() -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool (Debian: prometheus) is not here")
    for words in (
        ["check", "config", "prometheus.yml"],
        ["test", "rules", "firing_test.yml", "quiet_test.yml"],
    ):
        done = subprocess.run(
            ["promtool", *words], cwd=PROMETHEUS, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_panels_have_places_of_their_own() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        assert all(0 <= x < 24 for x, _ in cells)
        taken |= cells
