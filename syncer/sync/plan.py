"""The plan of a run: its changes, from the comparison to the commit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from syncer.sync.diff import CustomerChange, TraitChange
from syncer.sync.spool import Spool


class Plan:
    """A list of customer changes on disk, as `Spool`."""

    def __init__(self, folder: Path | None = None) -> None:
        self._spool = Spool(folder)
        self.customers = 0

    def append(self, change: CustomerChange) -> None:
        self._spool.append(change)
        self.customers += 1

    def __iter__(self) -> Iterator[CustomerChange]:
        for one in self._spool:
            change = CustomerChange._make(one)
            yield change._replace(changes=[TraitChange._make(one) for one in change.changes])

    def close(self) -> None:
        self._spool.close()
