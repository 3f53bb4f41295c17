"""The examples of docs/ops/orchestrators do with each exit status of a run what their page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.support.installation import Installation
from tests.support.warehouse import Warehouse

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES, HOW_TO = DOCS / "ops/orchestrators", DOCS / "how-to/run-from-an-orchestrator.md"


def cron_job(folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the first command of the crontab as cron does."""
    text = (EXAMPLES / "syncer.cron").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    commands = [line.split(maxsplit=6)[5:] for line in lines if line[0].isdigit()]
    settings = dict(line.split("=", 1) for line in lines if not line[0].isdigit())
    assert {user for user, _ in commands} == {"syncer"}
    assert not any("%" in command for _, command in commands)  # a newline to cron
    return subprocess.run(
        [settings["SHELL"], "-c", commands[0][1]],
        env={**settings, **environment, "LOG": str(folder / "cron.log")},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_cron_takes_the_file_under_the_name_that_the_page_gives_it() -> None:
    """cron passes over files of /etc/cron.d with a dot in their name."""
    for file in (EXAMPLES / "syncer.cron", HOW_TO):
        text = file.read_text(encoding="utf-8")
        (name,) = re.findall(r"/etc/cron\.d/([^\s:]+)", text)
        assert re.fullmatch(r"[A-Za-z0-9_-]+", name), (file, name)


def steps() -> dict[str, str]:
    """What the workflow's steps run, by their names."""
    text = (EXAMPLES / "github-actions.yml").read_text(encoding="utf-8")
    workflow: dict[str, Any] = yaml.safe_load(text)
    job = workflow["jobs"]["sync"]
    return {step["name"]: step["run"] for step in job["steps"] if "run" in step}


def step(name: str, folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Run a step of the workflow as a runner does; give its exit status and what it prints."""
    done = subprocess.run(
        ["bash", "-e", "-c", steps()[name]],
        env={**environment, "GITHUB_STEP_SUMMARY": str(folder / "summary.md")},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def test_each_exit_status(installation: Installation, warehouse: Warehouse, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "syncer").write_text(
        f'#!/bin/sh\nexec {sys.executable} -P -m syncer "$@"\n', encoding="utf-8"
    )
    (programs / "syncer").chmod(0o755)
    (programs / "python").symlink_to(sys.executable)
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "SYNCER_CONFIG": str(installation.config),
    }
    ids = warehouse.users(40, ago=40, vip="true")

    good = cron_job(tmp_path, environment)
    assert (good.returncode, good.stdout, good.stderr) == (0, "", "")
    assert installation.members("vip") == set(ids)

    for customer_id in ids:
        warehouse.say(customer_id, "vip", "false", ago=1)
    status, printed = step("Sync", tmp_path, environment)
    assert (status, printed.startswith("::warning title=syncer::changes are held")) == (0, True)
    assert step("Summary", tmp_path, environment) == (0, "")
    summary = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert "| 2 | held | 0 | 40 | 0 | 0 | 40 |" in summary
    assert "held: `vip`: " in summary
    assert installation.members("vip") == set(ids)

    installation.config.write_text("[amberflo]\nkey = 1\n", encoding="utf-8")
    bad = cron_job(tmp_path, environment)
    assert bad.returncode == 0
    assert bad.stdout.startswith("syncer sync ended with 2\nerror: ")
    status, printed = step("Sync", tmp_path, environment)
    assert (status, printed.startswith("::error title=syncer::the config is wrong")) == (2, True)
    assert step("Summary", tmp_path, environment) == (0, "")
