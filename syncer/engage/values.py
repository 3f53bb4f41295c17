"""Trait values as Profiles Sync stores them: text, to be read leniently.

How `user_traits.value` is written is not documented (docs/facts/segment.md §1.3), so booleans come
as `true/false/t/f/1/0` or `1.0/0.0`, and numbers and lists as their JSON text.
"""

from __future__ import annotations

import math
import re

import orjson

#: A trait's value at Amberflo. A list is a JSON list of whatever Engage computed.
Value = bool | int | float | str | list[object]

#: How a membership may be written, as a word or as a digit: SQLite shows a real number as 1.0.
WORDS = {"true": True, "t": True, "false": False, "f": False}
DIGITS = {"1": True, "1.0": True, "0": False, "0.0": False}
_BOOLEANS = WORDS | DIGITS
#: How nearly all memberships are written.
USUAL = {"true": True, "false": False}
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
#: Beyond this a JSON number loses digits in most readers, so it stays text.
_EXACT = 2**53


def is_null(raw: object) -> bool:
    """Whether a stored value says "no value": NULL, blank text, or the JSON text `null`."""
    return raw is None or (isinstance(raw, str) and raw.strip().lower() in ("", "null"))


def boolean(raw: object) -> bool | None:
    """The membership a stored value says; None when it is no boolean."""
    if isinstance(raw, str):
        return _BOOLEANS.get(raw.strip().lower())
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, int | float) and raw in (0, 1):
        return bool(raw)
    return None


def typed(raw: object) -> Value:
    """A computed trait's value: text that reads as true/false, a JSON number or a JSON list
    becomes that type, everything else stays the text it is."""
    if isinstance(raw, str):
        return _from_text(raw)
    if isinstance(raw, float) and not math.isfinite(raw):
        return str(raw)
    if isinstance(raw, bool | int | float | list):
        return raw
    return orjson.dumps(raw).decode()


def _from_text(text: str) -> Value:
    stripped = text.strip()
    if stripped.lower() in ("true", "false"):
        return stripped.lower() == "true"
    if _NUMBER.fullmatch(stripped):
        number = float(stripped) if len(stripped) < 32 else math.inf
        if math.isfinite(number) and abs(number) < _EXACT:
            whole = stripped.lstrip("-").isdecimal()
            return int(stripped) if whole else number
        return text
    if stripped.startswith("["):
        try:
            found = orjson.loads(stripped)
        except orjson.JSONDecodeError:
            return text
        if isinstance(found, list):
            return found
    return text
