"""A catalog of keys that a source has seen."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from syncer.engage.catalog import Catalog, KnownTrait
from syncer.engage.catalog_builder import build
from syncer.engage.computations import Kind
from syncer.engage.source import ObservedKey


def seen(key: str, *, words: int = 0, digits: int = 0, others: int = 0, nulls: int = 0) -> Any:
    return ObservedKey(key, words + digits + others + nulls, words, digits, others)


def booleans(*keys: str) -> list[ObservedKey]:
    return [seen(key, words=9) for key in keys]


def catalog_of(
    observed: Collection[ObservedKey],
    known: Collection[KnownTrait] = (),
    audiences: Collection[str] = ("*",),
    computed_traits: Collection[str] = (),
    listed: Mapping[str, Kind] | None = None,
    **more: Any,
) -> Catalog:
    globs = {"audiences": audiences, "computed_traits": computed_traits}
    return build(observed, known, **globs, listed=listed, **more)


def kinds(catalog: Catalog) -> dict[str, Kind]:
    return {trait.key: trait.kind for trait in catalog.by_key.values()}
