"""Shells complete from the state, and say nothing where they cannot; the first steps."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import CompletionItem, ShellComplete
from click.testing import CliRunner

from syncer.cli import cli
from syncer.cli.bash import Bash
from syncer.sandbox.engage import EngageSandbox
from tests.support.installation import Installation


def completed(line: str) -> list[str]:
    """What is offered for the last word of a line."""
    *words, last = line.split(" ")
    completions = ShellComplete(cli, {}, "syncer", "_SYNCER_COMPLETE").get_completions(words, last)
    return [item.value for item in completions]


def test_it_completes_from_the_state_or_not_at_all(
    installation: Installation, engage: EngageSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    engage.fill(30, 2)
    installation.run("sync")
    (run,) = [str(row["run"]) for row in installation.json("runs")]
    keys = [trait["key"] for trait in installation.json("traits")]
    audiences = [
        trait["key"] for trait in installation.json("traits") if trait["kind"] == "audience"
    ]
    customer = min(expected.customer_id for expected in engage.expected())
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


@pytest.mark.parametrize(
    ("typed", "current", "reply"),
    [
        ("$", "$", r"\$\(reboot\)"),
        ("", "", r"\$\(reboot\)"),
        ("'$", "'$", None),
        ("user:", ":", r"1\|\*"),
        ("user:1", "1", r"1\|\*"),
        (r"user:1\|", r"1\|", r"1\|\*"),
        ("'pla", "'pla", "plain"),
    ],
)
def test_bash_gets_what_its_line_does_not_run(
    monkeypatch: pytest.MonkeyPatch, typed: str, current: str, reply: str | None
) -> None:
    monkeypatch.setenv("COMP_WORDS", f"syncer why --config 'a b' {typed}")
    monkeypatch.setenv("COMP_CWORD", current)
    shell = Bash(cli, {}, "syncer", "_SYNCER_COMPLETE")
    words, incomplete = shell.get_completion_args()
    assert words == ["why", "--config", "a b"]
    ids = ("$(reboot)", "user:1|*", "plain")
    (text,) = [id_ for id_ in ids if id_.startswith(incomplete or "$")]
    assert shell.format_completion(CompletionItem(text)) == (
        "" if reply is None else f"plain,{reply}"
    )


def test_what_waits_for_ever_ends_with_nothing() -> None:
    wait = "from syncer.cli.complete import end_after; import sys; end_after(0.1); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", wait], stdin=subprocess.PIPE) as waiting:
        assert waiting.wait(60) == 0


def test_bash_expands_nothing_that_is_offered(tmp_path: Path) -> None:
    """A program in its place offers a wildcard beside a file, and complains."""
    (tmp_path / "file").touch()
    script = CliRunner().invoke(cli, ["completion", "bash"]).stdout
    ask = r"""
    fake() { echo trouble >&2; printf 'plain,%s\n' '*' '\$\(x\)'; }
    env() { fake; }
    COMP_LINE='syncer why ' COMP_POINT=11 COMP_WORDS=(syncer why '') COMP_CWORD=2
    _syncer_completion syncer '' why; printf '%s\n' "${COMPREPLY[@]}"
    """
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run(
        [bash, "-c", script + ask], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("*\n\\$\\(x\\)\n", "")
