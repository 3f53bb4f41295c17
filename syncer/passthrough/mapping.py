"""From a Segment call to what it becomes at Amberflo (docs/design.md §3.14, §3.16). Pure.

A call that becomes nothing because something is wrong with it yields the bare reason, a text.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from syncer.engage.calls import Value, native, stated
from syncer.engage.computations import Kind
from syncer.ids import MAX_KEY, cleaned, storable
from syncer.json_text import printable
from syncer.passthrough.call import Call, Dropped, Json

BAD_VALUE = "value is not a finite number"
BAD_TEXT = "text that is not valid Unicode"
TOO_WIDE = "nested objects give more than 64 KB of names"
LONG_NAME = f"trait whose name is longer than {MAX_KEY} bytes"
MEMBERSHIP_WITHOUT_USER = "membership or computed trait without userId"

#: Properties with such names tell Amberflo what to do with a record (its SDKs' `aflo.` constants).
#: They are not dimensions, and a caller may not use them.
RESERVED = "aflo."
RESERVED_NAME = "property whose name begins with aflo."

_MAX_DIMENSION = 200
_MAX_NAMES = 64 * 1024
#: Replaces the characters that a dimension's value may not have (docs/facts/amberflo.md §2.3).
_sanitised = partial(re.compile(r"[^ !\-_.*'()&$@=;:+,?0-9a-zA-Z]").sub, "_")


@dataclass(frozen=True, slots=True)
class Meter:
    """A meter record; `record` is its JSON, byte by byte the same each time it is sent."""

    message_id: str
    customer_id: str
    record: bytes
    #: the number of properties with reserved names, which are left out
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class CustomerUpdate:
    """The name, email and traits that an identify sets; None is a name or email that it lacks.

    `at_ms` is when it happened, `received_at` when it came (epoch milliseconds).
    """

    customer_id: str
    name: str | None
    email: str | None
    traits: dict[str, Value]
    at_ms: int
    received_at: int
    #: the number of traits that are left out because their names are too long
    left_out: int = 0
    #: the short name of the key that the call came by, and whether it may send memberships
    via: str = ""
    trusted: bool = False


@dataclass(frozen=True, slots=True)
class Membership:
    """A customer's membership of an audience, or the value of a computed trait, by Engage's word.

    Times are those of `CustomerUpdate`.
    """

    customer_id: str
    key: str
    kind: Kind
    value: Value
    at_ms: int
    received_at: int
    #: the short name of the key that the call came by
    via: str = ""


@dataclass(frozen=True, slots=True)
class Delete:
    """A request to Segment to delete this customer."""

    customer_id: str
    via: str = ""


Outcome = Meter | CustomerUpdate | Membership | Delete | Dropped


def outcome(call: Call) -> Outcome | str:
    """Return the one thing that a call becomes, or the reason for which it is rejected."""
    if call.type == "delete":
        return Delete(call.user_id)
    if call.personas is not None:
        return _membership(call)
    if call.type == "identify":
        return _customer(call)
    return _meter(call)


# -- meters


#: The types of calls that feed a meter.
METERED = ("page", "screen", "track")


def meter_of(kind: str, event: str) -> str:
    """Return the meter that a call feeds: the event of a track call, else the call's type."""
    return event if kind == "track" else kind


def _meter(call: Call) -> Meter | str:
    value: int | float | None = 1.0
    if call.type == "track" and "value" in call.data:
        value = _number(call.data["value"])  # None for null too: JavaScript writes NaN as null
        if value is None:
            return BAD_VALUE
    properties = _flat(call.data)
    if properties is None:
        return TOO_WIDE
    dimensions, left_out = _dimensions(call, properties)
    customer_id = call.user_id or call.anonymous_id
    record = {
        "uniqueId": call.message_id,
        "customerId": customer_id,
        "meterApiName": meter_of(call.type, call.name),
        "meterValue": value,
        "meterTimeInMillis": call.at_ms,
        "dimensions": dimensions,
    }
    try:
        return Meter(call.message_id, customer_id, orjson.dumps(record), left_out)
    except TypeError:
        return BAD_TEXT


def _dimensions(call: Call, properties: Json) -> tuple[dict[str, str], int]:
    """Return the dimensions of a meter record, and how many properties have reserved names."""
    dimensions: dict[str, str] = {}
    left_out = 0
    if call.type != "track" and (name := dimension(call.name)):
        dimensions["name"] = name
    for key, value in properties.items():
        if key[: len(RESERVED)].lower() == RESERVED:
            left_out += 1
            continue
        text = dimension(value)
        if text and key and not key.isspace():
            dimensions.setdefault(key, text)
    if call.type == "track":
        dimensions.pop("value", None)
    return dimensions, left_out


def _number(value: Any) -> int | float | None:
    """Return a meter's value, None if it is not a finite number.

    A text counts if it is a JSON number, which leaves nothing to guess: "39.95" is one; "1,000",
    "5 GB", "0x1F" and "NaN" are not.
    """
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    if not math.isfinite(number):
        return None
    return value if -(2**63) <= value < 2**64 else number


def dimension(value: Any) -> str:
    """Return a dimension's value as Amberflo accepts it; "" if there is none."""
    text = (value if type(value) is str else _text(value))[:_MAX_DIMENSION]
    return "" if text.isspace() else _sanitised(text)


def _text(value: Any) -> str:
    """Return a scalar as text, a list joined with commas, an object in a list as its JSON.

    Numbers that are not finite are null, as in JSON.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return str(value) if math.isfinite(value) else ""
    if value is None:
        return ""
    if isinstance(value, list):
        texts = (
            printable(item) if isinstance(item, (dict, list)) else _text(item) for item in value
        )
        return ",".join(text for text in texts if text and not text.isspace())
    return printable(value)


def _flat(data: Json) -> Json | None:
    """Return nested objects flattened: the names of a path joined with `_`.

    Of two values with one name the less nested one stays. None if the names take too many bytes.
    """
    if dict not in map(type, data.values()):
        return data
    flat = {key: value for key, value in data.items() if type(value) is not dict}
    nested = [(f"{key}_", value) for key, value in data.items() if type(value) is dict]
    room = _MAX_NAMES
    for prefix, inner in nested:  # grows while it is read
        for key, value in inner.items():
            name = prefix + key
            room -= len(name)
            if room < 0:
                return None
            if type(value) is dict:
                nested.append((f"{name}_", value))
            else:
                flat.setdefault(name, value)
    return flat


# -- customers


def _customer(call: Call) -> CustomerUpdate | str:
    traits = _flat(call.data)
    if traits is None:
        return TOO_WIDE
    named = {
        cleaned(key): value
        for key, value in traits.items()
        if key not in ("name", "email") and key and not key.isspace()
    }
    return CustomerUpdate(
        call.user_id,
        _profile_text(call.data.get("name")),
        _profile_text(call.data.get("email")),
        {name: native(value) for name, value in named.items() if storable(name, MAX_KEY)},
        call.at_ms,
        call.received_at,
        sum(not storable(name, MAX_KEY) for name in named),
    )


def _profile_text(value: object) -> str | None:
    return cleaned(value) if isinstance(value, str) and value.strip() else None


# -- Engage


def _membership(call: Call) -> Membership | Dropped | str:
    """Return what a call of Engage says of its user (syncer/engage/calls.py has the rule)."""
    assert call.personas is not None
    said = stated(*call.personas, call.type, call.data)
    if isinstance(said, str):
        return said
    if not call.user_id:
        return Dropped(MEMBERSHIP_WITHOUT_USER)
    return Membership(call.user_id, *said, call.at_ms, call.received_at)
