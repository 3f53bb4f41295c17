"""A list on disk: what a run has found, between the comparison and the commit.

The pull may take minutes; the transaction that applies it must not, others wait for it. The file
has no name, so nothing of a run that died stays behind.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import IO, Any

import orjson


class Spool:
    """A list of JSON values: append all, then iterate as often as you like."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="syncer-")  # noqa: SIM115

    def append(self, value: Any) -> None:
        self._file.write(orjson.dumps(value, default=tuple) + b"\n")

    def __iter__(self) -> Iterator[Any]:
        self._file.seek(0)
        return map(orjson.loads, self._file)

    def close(self) -> None:
        self._file.close()
