"""What is ours at Amberflo by name, and what Engage says should be there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from syncer.amberflo.record import alike, at_amberflo, is_protected
from syncer.engage.catalog import Catalog, newest
from syncer.engage.source import PulledCustomer


@dataclass(frozen=True)
class OwnedTraits:
    """What is ours at Amberflo: the kind of each trait by its name (true for an audience), and how
    traits are sent."""

    audiences: Mapping[str, bool]
    as_strings: bool = False
    protected: tuple[str, ...] = ()

    def names(self, traits: Iterable[str]) -> list[str]:
        """Those of the traits that are ours."""
        return [
            one for one in traits if one in self.audiences and not is_protected(one, self.protected)
        ]

    def held(self, traits: Mapping[str, Any]) -> list[str]:
        """The names of ours under which these traits hold something; false says nothing."""
        return [
            one
            for one in self.names(traits)
            if traits[one] is not None and not (self.audiences[one] and alike(traits[one], False))
        ]

    def expected(self, name: str, found: Any, wanted: Mapping[str, Any]) -> Any:
        """What Amberflo should hold under a name of ours where it holds `found` and Engage says
        `wanted`. Who is in no pulled row of an audience is not in it: false for a membership; what
        is none, and a computed trait that is not there, is not to be there (None)."""
        if name in wanted:
            return at_amberflo(wanted[name], as_strings=self.as_strings)
        return False if self.audiences[name] and _is_membership(found) else None

    def right(self, name: str, found: Any, wanted: Mapping[str, Any]) -> bool:
        """Whether what Amberflo holds is what it should hold."""
        return alike(self.expected(name, found, wanted), found)


def _is_membership(found: Any) -> bool:
    return alike(found, True) or alike(found, False)


class EngageTraits(NamedTuple):
    """What Engage says of a customer: its traits by name, and the names of what cannot be read."""

    traits: dict[str, Any]
    unreadable: frozenset[str] = frozenset()


def engage_traits(catalog: Catalog, row: PulledCustomer) -> EngageTraits:
    """What the source gives of a customer, read."""
    keys, values = row.keys, row.values
    reading = catalog.read(keys, values)
    if reading.layout.twice:
        keys, values, _ = newest(keys, values, row.times)
        reading = catalog.read(keys, values)
    unreadable = (catalog.by_key[key] for key, _ in reading.skipped if key in catalog.by_key)
    return EngageTraits(reading.traits, frozenset(trait.name for trait in unreadable))
