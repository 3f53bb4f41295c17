"""Which keys of Engage are ours, by the config: one rule for pulls and for calls. Pure.

A key is selected when it matches one of the globs and none of those that exclude, which begin with
"!": `["*", "!internal_*"]` is every key but the internal ones, in whatever order they stand.
"""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase

from syncer.engage.computations import AUDIENCE, COMPUTED_TRAIT, Kind

#: Traits that are the customer's name and email, never traits at Amberflo (docs/design.md §3.3).
PROFILE_KEYS = ("name", "email")
#: Journeys keep internals in traits of this name (docs/facts/segment.md §1.3).
INTERNAL = "hidden_entry*"

#: What a glob that excludes begins with, what makes an entry a glob, and the glob of every key.
_NOT, _GLOB, _EVERY = "!", frozenset("*?["), "*"


def kind_by_globs(
    key: str, audiences: Collection[str], computed_traits: Collection[str]
) -> Kind | None:
    """What a key may be by the config's globs, computed traits first; None: it is not ours."""
    if key in PROFILE_KEYS or fnmatchcase(key, INTERNAL):
        return None
    if matches(key, computed_traits):
        return COMPUTED_TRAIT
    return AUDIENCE if matches(key, audiences) else None


def matches(key: str, patterns: Collection[str]) -> bool:
    """Whether a key is one of these keys or globs, and none of those that exclude."""
    found = False
    for pattern in patterns:
        if not pattern.startswith(_NOT):
            found = found or fnmatchcase(key, pattern)
        elif fnmatchcase(key, pattern[len(_NOT) :]):
            return False
    return found


def named(key: str, patterns: Collection[str]) -> bool:
    """Whether a key is selected by its own name, not by a glob."""
    return key in patterns and _GLOB.isdisjoint(key) and matches(key, patterns)


def meant(key: str, patterns: Collection[str]) -> bool:
    """Whether a key is selected by an entry that says something of it: its name, or a glob that is
    not that of every key."""
    return matches(key, patterns) and any(
        fnmatchcase(key, pattern) for pattern in patterns if pattern != _EVERY
    )
