"""Brings a stage up to date with files: what is new is read, what was read stays.

The stage remembers which files it read, so that a pull reads only what is new, and a file that
vanished is noticed. Everything is read in one go or not at all.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from syncer.clock import AHEAD, believed, iso, now_ms
from syncer.engage import stage
from syncer.engage.files import memory
from syncer.engage.files.layouts import NO_JSON, NO_RECORD, Form, Layouts, Statement, is_log
from syncer.engage.files.memory import ENDED, LISTED, LOGGED, ReadFile, Settings
from syncer.engage.files.records import Format, format_of, records
from syncer.engage.files.storage import File, Storage
from syncer.engage.selection import PROFILE_KEYS
from syncer.engage.wide import trait_columns
from syncer.errors import SourceError, Stopped
from syncer.progress import Progress

#: "list": the newest file is a complete list; "parts": all files together are; "log": each file
#: tells changes, and what no file tells says nothing.
Kind = Literal["list", "parts", "log"]

#: Statements that are written together, and sets of columns that are remembered.
CHUNK, SHAPES = 1000, 10_000
_TABLES = (
    *memory.TABLES,
    "CREATE UNIQUE INDEX IF NOT EXISTS trait_once ON user_traits (canonical_segment_id, name)",
    "CREATE UNIQUE INDEX IF NOT EXISTS identifier_once "
    "ON user_identifiers (canonical_segment_id, type, value)",
    "CREATE INDEX IF NOT EXISTS profiles_of ON user_identifiers (type, value)",
    "CREATE TEMP TABLE listed (profile TEXT, type TEXT, value TEXT, "
    "PRIMARY KEY (profile, type, value)) WITHOUT ROWID",
)
#: The newest of a profile and key counts; of equal times the one that was read last. A row whose
#: value stays is not loaded anew, so that incremental runs pass it by.
_PUT_TRAIT = """
INSERT INTO user_traits VALUES (:profile, :key, :value, :seq, :received, :loaded, :at)
ON CONFLICT (canonical_segment_id, name) DO UPDATE SET
    uuid_ts = CASE WHEN value IS excluded.value THEN uuid_ts ELSE excluded.uuid_ts END,
    value = excluded.value, seq = excluded.seq, received_at = excluded.received_at,
    timestamp = excluded.timestamp
WHERE excluded.timestamp >= timestamp
"""
_PUT_IDENTIFIER = """
INSERT INTO user_identifiers VALUES (?, ?, ?, 1, ?, ?, ?) ON CONFLICT DO NOTHING
"""
#: Who is in no list any more loses the value; a row that is newer than the list stays. `seq` is
#: less than that of a row that says something at the same time: of a profile that went into it.
_END_UNLISTED = f"""
UPDATE user_traits SET value = NULL, seq = {ENDED}, received_at = :at, uuid_ts = :loaded,
    timestamp = :at
WHERE name = :key AND value IS NOT NULL AND timestamp < :at
"""
_HAS_VALUES = "SELECT 1 FROM user_traits WHERE name = :key AND value NOTNULL AND timestamp >= :at"
_END_ALL = "DELETE FROM user_traits WHERE name = :key AND timestamp < :at"
_DROP_OLD_IDENTIFIERS = """
DELETE FROM user_identifiers WHERE canonical_segment_id IN (SELECT profile FROM listed)
AND NOT EXISTS (
    SELECT 1 FROM listed WHERE profile = canonical_segment_id
    AND listed.type = user_identifiers.type AND listed.value = user_identifiers.value
)
"""


@dataclass(frozen=True)
class FileSet:
    """The files that one pattern matches, and what they are; see `config.example.toml`."""

    path: str
    kind: Kind
    key: str | None = None
    format: Format | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def storage(self) -> Storage:
        """Where they are kept."""
        return Storage(self.path, self.options)

    @property
    def settings(self) -> list[str | None]:
        """What says how they are read."""
        return [self.path, self.kind, self.key, self.format]


class _Reading(NamedTuple):
    """Files of a set that are to be read; a list is as of a time (epoch milliseconds)."""

    files: FileSet
    new: Sequence[File]
    as_of: int


@dataclass(frozen=True)
class Intake:
    """The stage at `path`, and the files that it is filled from.

    A file that is younger than `settle` seconds is not read yet. `customer_id` is the type of the
    customer id, `named` the keys that the config names. `answered` is called while files are read:
    each part of a file is a sign of life.
    """

    path: Path
    sets: Sequence[FileSet]
    customer_id: str
    named: tuple[str, ...]
    settle: float
    progress: Progress
    stop: Callable[[], bool]
    answered: Callable[[], None] = lambda: None
    clock: Callable[[], int] = now_ms

    def bring_up_to_date(self) -> None:
        """Read what is new; raise `SourceError` if a file is not whole, or if one is missing."""
        known = memory.known(self.path, self._settings, self.progress)
        readings = [
            reading
            for files in self.sets
            if (reading := self._new_of(files, known.files.get(files.path, {}))) is not None
        ]
        if known.current and not readings:
            return
        total = sum(file.size for reading in readings for file in reading.new)
        number = sum(len(reading.new) for reading in readings)
        self.progress.say(f"reading {number:,} new files of Engage: {total / 1e6:,.1f} MB")
        with stage.changing(self.path, _TABLES, anew=not known.files) as connection:
            if not known.current:
                memory.begin(connection, self._settings)
            for reading in sorted(readings, key=lambda reading: reading.as_of):
                _Fill(self, connection, reading, self.clock()).fill()

    def check_stop(self) -> None:
        """Raise `Stopped` if the user asked to stop."""
        if self.stop():
            raise Stopped("stopped while files were read; the next run reads them anew")

    # Which files are to be read

    @property
    def _settings(self) -> Settings:
        sets = [files.settings for files in self.sets]
        return Settings(self.customer_id, self.named, sets)

    def _new_of(self, files: FileSet, known: Mapping[str, ReadFile]) -> _Reading | None:
        """Return the files of a set that are to be read; None if there is nothing new."""
        present = self._present(files, known)
        settled = [file for file in present if self._is_settled(file)]
        if files.kind == "log":
            new = [file for file in settled if file.size and not _is_known(file, known)]
            if not new and not known and not settled:
                raise self._too_young(files, present)
            return _Reading(files, new, new[-1].modified) if new else None
        if not settled or (files.kind == "parts" and len(settled) < len(present)):
            if known:
                return None
            raise self._too_young(files, present)
        new = settled[-1:] if files.kind == "list" else settled
        if known and all(_is_known(file, known) for file in new):
            gone = sorted(known.keys() - {file.path for file in present})
            if files.kind == "list" or not gone:
                return None
            raise SourceError(
                f"{files.path}: {gone[0]} is gone, and no part is newer than it; nothing was "
                "changed: put it there again, or all parts of a newer list"
            )
        latest = max(known.values(), key=lambda file: (file.written, file.path), default=None)
        if latest is None:
            return _Reading(files, new, new[-1].modified)
        if not _follows(new[-1], latest):
            raise SourceError(
                f"{files.path}: {latest.path} is gone or was replaced by an older file, and the "
                f"newest that is there is of {iso(new[-1].modified)}; nothing was changed: put the "
                "newest list there again"
            )
        return _Reading(files, new, max(new[-1].modified, latest.as_of + 1))

    def _present(self, files: FileSet, known: Mapping[str, ReadFile]) -> list[File]:
        """Return the files of a set that are there, the oldest first."""
        present = files.storage.files()
        if not present:
            what = "the files are gone" if known else "no file matches"
            raise SourceError(
                f"{files.path}: {what}; nothing was changed: put one there, or take the set out of "
                "engage.files.sets"
            )
        newest = present[-1]
        if newest.modified > self.clock() + AHEAD:
            raise SourceError(
                f"{files.path}: {newest.path} is of {iso(newest.modified)}, a time to come; "
                "nothing was changed: put the clocks right, and write the file anew"
            )
        return present

    def _is_settled(self, file: File) -> bool:
        return file.modified <= self.clock() - self.settle * 1000

    def _too_young(self, files: FileSet, present: Sequence[File]) -> SourceError:
        return SourceError(
            f"{files.path}: {present[-1].path} was written less than {self.settle:g} s ago and may "
            "not be whole yet; the next run reads it (engage.files.settle)"
        )


class _Fill:
    """One set on its way into the stage, at `now` (epoch milliseconds)."""

    def __init__(
        self, intake: Intake, connection: sqlite3.Connection, reading: _Reading, now: int
    ) -> None:
        self._intake, self._connection, self._reading = intake, connection, reading
        self._files = reading.files
        self._is_log = reading.files.kind == "log"
        self._loaded = _text(now)
        self._listed: set[str] = set()
        self._noted: set[tuple[str, ...]] = set()
        self._left_out: Counter[str] = Counter()

    def fill(self) -> None:
        """Write what the files say."""
        for file in self._reading.new:
            part: list[tuple[Statement, int]] = []
            for statement in self._statements(file):
                part.append((statement, self._time_of(statement, file)))
                if len(part) >= CHUNK:
                    self._put(part)
                    part.clear()
                    self._intake.answered()
                    self._intake.check_stop()
            self._put(part)
            self._files.storage.check_unchanged(file)
        if not self._is_log:
            self._end_lists()
        self._note_files()

    def _statements(self, file: File) -> Iterator[Statement]:
        """Yield what the records of a file say, and count those that say nothing."""
        for number, values, form in self._records(file):
            if number == 0:
                continue
            try:
                said = form.layout(values)
            except ValueError as error:
                raise SourceError(
                    f"{file.path}, line {number}: {error}; nothing of the file is taken"
                ) from None
            if isinstance(said, str):
                self._leave_out(file, number, said)
            else:
                yield said

    def _records(self, file: File) -> Iterator[tuple[int, dict[str, Any], Form]]:
        """Yield number, values and form of each record of a file, and count those without one."""
        layouts = Layouts(self._files.key, self._intake.customer_id, self._intake.named)
        written = format_of(file, self._files.format, "jsonl" if self._is_log else None)
        first: Form | None = None
        form: Form | None = None
        for number, values in records(self._files.storage, file, written):
            if values is None:
                self._leave_out(file, number, NO_JSON)
                continue
            if written == "jsonl":
                form = self._form_of_json(layouts, first, file, number, values)
            elif form is None:
                self._check_kind(values, file)
                form = layouts.of(values, file.path)
            if form is None:
                self._leave_out(file, number, NO_RECORD)
                continue
            first = first or form
            if number == 0 or written == "jsonl":
                self._note_listed(values)
            yield number, values, form
        if first is None and not self._is_log:
            raise SourceError(f"{file.path} is empty, so it is no list; nothing of it is taken")

    def _form_of_json(
        self, layouts: Layouts, first: Form | None, file: File, number: int, values: dict[str, Any]
    ) -> Form | None:
        """Return the form of a record of JSON; None if it is none of a log.

        A list has records of one form: a record of another one may be cut off, or of somebody else.
        """
        self._check_kind(values, file)
        place = file.path if first is None else f"{file.path}, line {number},"
        try:
            form = layouts.of_json(values, place, first)
        except SourceError:
            if self._is_log:
                return None
            raise
        if first is not None and form.name != first.name and not self._is_log:
            raise SourceError(
                f"{file.path}, line {number}: its columns {', '.join(values)[:200]} are those of "
                f"{form.name}, and the records before it are {first.name}; nothing of the file is "
                "taken"
            )
        return form

    def _check_kind(self, columns: Mapping[str, Any], file: File) -> None:
        if is_log(columns) and not self._is_log:
            raise SourceError(
                f'{file.path} holds calls or changes, and no complete list; write kind = "log" in '
                "engage.files.sets"
            )
        if self._is_log and "external_ids" in columns:
            raise SourceError(
                f'{file.path} is a list of profiles, and no log; write kind = "list" in '
                "engage.files.sets"
            )

    def _note_listed(self, columns: Mapping[str, Any]) -> None:
        """Note the keys of which this list is complete: records of JSON may have others each."""
        if self._is_log or (names := tuple(columns)) in self._noted:
            return
        if len(self._noted) < SHAPES:
            self._noted.add(names)
        if self._files.key is not None:
            self._listed.add(self._files.key)
        else:
            keys = trait_columns(names, self._intake.named)
            keys.pop(self._intake.customer_id, None)
            self._listed.update(key for key in keys.values() if key not in PROFILE_KEYS)

    def _leave_out(self, file: File, number: int, reason: str) -> None:
        """Count a record of a log that says nothing; a list with such a record is not whole."""
        if not self._is_log:
            raise SourceError(
                f"{file.path}, line {number}: {reason}; nothing of the file is taken, as a list "
                "must be complete"
            )
        self._left_out[reason] += 1

    def _time_of(self, statement: Statement, file: File) -> int:
        """Return when a statement became true: what a list says is true when it was written."""
        if not self._is_log or statement.at is None:
            return file.modified if self._is_log else self._reading.as_of
        return believed(statement.at, file.modified)[0]

    # Into the tables

    def _put(self, part: Sequence[tuple[Statement, int]]) -> None:
        traits: list[dict[str, str | int | None]] = []
        identifiers: list[tuple[str, ...]] = []
        for statement, at in part:
            time = _text(at)
            identifiers += [
                (statement.profile, *each, time, self._loaded, time) for each in statement.ids
            ]
            traits += [
                {
                    "profile": statement.profile,
                    "key": key,
                    "value": value,
                    "seq": LOGGED if self._is_log else LISTED,
                    "received": time,
                    "loaded": self._loaded,
                    "at": time,
                }
                for key, value in statement.traits
            ]
        if not self._is_log:
            self._connection.executemany(
                "INSERT OR IGNORE INTO listed VALUES (?, ?, ?)", [row[:3] for row in identifiers]
            )
        self._connection.executemany(_PUT_IDENTIFIER, identifiers)
        self._connection.executemany(_PUT_TRAIT, traits)

    def _end_lists(self) -> None:
        """End what the list does not have any more.

        Of a key that it gives nobody a value of no row is left, as of an audience that vanished,
        and so of a column that it had before and lacks now: the guard holds that, however small the
        audience was.
        """
        values = {"at": _text(self._reading.as_of), "loaded": self._loaded}
        pattern, connection = self._files.path, self._connection
        before = connection.execute("SELECT name FROM listed_key WHERE pattern = ?", (pattern,))
        for key in self._listed.union(key for (key,) in before):
            of_key = {**values, "key": key}
            has_members = connection.execute(_HAS_VALUES, of_key).fetchone() is not None
            connection.execute(_END_UNLISTED if has_members else _END_ALL, of_key)
            connection.execute("INSERT OR IGNORE INTO listed_key VALUES (?, ?)", (key, pattern))
        self._connection.execute(_DROP_OLD_IDENTIFIERS)
        self._connection.execute("DELETE FROM listed")

    def _note_files(self) -> None:
        pattern = self._files.path
        if not self._is_log:
            self._connection.execute("DELETE FROM file WHERE pattern = ?", (pattern,))
            self._connection.execute("DELETE FROM left_out WHERE pattern = ?", (pattern,))
        self._connection.executemany(
            "INSERT OR REPLACE INTO file VALUES (?, ?, ?, ?)",
            [
                (
                    *(pattern, file.path, file.version),
                    file.modified if self._is_log else self._reading.as_of,
                )
                for file in self._reading.new
            ],
        )
        self._connection.executemany(
            "INSERT INTO left_out VALUES (?, ?, ?) "
            "ON CONFLICT DO UPDATE SET number = number + excluded.number",
            [(pattern, reason, number) for reason, number in self._left_out.items()],
        )


def _follows(new: File, latest: ReadFile) -> bool:
    """Return whether a list was written after the latest that was read, or is that one.

    Some storages have times of whole seconds. At the same time, the later name is the later list,
    and so is a list that was written over the latest.
    """
    return (new.modified, new.path) >= (latest.written, latest.path)


def _is_known(file: File, known: Mapping[str, ReadFile]) -> bool:
    return file.path in known and known[file.path].version == file.version


def _text(at: int) -> str:
    """Return a time as it is stored: such texts sort as the times do."""
    return (iso(at) or "").replace("T", " ").rstrip("Z")
