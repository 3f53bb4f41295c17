"""The traits of Engage that are ours, by the config and by what earlier runs knew."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from state.snapshot import TraitRow
from syncer.config import EngageConfig
from syncer.engage.catalog import Catalog, KnownTrait
from syncer.engage.catalog_builder import build
from syncer.engage.computations import AUDIENCE, COMPUTED_TRAIT, Computations, Kind
from syncer.engage.source import ObservedKey
from syncer.json_text import to_json


@dataclass(frozen=True)
class Selection:
    """The part of Engage that is ours, by the globs of the config.

    `settings` is a text of all settings that make the snapshot incomparable with a partial pull
    when one of them changes.
    """

    audiences: tuple[str, ...]
    computed_traits: tuple[str, ...]
    settings: str
    #: whether customers that were deleted in Segment are forgotten
    forget_deleted: bool = False
    #: whether a trait waits for an approval if others have values under its name
    hold_first_contact: bool = False

    @classmethod
    def of(cls, engage: EngageConfig) -> Selection:
        """Return the selection of the settings."""
        settings: dict[str, Any] = {
            "customer_id": engage.customer_id,
            "audiences": engage.audiences,
            "computed_traits": engage.computed_traits,
            **engage.settings.identity(),
        }
        if engage.filter:
            settings["filter"] = engage.filter
        if engage.public_api is not None:
            settings["space_id"] = engage.public_api.space_id
        return cls(
            engage.audiences,
            engage.computed_traits,
            to_json(settings),
            forget_deleted=engage.deleted == "forget",
            hold_first_contact=engage.first_contact == "hold",
        )

    def globs(self, kind: Kind) -> tuple[str, ...]:
        """Return the globs of the keys of a kind."""
        return self.audiences if kind == AUDIENCE else self.computed_traits

    def catalog(
        self,
        observed: Sequence[ObservedKey],
        traits: Sequence[TraitRow],
        released: Iterable[TraitRow],
        computations: Computations | None,
    ) -> Catalog:
        """Match the keys that a pull has with the known `traits`, and with the `released` ones."""
        catalog = build(
            observed,
            list(map(known_trait, traits)),
            audiences=self.audiences,
            computed_traits=self.computed_traits,
            listed=computations.kinds if computations else None,
            released=list(map(known_trait, released)),
            members={row.key: row.members for row in traits},
        )
        if computations and computations.problem:
            catalog.messages.append(computations.problem)
        return catalog


def members_by_key(rows: Iterable[TraitRow], catalog: Catalog) -> dict[str, int]:
    """Return the members by the key that has the trait's name now."""
    return {
        catalog.by_name[row.trait].key: row.members for row in rows if row.trait in catalog.by_name
    }


def known_trait(row: TraitRow) -> KnownTrait:
    """Return a trait of the state as a catalog has it."""
    return KnownTrait(row.key, row.trait, kind_of(row))


def kind_of(row: TraitRow) -> Kind:
    """Return the kind of a trait of the state."""
    return AUDIENCE if row.kind == AUDIENCE else COMPUTED_TRAIT
