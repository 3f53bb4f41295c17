"""Backup, restore and copy die at every step: nothing is lost, nothing half done is used."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, make_url

from state.errors import StateError
from state.transfer.backup import back_up
from state.transfer.copying import copy
from state.transfer.restore import finish, restore
from tests.contract.transfer.helpers import NOW, everything, fill, opened, url_of
from tests.support import processes
from tests.support.processes import wait_until

#: Runs a command of `state` and kills itself before the given change of a file.
_DIE = """
import os, signal, sqlite3, sys
from pathlib import Path
from state.transfer import backup, copying, images, restore, rows
from state.transfer.backup import Steps
from tests.contract.transfer.helpers import NOW, opened
from sqlalchemy.engine import make_url
what, url, other, step = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
images.PAGES, rows.REPORT = 16, 16
steps_left = [step]
def dying(function):
    def call(*arguments, **options):
        steps_left[0] -= 1
        if steps_left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call
for name in ("rename", "replace", "fsync", "unlink"):
    setattr(os, name, dying(getattr(os, name)))
Path.unlink = dying(Path.unlink)
tick = dying(lambda: None)
pages = []
def check():
    pages.append(1)
    if len(pages) % (16 if other.startswith("postgresql") else 64) == 1:
        tick()
steps = Steps(check=check)
if what == "backup":
    with opened(url) as parts:
        backup.back_up(*parts, Path(other), lambda: NOW, force=True, steps=steps)
elif what == "restore":
    restore.restore(make_url(url), Path(other), lambda: NOW, steps)
else:
    with opened(url) as parts:
        copying.copy(*parts, make_url(other), steps)
"""


def died(what: str, url: object, other: object, step: int) -> bool:
    """Whether the command died before that step; else it was over."""
    with processes.start("-c", _DIE, what, str(url), str(other), str(step)) as process:
        status = process.wait()
    assert status in (0, -signal.SIGKILL)
    return status != 0


def rows_of(url: URL | str) -> dict[str, Any]:
    with opened(url) as parts:
        rows = everything(*parts)
    rows["metadata"] = [row for row in rows["metadata"] if row[0] != "restored"]
    return rows


def each_step(die: Callable[[int], bool], look: Callable[[], None]) -> int:
    """Let it die before every step, and look after each; return how many there are."""
    step = 1
    while die(step):
        look()
        step += 1
    return step - 1


@pytest.fixture
def small(tmp_path: Path) -> URL:
    """One that is copied quickly: each step copies it."""
    url = url_of(tmp_path / "syncer.db")
    with opened(url) as parts:
        fill(*parts, rows=6)
    return url


def test_a_backup_is_whole_or_not_there(small: URL, tmp_path: Path) -> None:
    before, file = rows_of(small), tmp_path / "backup"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    seen = []

    def look() -> None:
        seen.append(file.exists())
        if file.exists():
            place = url_of(elsewhere / f"{len(seen)}.db")
            restore(place, file, lambda: NOW)
            assert rows_of(place) == before

    steps = each_step(lambda step: died("backup", small, file, step), look)
    assert steps > 5
    assert False in seen
    assert rows_of(small) == before
    look()
    assert seen[-1]
    assert not list(tmp_path.glob("backup?*"))


def test_a_restore_is_the_old_state_or_the_backup(small: URL, tmp_path: Path) -> None:
    file, folder = tmp_path / "backup", tmp_path / "state"
    with opened(small) as parts:
        back_up(*parts, file, lambda: NOW)
    saved = rows_of(small)
    with opened(small) as (state, calls):
        with state.write() as connection:
            connection.execute(text("UPDATE trait SET members = 5"))
        with calls.write() as connection:
            connection.execute(text("DELETE FROM inbox"))
    later = rows_of(small)
    url = url_of(folder / "syncer.db")
    seen = []

    def die(step: int) -> bool:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name in ("syncer.db", "syncer-queue.db"):
            shutil.copy(tmp_path / name, folder / name)
        return died("restore", url, file, step)

    def look() -> None:
        seen.append("whole")
        if (folder / "syncer.db.install").exists():
            with pytest.raises(StateError, match="`syncer state restore --finish`"):
                rows_of(url)
            plan = finish(url)
            seen.append("finished" if plan.put else "given up")
        rows = rows_of(url)
        if seen[-1] != "whole":
            assert (rows == saved) == (seen[-1] == "finished")
        assert rows in (saved, later)
        kept = list(folder.glob("*-before-*Z.db"))
        if rows == saved:
            assert [rows_of(url_of(backup)) for backup in kept] == [later]
        assert not list(folder.glob("*.install"))

    steps = each_step(die, look)
    assert steps > 15
    assert {"finished", "given up", "whole"} <= {*seen}
    assert rows_of(url) == saved


def test_a_copy_to_files_is_whole_or_not_there(small: URL, tmp_path: Path) -> None:
    before, folder = rows_of(small), tmp_path / "copy"
    url = url_of(folder / "syncer.db")
    seen = []

    def die(step: int) -> bool:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return died("copy", small, url, step)

    def look() -> None:
        if (folder / "syncer.db.install").exists():
            with pytest.raises(StateError, match="--finish"):
                rows_of(url)
            finish(url)
        seen.append((folder / "syncer.db").exists())
        if not seen[-1]:
            with opened(small) as parts:
                copy(*parts, url)
        assert rows_of(url) == before

    steps = each_step(die, look)
    assert steps > 5
    assert {*seen} == {True, False}
    assert rows_of(url) == rows_of(small) == before


def test_a_copy_to_a_server_is_whole_or_not_there(
    small: URL, empty_postgres: str, tmp_path: Path
) -> None:
    before = rows_of(small)
    engine = create_engine(empty_postgres)

    def tables() -> int:
        with engine.connect() as connection:
            count = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
            return int(connection.execute(text(count)).scalar_one())

    def is_alone() -> bool:
        with engine.connect() as connection:
            others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            return int(connection.execute(text(others)).scalar_one()) == 1

    def look() -> None:
        wait_until(is_alone, what="the end of the dead one's connection")
        assert tables() == 0

    steps = each_step(lambda step: died("copy", small, empty_postgres, step), look)
    assert steps >= 2
    assert rows_of(empty_postgres) == before
    engine.dispose()
    assert make_url(empty_postgres).database


_FULL = """
import resource, signal, sys
from pathlib import Path
from state.errors import StateError
from state.transfer import backup, copying, restore
from tests.contract.transfer.helpers import NOW, opened
from sqlalchemy.engine import make_url
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
what, url, other, room = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
try:
    if what == "restore":
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        restore.restore(make_url(url), Path(other), lambda: NOW)
    else:
        with opened(url) as parts:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
            if what == "backup":
                backup.back_up(*parts, Path(other), lambda: NOW, force=True)
            else:
                copying.copy(*parts, make_url(other))
except StateError as error:
    sys.exit(3 if "\\n" not in str(error) else 4)
"""


@pytest.mark.parametrize("room", [1 << 12, 1 << 16])
@pytest.mark.parametrize("what", ["backup", "restore", "copy"])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    small: URL, tmp_path: Path, what: str, room: int
) -> None:
    file = tmp_path / "backup"
    with opened(small) as parts:
        back_up(*parts, file, lambda: NOW)
    before, old = rows_of(small), file.read_bytes()
    names = {path.name for path in tmp_path.iterdir() if path.suffix != ".lock"}
    other = {"backup": file, "restore": file, "copy": url_of(tmp_path / "copy.db")}[what]
    with processes.start("-c", _FULL, what, str(small), str(other), str(room)) as process:
        assert process.wait() == 3
    assert rows_of(small) == before
    assert file.read_bytes() == old
    assert {path.name for path in tmp_path.iterdir() if path.suffix != ".lock"} == names
