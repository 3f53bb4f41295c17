"""The run lock between real processes, on SQLite and on PostgreSQL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from state import runs
from state.database import Database
from state.errors import Locked
from state.lock import lock, run_lock
from syncer.cli import main

ROOT = Path(__file__).parents[2]
HOLD = """
import sys
from state.database import Database
from state.lock import run_lock
database = Database.open(sys.argv[1])
with run_lock(database):
    print("held", flush=True)
    sys.stdin.readline()
database.close()
print("released", flush=True)
sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def postgres_database(_postgres_server: str) -> Iterator[str]:
    """A database for this file: making one per test would take longer than the tests."""
    server = make_url(_postgres_server).set(drivername="postgresql+psycopg")
    name = f"test_{uuid.uuid4().hex[:12]}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield server.set(database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'syncer.db'}"
    return str(request.getfixturevalue("postgres_database"))


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with closing(Database.open(url)) as database:
        yield database


@contextmanager
def held_elsewhere(url: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock until it is told to go on or is killed."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", HOLD, url],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def try_lock(database: Database, name: str = "run", wait: float = 0.0) -> None:
    with lock(database, name, wait=wait):
        pass


def refused(database: Database) -> str:
    """What is said, at once and in one line, when the lock is not to be had."""
    began = time.monotonic()
    with pytest.raises(Locked) as caught:
        try_lock(database)
    assert time.monotonic() - began < 1
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
    postgres_database: str, postgres_url: str
) -> None:
    with (
        closing(Database.open(postgres_database)) as one,
        closing(Database.open(postgres_url)) as other,
        run_lock(one),
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
    postgres_database: str,
) -> None:
    def fail(database: Database) -> None:
        with run_lock(database):
            end_others(postgres_database)
            raise ZeroDivisionError

    with closing(Database.open(postgres_database)) as database:
        with pytest.raises(ZeroDivisionError):
            fail(database)
        with run_lock(database):
            end_others(postgres_database)
        try_lock(database)


def end_others(url: str) -> None:
    """What a restart of the server does to its clients."""
    engine = create_engine(url)
    with engine.connect() as connection:
        ended = connection.execute(
            text(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid() "
                "AND backend_type = 'client backend'"
            )
        ).all()
    engine.dispose()
    assert ended


def test_commands_are_refused_in_one_line(
    url: str,
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
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
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with held_elsewhere(url):
        for command in (["sync"], ["resync", "--yes"], ["runs", "approve", "1"]):
            arguments = ["syncer", *command, "--config", str(config)]
            monkeypatch.setattr(sys, "argv", arguments)
            try:
                with pytest.raises(SystemExit) as exited:
                    main()
            finally:
                for number, handler in kept.items():
                    signal.signal(number, handler)
            out, err = capsys.readouterr()
            assert (exited.value.code, out) == (1, "")
            assert err.startswith("error: another run is going on")
            assert err.count("\n") == 1
    with database.read() as connection:
        assert runs.newest(connection) == before


def test_locks_of_other_names_are_other_locks(database: Database) -> None:
    with run_lock(database), lock(database, "delivery"):
        refused(database)
        with pytest.raises(Locked, match="another process is delivering"):
            try_lock(database, "delivery")
    try_lock(database, "delivery")


def test_one_may_wait_for_a_lock(url: str, database: Database) -> None:
    with held_elsewhere(url) as holder:
        began = time.monotonic()
        with pytest.raises(Locked):
            try_lock(database, "run", wait=0.3)
        assert 0.3 <= time.monotonic() - began < 2
        timer = threading.Timer(0.3, go_on, [holder])
        timer.start()
        try_lock(database, "run", wait=20)
        assert time.monotonic() - began < 10
        timer.join()
