"""The files of the state on SQLite: nobody else's to read, and known by one name."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect
from sqlalchemy.engine import URL, make_url

from state.db import metadata
from state.db.database import Database, engine_of
from state.db.locks import alone, lock, lock_holder, run_lock
from state.errors import Locked, StateError
from syncer.cli.export import Export
from syncer.config import Config
from syncer.databases import check_databases, open_database
from syncer.errors import ConfigError
from tests.support.locks import held_elsewhere
from tests.support.users import only_as_root, somebody_else

UMASKS = [0o000, 0o022, 0o077, 0o277]


def settings_of(state: str) -> Config:
    return Config.model_validate(
        {
            "amberflo": {"api_key": "x"},
            "engage": {"profiles_sync": {"url": "sqlite:///x.db"}},
            "state": {"url": state},
        }
    )


@contextmanager
def umask(bits: int) -> Iterator[None]:
    before = os.umask(bits)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'syncer.db'}"


def modes(folder: Path) -> dict[str, str]:
    return {path.name: f"{path.stat().st_mode & 0o777:o}" for path in folder.iterdir()}


@pytest.mark.parametrize("bits", UMASKS)
def test_the_files_are_their_owners_alone(tmp_path: Path, url: str, bits: int) -> None:
    with (
        umask(bits),
        closing(Database.open(url)) as state,
        closing(Database.open(url, "queue")) as queue,
        run_lock(state),
        lock(state, "worker", 7),
        state.write() as connection,
        queue.write() as other,
    ):
        connection.exec_driver_sql("INSERT INTO metadata VALUES ('a', 'b')")
        other.exec_driver_sql("INSERT INTO counter VALUES ('a', 'b', 1)")
        rights = modes(tmp_path)
    assert rights.keys() >= {
        *("syncer.db", "syncer.db-wal", "syncer.db-shm", "syncer.db.lock"),
        *("syncer-queue.db", "syncer-queue.db-wal", "syncer.db.worker7.lock"),
    }
    assert set(rights.values()) == {"600"}


@pytest.mark.parametrize("bits", UMASKS)
def test_an_export_is_its_owners_alone(tmp_path: Path, bits: int) -> None:
    folder = tmp_path / "open to all"
    folder.mkdir(mode=0o755)
    with umask(bits):
        export = Export(folder)
        names = modes(folder)
        export.discard()
    assert names == {"changes.jsonl": "600", "kept.jsonl": "600"}


def test_what_an_older_program_left_readable_is_taken_back(tmp_path: Path, url: str) -> None:
    with closing(Database.open(url)) as state, run_lock(state):
        for path in tmp_path.iterdir():
            path.chmod(0o644)
        with closing(Database.peek(url)):
            assert set(modes(tmp_path).values()) == {"644"}  # who looks changes nothing
    with closing(Database.open(url)) as state, run_lock(state):
        assert set(modes(tmp_path).values()) == {"600"}


def test_a_looker_is_never_taken_for_the_holder(url: str) -> None:
    with closing(Database.open(url)) as state:
        assert lock_holder(state, "run") is None
        with run_lock(state):
            assert lock_holder(state, "run") == os.getpid()
        assert lock_holder(state, "run") is None
        with held_elsewhere(url) as holder:
            assert lock_holder(state, "run") == holder.pid


def test_a_file_system_without_locks_is_one_line(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(_descriptor: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with closing(Database.open(url)) as state:
        monkeypatch.setattr("fcntl.flock", no_locks)
        with (
            pytest.raises(
                StateError, match=r"the lock file .*syncer\.db\.lock: No locks available"
            ),
            run_lock(state),
        ):
            pass


def test_by_a_symbolic_link_it_is_the_same_state(tmp_path: Path, url: str) -> None:
    origin, here = tmp_path / "there", tmp_path / "here"
    origin.mkdir()
    here.mkdir()
    (here / "link.db").symlink_to(origin / "syncer.db")
    real, link = f"sqlite:///{origin / 'syncer.db'}", f"sqlite:///{here / 'link.db'}"
    with (
        closing(Database.open(link)) as by_link,
        closing(Database.open(link, "queue")) as queue,
        closing(Database.open(real)) as state,
    ):
        with (
            lock(by_link, "daemon"),
            pytest.raises(Locked, match="another daemon is running"),
            lock(state, "daemon"),
        ):
            pass
        with queue.write() as connection:
            connection.exec_driver_sql("INSERT INTO counter VALUES ('a', 'b', 1)")
    assert {path.name for path in here.iterdir()} == {"link.db"}
    assert (origin / "syncer-queue.db").exists()


def test_calls_that_wait_beside_a_link_are_not_left_behind(tmp_path: Path) -> None:
    origin = tmp_path / "there"
    origin.mkdir()
    (tmp_path / "link.db").symlink_to(origin / "syncer.db")
    leftover = tmp_path / "link-queue.db"
    leftover.touch()
    link = f"sqlite:///{tmp_path / 'link.db'}"
    with pytest.raises(
        StateError, match=f"there is one beside the link: {leftover}; move it there"
    ):
        Database.open(link, "queue")
    leftover.unlink()
    (tmp_path / "link-queue.db").symlink_to(origin / "syncer-queue.db")
    Database.open(f"sqlite:///{origin / 'syncer.db'}", "queue").close()
    Database.open(link, "queue").close()


def test_a_file_with_two_names_is_refused(tmp_path: Path, url: str) -> None:
    Database.open(url).close()
    os.link(tmp_path / "syncer.db", tmp_path / "other.db")
    for name in ("syncer.db", "other.db"):
        with pytest.raises(StateError, match=r"2 names \(hard links\).*remove all but one"):
            Database.open(f"sqlite:///{tmp_path / name}")


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that everybody may enter, as pytest's may not be."""
    with tempfile.TemporaryDirectory(prefix="test-syncer-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@only_as_root
def test_another_user_is_told_in_one_line(shared_folder: Path) -> None:
    folder = shared_folder / "state"
    folder.mkdir(mode=0o755)
    file = folder / "syncer.db"
    config = settings_of(f"sqlite:///{file}")

    def told(*, writes: bool) -> str:
        with (
            somebody_else(),
            pytest.raises((StateError, ConfigError)) as caught,
            open_database(config, writes=writes) as state,
            run_lock(state),
        ):
            pass
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert told(writes=True).endswith("Permission denied")
    nothing = Database(engine_of(make_url(f"sqlite:///{file}"), "state"))
    with somebody_else(), pytest.raises(StateError, match=r"\.lock cannot be made: this user may"):
        alone(nothing).__enter__()
    nothing.close()
    with open_database(config, writes=True) as state, run_lock(state):
        pass
    line = told(writes=False)
    assert "unable to open database file; its files and their folder must be those of the" in line
    for path in (folder, file):
        os.chown(path, 65534, -1)
    assert f"the lock file {file}.lock belongs to somebody else: run as" in told(writes=False)
    os.chown(folder, 0, -1)
    folder.chmod(0o700)
    expected = f"state.url: this user may not enter the folder {folder}; run as its owner"
    assert told(writes=False) == told(writes=True) == expected


@only_as_root
def test_a_state_in_a_folder_that_cannot_be_written_to_is_read_as_it_stands(
    shared_folder: Path,
) -> None:
    folder = shared_folder / "state?1%"
    folder.mkdir(mode=0o755)
    file = folder / "syncer.db"
    url = URL.create("sqlite", database=str(file))
    with closing(Database.open(url)) as state:
        with state.write() as connection:
            metadata.put(connection, "kept", "yes")
        os.chown(folder, 0, -1)
        file.chmod(0o644)
        # What is in the log only cannot be read there, and is not taken for what never was.
        copy = shared_folder / "copy"
        copy.mkdir(mode=0o755)
        for end in ("", "-wal"):
            shutil.copy(f"{file}{end}", copy)
    with somebody_else():
        with closing(Database.peek(url)) as state, state.read() as connection:
            assert metadata.get(connection, "kept") == "yes"
        with pytest.raises(StateError, match=r"syncer\.db-wal has changes that are not in syncer"):
            Database.peek(f"sqlite:///{copy / 'syncer.db'}")
    assert [path.name for path in folder.iterdir()] == ["syncer.db"]


# -- what `check` tries


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_left_as_it_is(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A device, too: its mode is not ours to change."""
    place = tmp_path / "syncer.db"
    make(place)
    place.chmod(0o640)
    settings = settings_of(f"sqlite:///{place}")
    for attempt in (
        lambda: check_databases(settings),
        lambda: open_database(settings, writes=True).__enter__(),
        lambda: open_database(settings, writes=False).__enter__(),
    ):
        with pytest.raises(ConfigError, match="is not a file; name a file"):
            attempt()
    assert stat.S_IMODE(place.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [place]


def test_trying_out_makes_nothing(tmp_path: Path, url: str) -> None:
    settings = settings_of(url)
    check_databases(settings)
    assert list(tmp_path.iterdir()) == []
    with open_database(settings, writes=True) as state, run_lock(state):
        before = sorted(path.name for path in tmp_path.iterdir())
        check_databases(settings)
        assert sorted(path.name for path in tmp_path.iterdir()) == before
    with open_database(settings, writes=False) as state, state.read() as connection:
        assert "syncer_check" not in inspect(connection).get_table_names()


@only_as_root
@pytest.mark.parametrize(
    ("whose", "line"),
    [
        ("", r"nothing can be written in the folder .* \(Permission denied\)"),
        ("syncer.db", "unable to open database file; its files and their folder must be those of"),
        ("syncer-queue.db", "unable to open database file; its files and their folder must be "),
        ("syncer.db.lock", r"the lock file .*syncer\.db\.lock belongs to somebody else"),
        ("syncer.db.schedule.lock", r"the lock file .*schedule\.lock belongs to somebody else"),
    ],
)
def test_trying_out_says_what_keeps_a_run_from_working(
    shared_folder: Path, whose: str, line: str
) -> None:
    folder = shared_folder / "state"
    folder.mkdir()
    settings = settings_of(f"sqlite:///{folder / 'syncer.db'}")
    with (
        open_database(settings, "queue", writes=True),
        open_database(settings, writes=True) as state,
        lock(state, "run"),
        lock(state, "schedule"),
    ):
        pass
    for path in (folder, *folder.iterdir()):
        os.chown(path, 65534, -1)
    with somebody_else():
        check_databases(settings)
    os.chown(folder / whose, 0, -1)
    (folder / whose).chmod(0o755 if not whose else 0o600)
    with somebody_else(), pytest.raises(StateError, match=line):
        check_databases(settings)


def test_trying_out_on_postgresql_leaves_nothing(empty_postgres: str) -> None:
    check_databases(settings_of(empty_postgres))
    engine = create_engine(empty_postgres)
    assert inspect(engine).get_table_names() == []
    engine.dispose()
