"""What Engage says now of some customers, for a verification that finds them at Amberflo alone."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property

from state import snapshot, suppression
from state.db.database import Database
from syncer.engage.catalog import Catalog
from syncer.engage.computations import AUDIENCE
from syncer.engage.selection import matches
from syncer.engage.source import OnlyCustomers, Source
from syncer.sync.owned_traits import EngageTraits, OwnedTraits, engage_traits
from syncer.sync.trait_selection import Selection, known_trait

#: Customers that Engage is asked about at a time.
AT_A_TIME = 500


@dataclass
class EngageLookup:
    """Looks up the traits that the state knows as ours and that the `selection` takes in.

    `source` opens Engage; it is not called before the first lookup.
    """

    database: Database
    source: Callable[[], Source]
    selection: Selection
    as_strings: bool = False
    protected: tuple[str, ...] = ()

    @cached_property
    def ours(self) -> OwnedTraits:
        """These traits, as Amberflo should hold them."""
        audiences = {trait.name: trait.kind == AUDIENCE for trait in self._catalog.by_name.values()}
        return OwnedTraits(audiences, self.as_strings, self.protected)

    def traits_of(self, customer_ids: Collection[str]) -> dict[str, EngageTraits]:
        """Return what Engage says of the named customers that it knows, less those to be forgotten.

        Raises SourceError and ConfigError if Engage cannot be asked.
        """
        with self.database.read() as connection:
            suppressed = suppression.load(connection)
        ids = tuple(customer_id for customer_id in customer_ids if customer_id not in suppressed)
        with self.source().pull(OnlyCustomers(ids)) as pull:
            rows = pull.customers(self._catalog.keys)
            return {row.customer_id: engage_traits(self._catalog, row) for row in rows}

    @cached_property
    def _catalog(self) -> Catalog:
        with self.database.read() as connection:
            rows = snapshot.traits(connection)
        known = [
            trait
            for trait in map(known_trait, rows)
            if matches(trait.key, self.selection.globs(trait.kind))
        ]
        return Catalog(known, {}, [])
