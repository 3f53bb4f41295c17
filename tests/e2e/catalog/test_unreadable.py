"""Where the Public API cannot be read, who enters enters and nobody leaves."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from syncer.sandbox.engage import EngageSandbox
from syncer.sandbox.faults import Faults
from syncer.sandbox.public_api import PublicApiSandbox, listed_by
from tests.e2e.catalog.helpers import (
    by_key,
    check_sums,
    custom_trait,
    section,
    share_pulled,
    without_exits,
)
from tests.support.installation import Installation, expected_records


@pytest.mark.parametrize("trouble", ["nobody there", "token", "pace", "no JSON"])
def test_without_the_public_api_who_enters_enters_and_nobody_leaves(
    synced: Installation,
    engage: EngageSandbox,
    space: PublicApiSandbox,
    url: str,
    trouble: str,
) -> None:
    before = synced.holds()
    evolution = engage.evolve(fraction=0.2)
    assert sum(evolution.exited.values()) >= 10
    custom_trait(synced, "has_pet")
    said = {
        "nobody there": "after 5 tries; until it can be read, nothing that left is taken out",
        "token": "the Public API refuses the token (status 401): set engage.public_api.token",
        "pace": "status 429; it wants another 500 s",
        "no JSON": "sent an answer that cannot be read",
    }[trouble]
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        if trouble == "nobody there":
            synced.configure(more=section(f"http://127.0.0.1:{nobody.getsockname()[1]}"))
        elif trouble == "token":
            synced.configure(more=section(url, token="wrong"))
        elif trouble == "pace":
            space.faults = Faults({"429": 1.0}, retry_after=500)
        else:
            space.listed = [replace(space.listed[0], status=5)]  # type: ignore[arg-type]
        listed = listed_by(engage)
        run = synced.json("sync", exit_code=1)
    check_sums(run)
    assert run["state"] == "done"
    (problem,) = run["problems"]
    assert said in problem
    exited = {key for key in engage.audiences if evolution.exited[key]}
    assert set(run["waiting"]) == exited
    assert all("the Public API could not be read" in reason for reason in run["waiting"].values())
    assert synced.holds() == without_exits(engage, before, *engage.audiences)
    assert "has_pet" not in by_key(run)
    engage.observe()

    # It is there again: the next run makes good for all.
    space.listed, space.faults = listed, Faults()
    synced.configure(more=section(url))
    run = synced.json("sync")
    check_sums(run)
    assert (run["kind"], run["waiting"]) == ("incremental", {})
    assert share_pulled(synced, run) > 0.9
    assert synced.holds() == expected_records(engage)
    assert share_pulled(synced, synced.json("sync")) < 0.5


def test_a_first_run_without_the_public_api_sends_nothing(
    installation: Installation, engage: EngageSandbox, space: PublicApiSandbox, url: str
) -> None:
    """Nobody knows yet what is an audience and what a custom trait."""
    engage.fill(100, 3)
    space.listed = listed_by(engage)
    installation.configure(more=section(url, token="wrong"))
    for _ in range(2):
        said = installation.run("sync", exit_code=1).stderr
        assert "refuses the token" in said
        assert "no earlier run knows which traits are audiences, so nothing was sent" in said
    assert installation.amberflo.stats()["requests"] == {}
    installation.configure(more=section(url))
    assert installation.json("sync")["kind"] == "initial"
    assert installation.holds() == expected_records(engage)


def test_a_deleted_audience_does_not_come_back_while_it_cannot_be_read(
    synced: Installation, engage: EngageSandbox, space: PublicApiSandbox, url: str
) -> None:
    """In the source its members are true for ever."""
    key = engage.audiences[0]
    space.listed = [computation for computation in space.listed if computation.key != key]
    run = synced.json("sync", "--full", exit_code=3)
    synced.run("runs", "approve", "--yes", str(run["run"]))
    had = synced.holds()
    synced.configure(more=section(url, token="wrong"))
    run = synced.json("sync", "--full", exit_code=1)
    assert (run["due"], run["waiting"]) == (0, {})
    assert synced.holds() == had


def test_faults_now_and_then_change_nothing(
    synced: Installation, engage: EngageSandbox, space: PublicApiSandbox
) -> None:
    space.faults = Faults.parse("500=0.2,503=0.1,drop=0.3", seed=5)
    for _ in range(3):
        engage.evolve(fraction=0.02)
        space.listed = listed_by(engage)
        check_sums(synced.json("sync"))
        assert synced.holds() == expected_records(engage)
        engage.observe()
    assert len(space.stats()["faults"]) > 1
