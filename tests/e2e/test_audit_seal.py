"""`audit seal`, its export and `audit compact`, as the shell sees them."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from state.db.database import Database
from state.history import seal
from syncer.sandbox.engage import EngageSandbox
from tests.support import processes
from tests.support.daemon import daemon
from tests.support.installation import Installation
from tests.support.processes import wait_until

DOCS = Path(__file__).parents[2] / "docs" / "audit.md"


@pytest.fixture(scope="module")
def checker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of the docs, to the letter."""
    (program,) = re.findall(
        r"^```python\n(.*?)^```", DOCS.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    path = tmp_path_factory.mktemp("checker") / "check.py"
    path.write_text(program, encoding="utf-8")
    return path


def check(checker: Path, folder: Path) -> tuple[int, str]:
    """Exit status and last line of the docs' program."""
    done = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-W", "ignore::ResourceWarning", checker, folder],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, (done.stdout + done.stderr).strip().splitlines()[-1]


def state(installation: Installation) -> sqlite3.Connection:
    return sqlite3.connect(installation.folder / "syncer.db", isolation_level=None)


@pytest.fixture
def synced(installation: Installation, engage: EngageSandbox) -> Installation:
    """Three runs with changes."""
    engage.fill(60, 4)
    installation.run("sync")
    for _ in range(2):
        engage.evolve(fraction=0.3)
        installation.run("sync", "--full")
    return installation


def test_each_run_says_its_head_and_it_can_be_expected(
    installation: Installation, engage: EngageSandbox
) -> None:
    assert installation.json("audit", "seal")["head"] is None
    assert "nothing is sealed yet" in installation.run("audit", "seal").stdout
    engage.fill(30, 3)
    first = installation.json("sync")["seal"]
    said = installation.run("sync").stdout
    found = installation.json("audit", "seal")
    assert f"seal {found['head']}" in said.splitlines()
    assert (found["holds"], found["seals"], found["unsealed"]) == (True, 2, 0)
    with closing(state(installation)) as database:
        (count,) = database.execute("SELECT count(*) FROM change").fetchone()
    assert found["changes"] == count > 30
    for head in (first, found["head"], f" {first.upper()}\n"):
        installation.run("audit", "seal", "--expect", head)
    done = installation.run("audit", "seal", "--expect", "0" * 64, exit_code=1)
    assert done.stderr == (
        "error: the history is not as it was sealed: the hash " + "0" * 64 + " is not in the "
        "chain: it was cut, or written anew\n"
    )
    lines = installation.run("audit", "seal").stdout.splitlines()
    assert lines[0] == f"head {found['head']}"
    assert lines[1].startswith(f"2 seals hold for {count} changes; the times of Amberflo's")


def test_an_edit_is_named(synced: Installation) -> None:
    with closing(state(synced)) as database:
        (number, run) = database.execute("SELECT max(id), run FROM change WHERE run = 2").fetchone()
        database.execute("UPDATE change SET before = NULL, after = 'true' WHERE id = ?", (number,))
        database.execute("UPDATE change SET rev = rev + 1 WHERE id = ?", (number,))
    done = synced.run("audit", "seal", exit_code=1)
    assert done.stderr == (
        f"error: the history is not as it was sealed: change {number} is not as it was sealed "
        f"(run {run}, seal {run})\n"
    )
    assert done.stdout == ""
    document = synced.json("audit", "seal", exit_code=1)
    assert document["holds"] is False
    assert document["broken"] == {
        "problem": f"change {number} is not as it was sealed",
        "seal": 2,
        "run": 2,
        "change": number,
    }


def test_the_export_can_be_checked_without_us(
    synced: Installation, checker: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "export"
    found = synced.json("audit", "seal", "--export", str(folder))
    assert check(checker, folder) == (0, f"holds, head {found['head']}")
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert manifest["tool"].startswith("engage-amberflo-sync ")
    assert manifest["head"] == found["head"]
    assert len(manifest["seals"]) == found["seals"] == 3
    lines = [json.loads(line) for line in (folder / "changes.jsonl").read_text().splitlines()]
    assert len(lines) == manifest["changes"] == found["changes"]
    with closing(state(synced)) as database:
        database.row_factory = sqlite3.Row
        rows = [
            dict(row) for row in database.execute("SELECT *, delta AS step FROM change ORDER BY id")
        ]
    for row in rows:
        del row["delta"]  # exported under the name that is hashed
    assert [{key: line[key] for key in line if key != "leaf"} for line in lines] == rows
    assert all(line["delivered_at"] for line in lines)

    done = synced.run("audit", "seal", "--export", str(folder), exit_code=1)
    assert done.stderr == f"error: the folder {folder} is not empty; name a new one\n"


def test_an_export_says_where_a_change_comes_from(
    synced: Installation, checker: Path, tmp_path: Path
) -> None:
    with closing(state(synced)) as database:
        database.execute(
            "INSERT INTO change (customer_id, rev, key, trait, after, recorded_at, source)"
            " SELECT customer_id, rev, 'name', 'customerName', '\"Ada\"', recorded_at, 'identify'"
            " FROM change WHERE id = 1"
        )
    synced.run("sync")
    synced.run("audit", "seal", "--export", str(tmp_path / "all"))
    assert check(checker, tmp_path / "all")[0] == 0
    file = tmp_path / "all/changes.jsonl"
    good = file.read_text()
    assert good.count('"source":"identify"') == 1
    for edit in ('"source":null', '"source":"deleted"'):
        file.write_text(good.replace('"source":"identify"', edit))
        agree(tmp_path / "all")
        assert check(checker, tmp_path / "all")[1].startswith("does not hold: change ")
    customer = json.loads(good.splitlines()[0])["customer_id"]
    changes = synced.json("audit", "customer", customer)["changes"]
    assert {change["source"] for change in changes} == {"pull", "identify"}
    assert changes[-1]["source"] == "identify"


def test_a_part_of_the_history_can_be_exported(
    synced: Installation, checker: Path, tmp_path: Path
) -> None:
    synced.run("audit", "seal", "--export", str(tmp_path / "since"), "--since", "2")
    assert check(checker, tmp_path / "since")[0] == 0
    since = (tmp_path / "since" / "changes.jsonl").read_text().splitlines()
    assert {json.loads(line)["run"] for line in since} == {2, 3}

    with closing(state(synced)) as database:
        key, count = database.execute("SELECT key, count(*) FROM change GROUP BY key").fetchone()
    synced.run("audit", "seal", "--export", str(tmp_path / "one"), "--audience", key)
    assert check(checker, tmp_path / "one")[0] == 0
    one = [json.loads(line) for line in (tmp_path / "one/changes.jsonl").read_text().splitlines()]
    assert len([line for line in one if line.get("key") == key]) == count
    assert all(line.keys() == {"id", "leaf"} for line in one if line.get("key") != key)
    assert json.loads((tmp_path / "one/manifest.json").read_text())["hidden"] == len(one) - count

    for arguments, code in (
        (["--export", str(tmp_path / "x"), "--since", "9"], 1),
        (["--export", str(tmp_path / "y"), "--audience", "nobody"], 1),
        (["--since", "2"], 2),
        (["--export", str(tmp_path / "no" / "folder")], 1),
    ):
        done = synced.run("audit", "seal", *arguments, exit_code=code)
        assert "Traceback" not in done.stderr
    assert not list((tmp_path / "x").iterdir())


def edit_line(folder: Path, change: Callable[[dict[str, Any]], object], line: int = 5) -> None:
    file = folder / "changes.jsonl"
    lines = [json.loads(one) for one in file.read_text("utf-8").splitlines()]
    change(lines[line])
    file.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in lines), "utf-8")


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text("utf-8"))
    change(manifest)
    file.write_text(json.dumps(manifest), "utf-8")


def agree(folder: Path) -> None:
    """Make the manifest agree with the files again."""

    def put(manifest: dict[str, Any]) -> None:
        for name in manifest["files"]:
            digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
            manifest["files"][name] = digest

    edit_manifest(folder, put)


def a_line(**values: Any) -> Callable[[Path], None]:
    return lambda folder: edit_line(folder, lambda one: one.update(values))


def a_seal(place: int, **values: Any) -> Callable[[Path], None]:
    return lambda folder: edit_manifest(folder, lambda one: one["seals"][place].update(values))


def without_seal(place: int) -> Callable[[Path], None]:
    return lambda folder: edit_manifest(folder, lambda one: one["seals"].pop(place))


def one_line_more(folder: Path) -> None:
    with (folder / "changes.jsonl").open("a") as file:
        file.write("{}\n")


def one_line_less(folder: Path) -> None:
    file = folder / "changes.jsonl"
    file.write_text("".join(file.read_text("utf-8").splitlines(keepends=True)[1:]), "utf-8")


#: How an export is edited, and with which words the checker then finds that it does not hold.
EDITS: list[tuple[Callable[[Path], object], str]] = [
    (a_line(after='"x"'), "change "),
    (a_line(leaf="00" * 32), "change "),
    (one_line_less, "the changes of seal 1"),
    (one_line_more, "the end"),
    (without_seal(-1), "the end"),
    (without_seal(1), "seal 3"),
    (a_seal(1, run=7), "seal 2"),
    (a_seal(1, digest="00" * 32), "seal 2"),
    (a_seal(1, file=None), "the changes of seal 3"),
]


def test_a_tampered_export_does_not_pass(
    synced: Installation, checker: Path, tmp_path: Path
) -> None:
    export = tmp_path / "export"
    synced.run("audit", "seal", "--export", str(export))
    for number, (edit, words) in enumerate(EDITS):
        folder = shutil.copytree(export, tmp_path / f"edited {number}")
        edit(folder)
        agree(folder)
        code, line = check(checker, folder)
        assert (code, line.startswith(f"does not hold: {words}")) == (1, True), line


def test_a_file_that_is_not_the_manifests_does_not_pass(
    synced: Installation, checker: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "export"
    synced.run("audit", "seal", "--export", str(folder))
    edit_line(folder, lambda one: one.update(delivered_at=1))
    assert check(checker, folder) == (1, "does not hold: changes.jsonl")


def test_a_history_that_does_not_hold_is_not_exported(synced: Installation, tmp_path: Path) -> None:
    with closing(state(synced)) as database:
        database.execute("DELETE FROM change WHERE id = (SELECT max(id) FROM change)")
    done = synced.run("audit", "seal", "--export", str(tmp_path / "export"), exit_code=1)
    assert "are gone, at the end" in done.stderr
    assert not list((tmp_path / "export").iterdir())


# -- compaction


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
            found, after = seal.Sum(), seal.sealed_to(connection)
            for rows in seal.read(connection, after, last or after):
                found.add([seal.leaf(row[:-1]) for row in rows])
                found.until = max(row.recorded_at for row in rows)
            seal.append(
                connection, seal.CHANGES, found, after + 1, last or after, found.until or 0, run=run
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
    found: dict[str, Any] = installation.json(*question)
    found.pop("known_since", None)
    return found


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
    found = installation.json("audit", "seal")
    assert (found["holds"], found["compacted"], found["begins"]) == (True, 3, begins)
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
    assert [one["file"] for one in manifest["seals"]] == (
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
    with daemon(installation) as found:
        wait_until(lambda: any("retention: " in line for line in found.log), what="the compaction")
        sealed = installation.json("audit", "seal")
    assert (sealed["holds"], sealed["compacted"], sealed["unfinished"]) == (True, 3, False)
    (line,) = [line for line in found.log if "retention: " in line]
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
                there = database.execute("SELECT count(*) FROM change").fetchone()[0]
                begun = database.execute("SELECT count(*) FROM seal").fetchone()[0] > seals
                if there < before or (number == 0 and begun):
                    break
                time.sleep(0.01)
            time.sleep(number * 0.01)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            before = database.execute("SELECT count(*) FROM change").fetchone()[0]
            found = installation.json("audit", "seal")
            assert found["holds"]
            unfinished += found["unfinished"]
            assert answered(installation, *question) == answer
    assert unfinished > 1
    installation.run("audit", "compact")
    found = installation.json("audit", "seal")
    assert (found["holds"], found["unfinished"], found["compacted"]) == (True, False, 3)
    assert answered(installation, *question) == answer
