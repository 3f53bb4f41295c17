"""Which keys of the source are ours: makes the catalog of a run.

Pure. The keys of the source, the config, the Public API's list and the traits of earlier runs
decide.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from syncer.engage.catalog import Catalog, KnownTrait
from syncer.engage.computations import AUDIENCE, COMPUTED_TRAIT, Kind
from syncer.engage.selection import KeySelection
from syncer.engage.source import ObservedKey
from syncer.engage.trait_names import trait_name
from syncer.ids import MAX_KEY, storable

#: Steps of journeys are memberships too, which the Public API does not list
#: (docs/facts/segment.md §1.2).
JOURNEY = "j_o_*"
#: How many keys the notices on one subject name.
NAMED = 10


@dataclass(frozen=True)
class _Rules:
    """What decides which keys are ours.

    These are the config's globs, the Public API's list if it is read, and the released traits
    (their key by their name).
    """

    selection: KeySelection
    listed: Mapping[str, Kind] | None
    released: Mapping[str, str]

    def decided_by_listing(self, key: str) -> bool:
        """Return whether the Public API alone decides what a key is."""
        return self.listed is not None and (key in self.listed or not fnmatchcase(key, JOURNEY))

    def listed_kind(self, key: str) -> Kind | None:
        """Return the kind that the Public API lists a key with, if the globs of that kind match."""
        kind = (self.listed or {}).get(key)
        return None if kind is None else self.selection.kind(key, kind)

    def leaves_out(self, trait: KnownTrait) -> bool:
        """Return whether the config alone makes a trait of earlier runs no longer ours."""
        if self.listed is not None and trait.key in self.listed:
            return self.listed_kind(trait.key) is None
        kind = self.selection.kind(trait.key)
        return kind is None or (kind == AUDIENCE and trait.kind == COMPUTED_TRAIT)


@dataclass
class _Keys:
    """The keys of the source that are ours, and what the user shall know about the others."""

    rules: _Rules
    ours: dict[str, KnownTrait] = field(default_factory=dict)
    #: keys that look like audiences and that the Public API does not list
    ignored: list[str] = field(default_factory=list)
    #: keys whose only values are 1 and 0: counts, or audiences of a warehouse that writes booleans
    #: like this
    digits: list[str] = field(default_factory=list)
    #: a line for each audience without a single boolean
    unreadable: list[str] = field(default_factory=list)
    #: a line for each audience with values that are not booleans
    stray: list[str] = field(default_factory=list)
    #: a line for each new key with some values that are booleans
    mixed: list[str] = field(default_factory=list)
    #: a line for each key whose name was released under another key
    released: list[str] = field(default_factory=list)
    #: a line for each key that a database cannot keep
    odd: list[str] = field(default_factory=list)

    def add(self, seen: ObservedKey, earlier: Kind | None) -> None:
        """Add a key of the source if it is ours; `earlier` is its kind in earlier runs.

        All values of the key decide: a stray one neither makes nor unmakes an audience.
        """
        selected = self.rules.selection.kind(seen.key)
        if selected is not None and not storable(seen.key, MAX_KEY):
            self._note_odd(seen)
            return
        if self.rules.decided_by_listing(seen.key):
            kind = self._listed_kind(seen, selected, earlier)
        else:
            kind = self._kind_by_values(seen, selected, earlier)
        if kind is None:
            return
        if self.rules.selection.releases(seen.key, self.rules.released):
            self._note_released(seen.key)
            return
        self.ours[seen.key] = KnownTrait(seen.key, trait_name(seen.key), kind)
        if kind == AUDIENCE and seen.others:
            self._note_stray(seen)

    def _listed_kind(
        self, seen: ObservedKey, selected: Kind | None, earlier: Kind | None
    ) -> Kind | None:
        looks_like_audience = selected == AUDIENCE and _all_boolean(seen)
        if looks_like_audience and earlier is None and seen.key not in (self.rules.listed or {}):
            self.ignored.append(seen.key)
        return self.rules.listed_kind(seen.key)

    def _kind_by_values(
        self, seen: ObservedKey, selected: Kind | None, earlier: Kind | None
    ) -> Kind | None:
        """Return the kind of a key that no list decides: a new audience has boolean values only."""
        selection = self.rules.selection
        if selected != AUDIENCE or earlier == AUDIENCE or selection.names_audience(seen.key):
            return selected
        if not _all_boolean(seen):
            self._note_mixed(seen, earlier)
            return None
        if seen.words == 0 and not selection.means_audience(seen.key):
            self.digits.append(seen.key)
            return None
        return AUDIENCE

    def _note_odd(self, seen: ObservedKey) -> None:
        key = f"{seen.key[:40]!r}{'…' if len(seen.key) > 40 else ''}"
        self.odd.append(
            f"{key}: its {seen.rows:,} values are skipped: the key is longer than {MAX_KEY} bytes "
            "or has characters that a database cannot keep"
        )

    def _note_stray(self, seen: ObservedKey) -> None:
        release = f"`syncer traits release {shlex.quote(seen.key)}` gives it back"
        if seen.others == seen.values:
            self.unreadable.append(
                f"{seen.key}: none of its {seen.others:,} values is a boolean: its members stay as "
                f"they are; {release} if it is not an audience, and engage.computed_traits takes "
                "it as what it is"
            )
        else:
            self.stray.append(
                f"{seen.key}: {seen.others:,} of {seen.values:,} values are not booleans: "
                "they are skipped, and their customers stay as they are; "
                f"{release} if it is not an audience"
            )

    def _note_mixed(self, seen: ObservedKey, earlier: Kind | None) -> None:
        """Note a key with some boolean values, unless they are 1 and 0 among other numbers.

        Such a key is a count, and the user need not know.
        """
        if earlier is None and (seen.words or seen.digits > seen.others):
            self.mixed.append(
                f"{seen.key}: {seen.words + seen.digits:,} of {seen.values:,} values are "
                "booleans: it is not an audience; name it in engage.audiences exactly if it is one"
            )

    def _note_released(self, key: str) -> None:
        name = trait_name(key)
        if self.rules.released[name] != key:
            self.released.append(
                f"{key}: its name at Amberflo, {name!r}, was given back by `syncer traits "
                "release`; name the key in engage.audiences exactly to take it again"
            )

    def notices(self) -> list[str]:
        """Return the lines for the user by subject, a bounded number of each."""
        notices = []
        if self.digits:
            notices.append(
                f"{_some(self.digits)}: the only values are 1 and 0, which may be a count: not "
                "taken as an audience; name it in engage.audiences if it is one, in "
                "engage.computed_traits if it is a count"
            )
        for lines, of in (
            (self.stray, "audiences with values that are not booleans"),
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
    """Return the catalog of a run.

    A key is a computed trait if it matches `computed_traits`. Otherwise it is an audience if it
    matches `audiences` and all its values, nulls aside, are booleans, or if `audiences` names it
    exactly (docs/design.md §3.3). If all its values are 1 and 0 it may be a count, and `"*"` alone
    does not make it an audience. If the Public API is read, a key is what `listed` says and the
    globs of that kind select; any other key is a custom trait: a deleted audience becomes one, and
    keeps its last values for ever (docs/facts/segment.md §3.4).

    `known` are our traits of earlier runs: an audience stays one, whatever values come. A key that
    the source lost, or that the config leaves out, gives its name to a new key with the same name:
    the trait at Amberflo is the same, so its members leave by the new key. A key that the config
    leaves out without a successor stays as it is. `released` traits are not taken again unless the
    config names them. `members` are counts by key, for the notices.
    """
    rules = _Rules(
        KeySelection(audiences, computed_traits),
        listed,
        {trait.name: trait.key for trait in released},
    )
    known_by_key = {trait.key: trait for trait in known}
    keys = _Keys(rules)
    for seen in observed:
        earlier = known_by_key.get(seen.key)
        keys.add(seen, earlier.kind if earlier else None)
    ours = keys.ours

    by_name: dict[str, list[str]] = {}
    for trait in ours.values():
        by_name.setdefault(trait.name, []).append(trait.key)
    problems, messages, refusals = _collisions(by_name, known)
    missing = [trait for trait in known if trait.key not in ours]
    owners = {trait.name: trait for trait in ours.values() if trait.key not in problems}
    without_successor = [trait for trait in missing if trait.name not in by_name]
    left_out = [trait for trait in without_successor if rules.leaves_out(trait)]
    lost = [trait for trait in without_successor if not rules.leaves_out(trait)]
    return Catalog(
        ours.values(),
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
        renamed={trait.key: owners[trait.name] for trait in missing if trait.name in owners},
    )


def _collisions(
    by_name: Mapping[str, Sequence[str]], known: Collection[KnownTrait]
) -> tuple[dict[str, str], list[str], list[str]]:
    """Return the keys that cannot be sent because of their names, the errors and the notices.

    Each key comes with its reason. Of keys with one name, the one that has the name already is
    sent.
    """
    problems: dict[str, str] = {}
    messages: list[str] = []
    refusals: list[str] = []
    known_keys = {trait.key for trait in known}
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
            owners = known_keys.intersection(keys)
            has_owner = len(owners) == 1
            refused = sorted(set(keys) - owners) if has_owner else sorted(keys)
            problems.update(dict.fromkeys(refused, "name taken twice"))
            if has_owner:
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
    """Return whether a key has values and all of them, nulls aside, are booleans."""
    return seen.others == 0 and seen.words + seen.digits > 0


def _few(lines: Collection[str], of: str) -> list[str]:
    """Return lines on one subject, a bounded number of them."""
    rest = len(lines) - NAMED
    return [*sorted(lines)[:NAMED], *([f"and {rest:,} more {of}"] if rest > 0 else [])]


def _some(keys: Collection[str]) -> str:
    """Return keys by name, as many as fit in a line."""
    rest = len(keys) - NAMED
    return ", ".join([*sorted(keys)[:NAMED], *([f"{rest:,} more"] if rest > 0 else [])])
