"""Shells complete from the state, and say nothing where they cannot; the first steps."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from syncer.cli import cli
from syncer.sandbox.engage import EngageSandbox
from tests.support.installation import Installation


def completed(line: str) -> list[str]:
    """What is offered for the last word of a line."""
    *words, last = line.split(" ")
    found = ShellComplete(cli, {}, "syncer", "_SYNCER_COMPLETE").get_completions(words, last)
    return [item.value for item in found]


def test_it_completes_from_the_state_or_not_at_all(
    installation: Installation, engage: EngageSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    engage.fill(30, 2)
    installation.run("sync")
    (run,) = [str(one["run"]) for one in installation.json("runs")]
    keys = [one["key"] for one in installation.json("traits")]
    audiences = [one["key"] for one in installation.json("traits") if one["kind"] == "audience"]
    customer = min(one.customer_id for one in engage.expected())
    config = installation.folder / "config.toml"
    named = f"--config {config}"
    assert completed(f"runs show {named} ") == [run]
    assert completed(f"audit run {named} ") == ["last", run]
    assert completed(f"audit audience {named} ") == audiences
    assert completed(f"resync {named} --audience {audiences[0][:3]}")[0].startswith(
        audiences[0][:3]
    )
    assert customer in completed(f"why {named} {customer[:3]}")
    assert completed(f"why {named} {customer} ") == keys
    assert completed(f"verify {named} --customer no-such-") == []
    monkeypatch.setenv("SYNCER_CONFIG", str(config))
    assert completed("runs approve ") == [run]
    for broken in ("[nonsense", "", 'state.url = "sqlite:////nowhere/x.db"'):
        config.write_text(broken)
        assert completed("runs approve ") == []
    assert "show" in completed("runs ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_of_the_shell(shell: str) -> None:
    script = CliRunner().invoke(cli, ["completion", shell]).stdout
    assert "_SYNCER_COMPLETE" in script
    if (program := shutil.which(shell)) is not None:
        subprocess.run([program, "-n"], input=script, text=True, check=True)


def test_syncer_alone_says_the_first_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SYNCER_CONFIG", raising=False)
    alone = CliRunner().invoke(cli, [])
    assert alone.exit_code == 2
    assert [line.split()[1] for line in alone.stdout.splitlines() if "  syncer " in line] == [
        *("demo", "init", "check"),
    ]
    (tmp_path / "config.toml").touch()
    assert "Usage: " in CliRunner().invoke(cli, []).output
