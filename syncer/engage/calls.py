"""What a call of Engage says of an audience or a computed trait: one rule for every way in. Pure.

Segment's own rule (docs/facts/segment.md §2): the class says the kind, the key says the trait, and
the call's properties or traits have the value at the key: a boolean for an audience. The event's
name says nothing: "Audience Exited" comes with `true` too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from syncer.engage.computations import AUDIENCE, COMPUTED_TRAIT, Kind
from syncer.ids import MAX_ID, MAX_KEY, cleaned, storable
from syncer.json_text import printable

#: A trait's value; None asks for its removal.
Value = bool | int | float | str | list[Any] | None

BAD_MEMBERSHIP = "invalid audience membership"
BAD_TRAIT = "invalid computed trait"
UNKNOWN_CLASS = "unknown computation class"

#: The kind of trait by Segment's `computation_class`: a step of a journey is an audience.
_KINDS: dict[object, Kind] = {
    "audience": AUDIENCE,
    "journey_step": AUDIENCE,
    "trait": COMPUTED_TRAIT,
}


class Stated(NamedTuple):
    """The value of an audience or computed trait, as a call states it."""

    key: str
    kind: Kind
    value: Value


def stated(
    computation_class: object, key: object, call_type: object, data: Mapping[str, Any]
) -> Stated | str:
    """Return what a call of Engage states, or the reason for which it states nothing.

    The first two arguments are those of its `context.personas`; `data` are its properties (track)
    or traits (identify).
    """
    kind = _KINDS.get(computation_class) if isinstance(computation_class, str) else None
    if kind is None:
        return UNKNOWN_CLASS
    problem = BAD_MEMBERSHIP if kind == AUDIENCE else BAD_TRAIT
    if not isinstance(key, str) or not storable(key, MAX_KEY) or not key or key.isspace():
        return problem
    if call_type not in ("identify", "track") or key not in data:
        return problem
    value = native(data[key])
    if kind == AUDIENCE and not isinstance(value, bool):
        return problem
    return Stated(key, kind, value)


def native(value: Any) -> Value:
    """Return a trait's value as JSON that any database and reader can hold.

    An integer beyond 64 bits becomes text, a number that is not finite null, an object in a list
    its JSON.
    """
    if isinstance(value, str):
        return cleaned(value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [native(item) for item in value]
    return printable(value)


def identifier(value: Any) -> str | None:
    """Return the text of an id, "" if it is not set, None if it is not usable as one.

    An id is a text or a number that was read exactly, and a text that any database can keep.
    """
    text: str
    if isinstance(value, str):
        text = "" if value.isspace() else value
    elif value is None:
        text = ""
    elif isinstance(value, bool):
        return None
    elif isinstance(value, int):
        text = str(value)
    elif isinstance(value, float) and abs(value) < 2**53:
        text = str(int(value) if value.is_integer() else value)
    else:
        return None
    return text if storable(text, MAX_ID) else None
