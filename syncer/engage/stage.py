"""A stage: the three tables of Profiles Sync in a local SQLite file.

A source without SQL fills a stage, and `ProfilesSync` reads it. So what a pull means (order,
merges, times, counts, evidence) has one home, whatever Engage's data came from.

    with stage.filling(path) as tables:
        tables.identify("profile-1", "user_id", "u-1", at)
        tables.trait("profile-1", "vip", True, at)
    ProfilesSync(stage.url(path))

The stage takes its place when the block ends, at once and whole. If the block fails or the process
dies, what stood there before stays.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL

from syncer.errors import SyncerError
from syncer.json_text import to_json
from syncer.progress import Progress

#: Rows that are inserted together.
CHUNK = 1000
#: Seconds in which a file is not taken for abandoned: it may not be locked yet.
FRESH = 60.0
#: The columns of Profiles Sync (docs/facts/segment.md §1.3), without and with the four that all
#: tables have.
_REST = "seq INTEGER, received_at TEXT, uuid_ts TEXT, timestamp TEXT"
_TABLES = {
    "user_traits": "canonical_segment_id TEXT, name TEXT, value TEXT",
    "user_identifiers": "canonical_segment_id TEXT, type TEXT, value TEXT",
    "profile_merges": "canonical_segment_id TEXT, segment_id TEXT",
}
#: Nobody reads a stage before it is whole, and what a crash leaves of it is thrown away.
_UNSEEN = (
    "PRAGMA journal_mode = OFF",
    "PRAGMA synchronous = OFF",
    "PRAGMA temp_store = FILE",
    "PRAGMA cache_size = -32000",
)
_INDEXES = (
    "CREATE INDEX IF NOT EXISTS traits_of ON user_traits (canonical_segment_id)",
    "CREATE INDEX IF NOT EXISTS identifiers_of ON user_identifiers (canonical_segment_id)",
    "CREATE INDEX IF NOT EXISTS profiles_of ON user_identifiers (type, value)",
    "CREATE INDEX IF NOT EXISTS merges_of ON profile_merges (segment_id)",
)

#: Rows by table.
Rows = dict[str, list[tuple[Any, ...]]]


class Tables:
    """The tables of a stage that is being filled.

    Times are ISO 8601 in UTC, None where they are not known. Of equal times the later row counts.
    Rows are inserted `chunk` at a time; with None they wait for `take`, and `insert`.
    """

    def __init__(
        self, connection: sqlite3.Connection, seq: int = 0, chunk: int | None = CHUNK
    ) -> None:
        self._connection, self._chunk = connection, chunk
        self._waiting: Rows = {}
        #: the number of the last row
        self.seq = seq

    def identify(self, profile: str, kind: str, value: str | None, at: str | None = None) -> None:
        """Add an external id of a profile: its type and its value."""
        self._add("user_identifiers", (profile, kind, value), at)

    def trait(
        self,
        profile: str,
        name: str,
        value: Any,
        at: str | None = None,
        observed_at: str | None = None,
    ) -> None:
        """Add a trait of a profile. None is a trait without a value; what is no text is as JSON.

        `at` is when it was loaded, `observed_at` Segment's time of it, if that is another one.
        """
        text = value if value is None or isinstance(value, str) else to_json(value)
        self._add("user_traits", (profile, name, text), at, observed_at)

    def merge(self, old: str, into: str, at: str | None = None) -> None:
        """Add that a profile went into another one."""
        self._add("profile_merges", (into, old), at)

    def flush(self) -> None:
        """Insert the rows that wait."""
        self.insert(self.take())

    def take(self) -> Rows:
        """Return the rows that wait; they do not wait any more."""
        rows, self._waiting = self._waiting, {}
        return rows

    def insert(self, rows: Rows) -> None:
        """Insert rows that were taken."""
        for table, of_table in rows.items():
            marks = ", ".join("?" * len(of_table[0]))
            self._connection.executemany(f"INSERT INTO {table} VALUES ({marks})", of_table)

    def _add(
        self, table: str, own: tuple[Any, ...], at: str | None, observed_at: str | None = None
    ) -> None:
        self.seq += 1
        waiting = self._waiting.setdefault(table, [])
        waiting.append((*own, self.seq, at, at, observed_at or at))
        if self._chunk is not None and len(waiting) >= self._chunk:
            self.flush()


def url(path: Path) -> URL:
    """Return the URL by which `ProfilesSync` reads a stage."""
    return URL.create("sqlite", database=str(path))


def create(connection: sqlite3.Connection) -> None:
    """Make the empty tables, if they are not there."""
    for name, own in _TABLES.items():
        connection.execute(f"CREATE TABLE IF NOT EXISTS {name} ({own}, {_REST})")


def index(connection: sqlite3.Connection) -> None:
    """Make the indexes of the tables, when all rows are in."""
    for statement in _INDEXES:
        connection.execute(statement)


def replace(part: Path, path: Path) -> None:
    """Let a stage that is whole take the place of `path`, lastingly."""
    _sync(part)
    os.replace(part, path)
    _sync(path.parent)


@contextmanager
def filling(path: Path) -> Iterator[Tables]:
    """Fill a new stage, which takes the place of `path` when the block ends without an error.

    Only its owner may read it. Raise `SyncerError` if it cannot be written.
    """
    with _private_file(path.parent, f".{path.name}-") as part:
        with tables(part) as rows:
            yield rows
        with translated(path.parent):
            replace(part, path)


@contextmanager
def changing(
    path: Path, more: Iterable[str] = (), *, anew: bool = False
) -> Iterator[sqlite3.Connection]:
    """Change a copy of the stage at `path`, which takes its place when the block ends.

    Where there is no stage yet, or it is to be filled `anew`, the copy is an empty one. `more` are
    statements that make what the owner of the stage keeps beside the three tables. Who reads the
    stage meanwhile reads the one before; if the block fails or the process dies, that one stays.
    """
    with (
        translated(path.parent, (sqlite3.Error,)),
        _private_file(path.parent, f".{path.name}-") as part,
    ):
        if path.exists() and not anew:
            with translated(path.parent):
                shutil.copyfile(path, part)
        with closing(sqlite3.connect(part, isolation_level=None)) as connection:
            for setting in _UNSEEN:
                connection.execute(setting)
            connection.execute("BEGIN")
            create(connection)
            for statement in more:
                connection.execute(statement)
            yield connection
            connection.execute("COMMIT")
        with translated(path.parent):
            replace(part, path)


@contextmanager
def alone(path: Path, progress: Progress, others: str, pause: Callable[[], None]) -> Iterator[bool]:
    """Hold the lock of the stage at `path`; yield whether another process had it.

    Two that fill one stage would each leave out what only the other read. `others` says in a line
    what the other process does. `pause` is called between two looks whether it is done: it takes a
    moment, or raises. The system lets go of the lock when a process dies.
    """
    file, waited = path.with_suffix(".lock"), False
    with translated(file):
        lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while not _locks(lock, file):
            if not waited:
                progress.say(f"another process {others}: waiting for it")
            waited = True
            pause()
        yield waited
    finally:
        os.close(lock)


def _locks(lock: int, file: Path) -> bool:
    """Take a lock, unless another process has it; return whether it is ours."""
    with translated(file):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextmanager
def passing(folder: Path | None, name: str) -> Iterator[Path]:
    """Make an empty file for a stage that goes when the block ends; fill it with `tables`.

    It is in `folder`; without one it is in the system's temporary folder.
    """
    with _private_file(folder or Path(tempfile.gettempdir()), f".syncer-{name}-") as file:
        yield file


@contextmanager
def tables(file: Path) -> Iterator[Tables]:
    """Fill the stage in an empty file, in one transaction that ends with the block."""
    with translated(file.parent, (sqlite3.Error,)), closing(_connected(file)) as connection:
        for setting in _UNSEEN:
            connection.execute(setting)
        connection.execute("BEGIN")
        create(connection)
        rows = Tables(connection)
        yield rows
        rows.flush()
        index(connection)
        connection.execute("COMMIT")


def _connected(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(file, isolation_level=None, check_same_thread=False)


@contextmanager
def _private_file(folder: Path, prefix: str) -> Iterator[Path]:
    """Make a file that only its owner may read, and remove it at the end if it is still there.

    What processes that died left of such files is removed, too.
    """
    with translated(folder):
        _remove_abandoned(folder, prefix)
        descriptor, name = tempfile.mkstemp(prefix=prefix, dir=folder)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # says that it is not abandoned
        yield Path(name)
    finally:
        os.close(descriptor)
        Path(name).unlink(missing_ok=True)


def _remove_abandoned(folder: Path, prefix: str) -> None:
    for path in folder.glob(f"{escape(prefix)}*"):
        with suppress(OSError):  # it is in use, or it went meanwhile
            if time.time() - path.stat().st_mtime < FRESH:
                continue
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


def _sync(path: Path) -> None:
    """Let what was written to a file or a folder reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


#: What a file may raise.
Errors = tuple[type[Exception], ...]
DISK: Errors = (OSError, sqlite3.Error)


@contextmanager
def translated(place: Path, errors: Errors = DISK) -> Iterator[None]:
    """Turn errors of the disk in the block, which writes to a folder or file, into one line."""
    try:
        yield
    except errors as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SyncerError(
            f"what was read of Engage cannot be kept in {place}: {reason}; make room there, or "
            "let this user write there"
        ) from error
