"""A state that went somewhere and came back is what it was."""

from __future__ import annotations

import os
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, insert, text
from sqlalchemy.engine import URL, make_url

from state import erasure, restored, suppression
from state.db.database import Database
from state.db.locks import lock
from state.db.schema import PARTS
from state.db.tables import INBOX
from state.errors import Locked, StateError
from state.history.proof import prove
from state.transfer import rows
from state.transfer.backup import Backup, Steps, back_up
from state.transfer.copying import copy
from state.transfer.restore import Outcome, restore
from tests.contract.transfer.helpers import NOW, everything, held, opened, url_of


def backup_of(url: URL | str, file: Path, **options: Any) -> Backup:
    with opened(url) as parts:
        return back_up(*parts, file, lambda: NOW, **options)


def put_back(url: URL | str, file: Path) -> Outcome:
    return restore(make_url(url), file, lambda: NOW + 1000)


def rows_of(url: URL | str) -> dict[str, list[tuple[Any, ...]]]:
    with opened(url) as parts:
        return everything(*parts)


def without_mark(rows: dict[str, list[tuple[Any, ...]]]) -> dict[str, list[tuple[Any, ...]]]:
    return {**rows, "metadata": [row for row in rows["metadata"] if row[0] != "restored"]}


def copied(source: URL | str, target: URL | str) -> None:
    with opened(source) as parts:
        copy(*parts, make_url(target))


def test_the_full_state_has_rows_in_every_table(full: URL) -> None:
    rows = rows_of(full)
    assert all(rows[table.name] for part in PARTS.values() for table in part)
    (highest,) = rows["number of event"][0]
    assert highest > max(row[0] for row in rows["event"])


def test_to_postgresql_and_back(full: URL, empty_postgres: str, tmp_path: Path) -> None:
    before = rows_of(full)
    copied(full, empty_postgres)
    assert rows_of(empty_postgres) == before
    back = url_of(tmp_path / "back.db")
    copied(empty_postgres, back)
    assert rows_of(back) == before
    with closing(Database.open(back)) as database, database.read() as connection:
        proof = prove(connection)
    assert (proof.broken, proof.head) == (None, held(full).head)
    assert proof.changes
    assert proof.erased
    assert proof.unsealed


@pytest.mark.parametrize("place", ["sqlite", "postgresql"])
def test_a_copy_goes_on_where_the_original_was(
    full: URL, empty_postgres: str, tmp_path: Path, place: str
) -> None:
    target = empty_postgres if place == "postgresql" else url_of(tmp_path / "copy.db")
    copied(full, target)
    for url in (full, target):
        with opened(url) as (_, calls), calls.write() as connection:
            connection.execute(insert(INBOX).values(body=b"", events=1, received_at=1))
    assert rows_of(target)["inbox"] == rows_of(full)["inbox"]


def test_the_copy_has_every_index(full: URL, empty_postgres: str, tmp_path: Path) -> None:
    def indexes(url: URL | str) -> set[str]:
        names = (
            "SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
            if make_url(url).get_backend_name() == "sqlite"
            else "SELECT indexname FROM pg_indexes WHERE schemaname = 'public' "
            "AND indexname NOT LIKE '%_pkey'"
        )
        definitions: set[str] = set()
        with opened(url) as parts:
            for part in parts:
                with part.read() as connection:
                    definitions |= set(connection.execute(text(names)).scalars())
        return definitions

    copied(full, empty_postgres)
    copied(empty_postgres, url_of(tmp_path / "back.db"))
    assert len(indexes(full)) > 15
    assert indexes(full) == indexes(empty_postgres) == indexes(url_of(tmp_path / "back.db"))


def test_a_target_that_is_not_empty_is_refused(
    full: URL, empty_postgres: str, tmp_path: Path
) -> None:
    with pytest.raises(StateError, match=r"exists already: name another file"):
        copied(full, full)
    Database.open(empty_postgres).close()
    with pytest.raises(StateError, match=r"is not empty, it has a table schema_version"):
        copied(full, empty_postgres)
    other = tmp_path / "other-queue.db"
    other.touch()
    with pytest.raises(StateError, match=r"other-queue\.db exists already"):
        copied(full, url_of(tmp_path / "other.db"))
    assert not (tmp_path / "other.db").exists()


def test_what_does_not_fit_the_server_leaves_it_empty(
    full: URL, empty_postgres: str, tmp_path: Path
) -> None:
    with opened(full) as (database, _), database.write() as connection:
        connection.execute(text("UPDATE alert SET text = 'a' || char(0) || 'b'"))
    with pytest.raises(StateError, match=r"the table alert cannot be copied to postgresql\S+: .*"):
        copied(full, empty_postgres)
    engine = create_engine(empty_postgres)
    with engine.connect() as connection:
        assert not connection.execute(
            text("SELECT 1 FROM pg_tables WHERE schemaname = 'public'")
        ).first()
    engine.dispose()


@pytest.mark.parametrize("source", ["sqlite", "postgresql"])
def test_a_backup_is_restored(full: URL, empty_postgres: str, tmp_path: Path, source: str) -> None:
    before = rows_of(full)
    url: URL | str = full
    if source == "postgresql":
        copied(full, empty_postgres)
        url = empty_postgres
    made = backup_of(url, tmp_path / "backup")
    assert made.contents == held(url)
    target = url_of(tmp_path / "new" / "syncer.db")
    (tmp_path / "new").mkdir()
    outcome = put_back(target, made.file)
    assert (outcome.made_at, outcome.kept, outcome.forgotten) == (NOW, None, None)
    assert without_mark(rows_of(target)) == before
    with closing(Database.open(target)) as database, database.read() as connection:
        assert restored.pending(connection) == (NOW + 1000, NOW)


def test_a_backup_is_restored_to_a_server(full: URL, empty_postgres: str, tmp_path: Path) -> None:
    made = backup_of(full, tmp_path / "backup")
    put_back(empty_postgres, made.file)
    assert without_mark(rows_of(empty_postgres)) == rows_of(full)
    with closing(Database.open(empty_postgres)) as database, database.read() as connection:
        assert restored.pending(connection) == (NOW + 1000, NOW)
    with pytest.raises(StateError, match="is not empty"):
        put_back(empty_postgres, made.file)


def test_the_state_that_is_replaced_is_kept_whole(full: URL, tmp_path: Path) -> None:
    made = backup_of(full, tmp_path / "backup")
    with opened(full) as (database, calls):
        with database.write() as connection:
            connection.execute(text("UPDATE trait SET members = 7"))
        with calls.write() as connection:
            connection.execute(text("DELETE FROM inbox"))
    later = rows_of(full)
    outcome = put_back(full, made.file)
    assert outcome.kept is not None
    assert rows_of(url_of(outcome.kept)) == later
    assert without_mark(rows_of(full)) != later
    assert rows_of(full)["inbox"]


def test_the_files_are_their_owners_alone(full: URL, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = backup_of(full, tmp_path / "backup")
        put_back(full, made.file)
        copied(full, url_of(tmp_path / "copy.db"))
    finally:
        os.umask(before)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert {"backup", "syncer.db", "syncer-queue.db", "copy.db", "copy-queue.db"} <= modes.keys()
    assert set(modes.values()) == {0o600}
    assert not [name for name in modes if name.endswith((".new", ".part", ".install"))]


def test_a_backup_is_not_worked_on(full: URL, tmp_path: Path) -> None:
    made = backup_of(full, tmp_path / "backup")
    with pytest.raises(StateError, match=r"is a backup, .*`syncer state restore"):
        Database.open(url_of(made.file))
    with closing(Database.peek(url_of(made.file))) as database, database.read() as connection:
        assert prove(connection).head == made.contents.head


def test_an_older_file_is_replaced_only_on_request(full: URL, tmp_path: Path) -> None:
    file = tmp_path / "backup"
    backup_of(full, file)
    old = file.read_bytes()
    with pytest.raises(StateError, match=r"exists already; .*--force"):
        backup_of(full, file)
    assert file.read_bytes() == old
    with opened(full) as (database, _), database.write() as connection:
        connection.execute(text("DELETE FROM alert"))
    backup_of(full, file, force=True)
    assert file.read_bytes() != old


@pytest.mark.parametrize("force", [True, False])
def test_the_state_itself_is_never_overwritten(full: URL, tmp_path: Path, force: bool) -> None:
    """Nor what SQLite and the locks keep beside it, whether it is there at the moment or not."""
    before = rows_of(full)
    (tmp_path / "link").symlink_to(tmp_path / "syncer.db-wal")
    for name in (
        *("syncer.db", "syncer-queue.db", "syncer.db-wal", "syncer-queue.db-shm"),
        *("syncer.db.lock", "syncer.db.install", "link"),
    ):
        with pytest.raises(StateError, match="is the state itself, or one of its files"):
            backup_of(full, tmp_path / name, force=force)
    assert rows_of(full) == before


def test_places_that_take_no_backup(full: URL, tmp_path: Path) -> None:
    with pytest.raises(StateError, match="does not exist; make it"):
        backup_of(full, tmp_path / "nowhere" / "backup")
    with pytest.raises(StateError, match="is not a file"):
        backup_of(full, tmp_path, force=True)
    for name in ("é" * 126, "b" * 252):
        with pytest.raises(StateError, match="File name too long"):
            backup_of(full, tmp_path / name)


def test_only_a_backup_is_replaced(full: URL, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.touch()  # as mktemp makes one
    backup_of(full, file, force=True)
    other = tmp_path / "other.db"
    Database.open(url_of(other)).close()
    for content in (b"[amberflo]", other.read_bytes()):
        file.write_bytes(content)
        with pytest.raises(StateError, match="--force replaces a backup, and nothing else"):
            backup_of(full, file, force=True)
        assert file.read_bytes() == content
    assert not list(tmp_path.glob("*.part"))


def test_two_restores_in_one_second_keep_two_states(full: URL, tmp_path: Path) -> None:
    made = backup_of(full, tmp_path / "backup")
    kept = []
    for members in (3, 4):
        with opened(full) as (database, _), database.write() as connection:
            connection.execute(text(f"UPDATE trait SET members = {members}"))
        outcome = put_back(full, made.file)
        assert outcome.kept is not None
        kept.append({row[3] for row in rows_of(url_of(outcome.kept))["trait"]})
    assert kept == [{3}, {4}]


def test_no_call_is_left_in_the_file_of_the_state(full: URL, tmp_path: Path) -> None:
    """What is forgotten later would stay in pages that nobody uses."""
    with opened(full) as (_, calls), calls.write() as connection:
        row = {"body": b"a-call-of-somebody" * 2000, "events": 1, "received_at": 1}
        connection.execute(insert(INBOX).values(row))
    made = backup_of(full, tmp_path / "backup")
    place = tmp_path / "restored.db"
    put_back(url_of(place), made.file)
    assert b"a-call-of-somebody" in (tmp_path / "restored-queue.db").read_bytes()
    assert b"a-call-of-somebody" not in place.read_bytes()


def test_who_was_forgotten_since_is_known_by_any_row(full: URL, tmp_path: Path) -> None:
    """Of a customer that only calls told of, the backup may have a failure and nothing else."""
    trace = {
        "failure": "INSERT INTO failure (ref, kind, customer_id, reason, failed_at, attempts) "
        "VALUES ('r', 'call', 'stranger', 'x', 1, 0)",
        "early_call": "INSERT INTO early_call (key, customer_id, kind, at, received_at, via) "
        "VALUES ('k', 'early', 'audience', 1, 1, 'v')",
        "early_exit": "INSERT INTO early_exit (customer_id, event_times, noted_at) "
        "VALUES ('left', '{}', 1)",
        "revisit": "INSERT INTO revisit (customer_id) VALUES ('noted')",
    }
    with opened(full) as (database, _), database.write() as connection:
        for statement in trace.values():
            connection.execute(text(statement))
    made = backup_of(full, tmp_path / "backup")
    with opened(full) as (database, _), database.write(alone=True) as connection:
        for customer in ("stranger", "early", "left", "noted", "unknown"):
            erasure.erase(connection, customer, NOW)
    assert put_back(full, made.file).forgotten == 4
    with closing(Database.open(full)) as database, database.read() as connection:
        assert {"stranger", "early", "left", "noted"} <= {*suppression.asked(connection)}
        assert suppression.is_suppressed(connection, "unknown")


def damage(file: Path, how: str) -> None:
    content = file.read_bytes()
    engine = create_engine(url_of(file))
    if how == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif how == "page":
        middle = len(content) // 2 // 4096 * 4096
        file.write_bytes(content[:middle] + b"\xff" * 4096 + content[middle + 4096 :])
    elif how == "text":
        file.write_text("no database")
    elif how == "history":
        with engine.begin() as connection:
            connection.execute(text("UPDATE change SET after = '\"x\"' WHERE id = 50"))
    elif how == "newer":
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO schema_version VALUES (999, 1)"))
    elif how == "name":
        file.write_bytes(content.replace(b"CREATE INDEX seal_kind", b"CREATE INDEX \xffeal_kind"))
    elif how == "none":
        file.unlink()
    engine.dispose()


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("cut", "damaged|malformed|cannot be read"),
        ("page", "damaged|malformed"),
        ("text", "cannot be read as a backup"),
        ("history", "is not as it was sealed: change 50"),
        ("newer", "schema version 999, this program knows"),
        ("none", "there is no such file"),
        ("name", "damaged|malformed"),
    ],
)
def test_a_backup_that_is_not_whole_replaces_nothing(
    full: URL, tmp_path: Path, how: str, what: str
) -> None:
    made = backup_of(full, tmp_path / "backup")
    before = rows_of(full)
    damage(made.file, how)
    files = {file.name for file in tmp_path.iterdir() if not file.name.endswith(".lock")}
    with pytest.raises(StateError, match=what) as caught:
        put_back(full, made.file)
    assert "\n" not in str(caught.value)
    assert rows_of(full) == before
    after = {file.name for file in tmp_path.iterdir() if not file.name.endswith(".lock")}
    assert after == files


@pytest.mark.parametrize("name", ["daemon", "run", "history", "sorting", "backup"])
def test_who_works_on_the_state_keeps_it(full: URL, tmp_path: Path, name: str) -> None:
    made = backup_of(full, tmp_path / "backup")
    with closing(Database.open(full)) as database, lock(database, name):
        with pytest.raises(Locked):
            put_back(full, made.file)
        with pytest.raises(Locked):
            copied(full, url_of(tmp_path / "copy.db"))
    assert not (tmp_path / "copy.db").exists()


@pytest.mark.parametrize("name", ["daemon", "run", "history", "sorting"])
def test_a_backup_is_made_beside_them(full: URL, tmp_path: Path, name: str) -> None:
    with closing(Database.open(full)) as database, lock(database, name):
        assert backup_of(full, tmp_path / "backup").contents == held(full)


def test_a_worker_keeps_the_state(full: URL, tmp_path: Path) -> None:
    made = backup_of(full, tmp_path / "backup")
    with (
        closing(Database.open(full)) as database,
        lock(database, "worker", 12),
        pytest.raises(Locked, match="a process that delivers"),
    ):
        put_back(full, made.file)


def test_who_has_the_files_open_keeps_them(
    full: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a command that waits for the lock of a run: it would go on in the old files."""
    monkeypatch.setattr("state.transfer.restore.PATIENCE", 0.1)
    made = backup_of(full, tmp_path / "backup")
    before = rows_of(full)
    for part in PARTS:
        with (
            closing(Database.open(full, part)) as database,
            database.read() as connection,
        ):
            connection.execute(text("SELECT 1 FROM sqlite_master")).all()
            with pytest.raises(Locked, match=r"another process has .* open"):
                put_back(full, made.file)
    assert rows_of(full) == before


def test_a_damaged_state_is_replaced_and_kept(full: URL, tmp_path: Path) -> None:
    made = backup_of(full, tmp_path / "backup")
    before = rows_of(full)
    state = tmp_path / "syncer.db"
    state.write_bytes(b"garbage" * 1000)
    outcome = put_back(full, made.file)
    assert outcome.forgotten is None
    assert outcome.kept is not None
    assert outcome.kept.read_bytes() == b"garbage" * 1000
    assert without_mark(rows_of(full)) == before


def test_a_copy_that_lacks_a_row_is_none(
    full: URL, empty_postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = rows._write

    def lose(connection: Any, table: Any, columns: str, values: Any) -> None:
        if table.name == "counter":
            next(values)
        write(connection, table, columns, values)

    monkeypatch.setattr(rows, "_write", lose)
    with pytest.raises(StateError, match="is not what was copied: counter: 40 rows and 39"):
        copied(full, empty_postgres)
    with pytest.raises(StateError, match="is not what was copied: counter: 40 rows and 39"):
        backup_of(full, tmp_path / "backup")
    assert not (tmp_path / "backup").exists()
    monkeypatch.undo()
    copied(full, empty_postgres)  # nothing was left there


def test_a_state_that_was_written_to_meanwhile_is_not_copied(
    full: URL, empty_postgres: str, tmp_path: Path
) -> None:
    for target in (make_url(empty_postgres), url_of(tmp_path / "copy.db")):
        with opened(full) as parts, closing(Database.open(full, "queue")) as other:

            def write(other: Database = other) -> None:
                with other.write() as connection:
                    connection.execute(insert(INBOX).values(body=b"", events=1, received_at=1))

            with pytest.raises(StateError, match="was written to while it was copied"):
                copy(*parts, target, Steps(check=write))
    assert not (tmp_path / "copy.db").exists()
