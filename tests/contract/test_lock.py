"""The locks between real processes, on SQLite and on PostgreSQL."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from state import runs
from state.db.database import Database
from state.db.locks import lock, lock_holder, run_lock
from state.errors import Locked, StateError
from tests.support import processes
from tests.support.locks import held_elsewhere
from tests.support.postgres import end_others


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def try_lock(database: Database, name: str = "run", *, number: int = 0, wait: float = 0.0) -> None:
    with lock(database, name, number, wait=wait):
        pass


def refused(database: Database) -> str:
    """What is said, at once and in one line, when the lock is not to be had."""
    began = time.monotonic()
    with pytest.raises(Locked) as caught:
        try_lock(database)
    assert time.monotonic() - began < 10
    said = str(caught.value)
    assert said.startswith("another run is going on")
    assert "\n" not in said
    return said


def wait_for_lock(database: Database) -> float:
    """Seconds until it could be had; the server may take a moment to see that a client died."""
    began = time.monotonic()
    while True:
        try:
            try_lock(database)
        except Locked:
            assert time.monotonic() - began < 10
            time.sleep(0.02)
        else:
            return time.monotonic() - began


def test_the_second_is_refused_until_the_first_lets_go(url: str, database: Database) -> None:
    with held_elsewhere(url) as holder:
        said = refused(database)
        if url.startswith("sqlite"):
            assert f"(process {holder.pid})" in said
        go_on(holder)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "released\n"
        assert holder.poll() is None
        try_lock(database)


def test_the_lock_is_free_when_its_holder_was_killed(url: str, database: Database) -> None:
    with held_elsewhere(url) as holder:
        refused(database)
        holder.send_signal(signal.SIGKILL)
        holder.wait(10)
        assert wait_for_lock(database) < 5
    try_lock(database)


def test_it_may_be_taken_again_and_again(database: Database) -> None:
    for _ in range(3):
        try_lock(database)


def test_a_block_that_raises_lets_go(database: Database) -> None:
    def fail() -> None:
        with run_lock(database):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    try_lock(database)


def test_one_process_cannot_have_it_twice(url: str, database: Database) -> None:
    with run_lock(database):
        refused(database)
        with closing(Database.open(url)) as other:
            refused(other)
    try_lock(database)


def test_who_was_refused_holds_nothing(url: str, database: Database) -> None:
    with closing(Database.open(url)) as other:
        with run_lock(database):
            refused(other)
        try_lock(database)
        with run_lock(other):
            refused(database)


def test_it_keeps_nobody_from_reading_and_writing(url: str, database: Database) -> None:
    with held_elsewhere(url):
        with database.write() as connection:
            run = runs.start(connection, "initial", 1, "{}")
        with database.read() as connection:
            assert runs.get(connection, run) is not None


def test_another_state_has_another_lock(url: str, database: Database, tmp_path: Path) -> None:
    with closing(Database.open(f"sqlite:///{tmp_path / 'other.db'}")) as other, run_lock(database):
        try_lock(other)
    assert (tmp_path / "other.db.lock").exists()


def test_another_database_on_the_server_has_another_lock(
    state_postgres: str, postgres_url: str
) -> None:
    with (
        closing(Database.open(state_postgres)) as here,
        closing(Database.open(postgres_url)) as other,
        run_lock(here),
    ):
        try_lock(other)


def test_what_stands_in_the_lock_file_does_not_matter(tmp_path: Path) -> None:
    """It stays behind, and the number in it may be that of a process that died long ago."""
    lock = tmp_path / "syncer.db.lock"
    lock.write_text("99999999999999999999 and more\n" * 5, encoding="utf-8")
    with closing(Database.open(f"sqlite:///{tmp_path / 'syncer.db'}")) as database:
        with run_lock(database):
            assert lock.read_text(encoding="utf-8") == str(os.getpid())
        assert lock.exists()
        try_lock(database)


def test_a_server_that_forgets_the_lock_does_not_hide_what_went_wrong(
    state_postgres: str,
) -> None:
    other = create_engine(state_postgres)

    def fail(database: Database) -> None:
        with run_lock(database):
            assert end_others(other)
            raise ZeroDivisionError

    with closing(Database.open(state_postgres)) as database:
        with pytest.raises(ZeroDivisionError):
            fail(database)
        with run_lock(database):
            assert end_others(other)
        try_lock(database)
    other.dispose()


def test_who_holds_a_lock_can_ask_whether_it_was_lost(state_postgres: str) -> None:
    other = create_engine(state_postgres)
    with closing(Database.open(state_postgres)) as database, run_lock(database) as check:
        for _ in range(3):
            check()
        assert end_others(other)
        for _ in range(2):
            with pytest.raises(StateError, match="that held the run lock broke") as caught:
                check()
            assert "\n" not in str(caught.value)
        try_lock(database)  # another may have it by now
    other.dispose()


def test_a_lock_that_nothing_took_away_is_still_held(database: Database) -> None:
    with run_lock(database) as check:
        check()


def test_threads_may_ask_at_once(database: Database) -> None:
    with run_lock(database) as check, ThreadPoolExecutor(4) as pool:
        for asked in [pool.submit(check) for _ in range(40)]:
            asked.result()


def test_commands_are_refused_in_one_line(
    url: str,
    database: Database,
    tmp_path: Path,
) -> None:
    config = tmp_path / "config.toml"
    source = tmp_path / "engage.db"
    source.touch()
    config.write_text(
        f"""
[amberflo]
api_key = "key"
customers_url = "http://127.0.0.1:9/customers"
[engage.profiles_sync]
url = "sqlite:///{source}"
[state]
url = "{url}"
""",
        encoding="utf-8",
    )
    with database.read() as connection:
        before = runs.newest(connection)
    commands = (["sync"], ["resync", "--yes"], ["runs", "approve", "1", "--yes"])
    with held_elsewhere(url):
        # Side by side, as each waits for two seconds.
        started = [
            processes.start(
                *("-m", "syncer", *command, "--config", config),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for command in commands
        ]
        for process in started:
            out, err = process.communicate(timeout=60)
            assert (process.returncode, out) == (1, "")
            assert err.startswith("error: another run is going on")
            assert err.count("\n") == 1
    with database.read() as connection:
        assert runs.newest(connection) == before


#: What is said of each that is held.
BUSY = {
    "run": "another run is going on",
    "daemon": "another daemon is running on this state",
    "schedule": "another daemon schedules the runs",
    "sorting": "another daemon processes the calls",
    "worker": "the worker lives",
}


def test_locks_of_other_names_are_other_locks(database: Database) -> None:
    with ExitStack() as held:
        for name in BUSY:
            held.enter_context(lock(database, name))
        for name, said in BUSY.items():
            with pytest.raises(Locked, match=said):
                try_lock(database, name)
    for name in BUSY:
        try_lock(database, name)


def test_a_lock_of_another_number_is_another_lock(database: Database) -> None:
    with lock(database, "worker", 7), lock(database, "worker", 8):
        for number in (7, 8):
            with pytest.raises(Locked):
                try_lock(database, "worker", number=number)
        for number in (77, 78, 9, 1 << 40):
            try_lock(database, "worker", number=number)


def test_the_holder_of_a_lock_is_known(url: str, database: Database) -> None:
    assert lock_holder(database, "run") is None
    with held_elsewhere(url) as holder:
        pid = lock_holder(database, "run")
        if url.startswith("sqlite"):
            assert pid == holder.pid
        else:
            backends = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            with database.read() as connection:
                assert pid in connection.execute(text(backends)).scalars().all()
        assert lock_holder(database, "daemon") is None
        refused(database)  # looking took nothing away
    wait_for_lock(database)
    assert lock_holder(database, "run") is None
    number = 1 << 33  # more than half of a lock's 64 bits
    with lock(database, "worker", number):
        assert lock_holder(database, "worker", number)
        assert lock_holder(database, "worker", number + 1) is None


def test_looking_for_a_holder_makes_no_file(tmp_path: Path) -> None:
    with closing(Database.open(f"sqlite:///{tmp_path / 'syncer.db'}")) as database:
        before = {path.name for path in tmp_path.iterdir()}
        for name in BUSY:
            assert lock_holder(database, name, 3) is None
        assert {path.name for path in tmp_path.iterdir()} == before


def test_one_may_wait_for_a_lock(url: str, database: Database) -> None:
    with held_elsewhere(url) as holder:
        began = time.monotonic()
        with pytest.raises(Locked):
            try_lock(database, wait=0.3)
        assert 0.3 <= time.monotonic() - began < 2
        timer = threading.Timer(0.3, go_on, [holder])
        timer.start()
        try_lock(database, wait=20)
        assert time.monotonic() - began < 10
        timer.join()


def test_who_waits_asks_whether_to_stop(url: str, database: Database) -> None:
    asked: list[float] = []

    def stop() -> bool:
        asked.append(time.monotonic())
        return len(asked) == 3

    with held_elsewhere(url):
        began = time.monotonic()
        with pytest.raises(Locked), lock(database, "run", wait=60, every=0.1, stop=stop):
            pass
    assert len(asked) == 3
    assert 0.2 <= asked[-1] - began < 5
