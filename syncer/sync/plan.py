"""The plan of a run: its changes, spooled to a file between the comparison and the commit.

The pull may take minutes; the transaction that applies it must not, others wait for it. The file
has no name, so nothing of a run that died stays behind.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import IO

import orjson

from syncer.sync.compare import CustomerChange, TraitChange


class Plan:
    """A list of customer changes on disk: append all, then iterate as often as you like."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="syncer-")  # noqa: SIM115
        self.customers = 0

    def append(self, change: CustomerChange) -> None:
        self._file.write(orjson.dumps(change, default=tuple) + b"\n")
        self.customers += 1

    def __iter__(self) -> Iterator[CustomerChange]:
        self._file.seek(0)
        for line in self._file:
            change = CustomerChange._make(orjson.loads(line))
            yield change._replace(changes=[TraitChange._make(one) for one in change.changes])

    def close(self) -> None:
        self._file.close()
