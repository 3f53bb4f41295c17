"""What people decided on a run's changes, and whom a partial pull has a say on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Connection

from state import holds
from state.holds import InForce
from syncer.chunks import CHUNK, chunks
from syncer.engage.catalog import Catalog
from syncer.json_text import to_json_or_none
from syncer.sync.changes import CustomerChange, Ruling, TraitChange, leaves, size_of
from syncer.sync.join import JoinedRow
from syncer.sync.spool import Spool
from syncer.sync.tally import Tally


class Rulings:
    """What people decided on the changes that a comparison finds.

    They decided before the run, or by the approval that it is made for: of the holds `approved`,
    what runs up to `until` hold. `excused` counts, by trait key, the changes that leave and that
    the guard need not judge any more.
    """

    def __init__(
        self,
        connection: Connection,
        tally: Tally,
        approved: Collection[int] = (),
        until: int = 0,
    ) -> None:
        self._connection, self._tally = connection, tally
        self._approved, self._until = approved, until
        self.traits = holds.traits_in_force(connection)
        self.excused: Counter[str] = Counter()

    def read(self, changes: Iterable[CustomerChange]) -> Iterator[CustomerChange]:
        """Yield the same changes with their rulings."""
        for part in chunks(iter(changes), size_of):
            decided: dict[tuple[str, str], InForce] = {}
            if self.traits:
                decided = holds.in_force(self._connection, [change.customer_id for change in part])
            for change in part:
                yield self._ruled(change, decided)

    def _ruled(
        self, customer: CustomerChange, decided: Mapping[tuple[str, str], InForce]
    ) -> CustomerChange:
        if customer.deleted:
            self._tally.deleted += 1
            # The guard counts these as deletions, and not also as exits of each trait.
            self.excused.update(change.key for change in customer.changes if self._leaves(change))
            hold = decided.get((customer.customer_id, holds.DELETED))
            ruling = None if hold is None else self._ruling(hold, None, None)
            self.excused[holds.DELETED] += ruling is not None
            return customer._replace(ruling=ruling)
        changes = []
        for change in customer.changes:
            hold = decided.get((customer.customer_id, change.trait))
            if hold is not None:
                ruling = self._ruling(hold, change.after, change.observed_at)
                self.excused[change.key] += ruling is not None and self._leaves(change)
                changes.append(change._replace(ruling=ruling))
            else:
                changes.append(change)
        return customer._replace(changes=changes)

    def _ruling(self, hold: InForce, after: Any, observed_at: int | None) -> Ruling | None:
        """Return the decision on a change; None if Engage says something that nobody decided on."""
        if hold.after != to_json_or_none(after):
            return None
        if hold.hold in self._approved and hold.since_run <= self._until:
            return "approved"
        newer = observed_at is not None and observed_at > (hold.observed_at or 0)
        return "rejected" if hold.decision == holds.REJECTED and not newer else None

    def _leaves(self, change: TraitChange) -> bool:
        return leaves(change, self._tally.catalog.by_key[change.key].kind)


class MentionedCustomers:
    """The customers of whom a pull has a row of some traits: (trait, customer ids), many times.

    They are on disk, as in `Spool`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._spool = Spool(folder)
        self._ids: dict[str, list[str]] = {}

    def noted(
        self, rows: Iterator[JoinedRow], catalog: Catalog, traits: Collection[str]
    ) -> Iterator[JoinedRow]:
        """Yield the same rows, and note the customers with a row of one of these traits."""
        keys = {catalog.by_name[name].key: name for name in traits if name in catalog.by_name}
        return self._noted(rows, keys) if keys else rows

    def _noted(self, rows: Iterator[JoinedRow], keys: Mapping[str, str]) -> Iterator[JoinedRow]:
        for joined in rows:
            row = joined[0]
            assert row is not None  # a partial pull joins only the rows that it has
            for key in set(orjson.loads(row.keys)) & keys.keys():
                self._note(keys[key], row.customer_id)
            yield joined

    def _note(self, trait: str, customer_id: str) -> None:
        ids = self._ids.setdefault(trait, [])
        ids.append(customer_id)
        if len(ids) >= CHUNK:
            self._spool.append((trait, self._ids.pop(trait)))

    def __iter__(self) -> Iterator[tuple[str, list[str]]]:
        yield from self._ids.items()
        yield from self._spool

    def close(self) -> None:
        self._spool.close()
