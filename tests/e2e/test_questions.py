"""Commands that ask before they do what cannot be undone."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncer.sandbox.engage import EngageSandbox
from tests.support.installation import Installation
from tests.support.terminal import Terminal

COMMANDS = [["resync"], ["forget", "u1"], ["traits", "release", "vip"]]


def answered(installation: Installation, answer: str, *command: str) -> tuple[int, str]:
    """The exit status of a command on a terminal where somebody answers, and what it showed."""
    with Terminal(*command, "--config", str(installation.config), columns=200) as terminal:
        terminal.answer("", answer)
        return terminal.end(), terminal.shown


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_without_a_terminal_they_name_the_option(
    installation: Installation, engage: EngageSandbox, tmp_path: Path, command: list[str]
) -> None:
    engage.fill(10, 1)
    installation.configure()
    installation.run("sync")
    key = installation.json("traits")[0]["key"]
    command = [key if word == "vip" else word for word in command]
    said = installation.run(*command, exit_code=2).stderr
    assert said.endswith(" There is no terminal to ask on: add --yes\n")
    assert said.startswith("Error: ")
    assert said.count("\n") == 1
    assert [run["kind"] for run in installation.json("runs")] == ["initial"]


def test_on_a_terminal_they_ask(installation: Installation, engage: EngageSandbox) -> None:
    engage.fill(10, 1)
    installation.configure()
    installation.run("sync")
    customers = installation.json("diff", "--full")["customers"]["unchanged"]
    status, shown = answered(installation, "n", "resync")
    assert status == 1
    assert f"Send every customer ({customers:,} customers × 2 to 3 requests" in shown
    assert len(installation.json("runs")) == 1
    status, shown = answered(installation, "y", "resync")
    assert status == 0, shown
    assert installation.json("runs", "--limit", "1")[0]["kind"] == "resync"
