"""The records of a file, one by one: CSV, JSON Lines or Parquet, compressed or not.

A file that is cut off is no file: it raises `SourceError`, whatever was read of it before.
"""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import IO, Any, Literal, NamedTuple

import orjson

from syncer.engage.files.storage import File, Storage
from syncer.errors import ConfigError, SourceError

Format = Literal["csv", "jsonl", "parquet"]
_FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
}
#: Bytes of a line, and of a field, at most.
LONGEST = 16 << 20
#: The column of Segment's downloads that has the ids of a profile, as JSON.
EXTERNAL_IDS = "external_ids"
#: Rows of Parquet that are read at a time, and the memory that DuckDB takes for them.
ROWS, MEMORY = 1000, "256MB"


class Record(NamedTuple):
    """One record: its line or number, and its values by column.

    Number 0 is the line of columns, without values, of a format that has one: a list may have
    nobody. `values` is None where a line of JSON cannot be read.
    """

    number: int
    values: dict[str, Any] | None


def format_of(file: File, configured: Format | None, usual: Format | None = None) -> Format:
    """Return the format of a file: as configured, as its name says, or the `usual` one."""
    if configured is not None:
        return configured
    for ending, form in _FORMATS.items():
        if file.name.endswith(ending):
            return form
    if usual is not None:
        return usual
    raise ConfigError(
        f"engage.files: the name of {file.path} does not say what it is; write format = "
        '"csv", "jsonl" or "parquet"'
    )


def records(storage: Storage, file: File, form: Format) -> Iterator[Record]:
    """Yield the records of a file in order; raise `SourceError` if it is not whole."""
    if form == "parquet":
        yield from _parquet(storage, file)
        return
    with storage.opened(file) as stream:
        yield from _csv(stream, file) if form == "csv" else _json_lines(stream, file)


# -- CSV


def _csv(stream: IO[bytes], file: File) -> Iterator[Record]:
    csv.field_size_limit(LONGEST)
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    lines = _Lines(text)
    rows = csv.reader(lines, strict=True)
    try:
        columns = _header(next(rows, None), file)
        yield Record(0, dict.fromkeys(columns))
        least = _least_cells(columns)
        for row in rows:
            if not row:
                continue
            if not least <= len(row) <= len(columns):
                raise SourceError(
                    f"{file.path}, line {rows.line_num}: it has {len(row)} cells and the file "
                    f"{len(columns)} columns; nothing of the file is taken"
                )
            values: dict[str, Any] = dict.fromkeys(columns)
            values.update(zip(columns, row, strict=False))
            yield Record(rows.line_num, values)
        if not lines.ended and not _proves_itself(columns):
            raise SourceError(
                f"{file.path} is cut off: its last line has no line break; nothing of it is taken "
                "until it is whole"
            )
    except csv.Error as error:
        raise SourceError(
            f"{file.path}, line {rows.line_num}: this is not CSV ({error}): the file is cut off or "
            "damaged, and nothing of it is taken"
        ) from None
    except UnicodeDecodeError:
        raise SourceError(
            f"{file.path}: this is not text in UTF-8; nothing of it is taken"
        ) from None
    finally:
        text.detach()


class _Lines:
    """The lines of a text; `ended` says whether the last one had a line break."""

    def __init__(self, text: Iterable[str]) -> None:
        self._text = iter(text)
        self.ended = True

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._text)
        self.ended = line.endswith(("\n", "\r"))
        return line


def _least_cells(columns: list[str]) -> int:
    """Return how many cells a row has at least: those after the ids may miss in Segment's lists."""
    return columns.index(EXTERNAL_IDS) + 1 if EXTERNAL_IDS in columns else len(columns)


def _proves_itself(columns: list[str]) -> bool:
    """Return whether a row that is cut off shows it: the JSON of its ids, or its quotes, are open.

    Segment's own files are so, and some end without a line break.
    """
    return EXTERNAL_IDS in columns or "audience_action" in columns


def _header(row: list[str] | None, file: File) -> list[str]:
    if not row:
        raise SourceError(
            f"{file.path} is empty: a list without members still has its line of columns; nothing "
            "of it is taken"
        )
    columns = [name.strip() for name in row]
    if len(set(columns)) < len(columns) or "" in columns:
        raise SourceError(
            f"{file.path}: its first line does not name the columns ({', '.join(columns)[:200]}); "
            "nothing of it is taken"
        )
    return columns


# -- JSON Lines


def _json_lines(stream: IO[bytes], file: File) -> Iterator[Record]:
    number = 0
    unreadable: Record | None = None
    while line := stream.readline(LONGEST + 1):
        number += 1
        if len(line) > LONGEST:
            raise SourceError(
                f"{file.path}, line {number}: it is longer than {LONGEST >> 20} MB; write one JSON "
                "object a line"
            )
        if unreadable is not None:
            yield unreadable
            unreadable = None
        if not line.strip():
            continue
        values = _object(line)
        if values is None:
            unreadable = Record(number, None)
        else:
            yield Record(number, values)
    if unreadable is not None:
        raise SourceError(
            f"{file.path} is cut off: its last line is no JSON object; nothing of it is taken "
            "until it is whole"
        )


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        values = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return values if isinstance(values, dict) else None


# -- Parquet


def _parquet(storage: Storage, file: File) -> Iterator[Record]:
    try:
        import duckdb
    except ImportError:
        raise ConfigError(
            "engage.files: Parquet needs DuckDB; install it: pip install "
            "'engage-amberflo-sync[files]'"
        ) from None
    with (
        storage.translated(file.path),
        tempfile.TemporaryDirectory(prefix="syncer-") as folder,
        closing(duckdb.connect(config=_settings(folder))) as connection,
    ):
        address = storage.address(file)
        if address != file.path:
            connection.register_filesystem(storage.filesystem)
        # Some tools write texts as bytes.
        statement = "SELECT * FROM read_parquet(?, binary_as_string = true)"
        rows = connection.execute(statement, [address])
        columns, number = [column[0] for column in rows.description], 0
        yield Record(0, dict.fromkeys(columns))
        while page := rows.fetchmany(ROWS):
            for row in page:
                number += 1
                yield Record(number, dict(zip(columns, row, strict=True)))


def _settings(folder: str) -> dict[str, Any]:
    """Return settings of DuckDB: bounded memory, and no extension from the network."""
    return {
        "memory_limit": MEMORY,
        "threads": 1,
        "temp_directory": folder,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
