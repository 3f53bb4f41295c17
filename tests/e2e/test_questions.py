"""Commands that ask before they do what cannot be undone."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncer.sandbox.engage import EngageSandbox
from tests.support.installation import Installation
from tests.support.terminal import Terminal
from tests.support.warehouse import Warehouse

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
    assert f"Send every customer ({customers:,} known × 3 = {3 * customers:,} requests" in shown
    assert len(installation.json("runs")) == 1
    status, shown = answered(installation, "y", "resync")
    assert status == 0, shown
    assert installation.json("runs", "--limit", "1")[0]["kind"] == "resync"


@pytest.fixture
def held(installation: Installation, warehouse: Warehouse) -> Installation:
    """Half of the members of an audience would leave; run 2 holds that."""
    members = warehouse.users(40, ago=40, vip="true", other="true")
    installation.run("sync")
    for customer_id in members[:20]:
        warehouse.say(customer_id, "vip", "false")
    installation.run("sync", exit_code=3)
    return installation


@pytest.mark.parametrize("decision", ["approve", "reject"])
def test_a_decision_is_asked_once_with_its_evidence(held: Installation, decision: str) -> None:
    said = held.run("runs", decision, "2", exit_code=2).stderr.splitlines()
    assert "40 → 20 members (−50 %); 20 customers" in said[0]
    assert said[-1] == (
        f"Error: {decision.capitalize()} what run 2 holds? "
        "There is no terminal to ask on: add --yes"
    )
    status, shown = answered(held, "n", "runs", decision, "2")
    assert (status, held.json("runs", "show", "2")["state"]) == (1, "held")
    assert "40 → 20 members (−50 %)" in shown
    assert shown.count("[y/N]") == 1
    status, shown = answered(held, "y", "runs", decision, "2", "--by", "Ada")
    assert status == 0, shown
    (hold,) = held.json("runs", "show", "2")["holds"]
    assert (hold["decision"], hold["decided_by"]) == (f"{decision}ed".replace("ee", "e"), "Ada")


def test_what_is_not_there_is_not_asked(held: Installation) -> None:
    for decision in ("approve", "reject"):
        assert "there is no run 9" in held.run("runs", decision, "9", exit_code=1).stderr
        assert "holds nothing" in held.run("runs", decision, "1", exit_code=1).stderr
    held.run("runs", "reject", "2", "--yes")
    assert "is rejected already" in held.run("runs", "reject", "2", exit_code=1).stderr


def test_the_approving_run_and_the_held_one_name_each_other(held: Installation) -> None:
    held.run("runs", "approve", "2", "--yes", "--by", "Ada", "--because", "a campaign ended")
    shown = held.run("runs", "show", "2").stdout
    assert "approved by Ada (a campaign ended) at 20" in shown
    assert "done by run 3" in shown
    assert (
        "it let through hold 1 of vip, which run 2 found: 20 cust"
        in held.run("runs", "show", "3").stdout
    )
    assert [hold["hold"] for hold in held.json("runs", "show", "3")["let_through"]] == [1]


def test_only_what_moved_is_shown_unless_all_is(held: Installation) -> None:
    def rows(*arguments: str) -> set[str]:
        """The first words of the lines, framed or not."""
        lines = held.run(*arguments).stdout.splitlines()
        return {line.strip("│ ").partition(" ")[0] for line in lines}

    few = held.run("runs", "show", "2").stdout
    shown = rows("runs", "show", "2")
    assert ("vip" in shown, "other" in shown) == (True, False)
    assert "nothing moved of 1 other traits: --all shows them" in few
    assert "other" in rows("runs", "show", "2", "--all")
    assert "other" not in rows("diff", "--full")
    assert "other" in rows("diff", "--full", "--all")


def test_many_held_traits_are_one_line(installation: Installation, warehouse: Warehouse) -> None:
    keys = [f"a{number}" for number in range(5)]
    members = warehouse.users(40, ago=40, **dict.fromkeys(keys, "true"))
    warehouse.say("nobody", "a0", "true", ago=40)
    warehouse.say("nobody", "a1", "true", ago=40)
    installation.run("sync")
    for customer_id in members[:20]:
        for key in keys:
            warehouse.say(customer_id, key, "false")
    said = installation.run("sync", exit_code=3).stderr
    assert "held: 5 traits (a0, a1, a2 and 2 more)" in said
    status = installation.run("status").stdout
    assert "held: 5 traits (a0, a1, a2 and 2 more), since run 2: " in status
    shown = installation.run("runs", "show", "2").stdout
    assert "5 holds (a0, a1, a2 and 2 more), 5 open, 100 customers: --all shows each" in shown
    assert installation.run("runs", "show", "2", "--all").stdout.count("\nhold ") == 5
    first = installation.run("runs", "show", "1").stdout
    assert first.count("no customer id") == 2
    assert "a0, a1: 2 skipped: no customer id" in first
    assert "1 profiles have no customer id and cannot be billed" in first


def test_the_requests_are_as_many_as_was_said(
    installation: Installation, warehouse: Warehouse
) -> None:
    members = warehouse.users(12, ago=40, vip="true")
    installation.run("sync")
    for customer_id in members[:5]:
        warehouse.say(customer_id, "vip", "false")
    warehouse.user("new", vip="true")
    installation.configure(rate=10_000)
    said = installation.json("diff")["to_send"]
    assert (said["customers"], said["requests"], said["rate"]) == (6, 17, 10_000)
    assert said["seconds"] == 17 / 10_000
    shown = installation.run("diff").stdout
    assert "to send: 1 new × 2 + 5 known × 3 = 17 requests, at rate 10000 = 1 s" in shown
    installation.amberflo.reset_stats()
    assert "to send: 1 new × 2 + 5 known × 3 = 17 requests" in installation.run("sync").stderr
    requests = installation.amberflo.stats()["requests"]
    assert sum(n for name, n in requests.items() if "paging" not in name) == 17, requests
    audience = installation.run("resync", "--audience", "vip", exit_code=2).stderr
    assert "(those in it now: 8 known × 3 = 24 requests" in audience
