"""The state on a PostgreSQL behind a pool: by sessions it works, by transactions it is refused."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest
from sqlalchemy.engine import URL, make_url

from state.db.database import Database
from state.db.locks import run_lock
from state.db.schema import PARTS
from state.errors import StateError
from state.transfer.backup import back_up
from state.transfer.copying import copy
from state.transfer.restore import restore
from tests.support.postgres import database

CONFIG = """\
[databases]
* = {server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = {mode}
{more}
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that another user may enter, unlike `tmp_path`."""
    with TemporaryDirectory() as path:
        yield Path(path)


@contextmanager
def bouncer(database: str, folder: Path, mode: str, more: str = "") -> Iterator[URL]:
    """PgBouncer before a database; gives the URL of the database by it."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    url = make_url(database)
    given = {"host": url.host or url.query.get("host"), "port": url.port, "password": url.password}
    (users := folder / "users").write_text(f'"{url.username}" ""\n', encoding="utf-8")
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    config = folder / "pgbouncer.ini"
    config.write_text(
        CONFIG.format(
            server=" ".join(f"{name}={value}" for name, value in given.items() if value),
            port=port,
            users=users,
            mode=mode,
            more=more,
        ),
        encoding="utf-8",
    )
    command = [program, str(config)]
    if os.getuid() == 0:  # it does not run as root; the server's socket may be its owner's alone
        host = str(given["host"])
        owner = Path(host).stat().st_uid if host.startswith("/") else 65534
        for path in (folder, users, config):
            os.chown(path, owner, -1)
        command += ["-u", pwd.getpwuid(owner).pw_name]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            address = url.set(host="127.0.0.1", port=port, query={}, password=None)
            _wait_for(address, process)
            yield address
        finally:
            process.terminate()


def _wait_for(url: URL, process: subprocess.Popen[bytes]) -> None:
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    for _ in range(200):
        assert process.poll() is None, "pgbouncer does not run"
        try:
            psycopg.connect(plain).close()
            return
        except psycopg.OperationalError:
            time.sleep(0.05)
    psycopg.connect(plain).close()


@pytest.mark.parametrize("more", ["", "default_pool_size = 1", "server_round_robin = 1"])
def test_a_pool_of_transactions_is_refused(state_postgres: str, folder: Path, more: str) -> None:
    with bouncer(state_postgres, folder, "transaction", more) as url:
        for what in (Database.open, Database.try_out):
            with pytest.raises(StateError) as error:
                what(url)
            assert "needs session pooling" in str(error.value)
            assert "\n" not in str(error.value)


def test_no_copy_is_put_behind_a_pool_of_transactions(
    empty_postgres: str, folder: Path, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        parts = [Database.open(f"sqlite:///{tmp_path / 'syncer.db'}", part) for part in PARTS]
        for part in parts:
            stack.callback(part.close)
        url = stack.enter_context(bouncer(empty_postgres, folder, "transaction"))
        with pytest.raises(StateError, match="needs session pooling"):
            copy(parts[0], parts[1], url)
        back_up(parts[0], parts[1], tmp_path / "backup", lambda: 1)
        with pytest.raises(StateError, match="needs session pooling"):
            restore(url, tmp_path / "backup", lambda: 2)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_in_which_not_every_text_fits_is_refused(
    postgres_url: str, encoding: str
) -> None:
    options = f"ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
    with database(postgres_url, options) as url:
        for what in (Database.open, Database.try_out):
            with pytest.raises(StateError, match=f"has the encoding {encoding}, .*'UTF8'"):
                what(url)


def test_a_pool_of_sessions_is_taken(state_postgres: str, folder: Path) -> None:
    with bouncer(state_postgres, folder, "session") as url:
        Database.try_out(url)
        with closing(Database.open(url)) as database, run_lock(database) as check:
            check()
            Database.try_out(url)
