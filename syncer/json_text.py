"""Values as JSON text. Pure.

orjson writes nearly all values. What it refuses (integers beyond 64 bits, halves of a surrogate
pair, floats that keep their own digits) is written here, piece by piece, and means the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import orjson

#: What stands in a message for a value that JSON cannot express.
UNWRITABLE = '"(cannot be written as JSON)"'

_SURROGATE = re.compile("[\ud800-\udfff]")


def to_json(value: Any, default: Callable[[Any], Any] | None = None) -> str:
    """Return the JSON of a value, without blanks.

    `default` turns what JSON has no type for into what it has; without it such a value raises
    `TypeError`. A float of a subclass is written as its `repr`.
    """
    try:
        return orjson.dumps(value, default=default).decode()
    except TypeError:
        return _spelled(value, default)


def to_json_or_none(value: Any) -> str | None:
    """Return the JSON of a value, and None for None: the state stores an absent value as NULL."""
    if value is None:
        return None
    if value is True or value is False:  # nearly all values of a run
        return "true" if value else "false"
    return to_json(value)


def canonical(value: Any) -> str:
    """Return the JSON of a value with sorted keys: equal values have equal texts."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def printable(value: Any) -> str:
    """Return the JSON of any value at all, for failures and messages; never raises."""
    try:
        return to_json(value)
    except (TypeError, RecursionError):
        return UNWRITABLE


def _spelled(value: Any, default: Callable[[Any], Any] | None) -> str:
    if isinstance(value, dict):
        members = (f"{_name(key)}:{_spelled(item, default)}" for key, item in value.items())
        return f"{{{','.join(members)}}}"
    if isinstance(value, list | tuple):
        return f"[{','.join(_spelled(item, default) for item in value)}]"
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and type(value) is not float:
        return repr(value)
    return orjson.dumps(value, default=default).decode()


def _name(key: Any) -> str:
    """Return the name of a member: JSON has texts only, so any other key is its JSON as a text."""
    return _quoted(key if isinstance(key, str) else _spelled(key, None))


def _quoted(text: str) -> str:
    """Return a JSON string: halves of a surrogate pair are escaped, all other characters stay."""
    quoted = json.dumps(text, ensure_ascii=False)
    return _SURROGATE.sub(lambda half: f"\\u{ord(half[0]):x}", quoted)
