"""The files of the state on SQLite: nobody else's to read, and known by one name."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from state.database import Database
from state.errors import Locked, StateError
from state.lock import lock, lock_holder, run_lock
from syncer.config import Config
from syncer.errors import ConfigError
from syncer.export import Export
from syncer.storage import opened

from .test_lock import held_elsewhere

UMASKS = [0o000, 0o022, 0o077, 0o277]


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
    return {one.name: f"{one.stat().st_mode & 0o777:o}" for one in folder.iterdir()}


@pytest.mark.parametrize("bits", UMASKS)
def test_the_files_are_their_owners_alone(tmp_path: Path, url: str, bits: int) -> None:
    with (
        umask(bits),
        closing(Database.open(url)) as state,
        closing(Database.open(url, "queue")) as queue,
        run_lock(state),
        lock(state, "worker", 7),
        state.write() as one,
        queue.write() as other,
    ):
        one.exec_driver_sql("INSERT INTO memo VALUES ('a', 'b')")
        other.exec_driver_sql("INSERT INTO counter VALUES ('a', 'b', 1)")
        found = modes(tmp_path)
    assert found.keys() >= {
        *("syncer.db", "syncer.db-wal", "syncer.db-shm", "syncer.db.lock"),
        *("syncer-queue.db", "syncer-queue.db-wal", "syncer.db.worker7.lock"),
    }
    assert set(found.values()) == {"600"}


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
        for one in tmp_path.iterdir():
            one.chmod(0o644)
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
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    (here / "link.db").symlink_to(there / "syncer.db")
    real, link = f"sqlite:///{there / 'syncer.db'}", f"sqlite:///{here / 'link.db'}"
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
    assert {one.name for one in here.iterdir()} == {"link.db"}
    assert (there / "syncer-queue.db").exists()


def test_calls_that_wait_beside_a_link_are_not_left_behind(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    (tmp_path / "link.db").symlink_to(there / "syncer.db")
    left = tmp_path / "link-queue.db"
    left.touch()
    link = f"sqlite:///{tmp_path / 'link.db'}"
    with pytest.raises(StateError, match=f"there is one beside the link: {left}; move it there"):
        Database.open(link, "queue")
    left.unlink()
    (tmp_path / "link-queue.db").symlink_to(there / "syncer-queue.db")
    Database.open(f"sqlite:///{there / 'syncer.db'}", "queue").close()
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


@contextmanager
def somebody_else() -> Iterator[None]:
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_user_is_told_in_one_line(shared_folder: Path) -> None:
    folder = shared_folder / "state"
    folder.mkdir(mode=0o755)
    file = folder / "syncer.db"
    config = Config.model_validate(
        {
            "amberflo": {"api_key": "x"},
            "engage": {"profiles_sync": {"url": "sqlite:///x.db"}},
            "state": {"url": f"sqlite:///{file}"},
        }
    )

    def told(*, writes: bool) -> str:
        with (
            somebody_else(),
            pytest.raises((StateError, ConfigError)) as caught,
            opened(config, writes=writes) as state,
            run_lock(state),
        ):
            pass
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert told(writes=True).endswith("Permission denied")
    with opened(config, writes=True) as state, run_lock(state):
        pass
    assert told(writes=False).endswith("unable to open database file")
    for one in (folder, file):
        os.chown(one, 65534, -1)
    assert f"the lock file {file}.lock belongs to somebody else: run as" in told(writes=False)
    os.chown(folder, 0, -1)
    folder.chmod(0o700)
    expected = f"state.url: this user may not enter the folder {folder}; run as its owner"
    assert told(writes=False) == told(writes=True) == expected
