"""Which keys are ours, what they are called at Amberflo, and how a customer's values read.

Pure: built once a run from what the source has, what the config says and what is known already.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import NamedTuple

import orjson

from syncer.engage.listing import AUDIENCE, COMPUTED_TRAIT, Kind
from syncer.engage.names import trait_name
from syncer.engage.source import ObservedKey
from syncer.engage.values import USUAL, Value, boolean, is_null, typed
from syncer.errors import SourceError
from syncer.times import since_1970

__all__ = [
    "AUDIENCE",
    "COMPUTED_TRAIT",
    "Catalog",
    "Kind",
    "KnownTrait",
    "Layout",
    "Place",
    "Reading",
    "build",
    "canonical",
    "matches",
    "newest",
]

#: Traits that are the customer's name and email, never traits at Amberflo (design §3).
PROFILE_KEYS = ("name", "email")
#: Journeys keep internals in traits of this name (facts/segment.md §1.3).
INTERNAL = "hidden_entry*"
#: Steps of journeys are memberships too, and no audiences of the Public API (§3.1, §1.2).
JOURNEY = "j_o_*"
#: How many different combinations of values are remembered as read.
READINGS = 1 << 15


@dataclass(frozen=True)
class KnownTrait:
    """A trait of ours: its Segment key, its name at Amberflo, what it is."""

    key: str
    name: str
    kind: Kind


class Place(NamedTuple):
    """Where a trait row's value goes: the name, whether it is a membership, or why nowhere."""

    key: str
    name: str
    audience: bool
    problem: str | None


@dataclass(slots=True, eq=False)
class Layout:
    """The keys that a customer has, in the order of its rows. `twice` says that a key stands
    twice: read it again after `newest`."""

    keys: tuple[str, ...] = ()
    places: tuple[Place, ...] = ()
    twice: bool = False


@dataclass(slots=True, eq=False)
class Reading:
    """One combination of values, read.

    `traits` maps names at Amberflo to values, `text` is its canonical JSON; `nulls` are keys that
    have no value, `skipped` those that could not be read, each with the reason. `somebody` says
    that it is in an audience now, or has a computed trait: a customer to send (design §3).
    """

    layout: Layout
    traits: dict[str, Value]
    text: str
    nulls: list[str]
    skipped: list[tuple[str, str]]
    somebody: bool


class Catalog:
    """The traits of a run, by key and by name."""

    def __init__(
        self,
        traits: Iterable[KnownTrait],
        problems: dict[str, str],
        messages: list[str],
        lost: Iterable[KnownTrait] = (),
        unlisted: Collection[str] = (),
        ignored: Sequence[str] = (),
    ) -> None:
        #: the keys to pull
        found = list(traits)
        self.keys = sorted(trait.key for trait in found)
        found += lost
        #: ours, those of earlier runs that the source lost or the config leaves out now included
        self.by_key = {trait.key: trait for trait in found}
        self.by_name = {trait.name: trait for trait in found if trait.key not in problems}
        #: keys that cannot be sent, with the reason
        self.problems = problems
        #: one line a problem, for the user
        self.messages = messages
        #: keys of earlier runs that the Public API does not list any more
        self.unlisted = unlisted
        #: keys that look like an audience and are none by the Public API: custom traits
        self.ignored = ignored
        self.layout = lru_cache(maxsize=READINGS)(self._layout)
        self.read = lru_cache(maxsize=READINGS)(self._read)

    def _layout(self, keys_text: str) -> Layout:
        """The layout of trait rows with these keys (a JSON array)."""
        keys: tuple[str, ...] = tuple(orjson.loads(keys_text))
        if len(set(keys)) != len(keys):
            return Layout(keys, twice=True)
        places = []
        for key in keys:
            trait = self.by_key.get(key)
            if trait is None:
                places.append(Place(key, key, False, "not ours"))
            else:
                problem = self.problems.get(key)
                places.append(Place(key, trait.name, trait.kind == AUDIENCE, problem))
        return Layout(keys, tuple(places))

    def _read(self, keys_text: str, values_text: str) -> Reading:
        """Read one customer's trait rows (two JSON arrays of one length)."""
        layout = self.layout(keys_text)
        try:
            values = orjson.loads(values_text)
        except orjson.JSONDecodeError:
            raise SourceError(
                f"the pull has values that are no JSON: {values_text[:200]} of {keys_text[:200]}"
            ) from None
        traits: dict[str, Value] = {}
        nulls: list[str] = []
        skipped: list[tuple[str, str]] = []
        somebody = False
        for (key, name, audience, problem), raw in zip(
            layout.places, values, strict=not layout.twice
        ):
            if problem is not None:
                skipped.append((key, problem))
            elif audience and raw.__class__ is str and raw in USUAL:
                # What nearly all values are, without a call: this is the inmost loop of a run.
                traits[name] = member = USUAL[raw]
                somebody = somebody or member
            elif is_null(raw):
                nulls.append(key)
            elif not audience:
                traits[name] = typed(raw)
                somebody = True
            elif (found := boolean(raw)) is None:
                skipped.append((key, "not a boolean"))
            else:
                traits[name] = found
                somebody = somebody or found
        return Reading(layout, traits, canonical(traits), nulls, skipped, somebody)


def canonical(traits: dict[str, Value]) -> str:
    """JSON with sorted keys: equal traits give equal text."""
    return orjson.dumps(traits, option=orjson.OPT_SORT_KEYS).decode()


def newest(keys_text: str, values_text: str, times_text: str) -> tuple[str, str, str]:
    """The three arrays with the newest row of each key only. Times that cannot be read are oldest;
    of equal ones the later place counts (the source orders rows of one time by `seq`)."""
    rows: dict[str, tuple[int, object, object]] = {}
    for key, value, time in zip(
        orjson.loads(keys_text), orjson.loads(values_text), orjson.loads(times_text), strict=True
    ):
        at = since_1970(time)
        if key not in rows or at >= rows[key][0]:
            rows[key] = (at, value, time)
    return (
        orjson.dumps(list(rows)).decode(),
        orjson.dumps([value for _, value, _ in rows.values()]).decode(),
        orjson.dumps([time for _, _, time in rows.values()]).decode(),
    )


def build(
    observed: Iterable[ObservedKey],
    known: Collection[KnownTrait],
    *,
    audiences: Collection[str],
    computed_traits: Collection[str],
    listed: Mapping[str, Kind] | None = None,
) -> Catalog:
    """The catalog of a run.

    A key is a computed trait when it matches `computed_traits`, else an audience when it matches
    `audiences` and its values are boolean (design §3). Where the Public API is asked, it is what
    `listed` says, if the globs for that match, and any other key is a custom trait: a deleted
    audience becomes one, with its last values for ever (facts/segment.md §3.4).

    `known` are the traits of earlier runs: an audience stays one. A key that the source lost gives
    its name to a new one that wants it: the trait at Amberflo is the same, so its members become
    the new key's to leave.
    """
    known_by_key = {trait.key: trait for trait in known}
    found: dict[str, KnownTrait] = {}
    ignored: list[str] = []
    for seen in observed:
        earlier = known_by_key.get(seen.key)
        kind = _kind(seen, earlier.kind if earlier else None, audiences, computed_traits)
        if listed is not None and _needs_listing(seen.key, listed):
            if kind == AUDIENCE and earlier is None and seen.key not in listed:
                ignored.append(seen.key)
            kind = _listed_kind(listed.get(seen.key), seen.key, audiences, computed_traits)
        if kind is not None:
            found[seen.key] = KnownTrait(seen.key, trait_name(seen.key), kind)

    by_name: dict[str, list[str]] = {}
    for trait in found.values():
        by_name.setdefault(trait.name, []).append(trait.key)
    lost = [trait for trait in known if trait.key not in found and trait.name not in by_name]
    unlisted = {
        trait.key
        for trait in lost
        if listed is not None and _needs_listing(trait.key, listed) and trait.key not in listed
    }

    problems: dict[str, str] = {}
    messages: list[str] = []
    for name, keys in sorted(by_name.items()):
        if name == "":
            problems.update(dict.fromkeys(keys, "no name"))
            messages += [
                f"the key {key!r} has no letter or digit that a trait name at Amberflo can keep: "
                "it is not sent; give the audience a key of a-z, 0-9 and _"
                for key in keys
            ]
        elif len(keys) > 1:
            problems.update(dict.fromkeys(keys, "name taken twice"))
            both = " and ".join(repr(key) for key in sorted(keys))
            messages.append(
                f"the keys {both} give one trait name, {name!r}: none of them is sent until one "
                "is renamed or left out of engage.audiences and engage.computed_traits"
            )
    return Catalog(found.values(), problems, messages, lost, unlisted, sorted(ignored))


def _kind(
    seen: ObservedKey,
    earlier: Kind | None,
    audiences: Collection[str],
    computed_traits: Collection[str],
) -> Kind | None:
    if seen.key in PROFILE_KEYS or fnmatchcase(seen.key, INTERNAL):
        return None
    if matches(seen.key, computed_traits):
        return COMPUTED_TRAIT
    if not matches(seen.key, audiences):
        return None
    # 1 and 0 alone may be a count: they are membership where no other number stands beside them.
    boolean_values = seen.words > 0 or (seen.digits > 0 and seen.others == 0)
    return AUDIENCE if boolean_values or earlier == AUDIENCE else None


def _listed_kind(
    listed: Kind | None,
    key: str,
    audiences: Collection[str],
    computed_traits: Collection[str],
) -> Kind | None:
    globs = {AUDIENCE: audiences, COMPUTED_TRAIT: computed_traits}
    if listed is None or key in PROFILE_KEYS or not matches(key, globs[listed]):
        return None
    return listed


def _needs_listing(key: str, listed: Mapping[str, Kind]) -> bool:
    return key in listed or not fnmatchcase(key, JOURNEY)


def matches(key: str, patterns: Collection[str]) -> bool:
    """Whether a key is one of these keys or globs."""
    return any(fnmatchcase(key, pattern) for pattern in patterns)
