"""The traits at Amberflo that are ours, and what Engage says should be there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from syncer.amberflo.record import alike, at_amberflo, is_protected
from syncer.engage.catalog import Catalog, newest
from syncer.engage.source import PulledCustomer


@dataclass(frozen=True)
class OwnedTraits:
    """The traits at Amberflo that are ours.

    `audiences` maps their names to whether they are audiences; the rest says how traits are sent.
    """

    audiences: Mapping[str, bool]
    as_strings: bool = False
    protected: tuple[str, ...] = ()

    def names(self, traits: Iterable[str]) -> list[str]:
        """Return the names of ours among these."""
        return [
            name
            for name in traits
            if name in self.audiences and not is_protected(name, self.protected)
        ]

    def held(self, traits: Mapping[str, Any]) -> list[str]:
        """Return the names of ours under which these traits hold a value; false counts as none."""
        return [
            name
            for name in self.names(traits)
            if traits[name] is not None
            and not (self.audiences[name] and alike(traits[name], False))
        ]

    def expected(self, name: str, value: Any, wanted: Mapping[str, Any]) -> Any:
        """Return what Amberflo should hold under a name of ours instead of `value`.

        `wanted` is what Engage says. A customer without a row of an audience is not in it: the
        value is false for a membership. Another value there, and a computed trait without a row,
        should not exist (None).
        """
        if name in wanted:
            return at_amberflo(wanted[name], as_strings=self.as_strings)
        return False if self.audiences[name] and _is_membership(value) else None

    def right(self, name: str, value: Any, wanted: Mapping[str, Any]) -> bool:
        """Return whether what Amberflo holds is what it should hold."""
        return alike(self.expected(name, value, wanted), value)


def _is_membership(value: Any) -> bool:
    return alike(value, True) or alike(value, False)


class EngageTraits(NamedTuple):
    """What Engage says of a customer: its traits by name, and the names of unreadable values."""

    traits: dict[str, Any]
    unreadable: frozenset[str] = frozenset()


def engage_traits(catalog: Catalog, row: PulledCustomer) -> EngageTraits:
    """Read what the source has of a customer."""
    keys, values = row.keys, row.values
    reading = catalog.read(keys, values)
    if reading.layout.twice:
        keys, values, _ = newest(keys, values, row.times)
        reading = catalog.read(keys, values)
    unreadable = (catalog.by_key[key] for key, _ in reading.skipped if key in catalog.by_key)
    return EngageTraits(reading.traits, frozenset(trait.name for trait in unreadable))
