"""Trait values as Profiles Sync stores them: text, to be read leniently.

How `user_traits.value` is written is not documented (docs/facts/segment.md §1.3), so booleans come
as `true/false/t/f/1/0` or `1.0/0.0`, and numbers and lists as their JSON text. What cannot be read
costs itself: it is `Unreadable`, with the reason.
"""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

import orjson

from syncer.ids import cleaned

#: A trait's value at Amberflo. A list is a JSON list of whatever Engage computed.
Value = bool | int | float | str | list[object]

#: How a membership may be written, as a word or as a digit: 1.0 and 1.00 are what real numbers and
#: those of a fixed scale show.
WORDS = {"true": True, "t": True, "false": False, "f": False}
_DIGIT = re.compile(r"([01])(?:\.0*)?")
#: How nearly all memberships are written.
USUAL = {"true": True, "false": False}
#: Stands for a value that is bytes: the character for what cannot be shown, which every encoding of
#: a warehouse has.
BYTES = "\x1abytes"
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_ZERO = re.compile(r"-?0(\.0+)?([eE]|$)")
#: Beyond this a JSON number loses digits in most readers, so it stays text.
_EXACT = 2**53


#: Why a value cannot be read.
NO_BOOLEAN = "not a boolean"
NO_TEXT = "bytes, not text"
NO_UNICODE = "text that is no valid Unicode, or JSON that cannot be read"
CUT_OFF = "a list or object that is cut off"


class Unreadable(NamedTuple):
    """Stands for a value that cannot be read."""

    reason: str


def is_unreadable(raw: object) -> bool:
    """Whether a stored value is none of which anything can be read."""
    return isinstance(raw, Unreadable) or raw == BYTES


def read_array(text: str) -> list[Any]:
    """The values of a JSON array that an engine made, each `Unreadable` that cannot be read: an
    engine may take for JSON, or for text, what is none."""
    try:
        found: list[Any] = orjson.loads(text)
        return found
    except orjson.JSONDecodeError:
        return [_element(one) for one in elements(text)]


def read_rows(text: str) -> list[list[Any]]:
    """The rows of a JSON array of arrays, in the same way."""
    try:
        found: list[list[Any]] = orjson.loads(text)
        return found
    except orjson.JSONDecodeError:
        return [read_array(row) for row in elements(text)]


def _element(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return Unreadable(NO_UNICODE)


#: What a JSON text is made of, as far as it matters where an element ends.
_PART = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]|,|[^"\[{\]},]+', re.DOTALL)


def elements(text: str) -> list[str]:
    """The texts of the elements of a JSON array, whether or not they can be read."""
    depth, start, found = 0, 1, []
    for part in _PART.finditer(text):
        if part[0] in ("[", "{"):
            depth += 1
        elif part[0] in ("]", "}"):
            depth -= 1
        if (depth == 1 and part[0] == ",") or depth == 0:
            found.append(text[start : part.start()].strip())
            start = part.end()
            if depth == 0:
                break
    return found if found != [""] else []


def is_null(raw: object) -> bool:
    """Whether a stored value says "no value": NULL, blank text, or the JSON text `null`."""
    return raw is None or (isinstance(raw, str) and raw.strip().lower() in ("", "null"))


def boolean(raw: object) -> bool | None:
    """The membership a stored value says; None when it is no boolean."""
    if isinstance(raw, str):
        text = raw.strip().lower()
        if (word := WORDS.get(text)) is not None:
            return word
        digit = _DIGIT.fullmatch(text)
        return None if digit is None else digit[1] == "1"
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, int | float) and raw in (0, 1):
        return bool(raw)
    return None


def typed(raw: object) -> Value | Unreadable:
    """A computed trait's value: text that reads as true/false, a JSON number or a JSON list
    becomes that type, everything else stays the text it is."""
    if isinstance(raw, str):
        return _from_text(raw)
    if isinstance(raw, Unreadable):
        return raw
    if isinstance(raw, float) and not math.isfinite(raw):
        return str(raw)
    if isinstance(raw, bool | int | float | list):
        return raw
    return orjson.dumps(raw).decode()


def _from_text(text: str) -> Value | Unreadable:
    stripped = text.strip()
    if stripped.lower() in ("true", "false"):
        return stripped.lower() == "true"
    if _NUMBER.fullmatch(stripped):
        return _number(stripped) if len(stripped) < 32 else text
    if stripped.startswith(("[", "{")):
        try:
            found = orjson.loads(stripped)
        except orjson.JSONDecodeError:
            return Unreadable(CUT_OFF) if _is_cut_off(stripped) else text
        if isinstance(found, list):
            return found
    return Unreadable(NO_TEXT) if text == BYTES else cleaned(text)


def _number(text: str) -> int | float | str:
    """The number that a text says; the text where a JSON number would not say the same."""
    number = float(text)
    too_small = number == 0 and not _ZERO.match(text)
    if not abs(number) < _EXACT or too_small:
        return text
    return int(text) if text.lstrip("-").isdecimal() else number


#: What a JSON list or object is made of, and what may be left of a part where it is cut.
_TOKEN = re.compile(
    r'\s*(?:([\[{])|([\]}])|[,:]|"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|true|false|null)', re.DOTALL
)
_REST = re.compile(r'\s*(?:"(?:[^"\\]|\\.)*\\?|-|t(?:ru?)?|f(?:a(?:ls?)?)?|n(?:ul?)?)?', re.DOTALL)


def _is_cut_off(text: str) -> bool:
    """Whether a text begins as a JSON list or object and ends before that does: warehouses cut
    long text."""
    depth = end = 0
    while token := _TOKEN.match(text, end):
        depth += (token[1] is not None) - (token[2] is not None)
        end = token.end()
        if depth == 0:
            return False  # something stands behind it: a text
    return _REST.fullmatch(text, end) is not None


def same(one: Value | None, other: Value | None) -> bool:
    """Equal as JSON: in Python True == 1, at Amberflo they differ."""
    return one is other or orjson.dumps(one) == orjson.dumps(other)


def counts(value: Any) -> int:
    """1 for a member of an audience or a holder of a computed trait."""
    return 0 if value is None or value is False else 1
