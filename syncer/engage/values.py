"""Trait values as Profiles Sync stores them: text, read leniently.

Segment does not document how it writes `user_traits.value` (docs/facts/segment.md §1.3). Booleans
come as `true/false/t/f/1/0` or `1.0/0.0`, numbers and lists as their JSON text. A value that cannot
be read is `Unreadable`, with the reason, and does not stop the others.
"""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

import orjson

from syncer.ids import cleaned
from syncer.json_text import to_json

#: A trait's value at Amberflo. A list is a JSON list of whatever Engage computed.
Value = bool | int | float | str | list[object]

#: A membership as a word, and as a digit: columns of real numbers and of a fixed scale show 1.0 and
#: 1.00.
WORDS = {"true": True, "t": True, "false": False, "f": False}
_DIGIT = re.compile(r"([01])(?:\.0*)?")
#: The texts of nearly all memberships.
USUAL = {"true": True, "false": False}
#: Stands for a value that is bytes. It begins with the character "substitute", which every encoding
#: of a warehouse has.
BYTES = "\x1abytes"
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_ZERO = re.compile(r"-?0(\.0+)?([eE]|$)")
#: Beyond this a JSON number loses digits in most readers, so it stays text.
_EXACT = 2**53

#: Why a value cannot be read.
NO_BOOLEAN = "not a boolean"
NO_TEXT = "bytes, not text"
NO_UNICODE = "text that is not valid Unicode, or JSON that cannot be read"
CUT_OFF = "a list or object that is cut off"


class Unreadable(NamedTuple):
    """A value that cannot be read, and why."""

    reason: str


def is_unreadable(raw: object) -> bool:
    """Return whether nothing can be read of a stored value."""
    return isinstance(raw, Unreadable) or raw == BYTES


def read_array(text: str) -> list[Any]:
    """Return the values of a JSON array that an engine made.

    A value that cannot be read is `Unreadable`: engines let pass as JSON or text what is neither.
    """
    try:
        values: list[Any] = orjson.loads(text)
        return values
    except orjson.JSONDecodeError:
        return [_element(element) for element in elements(text)]


def read_rows(text: str) -> list[list[Any]]:
    """Return the rows of a JSON array of arrays, each as `read_array` reads it."""
    try:
        rows: list[list[Any]] = orjson.loads(text)
        return rows
    except orjson.JSONDecodeError:
        return [read_array(row) for row in elements(text)]


def _element(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return Unreadable(NO_UNICODE)


#: The parts of a JSON text that decide where an element ends.
_PART = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]|,|[^"\[{\]},]+', re.DOTALL)


def elements(text: str) -> list[str]:
    """Return the texts of the elements of a JSON array, whether or not they can be read."""
    depth, start, texts = 0, 1, []
    for part in _PART.finditer(text):
        if part[0] in ("[", "{"):
            depth += 1
        elif part[0] in ("]", "}"):
            depth -= 1
        if (depth == 1 and part[0] == ",") or depth == 0:
            texts.append(text[start : part.start()].strip())
            start = part.end()
            if depth == 0:
                break
    return texts if texts != [""] else []


def is_null(raw: object) -> bool:
    """Return whether a stored value means "no value": NULL, blank, or the JSON text `null`."""
    if isinstance(raw, str):
        text = raw.strip()
        return not text or (len(text) == 4 and text.lower() == "null")
    return raw is None


def boolean(raw: object) -> bool | None:
    """Return the membership that a stored value states; None if it is not a boolean."""
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


def kind_of(data: bytes | None) -> str | None:
    """Return what a stored text reads as: "word", "digit" or "other", as `Columns.kind` has it.

    None stands for no value, and for one that cannot be read.
    """
    try:
        text = "" if data is None else data.decode().strip().lower()
    except UnicodeDecodeError:
        return None
    if text in ("", "null", BYTES) or "\0" in text:
        return None
    if boolean(text) is None:
        return "other"
    return "digit" if text in ("1", "0") else "word"


def typed(raw: object) -> Value | Unreadable:
    """Return a computed trait's value.

    A text that reads as true or false, as a JSON number or as a JSON list becomes that; any other
    text stays text.
    """
    if isinstance(raw, str):
        return _from_text(raw)
    if isinstance(raw, Unreadable):
        return raw
    if isinstance(raw, float) and not math.isfinite(raw):
        return str(raw)
    if isinstance(raw, bool | int | float | list):
        return raw
    return to_json(raw)


def _from_text(text: str) -> Value | Unreadable:
    stripped = text.strip()
    if len(stripped) < 6 and (word := stripped.lower()) in USUAL:
        return USUAL[word]
    if _NUMBER.fullmatch(stripped):
        return _number(stripped) if len(stripped) < 32 else text
    if stripped.startswith(("[", "{")):
        try:
            document = orjson.loads(stripped)
        except orjson.JSONDecodeError:
            if _is_cut_off(stripped):
                return Unreadable(CUT_OFF)
            document = None
        if isinstance(document, list):
            return document
    return Unreadable(NO_TEXT) if text == BYTES else cleaned(text)


def _number(text: str) -> int | float | str:
    """Return the number of a text, or the text if a JSON number would not mean the same."""
    number = float(text)
    too_small = number == 0 and not _ZERO.match(text)
    if not abs(number) < _EXACT or too_small:
        return text
    return int(text) if text.lstrip("-").isdecimal() else number


#: The tokens of a JSON list or object, and what may remain of a token where the text is cut.
_TOKEN = re.compile(
    r'\s*(?:([\[{])|([\]}])|[,:]|"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|true|false|null)', re.DOTALL
)
_REST = re.compile(r'\s*(?:"(?:[^"\\]|\\.)*\\?|-|t(?:ru?)?|f(?:a(?:ls?)?)?|n(?:ul?)?)?', re.DOTALL)


def _is_cut_off(text: str) -> bool:
    """Return whether a text is the start of a JSON list or object: warehouses cut long texts."""
    depth = end = 0
    while token := _TOKEN.match(text, end):
        depth += (token[1] is not None) - (token[2] is not None)
        end = token.end()
        if depth == 0:
            return False  # more text follows the list or object
    return _REST.fullmatch(text, end) is not None


def same(first: Value | None, second: Value | None) -> bool:
    """Return whether two values are equal as JSON: in Python True == 1, at Amberflo they differ."""
    if first is second:
        return True
    if first is None or second is None:
        return False
    return orjson.dumps(first) == orjson.dumps(second)


def counts(value: Any) -> int:
    """Return 1 for a member of an audience or a holder of a computed trait, otherwise 0."""
    return 0 if value is None or value is False else 1
