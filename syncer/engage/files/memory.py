"""What a stage remembers of the files that it was filled from, and by which settings.

Other settings read all lists anew. What logs told stays, as they may be gone by then: without it a
list that is older than a log would end what the log began.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from syncer.engage.files.storage import written_at
from syncer.json_text import canonical
from syncer.progress import Progress

#: The version of these tables: a stage of another one is filled anew.
VERSION = 3
#: `seq` of a row that a list ended, that a list says, that a log says.
ENDED, LISTED, LOGGED = 0, 1, 2
TABLES = (
    "CREATE TABLE IF NOT EXISTS settings (text TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS file (pattern TEXT, path TEXT, version TEXT NOT NULL, "
    "modified INTEGER NOT NULL, PRIMARY KEY (pattern, path))",
    "CREATE TABLE IF NOT EXISTS listed_key (name TEXT, pattern TEXT, PRIMARY KEY (name, pattern))",
    "CREATE TABLE IF NOT EXISTS left_out (pattern TEXT, reason TEXT, number INTEGER NOT NULL, "
    "PRIMARY KEY (pattern, reason))",
)
_FORGET_LISTS = (
    f"DELETE FROM user_traits WHERE seq < {LOGGED}",
    "DELETE FROM user_identifiers "
    "WHERE canonical_segment_id NOT IN (SELECT canonical_segment_id FROM user_traits)",
    "DELETE FROM listed_key",
    "DELETE FROM settings",
)


class Settings(NamedTuple):
    """What decides how files are read; `sets` are [path, kind, …] of each set."""

    customer_id: str
    named: Sequence[str]
    sets: Sequence[Sequence[Any]]

    @property
    def text(self) -> str:
        """The settings as the stage keeps them."""
        return canonical([VERSION, self.customer_id, list(self.named), list(self.sets)])

    @property
    def patterns(self) -> list[str]:
        return [each[0] for each in self.sets]

    @property
    def logs(self) -> list[Sequence[Any]]:
        return [each for each in self.sets if each[1] == "log"]


class ReadFile(NamedTuple):
    """A file that was read: when it was written, and as of when it counts (epoch milliseconds).

    A file that is to be read anew has no version. A list counts as of a time after that of the list
    before it, also where both were written in the same second.
    """

    path: str
    written: int
    as_of: int
    version: str


class Known(NamedTuple):
    """The files that were read, by pattern and path; whether they were read by these settings."""

    files: Mapping[str, Mapping[str, ReadFile]]
    current: bool


class Facts(NamedTuple):
    """What a stage knows of its files.

    `listed` are the keys of which a list is complete, with the patterns of those lists. `until` is
    the time of the set whose newest file is the oldest (epoch milliseconds). `left_out` are
    (pattern, reason, number) of records.
    """

    listed: Mapping[str, Sequence[str]]
    until: int | None
    left_out: Sequence[tuple[str, str, int]]


def known(path: Path, settings: Settings, progress: Progress) -> Known:
    """Return what the stage at `path` knows; nothing where it must be filled anew."""
    if not path.exists():
        return Known({}, current=False)
    try:
        with closing(_open(path)) as connection:
            (text,) = connection.execute("SELECT text FROM settings").fetchone() or ("[]",)
            files = connection.execute("SELECT * FROM file").fetchall()
    except sqlite3.DatabaseError as error:
        progress.say(f"{path} cannot be read ({error}): the files are read anew")
        return Known({}, current=False)
    current = text == settings.text
    if not current and not _keeps_logs(orjson.loads(text), settings):
        return Known({}, current=False)
    logs = {each[0] for each in settings.logs}
    read: dict[str, dict[str, ReadFile]] = {pattern: {} for pattern in settings.patterns}
    for pattern, name, version, as_of in files:
        if pattern in read:
            stays, written = current or pattern in logs, written_at(version)
            read[pattern][name] = ReadFile(name, written, as_of, version if stays else "")
    return Known(read, current)


def begin(connection: sqlite3.Connection, settings: Settings) -> None:
    """Note other settings in a stage, and forget what its lists said."""
    for statement in _FORGET_LISTS:
        connection.execute(statement)
    for table in ("file", "left_out"):
        connection.execute(
            f"DELETE FROM {table} WHERE pattern NOT IN (SELECT value FROM json_each(?))",
            (canonical(settings.patterns),),
        )
    connection.execute("INSERT INTO settings VALUES (?)", (settings.text,))


def facts(path: Path) -> Facts:
    """Return what the stage at `path` knows of the files that it was filled from."""
    with closing(_open(path)) as connection:
        listed: dict[str, list[str]] = {}
        for key, pattern in connection.execute("SELECT * FROM listed_key ORDER BY pattern"):
            listed.setdefault(key, []).append(pattern)
        until = connection.execute(
            "SELECT MIN(newest) FROM (SELECT MAX(modified) AS newest FROM file GROUP BY pattern)"
        ).fetchone()
        left_out = connection.execute(
            "SELECT pattern, reason, number FROM left_out ORDER BY pattern, number DESC"
        ).fetchall()
    return Facts(listed, until[0], left_out)


def _keeps_logs(before: Any, settings: Settings) -> bool:
    """Return whether what logs told by the settings `before` counts with these, too."""
    if before[:2] != [VERSION, settings.customer_id]:
        return False
    logs = [list(each) for each in settings.logs]
    return all(each in logs for each in before[3] if each[1] == "log")


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True)
