"""Files by the real commands: what lists that follow each other mean."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import pytest

from tests.support.installation import Installation


def put(installation: Installation, number: int, customer_ids: Sequence[str]) -> None:
    """A list of the audience, so many hours after the first."""
    folder = installation.folder / "vip"
    folder.mkdir(exist_ok=True)
    rows = [f'p-{each},"{{""user_id"":[""{each}""]}}"' for each in customer_ids]
    path = folder / f"{number}.csv"
    path.write_text("\n".join(["key,external_ids", *rows, ""]), encoding="utf-8")
    os.utime(path, (time.time() - 20 * 3600 + number * 3600,) * 2)


@pytest.fixture
def by_lists(installation: Installation) -> Installation:
    installation.configure(
        engage='source = "files"',
        more='[engage.files]\nsets = [{ path = "vip/*.csv", key = "vip" }]\n',
    )
    return installation


def test_an_incremental_run_sees_who_left_and_who_came(by_lists: Installation) -> None:
    put(by_lists, 1, ["u1", "u2", "u3"])
    by_lists.run("sync")
    put(by_lists, 2, ["u2", "u3", "u4"])
    assert "incremental" in by_lists.run("sync").stdout
    assert by_lists.values("vip") == {"u1": False, "u2": True, "u3": True, "u4": True}
    assert by_lists.json("why", "u1", "vip")["customer_id"] == "u1"


def test_no_list_empties_an_audience_unseen(by_lists: Installation) -> None:
    """A few members, fewer than the guard asks about elsewhere."""
    few = ["u1", "u2", "u3"]
    put(by_lists, 1, few)
    by_lists.run("sync")
    put(by_lists, 2, [])
    by_lists.run("sync")
    by_lists.run("sync", "--full", exit_code=3)
    assert by_lists.members("vip") == set(few)
    path = by_lists.folder / "vip" / "2.csv"
    path.unlink()  # now the newest is older than what was read
    error = by_lists.run("sync", exit_code=1).stderr
    assert f"{path} is gone or was replaced by an older file" in error
    path.write_text("key,external_ids\np1,", encoding="utf-8")
    os.utime(path, (time.time() - 10 * 3600,) * 2)
    assert "line 2: it has no external_ids" in by_lists.run("sync", exit_code=1).stderr
    assert by_lists.members("vip") == set(few)
    put(by_lists, 18, few)
    by_lists.run("sync", "--full")
    put(by_lists, 19, [*few, "u4"])
    by_lists.run("sync")
    assert by_lists.members("vip") == {*few, "u4"}


def test_the_state_on_a_server_needs_a_folder_for_what_was_read(by_lists: Installation) -> None:
    by_lists.configure(
        engage='source = "files"',
        state="postgresql://nobody@127.0.0.1:1/none",
        more='[engage.files]\nsets = [{ path = "vip/*.csv", key = "vip" }]\n',
    )
    results = {result["check"]: result for result in by_lists.json("check", exit_code=1)}
    assert results["source"]["message"].startswith("engage.files.folder: missing")
