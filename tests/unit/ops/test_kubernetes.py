"""The manifests of docs/ops/kubernetes: kustomize builds them, the API takes them, and what they
say of the program is so."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from syncer.config import load

ROOT = Path(__file__).parents[3]
MANIFESTS = ROOT / "docs" / "ops" / "kubernetes"
#: The API's own definitions of the kinds; the file says where they are from.
API = json.loads((Path(__file__).parent / "kubernetes_v1.37.0.json").read_text(encoding="utf-8"))

Manifest = dict[str, Any]


def build(overlay: str) -> list[Manifest]:
    """What `kubectl apply -k` would send."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl, which has kustomize in it, is missing")
    command = [kubectl, "kustomize", str(MANIFESTS / "overlays" / overlay)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return list(yaml.safe_load_all(built.stdout))


def mistakes(manifest: Manifest) -> list[str]:
    """What the API would refuse in a manifest."""
    kind = f"{manifest['apiVersion']} {manifest['kind']}"
    validator = Draft202012Validator({**API["kinds"][kind], "$defs": API["$defs"]})
    return [
        f"{kind} {error.json_path}: {error.message}" for error in validator.iter_errors(manifest)
    ]


def of_kind(kind: str, manifests: list[Manifest]) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def ports_of(policy: Manifest) -> Iterator[object]:
    for rule in policy["spec"]["ingress"]:
        for port in rule["ports"]:
            yield port["port"]


@pytest.mark.parametrize(
    ("overlay", "daemons", "state"),
    [("sqlite", 1, "sqlite:////var/lib/syncer/syncer.db"), ("postgresql", 3, "postgresql+psycopg")],
)
def test_an_overlay(overlay: str, daemons: int, state: str, tmp_path: Path) -> None:
    manifests = build(overlay)
    assert [mistake for manifest in manifests for mistake in mistakes(manifest)] == []
    assert {manifest["metadata"].get("namespace", "syncer") for manifest in manifests} == {"syncer"}

    (deployment,) = of_kind("Deployment", manifests)
    assert deployment["spec"]["replicas"] == daemons
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}  # docs/operations.md, Upgrade
    template = deployment["spec"]["template"]
    labels, pod = template["metadata"]["labels"], template["spec"]
    (container,) = pod["containers"]

    # Who selects pods selects these, and the ports that others name are there.
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"calls": 8400, "ops": 8402}
    services, (policy,) = of_kind("Service", manifests), of_kind("NetworkPolicy", manifests)
    budgets = of_kind("PodDisruptionBudget", manifests)
    assert len(budgets) == (daemons > 1)  # with one pod it would keep its node for ever
    assert all(service["spec"]["selector"] == labels for service in services)
    selectors = [policy["spec"]["podSelector"], deployment["spec"]["selector"]]
    selectors += [budget["spec"]["selector"] for budget in budgets]
    assert selectors == [{"matchLabels": labels}] * len(selectors)
    named = {port["targetPort"] for service in services for port in service["spec"]["ports"]}
    assert named == set(ports_of(policy)) == set(ports)
    probes = {name: container[name]["httpGet"] for name in container if name.endswith("Probe")}
    assert {probe["port"] for probe in probes.values()} == {"ops"}
    ops = (ROOT / "syncer" / "daemon" / "ops.py").read_text(encoding="utf-8")
    assert all(f'"{probe["path"]}":' in ops for probe in probes.values())
    assert len(probes) == 3

    # Nobody is root, and nothing but the state and /tmp can be written.
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    user = pod["securityContext"]
    assert re.search(r"^USER (\d+):(\d+)$", dockerfile, re.MULTILINE)[0] == (  # type: ignore[index]
        f"USER {user['runAsUser']}:{user['runAsGroup']}"
    )
    assert user["runAsNonRoot"]
    assert user["fsGroup"] == user["runAsGroup"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    writable = {path for path, mount in mounts.items() if not mount.get("readOnly")}
    assert writable == {"/var/lib/syncer", "/tmp"}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["name"] for mount in mounts.values()} == volumes.keys()
    claims = of_kind("PersistentVolumeClaim", manifests)
    names = [claim["metadata"]["name"] for claim in claims]
    claim = volumes["state"].get("persistentVolumeClaim", {}).get("claimName")
    assert names == ([] if claim is None else [claim])
    assert (claim is None) == (overlay == "postgresql")

    # The program takes the config, the environment and the secrets that the pod gets.
    (configs,) = of_kind("ConfigMap", manifests)
    assert volumes["config"]["configMap"]["name"] == configs["metadata"]["name"]
    secrets = {
        "amberflo-api-key": "key",
        "profiles-sync-url": "postgresql://reader@warehouse/segment",
        "state-url": "postgresql+psycopg://syncer@db/syncer",
    }
    for name, secret in secrets.items():
        (tmp_path / name).write_text(secret, encoding="utf-8")
    config = tmp_path / "config.toml"
    text = configs["data"]["config.toml"].replace("/run/secrets", str(tmp_path))
    config.write_text(text, encoding="utf-8")
    environment = {
        variable["name"]: variable["value"].replace("/run/secrets", str(tmp_path))
        for variable in container["env"]
    }
    loaded = load(config, environment)
    assert loaded.amberflo.api_key.get_secret_value() == "key"
    assert str(loaded.state.url).startswith(state)


def test_the_api_refuses_what_it_does_not_know() -> None:
    (deployment,) = of_kind("Deployment", build("sqlite"))
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    container["livenessProbes"] = container.pop("livenessProbe")
    container["ports"][0]["containerPort"] = "8400"
    assert len(mistakes(deployment)) == 2
