"""The package: what the wheel carries, and that it starts alone or says why it does not."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from importlib import import_module
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from syncer import __version__
from syncer.start import names_taken
from tests.support.reference import codes, document, tables

ROOT = Path(__file__).parents[2]


def source_files() -> set[str]:
    """All files of our packages, by their path from the root."""
    return {
        file.relative_to(ROOT).as_posix()
        for package in ("syncer", "state")
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


def syncer(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The program whose packages are in `home`, started from nowhere near this repository."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "syncer", *arguments],
        cwd=home,
        env={"PYTHONPATH": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_wheel_has_all_that_the_program_needs_and_starts_alone(tmp_path: Path) -> None:
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    home = tmp_path / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(home)
        names = set(archive.namelist())
    info = f"engage_amberflo_sync-{__version__}.dist-info/"
    data = info.replace(".dist-info/", ".data/data/share/engage-amberflo-sync/")

    assert {name for name in names if name.startswith(("syncer/", "state/"))} == source_files()
    assert {"syncer/py.typed", "state/py.typed", data + "config.example.toml"} <= names
    example = (ROOT / "config.example.toml").read_text(encoding="utf-8").splitlines()
    assert data + example[0].removeprefix("#:schema ./") in names
    shipped = {file.name for file in (ROOT / "docs" / "ops").iterdir()}
    assert {name.removeprefix(data + "ops/").partition("/")[0] for name in names} >= shipped

    metadata = Parser().parsestr((home / info / "METADATA").read_text(encoding="utf-8"))
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "Apache-2.0 AND 0BSD"
    licenses = {name for name in source_files() if "LICENSE" in name} | {"LICENSE"}
    assert set(metadata.get_all("License-File") or ()) == licenses
    assert {info + "licenses/" + name for name in licenses} <= names
    points = (home / info / "entry_points.txt").read_text(encoding="utf-8")
    module, _, function = points.splitlines()[1].partition(" = ")[2].partition(":")
    assert callable(getattr(import_module(module), function))

    alone = syncer(home, "--version")
    assert (alone.returncode, alone.stdout) == (0, f"syncer, version {__version__}\n"), alone
    (home / "state-0.1.1.dev0.dist-info").mkdir()
    beside = syncer(home, "--version")
    assert (beside.returncode, beside.stdout) == (2, "")
    assert beside.stderr == f"error: {names_taken(home)}\n"
    assert f'"state" 0.1.1.dev0 is installed in {home};' in beside.stderr


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("docs/how-to/install.md", r"engage_amberflo_sync-([\d.]+)-py3"),
        ("docs/releasing.md", r"(?:v|engage[_-]amberflo[_-]sync-)(\d+\.\d+\.\d+)"),
        ("docs/ops/kubernetes/base/kustomization.yaml", r"newTag: (\S+)"),
        ("CHANGELOG.md", r"\A[^#]*# Changelog.*?^## (\d\S+) - \d{4}-\d\d-\d\d$"),
    ],
)
def test_what_people_copy_names_this_version(file: str, named: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    assert set(re.findall(named, text, re.MULTILINE | re.DOTALL)) == {__version__}


def test_every_extra_is_on_the_page() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name for name in project["optional-dependencies"] if not name.startswith("dev")}
    (table,) = tables(document("docs/how-to/install.md"))
    assert {name for cell in table.column("extra") for name in codes(cell)} == extras


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("syncer-2.0.3.dist-info", '"syncer" 2.0.3 is installed in '),
        ("Syncer-2.0.3-py3.11.egg-info", '"Syncer" 2.0.3 is installed in '),
        ("state.egg-info", '"state" is installed in '),
        ("engage_amberflo_sync-0.3.0.dist-info", None),
        ("state_machine-2.0.dist-info", None),
        ("syncer", None),
    ],
)
def test_who_else_has_our_import_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, says: str | None
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, "state", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert names_taken(tmp_path) is None
    (tmp_path / name).mkdir()
    problem = names_taken(tmp_path)
    assert problem is None if says is None else says in (problem or "")


def test_a_package_that_hides_ours_is_named(tmp_path: Path) -> None:
    assert f'"state" is imported from {ROOT}' in (names_taken(tmp_path) or "")
