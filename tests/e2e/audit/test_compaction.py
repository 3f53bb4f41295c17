"""`audit compact`, as the shell sees it."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from state.db.database import Database
from state.history import seal
from syncer.sandbox.engage import EngageSandbox
from tests.e2e.audit.helpers import agree, check, state
from tests.support import processes
from tests.support.daemon import daemon
from tests.support.installation import Installation
from tests.support.processes import wait_until


def age(url: str, days: float) -> None:
    """Let everything have happened so much earlier: a clock for the whole history. The chain is
    sealed anew then."""
    engine = create_engine(url)
    by = int(days * 86_400_000)
    with engine.begin() as connection:
        for name in ("observed_at", "recorded_at", "delivered_at"):
            connection.execute(text(f"UPDATE change SET {name} = {name} - {by}"))
        runs = connection.execute(text("SELECT id FROM run ORDER BY id")).scalars().all()
        connection.execute(text("DELETE FROM seal"))
        connection.execute(text("DELETE FROM metadata WHERE name = 'head'"))
    engine.dispose()
    reseal(url, list(runs))


def reseal(url: str, runs: list[int]) -> None:
    with closing(Database.open(url)) as database, database.write() as connection:
        for run in runs:
            statement = text("SELECT max(id) FROM change WHERE run = :run")
            last = connection.execute(statement, {"run": run}).scalar()
            total, after = seal.Sum(), seal.sealed_to(connection)
            for rows in seal.read(connection, after, last or after):
                total.add([seal.leaf(row[:-1]) for row in rows])
                total.until = max(row.recorded_at for row in rows)
            seal.append(
                connection, seal.CHANGES, total, after + 1, last or after, total.until or 0, run=run
            )


@pytest.fixture
def aged(synced: Installation, engage: EngageSandbox) -> tuple[Installation, str, str]:
    """Three runs 500 days ago, two now, and a retention of 400 days; an audience, and a moment
    between."""
    url = f"sqlite:///{synced.folder / 'syncer.db'}"
    age(url, 500)
    synced.configure(more='[retention]\nhistory = "400d"')
    for _ in range(2):
        engage.evolve(fraction=0.3)
        synced.run("sync", "--full")
    with closing(state(synced)) as database:
        (key,) = database.execute(
            "SELECT key FROM change WHERE after = 'true' GROUP BY key ORDER BY count(*) DESC"
        ).fetchone()
    between = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 100 * 86400))
    return synced, key, between


def answered(installation: Installation, *question: str) -> dict[str, Any]:
    """The answer, but for since when the history can give it."""
    answer: dict[str, Any] = installation.json(*question)
    answer.pop("known_since", None)
    return answer


def test_old_history_is_compacted_and_answers_the_same(
    aged: tuple[Installation, str, str], checker: Path, tmp_path: Path
) -> None:
    installation, key, between = aged
    asked = [
        ("audit", "audience", key, "--at", between),
        ("audit", "audience", key, "--at", "2099-01-01"),
        ("audit", "audience", key, "--since", between),
    ]
    answers = [answered(installation, *question) for question in asked]
    assert answers[0]["members"]
    done = installation.json("audit", "compact")
    assert done["removed"] > 10
    begins = done["begins"]
    assert [answered(installation, *question) for question in asked] == answers
    assert installation.json(*asked[0])["known_since"] == begins
    document = installation.json("audit", "seal")
    assert (document["holds"], document["compacted"], document["begins"]) == (True, 3, begins)
    again = installation.run("audit", "compact")
    assert again.stderr == f"0 changes removed; the history begins at {begins}\n"

    with closing(state(installation)) as database:
        (customer,) = database.execute("SELECT customer_id FROM change WHERE run = 5").fetchone()
    for question in (("audience", key), ("customer", customer)):
        done = installation.run("audit", *question, "--at", "2024-01-01", exit_code=2)
        assert done.stderr == (
            f"error: the history begins {begins} with what a compaction kept; it cannot tell who "
            "was in before\n"
        )
        assert (
            f"the history begins at {begins}: of earlier changes"
            in installation.run("audit", *question).stderr
        )

    installation.run("audit", "seal", "--export", str(tmp_path / "all"))
    assert check(checker, tmp_path / "all")[0] == 0
    manifest = json.loads((tmp_path / "all/manifest.json").read_text())
    assert [entry["file"] for entry in manifest["seals"]] == (
        [None] * 3 + ["changes.jsonl"] * 2 + [None, "kept.jsonl"]
    )
    kept = (tmp_path / "all/kept.jsonl").read_text().splitlines()
    assert len(kept) == manifest["seals"][-1]["changes"]
    shutil.copytree(tmp_path / "all", tmp_path / "bad")
    text_ = (
        (tmp_path / "bad/kept.jsonl").read_text().replace('"after":"true"', '"after":"false"', 1)
    )
    (tmp_path / "bad/kept.jsonl").write_text(text_)
    agree(tmp_path / "bad")
    assert check(checker, tmp_path / "bad")[1].startswith("does not hold: change ")
    installation.run("audit", "seal", "--export", str(tmp_path / "new"), "--since", "4")
    assert check(checker, tmp_path / "new")[0] == 0
    done = installation.run(
        "audit", "seal", "--export", str(tmp_path / "old"), "--since", "2", exit_code=1
    )
    assert "the changes of run 2 are compacted and cannot be exported alone" in done.stderr

    # What follows goes on from what was kept.
    assert installation.json("sync", "--full")["due"] == 0
    assert installation.json("audit", "seal")["holds"]


def test_the_daemon_compacts(
    aged: tuple[Installation, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    installation, _, _ = aged
    monkeypatch.setenv("SYNCER_RETENTION__HISTORY", "400d")
    with daemon(installation) as service:
        wait_until(
            lambda: any("retention: " in line for line in service.log), what="the compaction"
        )
        sealed = installation.json("audit", "seal")
    assert (sealed["holds"], sealed["compacted"], sealed["unfinished"]) == (True, 3, False)
    (line,) = [line for line in service.log if "retention: " in line]
    assert re.search(r"retention: \d+ changes removed, \d+ kept$", line)


def test_without_a_retention_nothing_is_removed(synced: Installation) -> None:
    done = synced.run("audit", "compact")
    assert done.stderr == (
        "retention.history is not set: the whole history is kept\n0 changes removed\n"
    )


def test_a_compaction_may_be_killed_at_any_moment(
    aged: tuple[Installation, str, str],
) -> None:
    """Small steps make many moments. After each kill the chain holds, the answers are the same."""
    installation, key, between = aged
    question = ("audit", "audience", key, "--at", between)
    answer = answered(installation, *question)
    slow = (
        "from state.history import compaction\ncompaction.CHUNK, compaction.PAUSE = 3, 0.02\n"
        "from syncer.cli import main\nmain()"
    )
    unfinished = 0
    with closing(state(installation)) as database:
        before = database.execute("SELECT count(*) FROM change").fetchone()[0]
        for number in range(4):
            process = processes.start(
                *("-c", slow, "audit", "compact", "--config", installation.config),
                stderr=subprocess.PIPE,
            )
            seals = database.execute("SELECT count(*) FROM seal").fetchone()[0]
            end = time.monotonic() + 20
            while process.poll() is None and time.monotonic() < end:
                remaining = database.execute("SELECT count(*) FROM change").fetchone()[0]
                begun = database.execute("SELECT count(*) FROM seal").fetchone()[0] > seals
                if remaining < before or (number == 0 and begun):
                    break
                time.sleep(0.01)
            time.sleep(number * 0.01)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            before = database.execute("SELECT count(*) FROM change").fetchone()[0]
            document = installation.json("audit", "seal")
            assert document["holds"]
            unfinished += document["unfinished"]
            assert answered(installation, *question) == answer
    assert unfinished > 1
    installation.run("audit", "compact")
    document = installation.json("audit", "seal")
    assert (document["holds"], document["unfinished"], document["compacted"]) == (True, False, 3)
    assert answered(installation, *question) == answer
