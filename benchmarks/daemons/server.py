"""A PostgreSQL of its own with pg_stat_statements, and what it was asked in a time.

It keeps its own defaults, so a commit waits for the disk. Debian's `postgresql` has all of it.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import NullPool, create_engine, make_url, text
from sqlalchemy.exc import OperationalError

from tests.support.processes import descendants, free_port, wait_until

#: Where Debian and others put the programs of a server.
PLACES = "/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin"
#: Seconds between two looks at who waits.
LOOK = 0.02
TICKS = os.sysconf("SC_CLK_TCK")

_STATEMENTS = text(
    "SELECT query, calls, total_exec_time / 1000 AS seconds, rows, wal_bytes"
    " FROM pg_stat_statements JOIN pg_database ON dbid = pg_database.oid"
    " WHERE datname = :name AND query NOT LIKE '%pg_stat_%'"
)
_WAITS = text(
    "SELECT wait_event_type || ' ' || wait_event FROM pg_stat_activity WHERE datname = :name"
    " AND state = 'active' AND wait_event_type IN ('Lock', 'LWLock', 'IO', 'IPC')"
    " AND pid <> pg_backend_pid()"
)
_SIZES = text("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0'), pg_database_size(:name)")


def processor(process: int) -> float:
    """Return the seconds of a processor that a process and all below it took, ended ones too."""
    total = 0.0
    for number in (process, *descendants(process)):
        try:
            fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(map(int, fields[11:15])) / TICKS
    return total


@dataclass
class Asked:
    """What a database was asked in a time, `seconds` long.

    `statements` are the rows of pg_stat_statements. `wal` and `grown` are the bytes of its log and
    of its files, `processor` the seconds of a processor. `waited` has seconds by what sessions
    waited for, of all sessions together.
    """

    seconds: float = 0.0
    statements: list[Any] = field(default_factory=list)
    wal: int = 0
    grown: int = 0
    processor: float = 0.0
    waited: dict[str, float] = field(default_factory=dict)


@dataclass
class Server:
    """A server in work: the number of its first process, and the URL of its administrator."""

    process: int
    url: str

    def __post_init__(self) -> None:
        self._engine = create_engine(self.url, poolclass=NullPool)
        wait_until(self._takes, what="the start of PostgreSQL")
        with self._engine.begin() as connection:
            connection.execute(text("CREATE EXTENSION pg_stat_statements"))

    def _takes(self) -> bool:
        """Return whether it takes connections."""
        try:
            self._engine.connect().close()
        except OperationalError:
            return False
        return True

    @contextmanager
    def watched(self, url: str) -> Iterator[Asked]:
        """Yield what a database of it is asked in the block; it is known after it."""
        asked, over = Asked(), threading.Event()
        name = {"name": make_url(url).database}
        watcher = threading.Thread(target=self._watch, args=(name, asked, over))
        before = self._sizes(name)
        with self._engine.begin() as connection:
            connection.execute(text("SELECT pg_stat_statements_reset()"))
        worked, began = processor(self.process), time.monotonic()
        watcher.start()
        try:
            yield asked
        finally:
            over.set()
            watcher.join()
        asked.seconds = time.monotonic() - began
        asked.processor = processor(self.process) - worked
        with self._engine.connect() as connection:
            asked.statements = list(connection.execute(_STATEMENTS, name))
        sizes = zip(self._sizes(name), before, strict=True)
        asked.wal, asked.grown = (now - then for now, then in sizes)

    def _sizes(self, name: dict[str, str | None]) -> tuple[int, int]:
        with self._engine.connect() as connection:
            wal, size = connection.execute(_SIZES, name).one()
        return int(wal), int(size)

    def _watch(self, name: dict[str, str | None], asked: Asked, over: threading.Event) -> None:
        """Add the time between two looks to what each session waits for at the second."""
        looked = time.monotonic()
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while not over.wait(LOOK):
                waits = list(connection.execute(_WAITS, name).scalars())
                now = time.monotonic()
                for event in waits:
                    asked.waited[event] = asked.waited.get(event, 0.0) + now - looked
                looked = now


@contextmanager
def server() -> Iterator[Server]:
    """Start a server, and yield it with its administrator's URL; stop it after the block."""
    programs, folder = _programs(), Path(tempfile.mkdtemp(prefix="benchmark-postgres"))
    user = _user(folder)
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **user}
    how = ("-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale")
    data, port = folder / "data", free_port()
    subprocess.run([programs / "initdb", "-D", data, *how], check=True, cwd=folder, **quiet)
    settings = [
        "shared_preload_libraries=pg_stat_statements",
        "pg_stat_statements.max=5000",
        "listen_addresses=127.0.0.1",
        f"unix_socket_directories={folder}",
        f"port={port}",
        "max_connections=200",
    ]
    options = [word for setting in settings for word in ("-c", setting)]
    process = subprocess.Popen([programs / "postgres", "-D", data, *options], cwd=folder, **quiet)
    try:
        yield Server(process.pid, f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres")
    finally:
        process.send_signal(signal.SIGINT)  # it ends without waiting for its clients
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path:
    """Return the folder of the newest server here that has pg_stat_statements."""
    places = [path for place in PLACES for path in Path("/").glob(place.lstrip("/"))]
    if not places:
        raise SystemExit("there is no PostgreSQL server here: apt-get install postgresql")
    return max(places, key=lambda path: [int(part) for part in re.findall(r"\d+", str(path))])


def _user(folder: Path) -> dict[str, Any]:
    """Give a folder to who runs the server: it refuses root. Return that for `subprocess`."""
    if os.getuid():
        return {}
    entry = pwd.getpwnam("postgres")
    os.chown(folder, entry.pw_uid, entry.pw_gid)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
