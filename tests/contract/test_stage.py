"""A stage: local tables of Profiles Sync that a source without SQL fills."""

from __future__ import annotations

import os
import stat
import subprocess
import tracemalloc
from pathlib import Path

import pytest

from syncer.engage import stage
from syncer.engage.profiles_sync import ProfilesSync
from syncer.engage.source import Everything
from syncer.errors import SyncerError
from syncer.progress import LineProgress
from tests.support import processes

AT = "2026-03-04T10:00:00Z"
KEYS = ("vip", "total", "list")


def rows(path: Path) -> dict[str, str]:
    """The keys and values that a pull reads from a stage, by customer."""
    with ProfilesSync(stage.url(path)).pull(Everything()) as pull:
        return {row.customer_id: f"{row.keys} {row.values}" for row in pull.customers(KEYS)}


def test_what_is_filled_is_pulled_by_the_rules_of_profiles_sync(tmp_path: Path) -> None:
    path = tmp_path / "stage.db"
    with stage.filling(path) as tables:
        tables.identify("p1", "user_id", "u1", AT)
        tables.identify("p1", "email", "ada@example.com", AT)
        tables.identify("p3", "user_id", "u3")
        for key, value in (("vip", True), ("total", 12.5), ("list", ["a", 1]), ("other", "x")):
            tables.trait("p1", key, value, AT)
        tables.trait("p2", "total", "it's", "2026-03-04T11:00:00Z")
        tables.trait("p3", "vip", None)
        tables.merge("p2", "p1", AT)
        assert not path.exists()
    assert rows(path) == {
        "u1": '["list","total","total","vip"] ["[\\"a\\",1]","12.5","it\'s","true"]',
        "u3": '["vip"] [null]',
    }
    assert [entry.name for entry in tmp_path.iterdir()] == ["stage.db"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_stage_that_breaks_off_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "stage.db"
    with stage.filling(path) as tables:
        tables.identify("p1", "user_id", "u1", AT)
        tables.trait("p1", "vip", True, AT)
    before = path.read_bytes()

    def broken() -> None:
        with stage.filling(path) as tables:
            tables.trait("p1", "vip", False, AT)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(SyncerError, match=r"cannot be kept in .*none: No such file"):
        stage.filling(tmp_path / "none" / "stage.db").__enter__()


DIES = """
import os, sys
from pathlib import Path
from syncer.engage import stage
with stage.filling(Path(sys.argv[1])) as tables:
    for number in range(3000):
        tables.trait(f"p{number}", "vip", True)
    os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_left_goes_with_the_next_stage(tmp_path: Path) -> None:
    path = tmp_path / "stage.db"
    assert processes.start("-c", DIES, path).wait() == -9
    (leftover,) = tmp_path.iterdir()
    os.utime(leftover, (0, 0))
    with stage.filling(path), stage.filling(path):  # two at a time do not take each other's file
        parts = list(tmp_path.iterdir())
        assert leftover not in parts
        for part in parts:
            os.utime(part, (0, 0))
        with stage.passing(tmp_path, "other") as other, stage.filling(path):
            assert {*parts, other} <= {*tmp_path.iterdir()}
    assert list(tmp_path.iterdir()) == [path]


FULL = """
import resource, sys
from pathlib import Path
from syncer.engage import stage
from syncer.errors import SyncerError
for size in map(int, sys.argv[2:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        with stage.changing(Path(sys.argv[1])) as connection:
            connection.execute("UPDATE user_traits SET value = printf('%9000d', rowid)")
    except SyncerError as error:
        print(error)
"""


def test_a_full_disk_is_one_line_and_the_stage_before_it_stays(tmp_path: Path) -> None:
    path = tmp_path / "stage.db"
    with stage.filling(path) as tables:
        for number in range(100):
            tables.identify(f"p{number}", "user_id", f"u{number}", AT)
            tables.trait(f"p{number}", "vip", True, AT)
    before, size = path.read_bytes(), path.stat().st_size
    # While the stage is copied, and while rows are written.
    sizes = (0, size // 2, size + 4096, 10 * size)
    changing = processes.start("-c", FULL, path, *sizes, stdout=subprocess.PIPE, text=True)
    lines = changing.communicate()[0].splitlines()
    assert changing.returncode == 0
    told = f"what was read of Engage cannot be kept in {tmp_path}: "
    assert [line.removeprefix(told).partition(";")[0] for line in lines] == [
        *["File too large"] * 2,
        *["disk I/O error"] * 2,
    ]
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_that_cannot_be_taken_is_named(tmp_path: Path) -> None:
    """Such as one that another user made."""
    (tmp_path / "stage.lock").mkdir()
    progress = LineProgress(lambda text: None)
    with pytest.raises(SyncerError, match=rf"kept in {tmp_path}/stage\.lock: Is a directory;"):
        stage.alone(tmp_path / "stage.db", progress, "fills it", lambda: None).__enter__()


def test_a_passing_stage_is_there_for_its_block(tmp_path: Path) -> None:
    with stage.passing(tmp_path, "files") as path:
        with stage.tables(path) as tables:
            tables.identify("p1", "user_id", "u1", AT)
            tables.trait("p1", "vip", True, AT)
        assert rows(path) == {"u1": '["vip"] ["true"]'}
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not list(tmp_path.iterdir())
    with stage.passing(None, "files") as path:
        assert path.exists()
    assert not path.exists()


def test_filling_takes_no_memory_that_grows_with_the_rows(tmp_path: Path) -> None:
    def peak(number: int) -> int:
        tracemalloc.start()
        with stage.filling(tmp_path / "stage.db") as tables:
            for each in range(number):
                tables.trait(f"p{each}", "vip", True, AT)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    assert peak(20_000) < peak(4_000) + 200_000
