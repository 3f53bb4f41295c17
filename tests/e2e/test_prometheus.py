"""A real Prometheus, with the rules of docs/ops, scrapes a real daemon; what breaks makes alerts
fire."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from syncer.sandbox.engage import EngageSandbox
from tests.support.daemon import daemon
from tests.support.installation import Installation
from tests.support.processes import free_port, wait_until
from tests.support.reference import ROOT

OPS = ROOT / "docs/ops"
PROMETHEUS = shutil.which("prometheus")


@dataclass
class Prometheus:
    """A running Prometheus."""

    url: str
    client: httpx.Client

    def ask(self, path: str, **query: str) -> Any:
        answer = self.client.get(f"{self.url}/api/v1/{path}", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def fires(self, alert: str) -> bool:
        answer = self.ask("query", query=f'ALERTS{{alertname="{alert}",alertstate="firing"}}')
        return bool(answer["result"])


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    """One that scrapes `target` with our rules, which fire at once."""
    assert PROMETHEUS is not None
    folder.mkdir()
    config = (OPS / "prometheus/prometheus.yml").read_text()
    config = config.replace("127.0.0.1:8402", target).replace(": 15s", ": 1s")
    (folder / "prometheus.yml").write_text(config)
    rules = (OPS / "prometheus/rules.yml").read_text()
    (folder / "rules.yml").write_text(re.sub(r"for: \w+", "for: 0s", rules))
    port = free_port()
    words = [
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "log").open("w") as log, httpx.Client(trust_env=False, timeout=30) as client:
        process = subprocess.Popen([PROMETHEUS, *words], stdout=log, stderr=log)
        try:
            prometheus = Prometheus(f"http://127.0.0.1:{port}", client)

            def ready() -> bool:
                assert process.poll() is None, (folder / "log").read_text()
                try:
                    return client.get(f"{prometheus.url}/-/ready").status_code == 200
                except httpx.HTTPError:
                    return False

            wait_until(ready, what="Prometheus")
            yield prometheus
        finally:
            process.terminate()
            process.wait()


@pytest.mark.skipif(PROMETHEUS is None, reason="prometheus (Debian: prometheus) is not here")
def test_prometheus_sees_a_daemon_and_what_breaks(
    installation: Installation, engage: EngageSandbox
) -> None:
    engage.fill(60, 2)
    with daemon(installation) as running:
        running.first_run()
        target = running.ops.removeprefix("http://")
        with prometheus(installation.folder / "prometheus", target) as watch:
            wait_until(
                lambda: (
                    [endpoint["health"] for endpoint in watch.ask("targets")["activeTargets"]]
                    == ["up"]
                ),
                what="a target that is up",
            )
            loaded = [rule for group in watch.ask("rules")["groups"] for rule in group["rules"]]
            assert len(loaded) > 15
            exposed = running.client.get(f"{running.ops}/metrics").text
            linted = subprocess.run(
                ["promtool", "check", "metrics"], input=exposed, capture_output=True, text=True
            )
            assert linted.returncode == 0, linted.stdout + linted.stderr
            for name in ("process_resident_memory_bytes", "syncer_build_info", "syncer_members"):
                wait_until(lambda name=name: watch.ask("query", query=name)["result"], what=name)  # type: ignore[misc]
            panels = orjson.loads((OPS / "grafana/syncer.json").read_bytes())["panels"]
            for target in (query for panel in panels for query in panel.get("targets", [])):
                watch.ask("query", query=target["expr"].replace("$job", "syncer"))
            wait_until(
                lambda: all(
                    rule["health"] == "ok"
                    for group in watch.ask("rules")["groups"]
                    for rule in group["rules"]
                ),
                what="rules that can be read",
            )
            # Before the first scrape Prometheus knows no daemon, and the rules do not wait.
            wait_until(lambda: not watch.fires("SyncerDown"), what="no SyncerDown")
            assert not watch.fires("SyncerFailures")
            value = {"value": "not a number"}
            running.send("track", {"userId": "u", "event": "ApiCalls", "properties": value})
            wait_until(lambda: watch.fires("SyncerFailures"), 60, what="SyncerFailures")
            running.kill()
            wait_until(lambda: watch.fires("SyncerDown"), 60, what="SyncerDown")
