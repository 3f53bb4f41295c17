"""A list on disk: what a run has found, between the comparison and the commit.

The pull may take minutes; the transaction that applies it must not, others wait for it. The file
has no name, so nothing of a run that died stays behind.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import orjson

from syncer.errors import SyncerError


class Spool:
    """A list of JSON values: append all, then iterate as often as you like. It is in `folder`, or
    where nothing can be made there, and without one, in the temporary folder of the system. What
    is wrong with the disk is raised as SyncerError."""

    def __init__(self, folder: Path | None = None) -> None:
        self._file = _new_file(folder)

    def append(self, value: Any) -> None:
        line = orjson.dumps(value, default=tuple) + b"\n"
        with _translated():
            self._file.write(line)

    def __iter__(self) -> Iterator[Any]:
        with _translated():
            self._file.seek(0)
        return map(orjson.loads, self._file)

    def close(self) -> None:
        with suppress(OSError):  # what could not be written is not wanted any more
            self._file.close()


def _new_file(folder: Path | None) -> IO[bytes]:
    if folder is not None:
        with suppress(OSError):
            return tempfile.TemporaryFile(prefix="syncer-", dir=folder)
    with _translated():
        return tempfile.TemporaryFile(prefix="syncer-")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SyncerError(
            f"a temporary file cannot be written: {error.strerror}; make room in the folder of the "
            "state, or, with the state on PostgreSQL, set TMPDIR to a folder that has some"
        ) from error
