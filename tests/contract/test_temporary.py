"""Where temporary files go, and what is said when there is no room for them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from state.db.database import Database
from state.db.private import private_file
from syncer.sync.spool import Spool


def open_files() -> list[str]:
    """The files that this process has open, also those without a name."""
    paths = []
    for number in os.listdir("/proc/self/fd"):
        try:
            paths.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            continue
    return paths


def fill(folder: Path | None) -> tuple[Spool, object]:
    """A spool and a private file, with so much in them that it is on disk."""
    spool, file = Spool(folder), private_file("CREATE TABLE one (text TEXT)")
    for _ in range(200):
        spool.append("x" * 100_000)
    file.executemany("INSERT INTO one VALUES (?)", [("x" * 100_000,) for _ in range(200)])
    return spool, file


def test_temporary_files_are_beside_the_state(tmp_path: Path) -> None:
    folder = tmp_path / "it's here"
    folder.mkdir()
    with closing(Database.open(f"sqlite:///{folder / 'syncer.db'}")) as database:
        assert database.folder == folder
        spool, file = fill(database.folder)
        temporary = [path for path in open_files() if path.startswith(str(folder))]
        assert len([path for path in temporary if "syncer.db" not in path]) == 2
        assert next(iter(spool)) == "x" * 100_000
        spool.close()
        del file


def test_a_folder_that_takes_nothing_is_not_taken(tmp_path: Path) -> None:
    """Such as a state that is only looked at."""
    spool = Spool(tmp_path / "nowhere")
    spool.append([1])
    assert list(spool) == [[1]]
    spool.close()


FULL = """
import resource, signal, sys
from pathlib import Path
from state.db.private import private_file
from syncer.sync.spool import Spool
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    if sys.argv[1] == "spool":
        spool = Spool(Path(sys.argv[2]))
        try:
            for number in range(10_000):
                spool.append("x" * 100)
        finally:
            spool.close()
    else:
        file = private_file("CREATE TABLE one (text TEXT)")
        for number in range(200):
            file.executemany("INSERT INTO one VALUES (?)", [("x" * 100_000,)])
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(("kind", "error"), [("spool", "SyncerError"), ("file", "StateError")])
def test_a_full_disk_is_one_line(tmp_path: Path, kind: str, error: str) -> None:
    command = [sys.executable, "-c", FULL, kind, str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{error} a temporary file cannot be written: ")
    assert done.stderr == ""


def test_no_temporary_folder_at_all_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(Exception, match="a temporary file cannot be written: No such file"):
        Spool()
