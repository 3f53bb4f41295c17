"""Dockerfile and compose.yaml: what they say of the program and of the repository is so."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from syncer import start
from syncer.config import Config, duration, load
from syncer.sandbox.environment import CONFIG, SECTIONS
from tests.support.answers import answering, http

ROOT = Path(__file__).parents[3]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
#: What the image sets for the program.
IMAGE = dict(re.findall(r"^(?:ENV|   ) (SYNCER_\w+)=(\S+)", DOCKERFILE, re.MULTILINE))


def port(address: str) -> int:
    return int(address.rpartition(":")[2])


def health(address: str) -> int:
    """The exit status of the image's HEALTHCHECK, where the daemon's ops.listen is `address`."""
    (command,) = re.findall(
        r"^HEALTHCHECK .* CMD (\[.*\])$", DOCKERFILE.replace("\\\n", ""), re.MULTILINE
    )
    _, *arguments = json.loads(command)
    environment = {"SYNCER_OPS__LISTEN": address, "http_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, stderr=subprocess.DEVNULL, check=False
    )
    return done.returncode


def test_the_health_check_asks_the_ops_listener() -> None:
    status = 200
    with answering(lambda _: http(status)) as (url, asked):
        address = url.removeprefix("http://")
        assert health(address) == 0
        status = 503
        assert health(address) == 1
    assert [request.path for request in asked] == ["/healthz"] * 2
    assert health(address) == 1  # nobody listens any more


def test_what_the_image_copies_and_listens_on() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    assert all((ROOT / name).exists() for name in copied)
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = build["tool"]["hatch"]["build"]["targets"]["wheel"]
    beside = {name for name in wheel["shared-data"] if name.split("/")[0] not in wheel["packages"]}
    needed = {*wheel["packages"], *beside, build["project"]["readme"], "LICENSE"}
    assert needed | {"pyproject.toml", "requirements.lock"} == set(copied)
    exposed = re.findall(r"^EXPOSE (.*)$", DOCKERFILE, re.MULTILINE)[0].split()
    listens = {port(IMAGE[f"SYNCER_{section}__LISTEN"]) for section in ("OPS", "PASSTHROUGH")}
    assert {int(number) for number in exposed} == listens == {8400, 8402}


def test_compose_names_what_is_there() -> None:
    ours = {name: service for name, service in SERVICES.items() if service["image"] == "syncer"}
    assert {*ours} == {"sandbox", "demo-daemon", "daemon"}
    for name, service in ours.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert duration(service["stop_grace_period"]) >= duration("30s"), name
    assert {*IMAGE} >= {"SYNCER_OPS__LISTEN", "SYNCER_PASSTHROUGH__LISTEN", "SYNCER_CONFIG"}
    for name, service in SERVICES.items():
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            exists = (
                (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]
            )
            assert exists, (name, volume)
        for published in service.get("ports", ()):
            host, outside, inside = published.split(":")
            assert (host, outside) == ("127.0.0.1", inside), name
        assert {*service.get("secrets", ())} <= COMPOSE["secrets"].keys(), name
        assert {*service.get("depends_on", ())} <= SERVICES.keys(), name
    live = (ROOT / "docs" / "ops" / "kubernetes" / "base" / "container.toml").read_text()
    files = {*re.findall(r'_file = "/run/secrets/([\w-]+)"', live.replace("write-key", ""))}
    files.add(Path(SERVICES["daemon"]["environment"]["SYNCER_STATE__URL_FILE"]).name)
    assert {*SERVICES["daemon"]["secrets"]} == files


def test_the_demo_takes_the_config_of_the_sandbox(tmp_path: Path) -> None:
    names = re.findall(r"{(\w+)}", CONFIG + SECTIONS["profiles_sync"])
    values = dict.fromkeys(names, "http://127.0.0.1:1") | {"source": "profiles_sync"}
    section = SECTIONS["profiles_sync"].format(**values)
    config = tmp_path / "config.toml"
    config.write_text(CONFIG.format(**{**values, "section": section}), encoding="utf-8")
    environment = IMAGE | SERVICES["demo-daemon"]["environment"]
    loaded: Config = load(config, {**environment, "SYNCER_CONFIG": str(config)})
    assert loaded.web is not None
    listens = {port(listener.listen) for listener in (loaded.passthrough, loaded.ops, loaded.web)}
    published = {port(mapping) for mapping in SERVICES["sandbox"]["ports"]}
    assert published == listens | {9090}
    shared = {SERVICES[name]["network_mode"] for name in ("demo-daemon", "prometheus")}
    assert shared == {"service:sandbox"}  # on loopback, as Prometheus' config has it
    prometheus = (ROOT / "docs/ops/prometheus/prometheus.yml").read_text(encoding="utf-8")
    (job,) = yaml.safe_load(prometheus)["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"127.0.0.1:{port(loaded.ops.listen)}"]}]


def test_a_stop_while_process_1_starts_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(start, "names_taken", lambda _: signal.raise_signal(signal.SIGTERM) or "on")
    try:
        with pytest.raises(SystemExit, match="143"):
            start.main()
    finally:
        signal.signal(signal.SIGTERM, before)
