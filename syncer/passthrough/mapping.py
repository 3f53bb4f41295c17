"""From a Segment call to what it becomes at Amberflo (docs/design.md §3.14, §3.16). Pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import orjson

from syncer.ids import MAX_KEY, cleaned, storable
from syncer.passthrough.call import Call, Dropped, Json, Rejected, json_text, rejected

#: A trait's value; None asks for its removal.
Value = bool | int | float | str | list[Any] | None

BAD_VALUE = "value is no finite number"
BAD_TEXT = "text that is no valid Unicode"
TOO_WIDE = "nested objects give more than 64 KB of names"
BAD_MEMBERSHIP = "invalid audience membership"
BAD_TRAIT = "invalid computed trait"
UNKNOWN_CLASS = "unknown computation class"
LONG_NAME = f"trait whose name is longer than {MAX_KEY} bytes"
MEMBERSHIP_WITHOUT_USER = "membership or computed trait without userId"

#: Properties of these names tell Amberflo what to do with a record (its SDKs' `aflo.` constants):
#: they are no dimensions, and nobody who sends calls may say such things.
RESERVED = "aflo."
RESERVED_NAME = "property whose name begins with aflo."

_MAX_DIMENSION = 200
_MAX_NAMES = 64 * 1024
#: What a dimension's value may not have (docs/facts/amberflo.md §2.3).
_sanitised = partial(re.compile(r"[^ !\-_.*'()&$@=;:+,?0-9a-zA-Z]").sub, "_")


@dataclass(frozen=True, slots=True)
class Meter:
    """A meter record, frozen: `record` is the JSON that is sent, and sent again, as it is."""

    message_id: str
    customer_id: str
    record: bytes
    #: properties that are left out, being Amberflo's own
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class CustomerUpdate:
    """What an identify says of a customer; a name or email that is None is not known from it.
    `at_ms` is when it happened, `received_at` when it came (epoch milliseconds)."""

    customer_id: str
    name: str | None
    email: str | None
    traits: dict[str, Value]
    at_ms: int
    received_at: int
    #: traits that are left out, their names being too long
    left_out: int = 0
    #: the short name of the key that the call came by, and whether that may tell memberships
    via: str = ""
    trusted: bool = False


@dataclass(frozen=True, slots=True)
class Membership:
    """What Engage says of a customer: in an audience or not, or the value of a computed trait.
    Times are those of `CustomerUpdate`."""

    customer_id: str
    key: str
    kind: Literal["audience", "computed_trait"]
    value: Value
    at_ms: int
    received_at: int
    #: the short name of the key that the call came by
    via: str = ""


@dataclass(frozen=True, slots=True)
class Delete:
    """Segment was asked to forget this customer."""

    customer_id: str
    via: str = ""


Outcome = Meter | CustomerUpdate | Membership | Delete | Dropped | Rejected


def outcome(call: Call) -> Outcome:
    """What becomes of a call: one thing, always."""
    if call.type == "delete":
        return Delete(call.user_id)
    if call.personas is not None:
        return _membership(call)
    if call.type == "identify":
        return _customer(call)
    return _meter(call)


# -- meters


def _meter(call: Call) -> Meter | Rejected:
    dimensions: dict[str, str] = {}
    value: int | float | None = 1.0
    if call.type == "track":
        meter = call.name
        if "value" in call.data:  # null, too: JavaScript writes so what is no number
            value = _number(call.data["value"])
            if value is None:
                return rejected(BAD_VALUE, call.source, call.message_id)
    else:
        meter = call.type
        if name := dimension(call.name):
            dimensions["name"] = name

    properties = _flat(call.data)
    if properties is None:
        return rejected(TOO_WIDE, call.source, call.message_id)
    left_out = 0
    for key, found in properties.items():
        if key[: len(RESERVED)].lower() == RESERVED:
            left_out += 1
            continue
        text = dimension(found)
        if text and key and not key.isspace():
            dimensions.setdefault(key, text)
    if call.type == "track":
        dimensions.pop("value", None)

    customer_id = call.user_id or call.anonymous_id
    record = {
        "uniqueId": call.message_id,
        "customerId": customer_id,
        "meterApiName": meter,
        "meterValue": value,
        "meterTimeInMillis": call.at_ms,
        "dimensions": dimensions,
    }
    try:
        return Meter(call.message_id, customer_id, orjson.dumps(record), left_out)
    except TypeError:
        return rejected(BAD_TEXT, call.source, call.message_id)


def _number(value: Any) -> int | float | None:
    """A meter's value; None when it is no finite number. Text counts when it is a JSON number,
    which leaves nothing to guess ("39.95" does; "1,000", "5 GB", "0x1F", "NaN" do not)."""
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
    """A dimension's value as Amberflo takes it; "" when there is none."""
    text = (value if type(value) is str else _text(value))[:_MAX_DIMENSION]
    return "" if text.isspace() else _sanitised(text)


def _text(value: Any) -> str:
    """A scalar as text; a list joined with commas; an object in a list as its JSON. Numbers that
    are not finite are null, as in JSON."""
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
        texts = (json_text(one) if isinstance(one, (dict, list)) else _text(one) for one in value)
        return ",".join(text for text in texts if text and not text.isspace())
    return json_text(value)


def _flat(data: Json) -> Json | None:
    """Nested objects flattened with `_`. Where two give one name the less nested one stays; None
    when the names get out of hand."""
    if dict not in map(type, data.values()):
        return data
    flat = {key: value for key, value in data.items() if type(value) is not dict}
    nested = [(f"{key}_", value) for key, value in data.items() if type(value) is dict]
    room = _MAX_NAMES
    for prefix, inner in nested:  # grows on the way
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


def _customer(call: Call) -> CustomerUpdate | Rejected:
    traits = _flat(call.data)
    if traits is None:
        return rejected(TOO_WIDE, call.source, call.message_id)
    named = {
        cleaned(key): value
        for key, value in traits.items()
        if key not in ("name", "email") and key and not key.isspace()
    }
    return CustomerUpdate(
        call.user_id,
        _profile_text(call.data.get("name")),
        _profile_text(call.data.get("email")),
        {name: _native(value) for name, value in named.items() if storable(name, MAX_KEY)},
        call.at_ms,
        call.received_at,
        sum(not storable(name, MAX_KEY) for name in named),
    )


def _profile_text(value: object) -> str | None:
    return cleaned(value) if isinstance(value, str) and value.strip() else None


def _native(value: Any) -> Value:
    """A trait's value as JSON that any database and reader can hold: an integer beyond 64 bits
    becomes text, a number that is not finite null, an object in a list its JSON."""
    if isinstance(value, str):
        return cleaned(value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_native(one) for one in value]
    return json_text(value)


# -- Engage


def _membership(call: Call) -> Membership | Dropped | Rejected:
    """Segment's own rule (docs/facts/segment.md §2): the class, the key, and at the key a real
    boolean. The event's name says nothing: "Audience Exited" comes with `true` too."""
    assert call.personas is not None
    computation, raw_key = call.personas
    kind: Literal["audience", "computed_trait"] = "audience"
    if computation == "trait":
        kind = "computed_trait"
    elif computation not in ("audience", "journey_step"):
        return rejected(UNKNOWN_CLASS, call.source, call.message_id)
    key = raw_key if isinstance(raw_key, str) and storable(raw_key, MAX_KEY) else ""
    key = "" if key.isspace() else key
    good = call.type in ("identify", "track") and key and key in call.data
    value = _native(call.data[key]) if good and key else None
    if kind == "audience":
        good = isinstance(value, bool)
    if not good or not key:
        reason = BAD_MEMBERSHIP if kind == "audience" else BAD_TRAIT
        return rejected(reason, call.source, call.message_id)
    if not call.user_id:
        return Dropped(MEMBERSHIP_WITHOUT_USER)
    return Membership(call.user_id, key, kind, value, call.at_ms, call.received_at)
