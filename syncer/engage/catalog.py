"""Which keys are ours, what they are called at Amberflo, and how a customer's values read.

Pure: built once a run from what the source has, what the config says and what is known already.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Literal

import orjson

from syncer.engage.names import trait_name
from syncer.engage.source import ObservedKey
from syncer.engage.values import Value, boolean, is_null, milliseconds, typed

AUDIENCE: Literal["audience"] = "audience"
COMPUTED_TRAIT: Literal["computed_trait"] = "computed_trait"
Kind = Literal["audience", "computed_trait"]

#: Traits that are the customer's name and email, never traits at Amberflo (design §3).
PROFILE_KEYS = ("name", "email")
#: Journeys keep internals in traits of this name (facts/segment.md §1.3).
INTERNAL = "hidden_entry*"
#: How many different combinations of values are remembered as read.
READINGS = 1 << 15


@dataclass(frozen=True)
class KnownTrait:
    """A trait of ours: its Segment key, its name at Amberflo, what it is."""

    key: str
    name: str
    kind: Kind


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """One combination of values, read.

    `traits` maps names at Amberflo to values, `text` is its canonical JSON; `keys` are the keys it
    comes from; `nulls` have no value; `skipped` could not be read, each with the reason. `twice`
    says that a key stands twice: read it again after `newest`.
    """

    traits: dict[str, Value] = field(default_factory=dict)
    text: str = "{}"
    keys: tuple[str, ...] = ()
    nulls: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    #: in an audience now, or has a computed trait: somebody to send (design §3, three states)
    somebody: bool = False
    rows: int = 0
    twice: bool = False


class Catalog:
    """The traits of a run, by key and by name."""

    def __init__(
        self, traits: Iterable[KnownTrait], problems: dict[str, str], messages: list[str]
    ) -> None:
        #: ours, those of earlier runs that the source lost included
        self.by_key = {trait.key: trait for trait in traits}
        self.by_name = {trait.name: trait for trait in traits if trait.key not in problems}
        #: keys that cannot be sent, with the reason
        self.problems = problems
        #: one line a problem, for the user
        self.messages = messages
        self.read = lru_cache(maxsize=READINGS)(self._read)

    @property
    def keys(self) -> list[str]:
        return sorted(self.by_key)

    def _read(self, keys_text: str, values_text: str) -> Reading:
        """Read one customer's trait rows (two JSON arrays of one length)."""
        keys: list[str] = orjson.loads(keys_text)
        if len(set(keys)) != len(keys):
            return Reading(rows=len(keys), twice=True)
        traits: dict[str, Value] = {}
        nulls: list[str] = []
        skipped: list[tuple[str, str]] = []
        somebody = False
        for key, raw in zip(keys, orjson.loads(values_text), strict=True):
            trait = self.by_key.get(key)
            if trait is None:
                skipped.append((key, "not ours"))
            elif key in self.problems:
                skipped.append((key, self.problems[key]))
            elif is_null(raw):
                nulls.append(key)
            elif trait.kind == COMPUTED_TRAIT:
                traits[trait.name] = typed(raw)
                somebody = True
            elif (member := boolean(raw)) is None:
                skipped.append((key, "not a boolean"))
            else:
                traits[trait.name] = member
                somebody = somebody or member
        return Reading(
            traits,
            canonical(traits),
            tuple(keys),
            tuple(nulls),
            tuple(skipped),
            somebody,
            len(keys),
        )


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
        at = milliseconds(time) or 0
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
    members: Collection[str],
    *,
    audiences: Collection[str],
    computed_traits: Collection[str],
) -> Catalog:
    """The catalog of a run.

    A key is a computed trait when it matches `computed_traits`, else an audience when it matches
    `audiences` and its values are boolean (design §3). `known` are the traits of earlier runs: an
    audience stays one. `members` are known keys that somebody is in.
    """
    known_by_key = {trait.key: trait for trait in known}
    found: dict[str, KnownTrait] = {}
    for seen in observed:
        earlier = known_by_key.get(seen.key)
        kind = _kind(seen, earlier.kind if earlier else None, audiences, computed_traits)
        if kind is not None:
            found[seen.key] = KnownTrait(seen.key, trait_name(seen.key), kind)

    by_name: dict[str, list[str]] = {}
    for trait in found.values():
        by_name.setdefault(trait.name, []).append(trait.key)
    lost = [trait for trait in known if trait.key not in found]
    for trait in lost:
        if trait.key in members and trait.name in by_name:
            by_name[trait.name].append(trait.key)

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
            problems.update({key: "name taken twice" for key in keys if key in found})
            both = " and ".join(repr(key) for key in sorted(keys))
            messages.append(
                f"the keys {both} give one trait name, {name!r}: none of them is sent until one "
                "is renamed or left out of engage.audiences and engage.computed_traits"
            )
    return Catalog([*found.values(), *lost], problems, messages)


def _kind(
    seen: ObservedKey,
    earlier: Kind | None,
    audiences: Collection[str],
    computed_traits: Collection[str],
) -> Kind | None:
    if seen.key in PROFILE_KEYS or fnmatchcase(seen.key, INTERNAL):
        return None
    if _matches(seen.key, computed_traits):
        return COMPUTED_TRAIT
    if not _matches(seen.key, audiences):
        return None
    # 1 and 0 alone may be a count: they are membership where no other number stands beside them.
    boolean_values = seen.words > 0 or (seen.digits > 0 and seen.others == 0)
    return AUDIENCE if boolean_values or earlier == AUDIENCE else None


def _matches(key: str, patterns: Collection[str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)
