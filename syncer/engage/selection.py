"""Which keys of Engage are ours, and which of them are audiences: one rule for pulls and calls.

Pure. A key is selected if it matches one of the globs and none of those that exclude, which begin
with "!": `["*", "!internal_*"]` selects every key but the internal ones, in whatever order the
entries stand.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase

from syncer.engage.computations import AUDIENCE, COMPUTED_TRAIT, Kind
from syncer.engage.trait_names import trait_name

#: Traits that are the customer's name and email, never traits at Amberflo (docs/design.md §3.3).
PROFILE_KEYS = ("name", "email")
#: Journeys keep internals in traits with such names (docs/facts/segment.md §1.3).
INTERNAL = "hidden_entry*"

#: The first character of a glob that excludes, the characters of globs, and the glob of every key.
_NOT, _GLOB, _EVERY = "!", frozenset("*?["), "*"


@dataclass(frozen=True)
class KeySelection:
    """The keys that the config selects, by the globs of each kind."""

    audiences: Collection[str]
    computed_traits: Collection[str]

    def kind(self, key: str, stated: Kind | None = None) -> Kind | None:
        """Return what a key is to us; None if it is not ours.

        `stated` is its kind by Segment's list or by earlier runs: the key is ours if the globs of
        that kind select it. Without it the globs decide, those of computed traits first.
        """
        if key in PROFILE_KEYS or fnmatchcase(key, INTERNAL):
            return None
        for kind in (COMPUTED_TRAIT, AUDIENCE) if stated is None else (stated,):
            if matches(key, self._globs(kind)):
                return kind
        return None

    def selects(self, key: str) -> bool:
        """Return whether a key may be ours, or is the name or email of a customer."""
        kinds = (AUDIENCE, COMPUTED_TRAIT)
        return key in PROFILE_KEYS or any(self.kind(key, kind) for kind in kinds)

    def names(self, key: str) -> bool:
        """Return whether the config names a key itself, not only by a glob."""
        return named(key, self.audiences) or named(key, self.computed_traits)

    @property
    def named_keys(self) -> tuple[str, ...]:
        """The keys that the config names themselves."""
        return tuple(filter(self.names, (*self.audiences, *self.computed_traits)))

    def names_audience(self, key: str) -> bool:
        """Return whether the config names a key itself as an audience."""
        return named(key, self.audiences)

    def means_audience(self, key: str) -> bool:
        """Return whether an entry says something about this audience: not `"*"` alone."""
        return meant(key, self.audiences)

    def releases(self, key: str, released: Collection[str]) -> bool:
        """Return whether a key stays released: released by key or name, and not named again."""
        return (key in released or trait_name(key) in released) and not self.names(key)

    def _globs(self, kind: Kind) -> Collection[str]:
        return self.audiences if kind == AUDIENCE else self.computed_traits


def matches(key: str, patterns: Collection[str]) -> bool:
    """Return whether a key is one of these keys or globs, and none of those that exclude."""
    selected = False
    for pattern in patterns:
        if not pattern.startswith(_NOT):
            selected = selected or fnmatchcase(key, pattern)
        elif fnmatchcase(key, pattern[len(_NOT) :]):
            return False
    return selected


def named(key: str, patterns: Collection[str]) -> bool:
    """Return whether a key is selected by its own name, not by a glob."""
    return key in patterns and _GLOB.isdisjoint(key) and matches(key, patterns)


def meant(key: str, patterns: Collection[str]) -> bool:
    """Return whether an entry other than `"*"` selects a key: its name, or a narrower glob."""
    return matches(key, patterns) and any(
        fnmatchcase(key, pattern) for pattern in patterns if pattern != _EVERY
    )
