"""Lists on disk: they hold what a run found, between the comparison and the commit.

The pull may take minutes. The transaction that applies it must not take so long, because others
wait for it. The file has no name, so a run that died leaves nothing behind.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import orjson

from syncer.errors import SyncerError
from syncer.sync.changes import CustomerChange, TraitChange


class Spool:
    """A list of JSON values: append all, then iterate as often as needed.

    The file is in `folder`. Without a folder, or if no file can be made there, it is in the
    system's temporary folder. An error of the disk is raised as SyncerError.
    """

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
        with suppress(OSError):  # nobody needs what could not be written
            self._file.close()


class ChangeSpool:
    """The changes of customers that a comparison found, on disk as in `Spool`."""

    def __init__(self, folder: Path | None = None) -> None:
        self._spool = Spool(folder)
        self.customers = 0

    def append(self, change: CustomerChange) -> None:
        self._spool.append(change)
        self.customers += 1

    def __iter__(self) -> Iterator[CustomerChange]:
        for fields in self._spool:
            change = CustomerChange._make(fields)
            yield change._replace(changes=list(map(TraitChange._make, change.changes)))

    def close(self) -> None:
        self._spool.close()


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
