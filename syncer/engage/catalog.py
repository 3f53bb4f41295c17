"""The traits of a run: their names at Amberflo, and how the values of a customer read.

Pure. `catalog_builder` makes the catalog of a run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from sys import getsizeof
from typing import NamedTuple

import orjson

from syncer.cache import Cache
from syncer.clock import since_1970
from syncer.engage.computations import AUDIENCE, Kind
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
from syncer.json_text import canonical, to_json

#: Bytes of readings of values, and of layouts of keys, that a catalog remembers.
READINGS, LAYOUTS = 16 << 20, 4 << 20
#: Bytes that a remembered entry takes besides its texts: its objects, and each of its values.
_ENTRY, _VALUE = 500, 100


@dataclass(frozen=True)
class KnownTrait:
    """A trait of ours: its Segment key, its name at Amberflo, its kind."""

    key: str
    name: str
    kind: Kind


class Place(NamedTuple):
    """Where the value of a trait row goes: the name at Amberflo, or why it goes nowhere."""

    key: str
    name: str
    audience: bool
    problem: str | None


@dataclass(slots=True, eq=False)
class Layout:
    """The keys of a customer's rows, in their order.

    `twice` is true if a key occurs twice: keep its newest row (`newest`), then read again.
    """

    keys: tuple[str, ...] = ()
    places: tuple[Place, ...] = ()
    twice: bool = False


@dataclass(slots=True, eq=False)
class Reading:
    """What one combination of keys and values says.

    `traits` maps names at Amberflo to values, and `text` is its canonical JSON. `nulls` are the
    keys without a value, `skipped` those that cannot be read, each with the reason. `somebody` is
    true for a member of an audience or a holder of a computed trait: a customer to send
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
        present = list(traits)
        ours = [*present, *lost]
        #: the keys to pull
        self.keys = sorted(trait.key for trait in present)
        #: our traits by key, including those of earlier runs that the source lost
        self.by_key = {trait.key: trait for trait in ours}
        self.by_name = {trait.name: trait for trait in ours if trait.key not in problems}
        #: keys that cannot be sent, with the reason
        self.problems = problems
        #: lines for the user, one a problem: a run with a problem counts as incomplete
        self.messages = messages
        #: lines for the user that leave the run complete
        self.notices = list(notices)
        #: keys of earlier runs that the Public API does not list any more
        self.unlisted = unlisted
        #: keys that look like audiences and that the Public API does not list: custom traits
        self.ignored = ignored
        #: traits of earlier runs that the config leaves out now: they are neither read nor changed
        self.left_out = left_out
        #: keys of earlier runs whose name another key takes over, with the trait of that key
        self.renamed = dict(renamed or {})
        self._places: dict[str, Place] = {}
        self._layouts: Cache[str, Layout] = Cache(LAYOUTS)
        self._readings: Cache[tuple[str, str], Reading] = Cache(READINGS)
        #: the remembered reading of a pair of arrays, or None: `read` for an inner loop
        self.remembered = self._readings.get

    def layout(self, keys_text: str) -> Layout:
        """Return the layout of trait rows with these keys (a JSON array)."""
        remembered = self._layouts.get(keys_text)
        if remembered is not None:
            return remembered
        layout = self._layout(keys_text)
        size = _ENTRY + getsizeof(keys_text) + _size(layout)
        return self._layouts.put(keys_text, layout, size)

    def read(self, keys_text: str, values_text: str) -> Reading:
        """Read one customer's trait rows: two JSON arrays of the same length."""
        texts = (keys_text, values_text)
        remembered = self._readings.get(texts)
        if remembered is not None:
            return remembered
        reading = self._read(keys_text, values_text)
        # A value takes an object, and about the bytes of its text.
        bytes_of_texts = getsizeof(keys_text) + 2 * getsizeof(values_text) + getsizeof(reading.text)
        size = _ENTRY + bytes_of_texts + _size(reading.layout) + _VALUE * len(reading.layout.keys)
        return self._readings.put(texts, reading, size)

    def _layout(self, keys_text: str) -> Layout:
        places = tuple(map(self._place, orjson.loads(keys_text)))
        # The keys of the places: so all layouts share one object a key.
        keys = tuple(place.key for place in places)
        if len(set(keys)) != len(keys):
            return Layout(keys, twice=True)
        return Layout(keys, places)

    def _place(self, key: str) -> Place:
        place = self._places.get(key)
        if place is None:
            trait = self.by_key.get(key)
            if trait is None:
                place = Place(key, key, False, "not ours")
            else:
                problem = self.problems.get(key)
                place = Place(key, trait.name, trait.kind == AUDIENCE, problem)
            self._places[key] = place
        return place

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
                # Nearly all values, without a call: this is the innermost loop of a run.
                traits[name] = member = USUAL[raw]
                somebody = somebody or member
            elif is_null(raw):
                nulls.append(key)
            elif audience and (read := boolean(raw)) is not None:
                traits[name] = read
                somebody = somebody or read
            elif isinstance(value := typed(raw), Unreadable):
                skipped.append((key, value.reason))
            elif audience:
                skipped.append((key, NO_BOOLEAN))
            else:
                traits[name] = value
                somebody = True
        return Reading(layout, traits, canonical(traits), nulls, skipped, somebody)


def _size(layout: Layout) -> int:
    """Return the bytes of a layout itself; all layouts share the places."""
    return getsizeof(layout.keys) + getsizeof(layout.places)


def newest(keys_text: str, values_text: str, times_text: str) -> tuple[str, str, str]:
    """Return the three arrays with the newest row of each key only.

    A time that cannot be read is the oldest. Of rows with equal times the last one counts: the
    source orders them by `seq`.
    """
    rows: dict[str, tuple[int, str, str]] = {}
    for key, value, time in zip(
        orjson.loads(keys_text), elements(values_text), elements(times_text), strict=True
    ):
        at = since_1970(read_array(f"[{time}]")[0])
        if key not in rows or at >= rows[key][0]:
            rows[key] = (at, value, time)
    return (
        to_json(list(rows)),
        f"[{','.join(value for _, value, _ in rows.values())}]",
        f"[{','.join(time for _, _, time in rows.values())}]",
    )
