"""`audit seal` and its export, as the shell sees them."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from syncer.sandbox.engage import EngageSandbox
from tests.e2e.audit.helpers import agree, check, edit_manifest, state
from tests.support.installation import Installation


def test_each_run_says_its_head_and_it_can_be_expected(
    installation: Installation, engage: EngageSandbox
) -> None:
    assert installation.json("audit", "seal")["head"] is None
    assert "nothing is sealed yet" in installation.run("audit", "seal").stdout
    engage.fill(30, 3)
    first = installation.json("sync")["seal"]
    said = installation.run("sync").stdout
    document = installation.json("audit", "seal")
    assert f"seal {document['head']}" in said.splitlines()
    assert (document["holds"], document["seals"], document["unsealed"]) == (True, 2, 0)
    with closing(state(installation)) as database:
        (count,) = database.execute("SELECT count(*) FROM change").fetchone()
    assert document["changes"] == count > 30
    for head in (first, document["head"], f" {first.upper()}\n"):
        installation.run("audit", "seal", "--expect", head)
    done = installation.run("audit", "seal", "--expect", "0" * 64, exit_code=1)
    assert done.stderr == (
        "error: the history is not as it was sealed: the hash " + "0" * 64 + " is not in the "
        "chain: it was cut, or written anew\n"
    )
    lines = installation.run("audit", "seal").stdout.splitlines()
    assert lines[0] == f"head {document['head']}"
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
    document = synced.json("audit", "seal", "--export", str(folder))
    assert check(checker, folder) == (0, f"holds, head {document['head']}")
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert manifest["tool"].startswith("engage-amberflo-sync ")
    assert manifest["head"] == document["head"]
    assert len(manifest["seals"]) == document["seals"] == 3
    lines = [json.loads(line) for line in (folder / "changes.jsonl").read_text().splitlines()]
    assert len(lines) == manifest["changes"] == document["changes"]
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
    part = [json.loads(line) for line in (tmp_path / "one/changes.jsonl").read_text().splitlines()]
    assert len([line for line in part if line.get("key") == key]) == count
    assert all(line.keys() == {"id", "leaf"} for line in part if line.get("key") != key)
    assert json.loads((tmp_path / "one/manifest.json").read_text())["hidden"] == len(part) - count

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
    lines = [json.loads(text_line) for text_line in file.read_text("utf-8").splitlines()]
    change(lines[line])
    file.write_text(
        "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in lines), "utf-8"
    )


def a_line(**values: Any) -> Callable[[Path], None]:
    return lambda folder: edit_line(folder, lambda entry: entry.update(values))


def a_seal(place: int, **values: Any) -> Callable[[Path], None]:
    return lambda folder: edit_manifest(
        folder, lambda manifest: manifest["seals"][place].update(values)
    )


def without_seal(place: int) -> Callable[[Path], None]:
    return lambda folder: edit_manifest(folder, lambda manifest: manifest["seals"].pop(place))


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
    edit_line(folder, lambda entry: entry.update(delivered_at=1))
    assert check(checker, folder) == (1, "does not hold: changes.jsonl")


def test_a_history_that_does_not_hold_is_not_exported(synced: Installation, tmp_path: Path) -> None:
    with closing(state(synced)) as database:
        database.execute("DELETE FROM change WHERE id = (SELECT max(id) FROM change)")
    done = synced.run("audit", "seal", "--export", str(tmp_path / "export"), exit_code=1)
    assert "are gone, at the end" in done.stderr
    assert not list((tmp_path / "export").iterdir())
