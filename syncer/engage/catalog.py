"""Which keys are ours, what they are called at Amberflo, and how a customer's values read.

Pure: built once a run from what the source has, what the config says and what is known already.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from sys import getsizeof
from typing import NamedTuple

import orjson

from syncer.cache import Cache
from syncer.clock import since_1970
from syncer.engage.computations import AUDIENCE, COMPUTED_TRAIT, Kind
from syncer.engage.selection import PROFILE_KEYS, kind_by_globs, matches, meant, named
from syncer.engage.source import ObservedKey
from syncer.engage.trait_names import trait_name
from syncer.engage.values import (
    NO_BOOLEAN,
    USUAL,
    Unreadable,
    Value,
    boolean,
    elements,
    is_null,
    read_array,
    typed,
)
from syncer.errors import SourceError
from syncer.ids import MAX_KEY, storable

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
    "newest",
]

#: Steps of journeys are memberships too, and no audiences of the Public API
#: (docs/facts/segment.md §1.2).
JOURNEY = "j_o_*"
#: So many bytes of combinations of values are remembered as read, and of keys.
READINGS, LAYOUTS = 16 << 20, 4 << 20
#: What an entry takes beside the texts that it has: the objects, and the values by name.
_ENTRY, _VALUE = 500, 100
#: How many keys notices of one kind name.
NAMED = 10


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
    that it is in an audience now, or has a computed trait: a customer to send
    (docs/design.md §3.4).
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
        *,
        notices: Sequence[str] = (),
        left_out: Sequence[KnownTrait] = (),
        renamed: Mapping[str, KnownTrait] | None = None,
    ) -> None:
        #: the keys to pull
        found = list(traits)
        self.keys = sorted(trait.key for trait in found)
        found += lost
        #: ours, those of earlier runs that the source lost included
        self.by_key = {trait.key: trait for trait in found}
        self.by_name = {trait.name: trait for trait in found if trait.key not in problems}
        #: keys that cannot be sent, with the reason
        self.problems = problems
        #: one line a problem, for the user: with one the run is not good
        self.messages = messages
        #: one line for each thing that the user should know; the run is good all the same
        self.notices = list(notices)
        #: keys of earlier runs that the Public API does not list any more
        self.unlisted = unlisted
        #: keys that look like an audience and are none by the Public API: custom traits
        self.ignored = ignored
        #: ours of earlier runs that the config leaves out now: nothing of them is read or changed
        self.left_out = left_out
        #: keys of earlier runs that give their name to another key, and what it is then
        self.renamed = dict(renamed or {})
        self._places: dict[str, Place] = {}
        self._layouts: Cache[str, Layout] = Cache(LAYOUTS)
        self._readings: Cache[tuple[str, str], Reading] = Cache(READINGS)
        #: what was read of a pair of arrays, or None: `read` for who asks very often
        self.remembered = self._readings.get

    def layout(self, keys_text: str) -> Layout:
        """The layout of trait rows with these keys (a JSON array)."""
        found = self._layouts.get(keys_text)
        if found is not None:
            return found
        layout = self._layout(keys_text)
        size = _ENTRY + getsizeof(keys_text) + _size(layout)
        return self._layouts.put(keys_text, layout, size)

    def read(self, keys_text: str, values_text: str) -> Reading:
        """Read one customer's trait rows (two JSON arrays of one length)."""
        asked = (keys_text, values_text)
        found = self._readings.get(asked)
        if found is not None:
            return found
        reading = self._read(keys_text, values_text)
        # What the values take beside the object of each is what their text takes.
        texts = getsizeof(keys_text) + 2 * getsizeof(values_text) + getsizeof(reading.text)
        size = _ENTRY + texts + _size(reading.layout) + _VALUE * len(reading.layout.keys)
        return self._readings.put(asked, reading, size)

    def _layout(self, keys_text: str) -> Layout:
        places = tuple(map(self._place, orjson.loads(keys_text)))
        # The texts of the places, so that the keys are there once, not with each layout.
        keys = tuple(place.key for place in places)
        if len(set(keys)) != len(keys):
            return Layout(keys, twice=True)
        return Layout(keys, places)

    def _place(self, key: str) -> Place:
        found = self._places.get(key)
        if found is None:
            trait = self.by_key.get(key)
            if trait is None:
                found = Place(key, key, False, "not ours")
            else:
                problem = self.problems.get(key)
                found = Place(key, trait.name, trait.kind == AUDIENCE, problem)
            self._places[key] = found
        return found

    def _read(self, keys_text: str, values_text: str) -> Reading:
        layout = self.layout(keys_text)
        values = read_array(values_text)
        if len(values) != len(layout.keys):
            raise SourceError(
                f"the pull has {len(values):,} values of {len(layout.keys):,} keys: "
                f"{values_text[:200]} of {keys_text[:200]}"
            )
        traits: dict[str, Value] = {}
        nulls: list[str] = []
        skipped: list[tuple[str, str]] = []
        somebody = False
        for (key, name, audience, problem), raw in zip(layout.places, values, strict=False):
            if problem is not None:
                skipped.append((key, problem))
            elif audience and raw.__class__ is str and raw in USUAL:
                # What nearly all values are, without a call: this is the inmost loop of a run.
                traits[name] = member = USUAL[raw]
                somebody = somebody or member
            elif is_null(raw):
                nulls.append(key)
            elif audience and (found := boolean(raw)) is not None:
                traits[name] = found
                somebody = somebody or found
            elif isinstance(value := typed(raw), Unreadable):
                skipped.append((key, value.reason))
            elif audience:
                skipped.append((key, NO_BOOLEAN))
            else:
                traits[name] = value
                somebody = True
        return Reading(layout, traits, canonical(traits), nulls, skipped, somebody)


def _size(layout: Layout) -> int:
    """The bytes that a layout takes; its places are those of all others."""
    return getsizeof(layout.keys) + getsizeof(layout.places)


def canonical(traits: dict[str, Value]) -> str:
    """JSON with sorted keys: equal traits give equal text."""
    return orjson.dumps(traits, option=orjson.OPT_SORT_KEYS).decode()


def newest(keys_text: str, values_text: str, times_text: str) -> tuple[str, str, str]:
    """The three arrays with the newest row of each key only. Times that cannot be read are oldest;
    of equal ones the later place counts (the source orders rows of one time by `seq`)."""
    rows: dict[str, tuple[int, str, str]] = {}
    for key, value, time in zip(
        orjson.loads(keys_text), elements(values_text), elements(times_text), strict=True
    ):
        at = since_1970(read_array(f"[{time}]")[0])
        if key not in rows or at >= rows[key][0]:
            rows[key] = (at, value, time)
    return (
        orjson.dumps(list(rows)).decode(),
        f"[{','.join(value for _, value, _ in rows.values())}]",
        f"[{','.join(time for _, _, time in rows.values())}]",
    )


@dataclass(frozen=True)
class _Rules:
    """What says which keys are ours: the config's globs, the Public API's list where it is asked,
    and the names that were given back."""

    audiences: Collection[str]
    computed_traits: Collection[str]
    listed: Mapping[str, Kind] | None
    released: Mapping[str, str]

    def by_globs(self, key: str) -> Kind | None:
        return kind_by_globs(key, self.audiences, self.computed_traits)

    def decided_by_listing(self, key: str) -> bool:
        """Whether the Public API alone says what a key is."""
        return self.listed is not None and (key in self.listed or not fnmatchcase(key, JOURNEY))

    def listed_kind(self, key: str) -> Kind | None:
        """What the Public API lists a key as, where the globs for that match."""
        kind = (self.listed or {}).get(key)
        if kind is None or key in PROFILE_KEYS:
            return None
        globs = self.audiences if kind == AUDIENCE else self.computed_traits
        return kind if matches(key, globs) else None

    def by_name(self, key: str) -> bool:
        """Whether the config names a key, not only a glob that matches it."""
        return named(key, self.audiences) or named(key, self.computed_traits)

    def given_back(self, key: str) -> bool:
        return trait_name(key) in self.released and not self.by_name(key)

    def leave_out(self, trait: KnownTrait) -> bool:
        """Whether the config, and nothing else, says that a trait of earlier runs is none now."""
        if self.listed is not None and trait.key in self.listed:
            return self.listed_kind(trait.key) is None
        kind = self.by_globs(trait.key)
        return kind is None or (kind == AUDIENCE and trait.kind == COMPUTED_TRAIT)


@dataclass
class _Keys:
    """The keys of the source, as they are found: what is ours, and what there is to tell of it."""

    rules: _Rules
    found: dict[str, KnownTrait] = field(default_factory=dict)
    #: look like an audience, and the Public API lists none
    ignored: list[str] = field(default_factory=list)
    #: keys of which only 1 and 0 stand in the source: counts, or audiences of a warehouse that
    #: writes booleans so
    digits: list[str] = field(default_factory=list)
    #: audiences of which no value is a boolean any more: a line each
    unreadable: list[str] = field(default_factory=list)
    #: audiences with values that are no booleans, new keys with some that are, and keys whose name
    #: was given back under another key: a line each
    stray: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    #: keys that a database cannot keep
    odd: list[str] = field(default_factory=list)

    def add(self, seen: ObservedKey, earlier: Kind | None) -> None:
        """Take a key where it is ours: what it is follows from all its values, and a stray one
        never makes nor unmakes an audience."""
        rules, key = self.rules, seen.key
        kind = rules.by_globs(key)
        if kind is not None and not storable(key, MAX_KEY):
            self.odd.append(
                f"{key[:40]!r}{'…' if len(key) > 40 else ''}: its {seen.rows:,} values are "
                f"skipped: the key is longer than {MAX_KEY} bytes or has characters that a "
                "database cannot keep"
            )
            return
        if rules.decided_by_listing(key):
            if kind == AUDIENCE and _all_boolean(seen) and earlier is None:
                assert rules.listed is not None
                self.ignored += [key] if key not in rules.listed else []
            kind = rules.listed_kind(key)
        elif kind == AUDIENCE and earlier != AUDIENCE and not named(key, rules.audiences):
            if not _all_boolean(seen):
                self._tell_mixed(seen, earlier)
                return
            if seen.words == 0 and not meant(key, rules.audiences):
                self.digits.append(key)
                return
        if kind is None:
            return
        if rules.given_back(key):
            self._tell_released(key)
            return
        self.found[key] = KnownTrait(key, trait_name(key), kind)
        if kind == AUDIENCE and seen.others and seen.others == _values(seen):
            self.unreadable.append(
                f"{key}: none of its {seen.others:,} values is a boolean: its members stay as they "
                f"are; `syncer traits release {shlex.quote(key)}` gives it back if it is no "
                "audience, and engage.computed_traits takes it as what it is"
            )
        elif kind == AUDIENCE and seen.others:
            self.stray.append(
                f"{key}: {seen.others:,} of {_values(seen):,} values are no booleans: they are "
                "skipped, and their customers stay as they are; `syncer traits release "
                f"{shlex.quote(key)}` gives it back if it is no audience"
            )

    def _tell_mixed(self, seen: ObservedKey, earlier: Kind | None) -> None:
        """Some values read as booleans. Where these are 1 and 0 among other numbers it is a count,
        and nothing is to be told of it."""
        if earlier is None and (seen.words or seen.digits > seen.others):
            self.mixed.append(
                f"{seen.key}: {seen.words + seen.digits:,} of {_values(seen):,} values are "
                "booleans: it is no audience; name it in engage.audiences exactly if it is one"
            )

    def _tell_released(self, key: str) -> None:
        name = trait_name(key)
        if self.rules.released[name] != key:
            self.released.append(
                f"{key}: its name at Amberflo, {name!r}, was given back by `syncer traits "
                "release`; name the key in engage.audiences exactly to take it again"
            )

    def notices(self) -> list[str]:
        """All that there is to tell, by kind, a bounded number of lines."""
        notices = []
        if self.digits:
            notices.append(
                f"{_some(self.digits)}: the only values are 1 and 0, which may be a count: not "
                "taken as an audience; name it in engage.audiences if it is one, in "
                "engage.computed_traits if it is a count"
            )
        for lines, of in (
            (self.stray, "audiences with values that are no booleans"),
            (self.mixed, "keys with some values that are booleans"),
            (self.released, "keys whose name was given back"),
            (self.odd, "keys that a database cannot keep"),
        ):
            notices += _few(lines, of)
        return notices


def build(
    observed: Iterable[ObservedKey],
    known: Collection[KnownTrait],
    *,
    audiences: Collection[str],
    computed_traits: Collection[str],
    listed: Mapping[str, Kind] | None = None,
    released: Collection[KnownTrait] = (),
    members: Mapping[str, int] | None = None,
) -> Catalog:
    """The catalog of a run.

    A key is a computed trait when it matches `computed_traits`, else an audience when it matches
    `audiences` and all its values, nulls aside, are booleans, or `audiences` names it exactly
    (docs/design.md §3.3). Where all are 1 and 0 it may be a count, and `"*"` alone makes it none.
    Where the Public API is asked, it is what `listed` says, if the globs for that match, and any
    other key is a custom trait: a deleted audience becomes one, with its last values for ever
    (docs/facts/segment.md §3.4).

    `known` are the traits of earlier runs that are ours: an audience stays one, whatever values
    come. A key that the source lost, or the config leaves out, gives its name to a new one that
    wants it: the trait at Amberflo is the same, so its members become the new key's to leave. One
    that the config leaves out and nobody takes over stays as it is. `released` were given back:
    they are not taken again unless the config names them. `members` are counts by key, to tell.
    """
    rules = _Rules(
        audiences, computed_traits, listed, {trait.name: trait.key for trait in released}
    )
    known_by_key = {trait.key: trait for trait in known}
    keys = _Keys(rules)
    for seen in observed:
        earlier = known_by_key.get(seen.key)
        keys.add(seen, earlier.kind if earlier else None)
    found = keys.found

    by_name: dict[str, list[str]] = {}
    for trait in found.values():
        by_name.setdefault(trait.name, []).append(trait.key)
    problems, messages, refusals = _collisions(by_name, known)
    not_found = [trait for trait in known if trait.key not in found]
    owners = {trait.name: trait for trait in found.values() if trait.key not in problems}
    gone = [trait for trait in not_found if trait.name not in by_name]
    left_out = [trait for trait in gone if rules.leave_out(trait)]
    lost = [trait for trait in gone if not rules.leave_out(trait)]
    return Catalog(
        found.values(),
        problems,
        [*messages, *_few(keys.unreadable, "audiences without a boolean")],
        lost,
        {
            trait.key
            for trait in lost
            if rules.decided_by_listing(trait.key) and trait.key not in (listed or {})
        },
        sorted(keys.ignored),
        notices=[
            *refusals,
            *(_left_out(trait, (members or {}).get(trait.key, 0)) for trait in left_out),
            *keys.notices(),
        ],
        left_out=left_out,
        renamed={trait.key: owners[trait.name] for trait in not_found if trait.name in owners},
    )


def _collisions(
    by_name: Mapping[str, Sequence[str]], known: Collection[KnownTrait]
) -> tuple[dict[str, str], list[str], list[str]]:
    """Keys that cannot be sent for their names: each with the reason; the errors, and the notices.

    Of keys that give one name the one that has it already goes on."""
    problems: dict[str, str] = {}
    messages: list[str] = []
    refusals: list[str] = []
    having = {trait.key for trait in known}
    for name, keys in sorted(by_name.items()):
        if name == "":
            problems.update(dict.fromkeys(keys, "no name"))
            messages += [
                f"the key {key!r} has no letter or digit that a trait name at Amberflo can keep: "
                f"it is not sent; give the audience a key of a-z, 0-9 and _, or leave it out of "
                f'engage.audiences and engage.computed_traits, as by "!{key}"'
                for key in keys
            ]
        elif len(keys) > 1:
            owners = having.intersection(keys)
            one_owns = len(owners) == 1
            refused = sorted(set(keys) - owners) if one_owns else sorted(keys)
            problems.update(dict.fromkeys(refused, "name taken twice"))
            if one_owns:
                (owner,) = owners
                refusals += [
                    f"the key {key!r} gives the trait name {name!r}, which is that of {owner!r} "
                    "already: it is not sent until it is renamed or left out of engage.audiences "
                    f'and engage.computed_traits, as by "!{key}"'
                    for key in refused
                ]
            else:
                both = " and ".join(map(repr, refused))
                messages.append(
                    f"the keys {both} give one trait name, {name!r}: none of them is sent until "
                    "one is renamed or left out of engage.audiences and engage.computed_traits"
                )
    return problems, messages, refusals


def _left_out(trait: KnownTrait, members: int) -> str:
    of, count = (
        ("engage.audiences", f"{members:,} members")
        if trait.kind == AUDIENCE
        else ("engage.computed_traits", f"{members:,} values")
    )
    return (
        f"{trait.key} is left out by {of}: its {count} stay as they are at Amberflo; "
        f"`syncer traits release {shlex.quote(trait.key)}` gives it back"
    )


def _all_boolean(seen: ObservedKey) -> bool:
    """Whether a key has values and all of them, nulls aside, are booleans."""
    return seen.others == 0 and seen.words + seen.digits > 0


def _values(seen: ObservedKey) -> int:
    return seen.words + seen.digits + seen.others


def _few(lines: Collection[str], of: str) -> list[str]:
    """Lines of one kind, a bounded number of them."""
    rest = len(lines) - NAMED
    return [*sorted(lines)[:NAMED], *([f"and {rest:,} more {of}"] if rest > 0 else [])]


def _some(keys: Collection[str]) -> str:
    """Keys by name, as many as fit in a line."""
    rest = len(keys) - NAMED
    return ", ".join([*sorted(keys)[:NAMED], *([f"{rest:,} more"] if rest > 0 else [])])
