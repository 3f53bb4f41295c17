"""`syncer state`: a backup under load, and what a state may do that was restored."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from state import suppression
from state.db.database import Database
from syncer.sandbox.engage import EngageSandbox
from tests.support.caller import Caller
from tests.support.daemon import daemon
from tests.support.installation import Installation
from tests.support.processes import wait_until
from tests.support.terminal import Terminal

TRAIT = "plan_of_a_call"


def backup(installation: Installation, name: str) -> tuple[Path, Any]:
    file = installation.folder / name
    return file, installation.json("state", "backup", str(file))


def test_a_backup_under_load_loses_and_doubles_nothing(
    installation: Installation, engage: EngageSandbox
) -> None:
    engage.fill(100)
    installation.run("sync")
    backups = []
    with daemon(installation) as receiver:
        with Caller(receiver, event="Calls", trait=TRAIT) as caller:
            for number in range(2):
                wait_until(lambda: len(caller.accepted) > 20 * len(backups) + 20, 120)
                before = list(caller.accepted)
                file, document = backup(installation, f"backup-{number}")
                backups.append((file, before, document))
            installation.run("sync", "--full")
        receiver.kill()
    known = set(caller.accepted)
    for file, before, document in backups:
        _lose_state(installation)
        # Only what the backup has: what went out before is sent again, and is known there.
        assert document["head"]
        out = installation.run("state", "restore", str(file)).stderr
        assert "nothing is sent before a run has compared everything" in out
        with daemon(installation) as receiver:
            wait_until(lambda: _compared(installation), 120, what="the run after a restore")
            receiver.settle()
        names = [record["uniqueId"] for record in installation.amberflo.records]
        assert set(before) <= set(names)
        assert len(names) == len(set(names))
        assert set(names) <= known
        newest = installation.json("runs")[0]
        assert (newest["kind"], newest["state"]) == ("reconcile", "done")
        verified = installation.json("verify", exit_code=(0, 1))
        # What identify calls said since is at Amberflo alone; all else is equal.
        assert {drift["trait"] for drift in verified["drifted"]} <= {TRAIT}
        assert not verified["missing"]


@pytest.fixture
def older(installation: Installation, engage: EngageSandbox) -> Path:
    """A backup that is older than what Amberflo has; in it customers are due."""
    engage.fill(100)
    installation.run("sync")
    with closing(Database.open(installation.state_url)) as state, state.write() as connection:
        connection.execute(text("UPDATE customer SET rev = rev + 1, due_at = 1, traits = '{}'"))
        connection.execute(text("UPDATE trait SET members = 0"))
    file, _ = backup(installation, "older")
    engage.evolve(fraction=0.2)
    installation.run("sync", "--full")
    return file


def test_a_restored_state_sends_nothing_before_it_compared(
    installation: Installation, older: Path
) -> None:
    true = installation.holds()
    assert any(record["traits"] for record in true.values())
    kept = installation.json("state", "restore", str(older), "--yes")["kept"]
    assert Path(kept).exists()
    customer = next(iter(true))
    refused = "this state was restored from a backup of "
    for command in (
        ("verify", "--repair"),
        ("resync", "--customer", customer, "--yes"),
    ):
        said = installation.run(*command, exit_code=1).stderr
        assert refused in said
        assert "`syncer sync --full`" in said
    assert installation.holds() == true
    checked = installation.json("state", "check")
    assert checked["restored_from"]
    assert checked["ok"]
    said = installation.run("sync").stderr
    assert "the state was restored from a backup: comparing all" in said
    assert installation.holds() == true
    assert installation.json("state", "check")["restored_from"] is None
    installation.run("verify", "--repair")
    assert installation.holds() == true


def test_a_daemon_on_a_restored_state_compares_at_once(
    installation: Installation, older: Path
) -> None:
    true = installation.holds()
    installation.run("state", "restore", str(older), "--yes")
    installation.amberflo.reset_stats()
    with daemon(installation) as receiver:
        wait_until(lambda: installation.json("state", "check")["restored_from"] is None, 60)
        receiver.settle()
    assert installation.holds() == true
    assert not installation.puts()


def test_where_amberflo_cannot_be_read_it_stays_so(installation: Installation, older: Path) -> None:
    installation.run("state", "restore", str(older), "--yes")
    true = installation.holds()
    url = installation.amberflo_url
    installation.amberflo_url = "http://127.0.0.1:9"
    installation.configure(patience="0.3s")
    installation.run("sync", "--full", exit_code=1)
    installation.amberflo_url = url
    installation.configure()
    assert installation.json("state", "check")["restored_from"]
    installation.run("sync", "--full")
    assert installation.holds() == true


def test_who_was_forgotten_since_is_forgotten_again(
    installation: Installation, engage: EngageSandbox
) -> None:
    engage.fill(30)
    installation.run("sync")
    first, second = sorted(installation.holds())[:2]
    installation.run("forget", first, "--yes")
    file, _ = backup(installation, "backup")
    installation.run("forget", second, "--yes")
    document = installation.json("state", "restore", str(file), "--yes")
    assert document["forgotten_again"] == 1
    with closing(Database.open(installation.state_url)) as state, state.read() as connection:
        assert suppression.asked(connection) == [second]
    with daemon(installation):
        wait_until(lambda: _is_gone(installation, second), what="the erasure")
        installation.run("sync", "--full")
    assert installation.holds()[second]["customerName"] == second
    for customer in (first, second):
        said = installation.run("audit", "customer", customer, exit_code=1).stderr
        assert "forgotten" in said


def _compared(installation: Installation) -> bool:
    run = installation.json("runs")[0]
    return run["kind"] == "reconcile" and run["ended_at"] is not None


def _lose_state(installation: Installation) -> None:
    for old in installation.folder.glob("syncer*"):
        old.unlink()


def _is_gone(installation: Installation, customer: str) -> bool:
    with closing(Database.open(installation.state_url)) as state, state.read() as connection:
        known = text("SELECT 1 FROM customer WHERE customer_id = :customer")
        return connection.execute(known, {"customer": customer}).first() is None


def test_who_cannot_be_known_is_said(installation: Installation, engage: EngageSandbox) -> None:
    engage.fill(10)
    installation.run("sync")
    file, _ = backup(installation, "backup")
    _lose_state(installation)
    done = installation.run("state", "restore", str(file))
    assert "may be in it again" in done.stderr
    assert "is kept" not in done.stdout


def test_a_running_daemon_keeps_its_state(
    installation: Installation, engage: EngageSandbox
) -> None:
    engage.fill(10)
    with daemon(installation) as receiver:
        receiver.first_run()
        file, _ = backup(installation, "backup")
        for command in (
            ("restore", str(file), "--yes"),
            ("copy", "--to", f"sqlite:///{installation.folder / 'copy.db'}"),
        ):
            said = installation.run("state", *command, exit_code=1).stderr
            assert "error: another daemon is running on this state" in said
        assert installation.json("state", "check")["ok"]


def test_wrong_use_is_one_line(installation: Installation, engage: EngageSandbox) -> None:
    engage.fill(5)
    missing = installation.run("state", "backup", "backup", exit_code=1).stderr
    assert "there is no state yet" in missing
    installation.run("sync")
    for words, line in {
        ("restore",): "name a backup, or use --finish alone",
        ("restore", "x", "--finish"): "name a backup, or use --finish alone",
        ("copy", "--to", "nonsense"): "this is not a database URL",
        ("copy", "--to", "sqlite://"): "the state needs a file of its own",
        ("copy", "--to", "mysql://h/d"): "only SQLite and PostgreSQL hold a state",
        ("copy", "--to", "sqlite:///${NOT_SET}"): "the environment variable NOT_SET is not set",
        ("copy", "--to", "sqlite:///no/such.db"): "Invalid value for --to: the folder no does not",
    }.items():
        assert line in installation.run("state", *words, exit_code=2).stderr
    file, _ = backup(installation, "backup")
    said = installation.run("state", "restore", str(file), exit_code=2).stderr
    assert "There is no terminal to ask on: add --yes" in said
    assert (
        "nothing to finish" in installation.run("state", "restore", "--finish", exit_code=1).stderr
    )
    said = installation.run("state", "check", str(installation.config), exit_code=1).stderr
    assert "file is not a database" in said


def test_a_secret_of_a_url_is_not_shown(
    installation: Installation, engage: EngageSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    engage.fill(5)
    installation.run("sync")
    monkeypatch.setenv("COPY_PASSWORD", "a-secret-word")
    url = "postgresql://syncer:${COPY_PASSWORD}@127.0.0.1:9/syncer?connect_timeout=1"
    said = installation.run("state", "copy", "--to", url, exit_code=1).stderr
    assert "a-secret-word" not in said
    assert "127.0.0.1:9" in said


#: What is done to a state, and the line that tells it; the first ones leave no state to look into.
DAMAGE = {
    "DROP TABLE alert": "is not a whole state: the table alert is not there",
    "DROP TABLE change; DROP TABLE seal": "change is not there; the table seal is not there",
    "ALTER TABLE customer DROP COLUMN given_back": "the column given_back of the table customer",
    "DELETE FROM schema_version": "is not a whole state: the version of the state is not there",
    "UPDATE schema_version SET version = 9": "schema version 9",
    "UPDATE customer SET acked_rev = 9": "customers of whom a later revision is acknowledged",
    "UPDATE change SET after = 'false' WHERE id = 3": "change 3 is not as it was",
    "DELETE FROM run": "changes of a run that is not there",
    "DELETE FROM customer": "changes of a customer that is not there",
    "UPDATE trait SET members = 77 WHERE key = 'vip'": "the trait vip has 77 members on record;",
    "DELETE FROM trait": " is not on record; ",
    "UPDATE customer SET traits = 'nothing'": "customers whose traits cannot be read",
    "UPDATE run_trait SET entered = 99 WHERE key = 'vip'": "sums of a run that do not close",
    "UPDATE customer SET name = CAST(x'ff' AS text)": "a row of the table customer cannot be read",
    "UPDATE run SET kind = x'00'": "rows of the table run have a value of another kind",
    "DROP INDEX change_customer": "the index change_customer of the table change is not there",
}


def test_check_names_what_is_wrong(installation: Installation, engage: EngageSandbox) -> None:
    engage.fill(10)
    installation.run("sync")
    whole = installation.folder / "syncer.db"
    backup(installation, "whole")
    for number, (statement, line) in enumerate(DAMAGE.items()):
        place, file = (installation.folder / f"{name}-{number}" for name in ("state", "backup"))
        shutil.copy(whole, place)
        shutil.copy(installation.folder / "whole", file)
        for path in (place, file):
            with closing(sqlite3.connect(path, isolation_level=None)) as connection:
                connection.executescript(statement)
        assert line in installation.run("state", "check", str(file), exit_code=1).stderr
        installation.configure(state=f"sqlite:///{place}")
        installation.run("state", "check", exit_code=1)
    installation.configure()
    empty = installation.folder / "empty"
    empty.touch()
    for file, line in {
        whole: "is not a backup that `syncer state backup` made",
        empty: "is not a backup that `syncer state backup` made",
        installation.folder / "no-file": "there is no such file",
    }.items():
        assert line in installation.run("state", "check", str(file), exit_code=1).stderr
    installation.configure(state=f"sqlite:///{empty}")
    for command in (("check",), ("backup", "new"), ("copy", "--to", "sqlite:///new.db")):
        assert "holds no state" in installation.run("state", *command, exit_code=1).stderr


def test_a_queue_of_which_there_is_none_yet_is_none(
    installation: Installation, engage: EngageSandbox
) -> None:
    engage.fill(5)
    installation.run("sync")
    assert not (installation.folder / "syncer-queue.db").exists()
    assert installation.json("state", "check")["schema"]["queue"] == 0
    assert "queue none" in installation.run("state", "check").stdout


def test_an_error_within_a_stage_leaves_the_terminal_as_it_was(
    installation: Installation, engage: EngageSandbox
) -> None:
    """A bar hides the cursor."""
    engage.fill(5)
    installation.run("sync")
    backup(installation, "good")
    with closing(sqlite3.connect(installation.folder / "syncer-queue.db")) as queue, queue:
        queue.execute("INSERT INTO counter VALUES (CAST(x'ff' AS text), '', 1)")
    words = ("state", "backup", str(installation.folder / "bad"))
    with Terminal(*words, "--config", str(installation.config)) as terminal:
        assert terminal.end() == 1
    hidden, shown = "\x1b[?25l", "\x1b[?25h"
    assert hidden in terminal.shown
    assert terminal.shown.rindex(shown) > terminal.shown.rindex(hidden)
    last = terminal.shown.rpartition(shown)[2]
    assert last.strip().startswith("error: the table counter cannot be copied")
