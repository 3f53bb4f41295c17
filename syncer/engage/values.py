"""Trait values and times as Profiles Sync stores them: text, to be read leniently.

How `user_traits.value` is written is not documented (facts/segment.md §1.3), so booleans come as
`true/false/t/f/1/0` or `1.0/0.0`, and numbers and lists as their JSON text.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

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


def milliseconds(raw: object) -> int | None:
    """Epoch milliseconds of a stored time (ISO-8601 text, UTC when it names no zone; or a number
    of seconds or milliseconds); None when it cannot be read."""
    if isinstance(raw, bool) or raw is None:
        return None
    if isinstance(raw, int | float):
        if not math.isfinite(raw):
            return None
        return int(raw if abs(raw) > 1e11 else raw * 1000)
    try:
        found = raw if isinstance(raw, datetime) else _moment(str(raw).strip())
    except (ValueError, OverflowError, OSError):
        return None
    if found.tzinfo is None:
        found = found.replace(tzinfo=UTC)
    return round(found.timestamp() * 1000)


def since_1970(raw: object) -> int:
    """The same for comparing: what cannot be read, or was before 1970, is oldest."""
    return max(0, milliseconds(raw) or 0)


def _moment(text: str) -> datetime:
    if text.isascii() and text.isdecimal() and len(text) > 8:
        number = int(text)
        return datetime.fromtimestamp(number / 1000 if number > 10**11 else number, UTC)
    return datetime.fromisoformat(text.removesuffix("UTC").rstrip())
